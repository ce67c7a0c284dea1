"""The fixtures of chunks and signals hold for this code too."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import msgspec
import pytest

from contract.conformance.cases import HERE, Fixture, fixtures, names, read
from qwarden.contracts.chunk import Chunk
from qwarden.contracts.refusal import Refused
from qwarden.contracts.schema import RECORDS, schema_of
from qwarden.contracts.signal import SignalKind
from qwarden.outcomes.source import Source
from qwarden.streamer.chunks import Door
from qwarden.streamer.transcript import Transcript

GOOD = fixtures("chunks/good")
BAD = fixtures("chunks/bad")
SESSIONS = names("chunks/sessions")
OUTPUTS = names("chunks/outputs")


def _name(given: Fixture) -> str:
    return given.name


def _admit(given: Fixture) -> Chunk:
    admission = given.admission()
    source = Source("content.chunks", 3, 41, 1_740_830_400_000, None, given.value, ())
    return Door(
        admission.tenants, admission.keys, admission.max_event_bytes, admission.detector
    ).admit(source)


def _fails_schema(value: bytes | None) -> bool:
    validator = jsonschema.Draft202012Validator(schema_of("chunk"))
    return not validator.is_valid(json.loads(value or b""))


@pytest.mark.parametrize("good", GOOD, ids=_name)
def test_a_good_chunk_is_read_as_its_producer_meant(good: Fixture) -> None:
    read_as = json.loads(msgspec.json.encode(_admit(good)))
    assert good.expect.items() <= read_as.items()
    assert not _fails_schema(good.value)


@pytest.mark.parametrize("bad", BAD, ids=_name)
def test_a_bad_chunk_is_refused_with_a_reason_that_helps(bad: Fixture) -> None:
    with pytest.raises(Refused) as raised:
        _admit(bad)
    expect = bad.expect
    assert raised.value.error_class == expect["error_class"]
    assert [word for word in expect["reason_has"] if word not in raised.value.reason] == []
    assert (raised.value.event_id, raised.value.tenant) == (expect["event_id"], expect["tenant"])
    if "refused_by_schema" in expect:
        assert _fails_schema(bad.value) == expect["refused_by_schema"]


@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_is_read_as_its_producer_meant(name: str) -> None:
    body = read("chunks/sessions", name)
    transcript = Transcript(900_000)
    expect: dict[str, Any] = body["expect"]
    for at, fields in enumerate(body["chunks"]):
        chunk = msgspec.convert(fields, Chunk)
        if at == expect.get("refused"):
            with pytest.raises(ValueError, match=expect["reason_has"][0]):
                transcript.write(chunk)
            return
        transcript.write(chunk)
    texts = {t.value: transcript.conversation(t).turns[-1].content for t in transcript.tasks}
    assert texts == expect["texts"]
    assert transcript.dropped(transcript.tasks[-1]) == expect["dropped"]


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_example_of_a_signal_fits_its_schema_and_is_read_whole(name: str) -> None:
    record = read("chunks/outputs", name)["record"]
    jsonschema.Draft202012Validator(schema_of("signal")).validate(record)
    assert json.loads(msgspec.json.encode(msgspec.convert(record, RECORDS["signal"]))) == record


def test_no_kind_of_signal_goes_without_an_example() -> None:
    kinds = {read("chunks/outputs", name)["record"]["kind"] for name in OUTPUTS}
    assert kinds == {kind.value for kind in SignalKind}


def test_every_fixture_says_why_it_is_there() -> None:
    for file in (HERE / "chunks").rglob("*.json"):
        assert json.loads(file.read_text(encoding="utf-8"))["why"], file
