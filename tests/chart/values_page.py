"""docs/values.md, made of values.yaml's comments and of its schema.

`PYTHONPATH=tests .venv/bin/python -m chart.values_page` writes it; a test compares.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "helm" / "qwarden"
PAGE: Final = ROOT / "docs" / "values.md"

_HEAD: Final = """\
# Values of the chart

Generated from `helm/qwarden/values.yaml` and its schema, which refuses a name that is not here:
change those, then run `PYTHONPATH=tests .venv/bin/python -m chart.values_page`. An empty default
that could not work fails the render with a sentence that says what to give.
`values-production.yaml` is a worked example, `values-local.yaml` a trial cluster. All pods run as
user 10001, which OpenShift allows to those who may use the SCC `nonroot-v2`: before the release,
`oc adm policy add-scc-to-group nonroot-v2 system:serviceaccounts:NAMESPACE` (not run here).
"""

_KINDS: Final = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "array": "list",
    "object": "map",
}


@dataclass(slots=True)
class Entry:
    """A key of values.yaml. `comment`: what stands above it; `value`: its default, None where keys
    of its own follow; `example`: the commented lines right below it."""

    path: tuple[str, ...]
    comment: str
    value: str | None
    example: list[str] = field(default_factory=list)


def entries(text: str) -> Iterator[Entry]:
    """Every key of values.yaml, in its order.

    Raises ValueError for a line that is neither a key with its value, a key, nor a comment.
    """
    found: list[Entry] = []
    above: list[str] = []
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped:
            above = []
        elif stripped.startswith("#  ") and not above and found and found[-1].value is not None:
            found[-1].example.append(stripped.removeprefix("#  "))
        elif stripped.startswith("#"):
            above.append(stripped.removeprefix("#").removeprefix(" "))
        else:
            name, colon, value = stripped.partition(":")
            if not colon:
                raise ValueError(f"{line!r} is no key: values.yaml keeps lists on one line")
            indent = len(line) - len(line.lstrip())
            parents = [parent for parent in parents if parent[0] < indent]
            path = (*(key for _, key in parents), name)
            found.append(Entry(path, _joined(above), value.strip() or None))
            parents.append((indent, name))
            above = []
    yield from found


def _joined(lines: list[str]) -> str:
    """A comment's lines as one; an indented line is an item of a list in it."""
    text = ""
    for line in lines:
        item = line.startswith("  ") and not line.startswith("    ")
        text += ("<br>" if item else " ") + line.strip() if text else line.strip()
    return text


def kind_of(schema: dict[str, Any], path: tuple[str, ...]) -> str:
    """What a value must be, in a few words; empty where the schema says nothing of it."""
    node = _resolved(schema, schema)
    for key in path:
        inner = node.get("properties", {}).get(key, node.get("additionalProperties", {}))
        node = _resolved(schema, inner if isinstance(inner, dict) else {})
    if "enum" in node:
        return " or ".join(f"`{each}`" for each in node["enum"])
    kinds = node.get("type", [])
    words = [_KINDS[each] for each in ([kinds] if isinstance(kinds, str) else kinds)]
    said = " or ".join(words)
    if "minimum" in node:
        said += f", at least {node['minimum']}"
    if "maximum" in node:
        said += f", at most {node['maximum']}"
    return said


def _resolved(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        found: dict[str, Any] = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        return found
    return node


def page(values: str, schema: dict[str, Any]) -> str:
    """The whole page, as Markdown."""
    lines = [_HEAD]
    for entry in entries(values):
        top = len(entry.path) == 1
        if top:
            lines += ["", f"## {entry.path[0]}", ""]
            if entry.comment:
                lines += [entry.comment, ""]
            lines += ["| Value | Is | Default | |", "|---|---|---|---|"]
        if entry.value is None and (top or not entry.comment):
            continue  # the heading says it, or there is nothing to say
        name = ".".join(f'"{key}"' if "." in key else key for key in entry.path)
        default = "" if entry.value is None else _default(entry.value)
        comment = "" if top else entry.comment
        kind = "" if entry.value is None else kind_of(schema, entry.path)
        cells = [f"`{name}`", kind, default, comment]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        if entry.example:
            # A table ends at a line that is none of its rows.
            below = ["", "For example:", "", "```yaml", f"{entry.path[-1]}:"]
            lines += [*below, *(f"  {each}" for each in entry.example), "```"]
            if not top:
                lines += ["", "| Value | Is | Default | |", "|---|---|---|---|"]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def _default(value: str) -> str:
    return "empty" if yaml.safe_load(value) in ("", [], {}, None) else f"`{value}`"


def current() -> str:
    """The page as it should be now."""
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return page(values, schema)


if __name__ == "__main__":
    PAGE.write_text(current(), encoding="utf-8")
