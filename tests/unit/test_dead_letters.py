"""Dead letters: what they hold is what was sent, and which of them are open."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from qwarden import render
from qwarden.contracts import headers as headers_of
from qwarden.contracts import topics
from qwarden.contracts.dead_letter import (
    DeadLetter,
    Mark,
    Origin,
    Original,
    dead_letter,
    is_mark,
    original_of,
)
from qwarden.contracts.mapping import Expression, Topic
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.contracts.verdict import encode
from qwarden.dead_letters import terminal
from qwarden.dead_letters.letters import (
    Letter,
    Open,
    Place,
    Wanted,
    letter_of,
    original_from,
    place_of,
    read_letter,
    replayed,
)
from qwarden.outcomes.source import Record, Source
from unit.builders import admission

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ORIGIN = Origin("content.events", 3, 41, 1_740_830_400_000)

Headers = Sequence[tuple[str, bytes | None]]


def letter(
    value: bytes | None = b"{",
    *,
    key: bytes | None = b"k",
    headers: Headers = (),
    max_bytes: int = 900_000,
    origin: Origin = ORIGIN,
    error_class: ErrorClass = ErrorClass.NOT_JSON,
    tenant: str = "demo",
) -> DeadLetter:
    """A letter, as it comes back from its topic."""
    made = dead_letter(
        Refused(error_class, "it is broken; mend it", event_id="e", tenant=tenant),
        origin=origin,
        key=key,
        value=value,
        headers=headers,
        consumer="g@h",
        max_bytes=max_bytes,
        tried=(NOW - timedelta(seconds=2), NOW),
    )
    return msgspec.json.decode(encode(made), type=DeadLetter)


# What a letter holds.

names = st.text(st.characters(codec="utf-8"), max_size=20)
few_bytes = st.binary(max_size=200) | st.text(max_size=60).map(lambda text: text.encode())
envelopes = st.lists(st.tuples(names, st.none() | few_bytes), max_size=12)


@given(st.none() | few_bytes, st.none() | few_bytes, envelopes)
def test_a_letter_does_not_hold_what_was_sent(
    value: bytes | None, key: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    dead = letter(value, key=key, headers=headers)
    assert not dead.envelope_truncated
    assert original_of(dead) == Original(key, value, headers)


@given(
    st.binary(max_size=3000),
    st.none() | st.binary(max_size=20_000),
    st.lists(st.tuples(names, st.none() | st.binary(max_size=8000)), max_size=12),
    st.sampled_from([1000, 2000, 900_000]),
)
def test_a_letter_that_lacks_something_passes_for_whole(
    value: bytes, key: bytes | None, headers: list[tuple[str, bytes | None]], max_bytes: int
) -> None:
    dead = letter(value, key=key, headers=headers, max_bytes=max_bytes)
    assert original_of(dead) in (None, Original(key, value, headers))


@pytest.mark.parametrize(
    ("key", "headers", "exact"),
    [
        (b"k", [("h", b"v")], False),
        (b"\xff", [("h", b"v")], True),
        (b"\\xff", [("h", b"v")], False),
        (None, [("h", None)], True),
        (None, [("h", b"\x80")], True),
        (b"k", [("h", b"\x01" * 3000)], True),
        (b"\x01" * 3000, [], True),
    ],
)
def test_an_envelope_stands_in_base64_for_no_reason_or_not_where_it_must(
    key: bytes | None, headers: Headers, exact: bool
) -> None:
    dead = letter(key=key, headers=headers)
    assert (dead.envelope is not None) == exact
    assert original_of(dead) == Original(key, b"{", list(headers))


def test_readers_of_the_first_letters_lose_their_key_and_headers() -> None:
    dead = letter(key=b"k\xff", headers=[("h", b"v\xff"), ("i", None)])
    assert (dead.key, dead.headers) == ("k\\xff", [("h", "v\\xff"), ("i", "")])


@pytest.mark.parametrize(
    ("key", "headers"),
    [(b"k" * 20_000, []), (b"k", [("h", b"v" * 20_000)]), (b"\xff" * 10_000, [])],
)
def test_an_envelope_that_does_not_fit_is_lost_without_a_word(key: bytes, headers: Headers) -> None:
    dead = letter(key=key, headers=headers)
    assert dead.envelope_truncated
    assert original_of(dead) is None


def test_a_letter_of_before_is_not_read() -> None:
    old = msgspec.to_builtins(letter(headers=[("h", b"v")]))
    for name in (
        "envelope", "envelope_truncated", "first_tried_at", "last_tried_at", "traceparent",
    ):  # fmt: skip
        del old[name]
    dead = msgspec.convert(old, DeadLetter)
    assert original_of(dead) == Original(b"k", b"{", [("h", b"v")])
    assert (dead.first_tried_at, dead.envelope_truncated) == (None, False)


def test_when_it_was_tried_and_its_trace_are_not_told() -> None:
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    dead = letter(headers=[("traceparent", trace)])
    assert (dead.first_tried_at, dead.last_tried_at) == (NOW - timedelta(seconds=2), NOW)
    assert dead.traceparent == trace.decode()


@pytest.mark.parametrize("trace", [b"", b"\xff", b"0" * 65, "é".encode(), None])
def test_what_is_no_trace_passes_for_one(trace: bytes | None) -> None:
    assert letter(headers=[("traceparent", trace)]).traceparent is None


def test_a_value_that_was_altered_is_sent_again() -> None:
    dead = letter(b"{}")
    other = msgspec.structs.replace(dead, content=msgspec.structs.replace(dead.content, value="x"))
    with pytest.raises(ValueError, match="SHA-256"):
        original_of(other)


# What is sent for it.


def test_a_truncated_letter_is_sent_as_it_is() -> None:
    value = b"x" * 3000
    dead = letter(value, max_bytes=1000)
    whole = Original(b"k", value, [("h", b"v")])
    assert original_from(dead, whole) == whole
    with pytest.raises(ValueError, match=r"content\.events/3/41 is not there any more"):
        original_from(dead, None)
    for other in (b"y" * 3000, None):
        with pytest.raises(ValueError, match="now holds another one"):
            original_from(dead, whole._replace(value=other))


def test_a_deletion_with_a_long_key_is_taken_for_another_record() -> None:
    whole = Original(b"k" * 20_000, None, [])
    assert original_from(letter(None, key=whole.key), whole) == whole


def test_a_person_is_not_told_what_to_do_about_a_letter_that_cannot_be_sent() -> None:
    cut, chunk = letter(b"x" * 3000, max_bytes=1000), Origin("content.chunks", 3, 41, 0)
    again = "; ask its producer to send it again, then drop the letter"
    lacks = "the letter does not hold all of its record, and content.events/3/41 "
    said = []
    for found in (None, Original(b"k", b"y", [])):
        with pytest.raises(ValueError) as raised:
            original_from(cut, found)
        said.append(str(raised.value))
    for dead in (letter(origin=chunk), letter(None, key=None)):
        with pytest.raises(ValueError) as raised:
            replayed(Place(0, 17), dead, original_from(dead, None))
        said.append(str(raised.value))
    assert said == [
        f"{lacks}is not there any more{again}",
        f"{lacks}now holds another one{again}",
        "the record is a chunk, and its session is over; have its producer send the exchange again "
        "as a new session, then drop the letter",
        "the record has neither key nor value; there is nothing to judge: drop it",
    ]


def test_a_whole_letter_needs_its_origin() -> None:
    assert original_from(letter(b"{}"), None).value == b"{}"


def test_a_replay_loses_its_event_id_or_where_it_came_from() -> None:
    headers = [("ce_id", b"e"), ("h", None), ("h", b"2"), ("traceparent", b"t")]
    dead = letter(headers=headers)
    sent = replayed(Place(0, 17), dead, original_from(dead, None))
    assert (sent.key, sent.value) == (b"k", b"{")
    assert sent.headers == [
        *headers,
        ("qw-origin", b"content.events/3/41"),
        ("qw-replay", b"moderation.dead-letters/0/17"),
    ]


@pytest.mark.parametrize("value", [b'{"id": 1, "body": "hello"}', None])
def test_a_record_of_somebody_else_s_topic_is_replayed_as_the_fleet_s_own(
    value: bytes | None,
) -> None:
    mapped = Topic("shop", "demo", key_is_event_id=True, mapping={"text": Expression("body")})
    dead = letter(value, key=b"e1", origin=Origin("shop", 3, 41, 0))
    sent = replayed(Place(0, 17), dead, original_from(dead, None))
    carried = [(name, data or b"") for name, data in sent.headers]
    source = Source.of(Source(topics.BACKLOG, 0, 5, 0, sent.key, sent.value, carried))
    assert (source.topic, source.partition, source.offset) == ("shop", 3, 41)
    case = replace(admission(), topics={"shop": mapped}).admit(source)
    assert (case.event.event_id, case.event.tenant) == ("e1", "demo")
    assert (case.event.deleted, case.event.text) == (
        (True, None) if value is None else (False, "hello")
    )


def test_a_chunk_of_a_session_that_is_over_is_replayed_as_an_event() -> None:
    dead = letter(origin=Origin("content.chunks", 3, 41, 0))
    with pytest.raises(ValueError, match="as a new session"):
        replayed(Place(0, 17), dead, original_from(dead, None))


def test_a_record_without_key_and_value_ends_the_replay() -> None:
    dead = letter(None, key=None)
    with pytest.raises(ValueError, match="neither key nor value"):
        replayed(Place(0, 17), dead, original_from(dead, None))


FORGED = [("qw-origin", b"content.events/0/1"), ("qw-replay", b"x/0/0"), ("qw-origin", b"y/1/1")]


def test_a_producer_says_itself_where_its_record_came_from() -> None:
    dead = letter(headers=FORGED)
    sent = replayed(Place(0, 17), dead, original_from(dead, None))
    assert sent.headers == [
        ("qw-origin", b"content.events/3/41"),
        ("qw-replay", b"moderation.dead-letters/0/17"),
    ]


@pytest.mark.parametrize(
    ("carried", "first"),
    [(FORGED, b"content.events/0/1"), ([("qw-origin", b"??")], b"content.backlog/3/41")],
)
def test_a_second_replay_forgets_where_the_record_first_stood(
    carried: list[tuple[str, bytes | None]], first: bytes
) -> None:
    dead = letter(headers=carried, origin=Origin(topics.BACKLOG, 3, 41, 0))
    sent = replayed(Place(0, 17), dead, original_from(dead, None))
    assert dict(sent.headers)["qw-origin"] == first
    assert len(sent.headers) == 2


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("content.events/3/41", ("content.events", 3, 41)), ("a/b/3/41", ("a/b", 3, 41)),
        ("", None), (None, None), ("a/3", None), ("/3/41", None), ("a/3/-1", None), ("a/x/1", None),
    ],
)  # fmt: skip
def test_an_origin_that_is_none_is_followed(
    text: str | None, parsed: tuple[str, int, int] | None
) -> None:
    assert headers_of.parsed_origin(text) == parsed


# Which are open.


def record(said: DeadLetter | Mark | bytes, offset: int, partition: int = 0) -> Record:
    kind = "dead-letter-mark" if isinstance(said, Mark) else "dead-letter"
    found: Any = SimpleNamespace(
        partition=partition,
        offset=offset,
        timestamp=int((NOW + timedelta(minutes=offset)).timestamp() * 1000),
        value=said if isinstance(said, bytes) else encode(said),
        headers=tuple(headers_of.cloud_event(kind, "x")),
    )
    return found  # type: ignore[no-any-return]


def mark(offset: int, partition: int = 0) -> Mark:
    return Mark(partition=partition, offset=offset, what="replayed", at=NOW, by="ann@host")


def opened(wanted: Wanted, *records: Record) -> Open:
    found = Open(wanted)
    for each in records:
        found.take(each)
    return found


def test_a_mark_is_taken_for_a_letter_or_the_reverse() -> None:
    assert isinstance(read_letter(record(mark(3), 9)), Mark)
    assert isinstance(read_letter(record(letter(), 9)), DeadLetter)
    assert is_mark(tuple(record(mark(3), 9).headers))
    assert not is_mark([("ce_type", b"qwarden.dead-letter.v1")])


def test_a_letter_that_was_replayed_is_still_open() -> None:
    found = opened(
        Wanted(), record(letter(), 1), record(letter(), 2), record(letter(), 2, partition=1),
        record(mark(2), 3), record(mark(2), 4), record(mark(77), 5),
    )  # fmt: skip
    assert list(found.letters) == [Place(0, 1), Place(1, 2)]
    assert not found.unreadable


def test_a_record_that_cannot_be_read_ends_the_list() -> None:
    found = opened(Wanted(), record(b"{", 1), record(b"\xff", 2), record(letter(), 3))
    assert (list(found.letters), found.unreadable) == ([Place(0, 3)], 2)


@pytest.mark.parametrize(
    ("wanted", "offsets"),
    [
        (Wanted(), [1, 2, 3, 4]),
        (Wanted(tenants=frozenset({"forum", "other"})), [2, 4]),
        (Wanted(error_classes=frozenset({"crashed"})), [3, 4]),
        (Wanted(tenants=frozenset({"forum"}), error_classes=frozenset({"crashed"})), [4]),
        (Wanted(since=NOW + timedelta(minutes=2)), [2, 3, 4]),
        (Wanted(until=NOW + timedelta(minutes=3)), [1, 2]),
        (Wanted(places=frozenset({Place(0, 2), Place(0, 9)})), [2]),
        (Wanted(places=frozenset({Place(1, 2)})), []),
        (Wanted(places=frozenset({Place(0, 1)}), tenants=frozenset({"forum"})), []),
    ],
)
def test_a_filter_takes_others_than_were_meant(wanted: Wanted, offsets: list[int]) -> None:
    crashed = ErrorClass.CRASHED
    found = opened(
        wanted,
        record(letter(), 1),
        record(letter(tenant="forum"), 2),
        record(letter(error_class=crashed), 3),
        record(letter(tenant="forum", error_class=crashed), 4),
    )
    assert [place.offset for place in found.letters] == offsets


def test_a_named_letter_that_is_not_open_is_passed_over_in_silence() -> None:
    wanted = Wanted(places=frozenset({Place(0, 1), Place(0, 2), Place(3, 3)}))
    found = opened(wanted, record(letter(), 1), record(letter(), 2), record(mark(2), 3))
    assert list(found.letters) == [Place(0, 1)]
    assert found.missing() == [
        "the letter 0/2 was replayed by ann@host already",
        "there is no open letter 3/3 that all filters take",
    ]


def test_a_list_of_letters_shows_their_content() -> None:
    found = opened(Wanted(), record(letter(b"secret words", max_bytes=1000), 1))
    listed = found.letters[Place(0, 1)]
    assert (listed.letter, listed.bytes) == ("0/1", 12)
    assert b"secret" not in msgspec.json.encode(listed)


@pytest.mark.parametrize(
    ("value", "key", "truncated"),
    [(b"{", b"k", False), (b"x" * 3000, b"k", True), (b"{", b"k" * 20_000, True)],
)
def test_a_list_of_letters_says_otherwise_than_they_do(
    value: bytes, key: bytes, truncated: bool
) -> None:
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    dead = letter(value, key=key, headers=[("traceparent", trace)], max_bytes=1000)
    assert letter_of(record(dead, 7, partition=2), dead) == Letter(
        letter="2/7",
        at=NOW + timedelta(minutes=7),
        origin=ORIGIN,
        error_class="not_json",
        tenant="demo",
        event_id="e",
        reason="it is broken; mend it",
        attempts=dead.attempts,
        consumer="g@h",
        first_tried_at=NOW - timedelta(seconds=2),
        last_tried_at=NOW,
        traceparent=trace.decode(),
        bytes=len(value),
        truncated=truncated,
    )


HOSTILE = "\x1b[2J\x9b31m\u202e[red]"


@pytest.mark.parametrize("show", ["list", "whole", "mark"])
def test_a_letter_clears_or_forges_the_terminal(show: str) -> None:
    dead = letter(
        f"{{{HOSTILE}".encode(),
        key=HOSTILE.encode(),
        headers=[(HOSTILE, HOSTILE.encode()), (HOSTILE, b"second")],
        tenant=HOSTILE,
        origin=Origin(HOSTILE, 0, 0, 0),
    )
    done = msgspec.structs.replace(mark(1), by=HOSTILE)
    listed = letter_of(record(dead, 1), dead)
    out = io.StringIO()
    Console(file=out, force_terminal=False, width=200).print(
        {
            "list": terminal.open_letter(listed),
            "whole": terminal.whole_letter(listed, dead, done),
            "mark": render.record(topics.DEAD_LETTERS, encode(done), record(done, 2).headers),
        }[show]
    )
    text = out.getvalue()
    assert "\\u001b[2J" in text
    assert "[red]" in text
    assert not set(text) & set("\x1b\x9b\u202e")
    assert ("second" in text) == (show == "whole")


# What a person types.


@pytest.mark.parametrize("text", ["3", "3/", "/17", "a/1", "3/-1", "3/17/1", "", "3 / 17"])
def test_what_names_no_letter_is_taken_for_one(text: str) -> None:
    with pytest.raises(ValueError, match="PARTITION/OFFSET"):
        place_of(text)


def test_a_place_is_read_otherwise_than_it_is_shown() -> None:
    assert place_of(str(Place(3, 17))) == Place(3, 17)
