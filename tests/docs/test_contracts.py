"""docs/contracts.md knows each record, and each field that is younger than its record."""

from __future__ import annotations

import json

import pytest

from contract.conformance.cases import HERE
from docs.pages import ROOT, links_of, text_of
from qwarden.contracts import topics
from qwarden.contracts.schema import RECORDS, schema_of

PAGE = ROOT / "docs" / "contracts.md"


def test_a_topic_stands_in_no_table() -> None:
    for topic in topics.ALL:
        assert f"| `{topic}` |" in text_of(PAGE), topic


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_record_stands_in_no_table(name: str) -> None:
    assert f"../services/qwarden/contracts/schemas/{name}.schema.json" in links_of(PAGE)


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_field_that_is_new_stands_in_no_changelog(name: str) -> None:
    first = json.loads((HERE / "v1" / f"{name}.schema.json").read_text(encoding="utf-8"))
    _, _, changelog = text_of(PAGE).partition("## What has changed")
    now = schema_of(name)
    parts = [(first, now)]
    parts += [(part, now["$defs"][of]) for of, part in first.get("$defs", {}).items()]
    for before, after in parts:
        for field in after.get("properties", {}).keys() - before.get("properties", {}).keys():
            assert f"`{field}`" in changelog, f"{name}: {field}"
