"""The schemas are what the code reads and writes, and serve those who were built on version 1."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from typing import Any, Literal

import jsonschema
import pytest

from contract.compatibility import breaking_changes
from contract.conformance.cases import HERE
from qwarden.contracts.schema import COMMAND, RECORDS, schema_files, schema_of

Writer = Literal["others", "us"]
# Version 1 had a place for reasoning, of any kind, and refused every event that filled it.
BREAK_NOBODY = {"$.messages[].reasoning: no longer takes anything"}

WRITTEN_BY: dict[str, Writer] = {
    name: "others" if name in ("event", "chunk") else "us" for name in RECORDS
}


def _frozen(name: str) -> dict[str, Any]:
    text = (HERE / "v1" / f"{name}.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@pytest.mark.parametrize("name", sorted(schema_files()))
def test_a_schema_file_does_not_differ_from_the_structs(name: str) -> None:
    file = files("qwarden.contracts").joinpath("schemas", name)
    assert file.read_text(encoding="utf-8") == schema_files()[name], (
        f"{name} is not what the structs say; run: {COMMAND}"
    )


@pytest.mark.long
def test_no_schema_file_is_left_of_a_record_that_is_gone() -> None:
    there = {file.name for file in files("qwarden.contracts").joinpath("schemas").iterdir()}
    assert there == schema_files().keys()


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_change_does_not_break_those_who_were_built_on_version_1(name: str) -> None:
    changes = breaking_changes(_frozen(name), schema_of(name), written_by=WRITTEN_BY[name])
    assert set(changes) <= BREAK_NOBODY


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_schema_is_one_that_validators_take(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema_of(name))


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_reader_of_the_schema_is_told_what_each_record_is(name: str) -> None:
    schema = schema_of(name)
    assert schema["$id"] == f"urn:qwarden:{name}:1"
    assert schema["title"] and schema["description"]
    assert all(each["description"] for each in schema["$defs"].values())


@pytest.mark.parametrize("name", ["event", "chunk"])
def test_a_producer_is_told_what_each_field_means(name: str) -> None:
    fields = schema_of(name)["properties"]
    assert [name for name in fields if "description" not in fields[name]] == ["schema_version"]


# Each of these is a change that somebody may make one day, on the real schemas.


def _changed(name: str, *path: str | int, to: Any) -> dict[str, Any]:
    """The schema with one place changed; `to` None removes it."""
    schema = copy.deepcopy(schema_of(name))
    place: Any = schema
    for step in path[:-1]:
        place = place[step]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return schema


BREAKING = [
    ("event", ("properties", "subject"), None, "$.subject: was removed"),
    ("event", ("required",), ["event_id", "tenant", "language"], "$.language: is required now"),
    ("event", ("properties", "event_id", "maxLength"), 64, "$.event_id: maxLength was 256"),
    ("event", ("properties", "event_id", "minLength"), 2, "$.event_id: minLength was 1"),
    ("event", ("properties", "event_id", "pattern"), "^a", "$.event_id: pattern was None"),
    ("event", ("properties", "edit", "type"), "string", "$.edit: no longer takes integer"),
    ("event", ("properties", "text"), {"type": "string"}, "$.text: no longer takes null"),
    ("event", ("properties", "origin", "enum"), ["automatic"], "$.origin: 'appeal' is gone"),
    ("event", ("properties", "language"), {"enum": ["en", None]}, "$.language: allows only"),
    ("event", ("properties", "edit", "default"), 1, "$.edit: its default was 0 and is 1"),
    ("event", ("additionalProperties",), False, "$: additionalProperties was None"),
    ("event", ("$defs", "Message", "required"), ["role", "content", "reasoning"],
     "$.messages[].reasoning: is required now"),
    ("verdict", ("properties", "subject"), None, "$.subject: was removed"),
    ("verdict", ("$defs", "Scores", "properties", "safe"), None, "$.scores.safe: was removed"),
    ("verdict", ("required",), ["verdict_id"], "$.safety: may be absent now"),
    ("verdict", ("properties", "edit", "type"), "number", "$.edit: may now be number"),
    ("verdict", ("properties", "verdict_id"), {"anyOf": [{"type": "string"}, {"type": "null"}]},
     "$.verdict_id: may now be null"),
    ("verdict", ("$defs", "Action", "enum"), ["allow", "disclaim", "review", "block", "hold"],
     "$.action: 'hold' is new, and readers do not know it"),
    ("verdict", ("$defs", "Action", "enum"), ["allow", "block"], "$.action: 'review' is gone"),
    ("verdict", ("$defs", "Action"), {"type": "string"}, "$.action: is no longer only"),
    ("dead-letter", ("$defs", "Sent", "properties", "bytes", "type"), "string",
     "$.content.bytes: may now be string"),
    ("dead-letter", ("properties", "headers", "items"), {"type": "string"},
     "$.headers[]: may now be string"),
    ("dead-letter", ("properties", "headers", "items", "prefixItems"), [{"type": "string"}],
     "$.headers[]: the number of its items has changed"),
    ("dead-letter", ("properties", "headers", "items", "prefixItems"),
     [{"type": "string"}, {"type": "integer"}], "$.headers[][1]: may now be integer"),
    ("event", ("properties", "origin"), {"const": "automatic"}, "$.origin: 'appeal' is gone"),
    ("verdict", ("properties", "dropped", "items"), {}, "$.dropped: what its items are has"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "path", "to", "sentence"), BREAKING)
def test_a_breaking_change_is_seen(
    name: str, path: tuple[str, ...], to: Any, sentence: str
) -> None:
    found = breaking_changes(
        schema_of(name), _changed(name, *path, to=to), written_by=WRITTEN_BY[name]
    )
    assert any(each.startswith(sentence) for each in found), found


HARMLESS = [
    ("event", ("properties", "colour"), {"type": "string"}),
    ("event", ("required",), ["event_id"]),
    ("event", ("properties", "event_id", "maxLength"), 512),
    ("event", ("properties", "event_id", "maxLength"), None),
    ("event", ("properties", "edit", "type"), "number"),
    ("event", ("properties", "edit", "minimum"), -1),
    ("event", ("properties", "tenant"), {"anyOf": [{"type": "string"}, {"type": "null"}]}),
    ("event", ("properties", "origin", "enum"),
     ["automatic", "user_report", "authority", "appeal", "audit"]),
    ("event", ("properties", "origin"), {"type": "string", "default": "automatic"}),
    ("event", ("description",), "Other words."),
    ("event", ("properties", "context"), {"type": ["string", "null"], "default": None}),
    ("verdict", ("properties", "warning"), {"type": "string"}),
    ("verdict", ("properties", "subject"), {"type": "string"}),
    ("verdict", ("properties", "edit", "minimum"), 0),
    ("verdict", ("$defs", "Scores", "properties", "safe", "type"), "integer"),
    ("verdict", ("properties", "cause"), {"anyOf": [{"enum": ["deadline"]}, {"type": "null"}]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "path", "to"), HARMLESS)
def test_a_change_that_breaks_nobody_is_not_held_up(
    name: str, path: tuple[str, ...], to: Any
) -> None:
    changed = _changed(name, *path, to=to)
    assert changed != schema_of(name)
    assert breaking_changes(schema_of(name), changed, written_by=WRITTEN_BY[name]) == []


def test_what_serves_producers_and_what_serves_readers_are_told_apart() -> None:
    wider = _changed("event", "properties", "edit", "type", to="number")
    assert breaking_changes(schema_of("event"), wider, written_by="others") == []
    assert breaking_changes(schema_of("event"), wider, written_by="us") != []
    assert breaking_changes(wider, schema_of("event"), written_by="others") != []
