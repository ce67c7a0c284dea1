"""deploy/compose.yaml as Docker Compose reads it, for the variables that it is given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
FILE: Final = ROOT / "deploy" / "compose.yaml"

_VARIABLE: Final = re.compile(r"\$\{(?P<name>[A-Z_]+)(?:(?P<kind>:-|:\?)(?P<rest>[^}]*))?\}")
"""The forms that the file uses: ${NAME}, ${NAME:-default}, ${NAME:?what to do}."""


class Missing(LookupError):
    """A variable that has no default; the message is the file's own."""


def variables() -> dict[str, str | None]:
    """Each variable of the file with its default, None where it has none."""
    text = FILE.read_text(encoding="utf-8")
    assert text.count("${") == len(_VARIABLE.findall(text)), "a form that is not read here"
    return {
        found["name"]: found["rest"] if found["kind"] == ":-" else None
        for found in _VARIABLE.finditer(text)
    }


def project(environ: Mapping[str, str]) -> dict[str, Any]:
    """The file with its variables put in. Raises `Missing`."""
    loaded = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    resolved: dict[str, Any] = _resolved(loaded, environ)
    for service in resolved["services"].values():
        # A name without a value is the variable of that name, or nothing.
        given = service.get("environment", {})
        service["environment"] = {
            name: environ[name] if value is None else value
            for name, value in given.items()
            if value is not None or name in environ
        }
    return resolved


def _resolved(node: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _resolved(value, environ) for key, value in node.items()}
    if isinstance(node, list):
        return [_resolved(each, environ) for each in node]
    if not isinstance(node, str):
        return node

    def put(found: re.Match[str]) -> str:
        value = environ.get(found["name"])
        if value or (value is not None and found["kind"] is None):
            return value
        if found["kind"] == ":?":
            raise Missing(f"{found['name']}: {found['rest']}")
        return found["rest"] or ""

    return _VARIABLE.sub(put, node)
