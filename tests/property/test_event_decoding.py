"""No input whatever stops the moderator: it is taken, or refused with a reason."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contract.conformance.cases import fixtures
from examples import examples
from qwarden.contracts import topics
from qwarden.contracts.headers import Header
from qwarden.contracts.refusal import MAX_REASON_CHARACTERS, Refused
from qwarden.delivery.owed import Owed
from qwarden.guard.conversation import refusal_of
from qwarden.guard.row import Row
from qwarden.moderator import verdicts
from qwarden.moderator.case import Case
from qwarden.outcomes.owing import owed_by_refusal, owed_by_verdict
from qwarden.outcomes.source import Source
from unit.builders import CONTROVERSIAL, KEY, admission, assessment, source

LIMIT = 4000
ADMISSION = admission(max_bytes=LIMIT)

GOOD = [each.value for each in fixtures("good") if each.value is not None]
WORDS = [
    "event_id", "tenant", "messages", "text", "role", "content", "type", "reasoning", "user",
    "assistant", "system", "developer", "tool", "deadline", "created_at", "edit", "deleted",
    "policy", "reports", "at", "reason", "metadata", "schema_version", "demo", "strict",
    "2020-01-01T00:00:00Z", "2020-01-01T00:00:00",
]  # fmt: skip


def _outcome(given: Source) -> Owed:
    """What the moderator would publish; anything that is raised here would stop the partition."""
    try:
        case = ADMISSION.admit(given)
    except Refused as refused:
        assert 0 < len(refused.reason) <= MAX_REASON_CHARACTERS
        refused.reason.encode()
        return owed_by_refusal(given, refused, consumer="c@h", max_bytes=LIMIT, volatile=[])
    for question in case.questions:
        assert refusal_of(question.task, question.conversation.turns) is None
        assert Row.from_json(question.row).conversation == question.conversation
    return _owed(case)


def _owed(case: Case) -> Owed:
    if case.event.deleted:
        said = verdicts.withdrawn(case, KEY.id)
    else:
        said = verdicts.judged(case, [assessment(CONTROVERSIAL) for _ in case.questions], KEY.id)
    assert said
    return tuple(
        message
        for verdict in said
        for message in owed_by_verdict(
            case.source, verdict, case.content, policy=case.policy, sample_rate=1.0, volatile=[]
        )
    )


def _has_an_outcome_that_fits(given: Source) -> None:
    owed = _outcome(given)
    assert owed
    for message in owed:
        json.loads(message.value)
        size = len(message.value) + len(message.key or b"")
        size += sum(len(name) + len(data) for name, data in message.headers)
        assert size <= LIMIT + topics.CONTENT_OVERHEAD_BYTES


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(max_size=8)
    | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner, max_size=6)
    ),
    max_leaves=20,
)


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """A good event with some stretches cut out, put in, or repeated."""
    value = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(value)))
        end = min(len(value), start + draw(st.integers(0, 6)))
        value[start:end] = draw(
            st.binary(max_size=4)
            | st.sampled_from(
                [
                    b'"',
                    b"\\",
                    b"\\u",
                    b"\\ud800",
                    b"null",
                    b"[",
                    b"{",
                    b"}",
                    b",",
                    b"0",
                    b"\xed\xa0",
                ]
            )
            | st.sampled_from(WORDS).map(str.encode)
        )
    return bytes(value)


@st.composite
def _event_like(draw: st.DrawFn) -> bytes:
    """A good event with any JSON in some of its fields, also in those of its turns."""
    body: dict[str, Any] = {"event_id": "e", "tenant": "demo", "text": "hi"}
    if draw(st.booleans()):
        del body["text"]
        turn = st.fixed_dictionaries(
            {
                "role": st.sampled_from(["user", "assistant", "system", "tool"]) | _json,
                "content": st.text(max_size=4) | _json,
            },
            optional={"reasoning": st.text(max_size=4) | _json},
        )
        body["messages"] = draw(st.lists(turn, max_size=4))
    names = draw(st.lists(st.sampled_from(WORDS), max_size=3))
    return json.dumps(body | {name: draw(_json) for name in names}).encode()


_headers = st.lists(
    st.tuples(
        st.sampled_from(["ce_id", "ce_time", "ce_type", "h", "qw-origin", "traceparent"]),
        st.binary(max_size=8) | st.sampled_from([b"id", b"2020-01-01T00:00:00Z", None]),
    ),
    max_size=4,
)


@pytest.mark.long
@settings(max_examples=examples(300))
@given(st.none() | st.binary(max_size=60), st.none() | st.binary(max_size=8), _headers)
def test_no_bytes_stop_the_moderator(
    value: bytes | None, key: bytes | None, headers: list[Header]
) -> None:
    _has_an_outcome_that_fits(source(value, key=key, headers=tuple(headers)))


@pytest.mark.long
@settings(max_examples=examples(300))
@given(_json.map(json.dumps).map(str.encode) | _event_like(), _headers)
def test_no_json_stops_the_moderator(value: bytes, headers: list[Header]) -> None:
    _has_an_outcome_that_fits(source(value, headers=tuple(headers)))


@pytest.mark.long
@settings(max_examples=examples(500))
@given(_mutated(), _headers)
@example(b'{"event_id":"e","tenant":"demo","text":"\\ud800\\ud800"}', [])
@example(b'{"tenant":"demo","text":"a"}', [("ce_id", b"")])
def test_no_damaged_event_stops_the_moderator(value: bytes, headers: list[Header]) -> None:
    _has_an_outcome_that_fits(source(value, headers=tuple(headers)))


@pytest.mark.parametrize("field", ["metadata", "unknown", "text", "event_id"])
@pytest.mark.parametrize("stack", [0, 400])
def test_no_depth_stops_the_moderator_however_deep_it_stands_itself(field: str, stack: int) -> None:
    """What can be decoded and not be encoded again would be taken, and never be done."""
    door = admission()
    taken = []

    def at(level: int, depth: int) -> None:
        if level:
            at(level - 1, depth)
            return
        nested = '{"a":' * depth + "1" + "}" * depth
        given = source(f'{{"event_id":"e","tenant":"demo","text":"a","{field}":{nested}}}'.encode())
        try:
            case = door.admit(given)
        except Refused as refused:
            owed_by_refusal(given, refused, consumer="c@h", max_bytes=900_000, volatile=[])
            return
        taken.append(depth)
        _owed(case)

    # At one of these depths what is read is one level under Python's own end.
    for depth in (*range(90, 1010), 5000, 50_000):
        at(stack, depth)
    if field == "metadata":
        assert taken == list(range(90, 101)), "the same ones from any depth of the stack"


@pytest.mark.parametrize("number", ["1e15", "-1E15", "1e-5", "1e0", "0.1", "9" * 30, "1e16"])
@pytest.mark.parametrize("share", [0.24, 0.26, 0.5, 1.0])
def test_no_number_outgrows_the_topic_when_it_is_written_again(number: str, share: float) -> None:
    """1e15 becomes 1000000000000000.0: evidence would be larger than any topic takes."""
    limit = 400_000
    numbers = ",".join([number] * (int(limit * share) // (len(number) + 1) - 30))
    value = f'{{"event_id":"e","tenant":"demo","text":"a","metadata":{{"a":[{numbers}]}}}}'.encode()
    given = source(value)
    try:
        case = admission(max_bytes=limit).admit(given)
    except Refused as refused:
        assert "metadata" in refused.reason
        assert len(msgspec.json.encode(json.loads(numbers.join("[]")))) > limit * 0.99
        return
    for message in _owed(case):
        assert len(message.value) <= limit + topics.CONTENT_OVERHEAD_BYTES // 2
