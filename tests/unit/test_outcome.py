"""What each verdict and each refusal owes: nothing is missing, and nothing more is published."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import jsonschema
import msgspec
import pytest

from qwarden.contracts import topics
from qwarden.contracts.escalation import escalation_of
from qwarden.contracts.headers import MODERATOR, STREAMER, Header
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.contracts.schema import schema_of
from qwarden.contracts.verdict import Action, Verdict
from qwarden.delivery.owed import Message, Owed
from qwarden.guard.answer import Answer, Failure
from qwarden.moderator import verdicts
from qwarden.moderator.case import Case
from qwarden.outcomes.owing import owed_by_refusal, owed_by_relay, owed_by_verdict
from qwarden.outcomes.source import MAX_ENVELOPE_BYTES
from unit.builders import (
    CONTROVERSIAL,
    KEY,
    SAFE,
    THOUGHT,
    UNSAFE,
    admission,
    assessment,
    case,
    event,
    source,
    unanswered,
)

TRACE: list[Header] = [("traceparent", b"00-1-2-01")]
SECRET_WORDS = "nobody else may read this"


def _owed(given: Case, answer: Answer | None = None, *, sample_rate: float = 0.0) -> Owed:
    """As the moderator does for one task: withdrawn, expired (without an answer), or judged."""
    if given.event.deleted:
        (verdict,) = verdicts.withdrawn(given, KEY.id)
    elif answer is None:
        (verdict,) = verdicts.expired(given, KEY.id)
    else:
        (verdict,) = verdicts.judged(given, [answer], KEY.id)
    return owes(given, verdict, sample_rate, TRACE)


def owes(
    given: Case, verdict: Verdict, sample_rate: float, volatile: list[Header] | None = None
) -> Owed:
    return owed_by_verdict(
        given.source,
        verdict,
        given.content,
        policy=given.policy,
        sample_rate=sample_rate,
        volatile=volatile or [],
    )


def _topics(owed: Owed) -> list[str]:
    return [message.topic for message in owed]


def _body(owed: Owed, topic: str) -> dict[str, Any]:
    (message,) = [message for message in owed if message.topic == topic]
    body: dict[str, Any] = json.loads(message.value)
    return body


SCHEMAS = {
    topics.VERDICTS: "verdict",
    topics.REVIEW: "escalation",
    topics.EVIDENCE: "evidence",
    topics.DEAD_LETTERS: "dead-letter",
}


def _fit_their_schemas(owed: Owed) -> None:
    for message in owed:
        schema = schema_of(SCHEMAS[message.topic])
        jsonschema.Draft202012Validator(schema).validate(json.loads(message.value))


V, R, E = topics.VERDICTS, topics.REVIEW, topics.EVIDENCE

OWED = [
    ("allowed", {}, assessment(SAFE), [V]),
    ("allowed by a loose policy", {"policy": "loose"}, assessment(CONTROVERSIAL), [V]),
    ("blocked", {}, assessment(UNSAFE), [V, E]),
    ("to review", {}, assessment(CONTROVERSIAL), [V, R, E]),
    ("no answer", {}, unanswered(Failure.NO_ANSWER), [V, R, E]),
    ("too long", {}, unanswered(Failure.TOO_LONG), [V, R, E]),
    ("expired", {}, None, [V, R, E]),
    ("edited, allowed", {"edit": 1}, assessment(SAFE), [V, R]),
    ("edited, blocked", {"edit": 1}, assessment(UNSAFE), [V, R, E]),
    ("edited, to review", {"edit": 1}, assessment(CONTROVERSIAL), [V, R, E]),
    ("deleted", {"deleted": True}, None, [V, R]),
    ("deleted, edited", {"deleted": True, "edit": 2}, None, [V, R]),
]


@pytest.mark.parametrize(
    ("fields", "answer", "owed_to"), [each[1:] for each in OWED], ids=[each[0] for each in OWED]
)
def test_an_outcome_owes_neither_more_nor_less(
    fields: dict[str, Any], answer: Answer | None, owed_to: list[str]
) -> None:
    owed = _owed(case(**fields), answer)
    assert _topics(owed) == owed_to
    _fit_their_schemas(owed)


@pytest.mark.parametrize(
    ("fields", "answer"), [each[1:3] for each in OWED], ids=[each[0] for each in OWED]
)
def test_every_message_says_which_record_it_answers(
    fields: dict[str, Any], answer: Answer | None
) -> None:
    for message in _owed(case(**fields), answer, sample_rate=1.0):
        headers = dict(message.headers)
        assert len(headers) == len(message.headers), "no header twice"
        assert headers["qw-origin"] == b"content.events/2/7"
        assert headers["traceparent"] == b"00-1-2-01"
        assert headers["ce_specversion"] == b"1.0"
        body = json.loads(message.value)
        assert headers["ce_id"].decode() == body.get("verdict", body)["verdict_id"]


@pytest.mark.parametrize(
    ("topic", "kind"),
    [(V, b"qwarden.verdict.v1"), (R, b"qwarden.review.v1"), (E, b"qwarden.evidence.v1")],
)
def test_a_message_is_not_announced_as_another_kind(topic: str, kind: bytes) -> None:
    owed = _owed(case(), assessment(CONTROVERSIAL))
    (message,) = [message for message in owed if message.topic == topic]
    assert dict(message.headers)["ce_type"] == kind


def test_all_of_an_outcome_tells_of_one_verdict() -> None:
    owed = _owed(case(), assessment(CONTROVERSIAL))
    assert _body(owed, V) == _body(owed, R)["verdict"] == _body(owed, E)["verdict"]


def test_a_reviewer_sees_the_turns_that_the_guard_did_not() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "q"}]},
    ]
    given = case(
        text=...,
        messages=messages,
        context="c",
        link="l",
        reports=[{"reason": "odd"}],
        metadata={"a": [1]},
    )
    owed = _owed(given, assessment(CONTROVERSIAL))
    review = _body(owed, R)
    assert review["kind"] == "review"
    assert review["content"] == {
        "messages": messages,
        "context": "c",
        "link": "l",
        "reports": [{"reason": "odd"}],
        "metadata": {"a": [1]},
    }
    assert _body(owed, E)["content"] == review["content"]


def test_a_reviewer_does_not_see_what_the_model_thought() -> None:
    given = case(text=..., messages=THOUGHT)
    for verdict in verdicts.judged(given, [assessment(CONTROVERSIAL)] * 2, KEY.id):
        owed = owes(given, verdict, 0.0)
        assert _body(owed, R)["content"]["messages"] == THOUGHT
        assert _body(owed, E)["content"]["messages"] == THOUGHT
        _fit_their_schemas(owed)


@pytest.mark.parametrize("answer", [assessment(SAFE), assessment(UNSAFE)])
def test_an_edit_closes_what_stands_open_and_tells_no_content(answer: Answer) -> None:
    review = _body(_owed(case(edit=1, text=SECRET_WORDS), answer), R)
    assert (review["kind"], review["content"]) == ("close", None)
    assert review["verdict"]["edit"] == 1


def test_an_edit_for_review_opens_anew_and_does_not_only_close() -> None:
    review = _body(_owed(case(edit=1), assessment(CONTROVERSIAL)), R)
    assert review["kind"] == "review"
    assert review["content"]["messages"][0]["content"] == "How do I bake bread?"


def test_people_are_asked_otherwise_than_the_rule_says() -> None:
    given = case()
    (verdict,) = verdicts.judged(given, [assessment(CONTROVERSIAL)], KEY.id)
    assert given.policy is not None and verdict.policy is not None
    rule = given.policy.handling_of(verdict.policy.rule)
    assert rule is not None
    how = ("queue", "harm", "sla_s", "meanwhile", "on_breach")
    review = _body(owes(given, verdict, 0.0), R)
    said = (rule.queue, rule.harm, rule.sla, rule.meanwhile, rule.on_breach)
    assert tuple(review[name] for name in how) == said
    closing = _body(_owed(case(edit=1), assessment(SAFE)), R)
    assert [closing[name] for name in how] == [None] * 5


def test_the_moderator_passes_for_who_wrote_an_outcome() -> None:
    given = case()
    (verdict,) = verdicts.judged(given, [assessment(CONTROVERSIAL)], KEY.id)
    refused = Refused(ErrorClass.NOT_JSON, "it is none")
    named: tuple[tuple[dict[str, Any], Header], ...]
    named = (({}, MODERATOR), ({"by": STREAMER}, STREAMER))
    for by, source_said in named:
        owed = owed_by_verdict(
            given.source, verdict, given.content, policy=given.policy, sample_rate=0, volatile=[],
            **by,
        ) + owed_by_refusal(
            given.source, refused, consumer="c", max_bytes=900_000, volatile=[], **by
        )  # fmt: skip
        assert len(owed) == 4
        assert all(source_said in message.headers for message in owed)


def test_a_verdict_that_is_taken_back_leaves_open_what_was_asked_of_people() -> None:
    given = case(text=SECRET_WORDS)
    (allowed,) = verdicts.judged(given, [assessment(SAFE)], KEY.id)
    undone = msgspec.structs.replace(allowed, supersedes="0" * 32)
    review = _body(owes(given, undone, 0.0), R)
    assert (review["kind"], review["content"]) == ("close", None)
    assert review["verdict"]["supersedes"] == "0" * 32
    assert escalation_of(allowed) is None
    (asked,) = verdicts.judged(given, [assessment(CONTROVERSIAL)], KEY.id)
    again = _body(owes(given, msgspec.structs.replace(asked, supersedes="0" * 32), 0.0), R)
    assert again["kind"] == "review"


def test_deleted_content_is_in_nothing_that_is_published() -> None:
    given = case(
        deleted=True,
        text=SECRET_WORDS,
        context=SECRET_WORDS,
        link=SECRET_WORDS,
        reports=[{"reason": SECRET_WORDS}],
        metadata={SECRET_WORDS: SECRET_WORDS},
    )
    owed = _owed(given, sample_rate=1.0)
    assert _body(owed, R)["kind"] == "close"
    for message in owed:
        assert SECRET_WORDS.encode() not in message.value
        assert SECRET_WORDS.encode() not in b"".join(data for _, data in message.headers)


def test_a_verdict_carries_no_content() -> None:
    given = case(text=SECRET_WORDS, context=SECRET_WORDS, metadata={"a": SECRET_WORDS})
    (verdict, *_) = _owed(given, assessment(CONTROVERSIAL))
    assert SECRET_WORDS.encode() not in verdict.value


def test_events_of_two_tenants_have_one_key() -> None:
    one, other = (
        _owed(case(tenant=tenant, event_id=own), assessment(SAFE))[0].key
        for tenant, own in (("a/b", "c"), ("a", "b/c"))
    )
    assert one != other


@pytest.mark.parametrize(
    ("key", "written"),
    [(b"their key", b"their key"), (None, b"demo/e1"), (b"\xff", b"\xff")],
)
def test_outcomes_stay_in_the_order_of_the_events_key(key: bytes | None, written: bytes) -> None:
    for message in _owed(case(key=key), assessment(CONTROVERSIAL)):
        assert message.key == written


def test_the_sample_keeps_allowed_ones_and_says_its_rate() -> None:
    owed = _owed(case(), assessment(SAFE), sample_rate=1.0)
    assert _topics(owed) == [V, E]
    assert dict(owed[1].headers)["qw-sample-rate"] == b"1.0"
    assert "qw-sample-rate" not in dict(owed[0].headers)


def test_a_withdrawal_is_in_no_sample() -> None:
    assert _topics(_owed(case(deleted=True), sample_rate=1.0)) == [V, R]


def test_what_a_policy_allows_after_the_deadline_is_still_kept() -> None:
    """Nobody judged it: that it was allowed is what an appeal is about."""
    given = case(deadline="2020-01-01T00:00:00Z")
    (verdict,) = verdicts.expired(given, KEY.id)
    allowed = msgspec.structs.replace(verdict, action=Action.ALLOW)
    owed = owes(given, allowed, 0.0)
    assert _topics(owed) == [V, E]


# Relays.


@pytest.mark.parametrize(("value", "relayed"), [(event(), event()), (None, b"")])
def test_a_relayed_record_is_another_or_says_where_somebody_else_stood(
    value: bytes | None, relayed: bytes
) -> None:
    forged: tuple[Header, ...] = (("qw-origin", b"a/0/0"), ("h", b"v"), ("qw-replay", b"b/0/0"))
    (message,) = owed_by_relay(source(value, key=b"k", headers=forged))
    assert (message.topic, message.key, message.value) == (topics.BACKLOG, b"k", relayed)
    assert message.headers == [("h", b"v"), ("qw-origin", b"content.events/2/7")]


# Dead letters.


def _letter(value: bytes | None, **more: Any) -> tuple[Message, dict[str, Any]]:
    """The dead letter of a record that is refused for a reason of no interest here."""
    limit = more.pop("max_bytes", 900_000)
    given = source(value, **more)
    try:
        admission(max_bytes=limit).admit(given)
    except Refused as refused:
        owed = owed_by_refusal(
            given, refused, consumer="c@h", max_bytes=limit, volatile=list(TRACE)
        )
        _fit_their_schemas(owed)
        (message,) = owed
        return message, json.loads(message.value)
    raise AssertionError("the record was taken")


def test_a_dead_letter_says_where_it_came_from_and_why() -> None:
    message, letter = _letter(b"{", key=b"k", headers=(("h", b"v"),))
    assert message.topic == topics.DEAD_LETTERS
    assert message.key == b"k"
    headers = dict(message.headers)
    assert headers["qw-origin"] == headers["ce_id"] == b"content.events/2/7"
    assert headers["ce_type"] == b"qwarden.dead-letter.v1"
    assert headers["traceparent"] == b"00-1-2-01"
    assert letter["origin"] == {
        "topic": "content.events",
        "partition": 2,
        "offset": 7,
        "timestamp": 1_740_830_400_000,
    }
    assert (letter["key"], letter["headers"]) == ("k", [["h", "v"]])
    assert (letter["error_class"], letter["consumer"]) == ("not_json", "c@h")
    assert letter["attempts"] == 1
    assert letter["content"]["value"] == "{"
    assert letter["content"]["truncated"] is False


def test_a_dead_letter_names_the_event_as_far_as_it_could_be_read() -> None:
    _, letter = _letter(event(edit=-1))
    assert (letter["event_id"], letter["tenant"]) == ("e1", "demo")


def test_a_header_without_a_value_does_not_stop_the_partition() -> None:
    _, letter = _letter(b"{", headers=(("h", None), ("i", b"\xff")))
    assert letter["headers"] == [["h", ""], ["i", "\\xff"]]


def test_no_value_is_told_from_an_empty_one() -> None:
    assert _letter(None)[1]["content"]["encoding"] == "null"
    assert _letter(b"")[1]["content"]["encoding"] == "utf-8"


def test_a_reason_as_long_as_the_record_is_cut_and_keeps_its_fix() -> None:
    role = "\u0001" * 100_000
    message, letter = _letter(event(text=..., messages=[{"role": role, "content": "x"}]))
    assert letter["error_class"] == ErrorClass.CONVERSATION
    assert len(letter["reason"]) <= 1000
    assert letter["reason"].endswith("known are user, assistant, system, developer and tool")
    assert len(message.value) < 900_000


def test_a_truncated_letter_says_so_and_how_large_the_whole_was() -> None:
    value = b"x" * 2_000_000
    _, letter = _letter(value)
    sent = letter["content"]
    assert (sent["truncated"], sent["bytes"]) == (True, 2_000_000)
    assert value.startswith(sent["value"].encode())
    assert len(sent["value"]) == 64 * 1024


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
def test_a_letter_repeats_a_key_and_headers_that_do_not_fit(more: int, fits: bool) -> None:
    room = MAX_ENVELOPE_BYTES - len(b"k") - len("h")
    message, _ = _letter(b"{", key=b"k", headers=(("h", b"x" * (room + more)),))
    assert message.key == (b"k" if fits else None)
    assert ("traceparent" in dict(message.headers)) == fits


def test_when_a_record_was_tried_is_not_said_of_it() -> None:
    first, last = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
    refused = Refused(ErrorClass.CRASHED, "it ends the guard")
    (message,) = owed_by_refusal(
        source(b"{}"), refused, consumer="c", max_bytes=900, volatile=[], tried=(first, last)
    )
    letter = json.loads(message.value)
    assert letter["first_tried_at"] == "2026-03-01T00:00:00Z"
    assert letter["last_tried_at"] == "2026-03-02T00:00:00Z"
    assert _letter(b"{")[1].get("first_tried_at") is None


def test_a_letter_is_not_cut_within_a_character() -> None:
    _, letter = _letter("é".encode() * 700_000 + b"x", max_bytes=1003)
    assert letter["content"]["encoding"] == "utf-8"
    assert set(letter["content"]["value"]) == {"é"}


@pytest.mark.long
@pytest.mark.parametrize("max_bytes", [1000, 50_000, 900_000])
@pytest.mark.parametrize("byte", [b"\0", b"\xff", b'"', b"\\", b"x", "é".encode(), b"\x7f"])
@pytest.mark.parametrize("length", [999, 60_000, 899_000, 1_000_000])
@pytest.mark.parametrize("envelope", ["none", "key", "headers", "many headers", "too large"])
def test_a_dead_letter_always_fits_its_topic(
    max_bytes: int, byte: bytes, length: int, envelope: str
) -> None:
    """Else the producer refuses it, and the record can neither be judged nor be given up."""
    volatile: list[Header] = []
    key: bytes | None = None
    headers: tuple[Header, ...] = ()
    if envelope == "key":
        key = byte * (32_000 // len(byte))
    elif envelope == "headers":
        volatile = [("tracestate", byte * (32_000 // len(byte)))]
        headers = tuple(volatile)
    elif envelope == "many headers":
        headers = tuple((f"h{n}", byte) for n in range(4000))
    elif envelope == "too large":
        key = byte * 400_000
        volatile = [("tracestate", byte * 400_000)]
        headers = tuple(volatile)
    given = source(byte * (length // len(byte)), key=key, headers=headers)
    name = byte.decode(errors="replace") * 256
    refused = Refused(ErrorClass.NOT_JSON, name * 40, event_id=name, tenant=name)
    (message,) = owed_by_refusal(
        given, refused, consumer="c" * 300, max_bytes=max_bytes, volatile=volatile
    )
    size = len(message.value) + len(message.key or b"")
    size += sum(len(name) + len(data) for name, data in message.headers)
    assert size <= max_bytes + topics.CONTENT_OVERHEAD_BYTES
    assert json.loads(message.value)["content"]["bytes"] == len(given.value or b"")


@pytest.mark.parametrize(
    ("turns", "content", "taken"), [(1, "", True), (5000, "x" * 40, False), (5000, "x", False)]
)
@pytest.mark.parametrize("room", [0, 40_000])
@pytest.mark.parametrize("what", ["turns", "reasoning"])
def test_evidence_of_much_that_was_dropped_always_fits_its_topic(
    turns: int, content: str, taken: bool, room: int, what: str
) -> None:
    """What is taken must be writable: what is dropped is named in the verdict, too."""
    question = {"role": "user", "content": "q"}
    if what == "turns":
        messages = [{"role": "system", "content": content}] * turns + [question]
    else:
        thought = {"role": "assistant", "content": content, "reasoning": "x"}
        messages = [question, *[thought] * turns, question]
    value = msgspec.json.encode({"event_id": "e1", "tenant": "demo", "messages": messages})
    limit = len(value) + room
    try:
        given = admission(max_bytes=limit).admit(source(value, key=b"k" * 32_000))
    except Refused as refused:
        assert refused.error_class is ErrorClass.TOO_LARGE
        assert not taken
        assert turns * len('"reasoning",') > room
        return
    assert taken or room
    for message in _owed(given, assessment(CONTROVERSIAL)):
        assert len(message.value) + 32_000 <= limit + topics.CONTENT_OVERHEAD_BYTES
