"""The fixtures beside this file, read. Their form is described in README.md."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwarden.contracts.keys import ContentKey
from qwarden.language.eld import EldDetector
from qwarden.moderator.case import Admission
from qwarden.outcomes.source import Source
from qwarden.policy.tenants import read_tenants

HERE = Path(__file__).parent

KEY = ContentKey(b"conformance key, known to anyone")


@dataclass(frozen=True, slots=True)
class Fixture:
    """One file: its name, the record that it describes, and all else that stands in it."""

    name: str
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    body: dict[str, Any]

    @property
    def expect(self) -> dict[str, Any]:
        expected: dict[str, Any] = self.body["expect"]
        return expected

    def source(self) -> Source:
        return Source("content.events", 3, 41, 1_740_830_400_000, None, self.value, self.headers)

    def admission(self) -> Admission:
        """The moderator's door, as the fixture's settings say."""
        settings = HERE / "settings"
        tenants = read_tenants(
            _texts(settings / "policies"),
            _texts(settings / "tenants"),
            strict=self.body.get("strict_tenants", False),
        )
        return Admission(tenants, KEY, self.body.get("max_bytes", 900_000), EldDetector())

    def fields(self) -> dict[str, Any]:
        """The event as its schema sees it: in binary mode with the id that the header gives."""
        assert self.value is not None
        body: dict[str, Any] = json.loads(self.value)
        for name, data in self.headers:
            if name == "ce_id" and isinstance(body, dict):
                body.setdefault("event_id", data.decode())
        return body


def names(kind: str) -> list[str]:
    return sorted(file.stem for file in (HERE / kind).glob("*.json"))


def fixtures(kind: str) -> list[Fixture]:
    """All of `good` or `bad`."""
    return [fixture(kind, name) for name in names(kind)]


def fixture(kind: str, name: str) -> Fixture:
    body = read(kind, name)
    headers = tuple((key, text.encode()) for key, text in body.get("headers", {}).items())
    return Fixture(name, _bytes(body["value"]), headers, body)


def read(kind: str, name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((HERE / kind / f"{name}.json").read_text(encoding="utf-8"))
    return body


def _bytes(value: dict[str, Any] | None) -> bytes | None:
    if value is None:
        return None
    ((form, given),) = value.items()
    if form == "json":
        return json.dumps(given, ensure_ascii=False).encode()
    if form == "text":
        return bytes(given, "utf-8")
    if form == "base64":
        return base64.b64decode(given)
    assert form == "pieces", form
    return "".join(text * times for text, times in given).encode()


def _texts(folder: Path) -> dict[str, str]:
    return {file.stem: file.read_text(encoding="utf-8") for file in folder.glob("*.yaml")}
