"""The fixtures of decisions and overrides hold for this code too."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import msgspec
import pytest

from contract.conformance.cases import Fixture, fixtures
from qwarden.contracts.control import Key, Override
from qwarden.contracts.decision import By, decode_decision
from qwarden.contracts.schema import schema_of
from qwarden.control.overrides import Overridden
from qwarden.control.table import Table

DECISIONS = fixtures("decisions/good")
NO_DECISIONS = fixtures("decisions/bad")
OVERRIDES = fixtures("overrides/good")
NO_OVERRIDES = fixtures("overrides/bad")


def _name(given: Fixture) -> str:
    return given.name


def _fails_schema(kind: str, value: bytes | None) -> bool:
    validator = jsonschema.Draft202012Validator(schema_of(kind))
    return not validator.is_valid(json.loads(value or b""))


@pytest.mark.parametrize("good", DECISIONS, ids=_name)
def test_a_decision_is_read_as_another_than_was_written(good: Fixture) -> None:
    assert good.value is not None
    read_as = json.loads(msgspec.json.encode(decode_decision(good.value)))
    assert read_as == {name: value for name, value in good.fields().items() if name != "colour"}
    assert not _fails_schema("decision", good.value)


@pytest.mark.parametrize("bad", NO_DECISIONS, ids=_name)
def test_what_is_no_decision_is_taken_for_one(bad: Fixture) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_decision(bad.value or b"")
    if "refused_by_schema" in bad.body:
        assert _fails_schema("decision", bad.value) == bad.body["refused_by_schema"]


def test_no_way_to_decide_goes_without_a_fixture() -> None:
    read = [decode_decision(each.value or b"") for each in DECISIONS]
    assert {each.by for each in read} == set(By)
    assert {each.supersedes is None for each in read} == {True, False}


def stands(*given: Fixture) -> Overridden | None:
    """What holds for the content that the first one's key names, after these records."""
    table = Table()
    for offset, each in enumerate(given):
        assert not table.apply(Key(*each.body["key"]).encode(), each.value, offset)
    _, tenant, content_hash = given[0].body["key"]
    return table.override_of(tenant, content_hash)


@pytest.mark.parametrize("good", OVERRIDES, ids=_name)
def test_an_override_does_something_else_than_was_decided(good: Fixture) -> None:
    expect: dict[str, Any] = good.expect
    found = stands(good)
    assert found is not None
    assert {name: getattr(found, name) for name in expect} == expect
    assert not _fails_schema("override", good.value)
    override = msgspec.json.decode(good.value or b"", type=Override)
    assert override.key() == tuple(good.body["key"])


@pytest.mark.parametrize("bad", NO_OVERRIDES, ids=_name)
def test_content_is_allowed_by_an_override_that_is_none(bad: Fixture) -> None:
    """By the one that stood before it either: what stands is the same for who begins to read now,
    when compaction has removed that."""
    allowed = next(each for each in OVERRIDES if each.name == "allowed")
    assert stands(allowed) is not None
    assert stands(bad) is None
    assert stands(allowed, bad) is None
    assert stands(allowed, bad, allowed) is not None
    if "refused_by_schema" in bad.body:
        assert _fails_schema("override", bad.value) == bad.body["refused_by_schema"]
