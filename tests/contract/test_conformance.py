"""The fixtures that other producers and readers test against hold for this code too."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import jsonschema
import msgspec
import pytest

from contract.conformance.cases import KEY, Fixture, fixture, fixtures, names, read
from qwarden.contracts import topics
from qwarden.contracts.control import Override
from qwarden.contracts.refusal import Refused
from qwarden.contracts.schema import RECORDS, schema_of
from qwarden.contracts.verdict import Verdict, encode
from qwarden.control.overrides import Overrides
from qwarden.delivery.owed import Owed
from qwarden.guard.answer import decode_answer
from qwarden.moderator import verdicts
from qwarden.moderator.case import Case
from qwarden.outcomes.owing import owed_by_refusal, owed_by_verdict
from qwarden.policy.policy import Policy
from qwarden.policy.records import Recorded
from qwarden.policy.sources import BUILT_IN
from qwarden.rejudge.planning import Change, Judge, Row

NOW = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)

TOPIC_OF = {
    "verdict": topics.VERDICTS,
    "escalation": topics.REVIEW,
    "evidence": topics.EVIDENCE,
    "dead-letter": topics.DEAD_LETTERS,
}

GOOD = fixtures("good")
BAD = fixtures("bad")
OUTPUTS = names("outputs")


def _name(given: Fixture) -> str:
    return given.name


def _fails_schema(given: Fixture) -> bool:
    return not jsonschema.Draft202012Validator(schema_of("event")).is_valid(given.fields())


@pytest.mark.parametrize("good", GOOD, ids=_name)
def test_a_good_event_is_read_as_its_producer_meant(good: Fixture) -> None:
    case = good.admission().admit(good.source())
    if case.event.deleted:
        assert good.expect == {"outcome": "withdrawn"}
        assert case.questions == ()
        return
    expect = good.expect
    assert expect["outcome"] == ("expired" if case.is_expired(NOW) else "judged")
    assert expect["judged"] == {
        question.task: [[turn.role, turn.content] for turn in question.conversation.turns]
        for question in case.questions
    }
    assert list(expect["judged"]) == [question.task for question in case.questions]
    assert expect["dropped"] == list(case.dropped)
    read_as = json.loads(msgspec.json.encode(case.event))
    assert expect.get("event", {}).items() <= read_as.items()


@pytest.mark.parametrize("bad", BAD, ids=_name)
def test_a_bad_record_is_refused_with_a_reason_that_helps(bad: Fixture) -> None:
    with pytest.raises(Refused) as raised:
        bad.admission().admit(bad.source())
    expect = bad.expect
    assert raised.value.error_class == expect["error_class"]
    assert [word for word in expect["reason_has"] if word not in raised.value.reason] == []
    assert (raised.value.event_id, raised.value.tenant) == (expect["event_id"], expect["tenant"])


@pytest.mark.parametrize("good", GOOD, ids=_name)
def test_the_schema_takes_every_good_event(good: Fixture) -> None:
    assert not _fails_schema(good)


@pytest.mark.parametrize(
    "bad", [bad for bad in BAD if "refused_by_schema" in bad.expect], ids=_name
)
def test_the_schema_refuses_what_it_is_said_to_refuse(bad: Fixture) -> None:
    assert _fails_schema(bad) == bad.expect["refused_by_schema"]


def test_no_error_class_of_the_contract_goes_without_a_fixture() -> None:
    classes = {bad.expect["error_class"] for bad in BAD}
    assert classes == {
        "too_large", "not_json", "not_an_event", "unknown_tenant", "unknown_policy", "conversation",
    }  # fmt: skip


def written_for(output: dict[str, Any]) -> Owed:
    """What this code publishes for the record that an example names, where the guard answers so."""
    (given,) = output["of"].items()
    record = fixture(*given)
    try:
        case = _overridden(record.admission().admit(record.source()), output.get("override"))
        said = _said(case, output.get("answers", {}))
    except Refused as refused:
        return owed_by_refusal(
            record.source(), refused, consumer="qwarden@host", max_bytes=900_000, volatile=[]
        )
    policy = case.policy
    if "rejudged_by" in output:
        policy = BUILT_IN[output["rejudged_by"]]
        said = tuple(_rejudged(verdict, policy) for verdict in said)
    return tuple(
        message
        for verdict in said
        for message in owed_by_verdict(
            case.source, verdict, case.content, policy=policy, sample_rate=0.0, volatile=[]
        )
    )


def _overridden(case: Case, override: dict[str, Any] | None) -> Case:
    if override is None:
        return case
    stand = Overrides()
    stand.put(msgspec.convert(override, Override))
    found = [stand.of(case.event.tenant, each.content_hash.hex()) for each in case.questions]
    return msgspec.structs.replace(case, overrides=tuple(found))


def _rejudged(verdict: Verdict, policy: Policy) -> Verdict:
    recorded = msgspec.json.decode(encode(verdict), type=Recorded)
    word = Judge({verdict.tenant: policy}, None).word(Row(verdict, recorded, 0, None, None))
    assert isinstance(word, Change)
    return word.verdict


def _said(case: Case, answers: dict[str, Any]) -> verdicts.Verdicts:
    if case.event.deleted:
        return verdicts.withdrawn(case, KEY.id)
    if case.is_expired(NOW):
        return verdicts.expired(case, KEY.id)
    decoded = [decode_answer(json.dumps(answers[each.task]).encode()) for each in case.questions]
    return verdicts.judged(case, decoded, KEY.id)


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_example_of_what_is_written_does_not_drift_from_the_code(name: str) -> None:
    output = read("outputs", name)
    written = [
        json.loads(message.value)
        for message in written_for(output)
        if message.topic == TOPIC_OF[output["schema"]]
    ]
    assert written.count(output["record"]) == 1, written


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_example_of_what_is_written_fits_its_schema(name: str) -> None:
    output = read("outputs", name)
    jsonschema.Draft202012Validator(schema_of(output["schema"])).validate(output["record"])


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_reader_gets_every_field_that_was_written(name: str) -> None:
    output = read("outputs", name)
    record = msgspec.convert(output["record"], RECORDS[output["schema"]])
    assert json.loads(msgspec.json.encode(record)) == output["record"]


@pytest.mark.parametrize("kind", sorted(TOPIC_OF))
def test_no_kind_of_record_goes_without_an_example(kind: str) -> None:
    assert [name for name in OUTPUTS if name.startswith(kind)]
