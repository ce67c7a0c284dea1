"""Which letters are open, which of them are meant, and what is sent for one. Pure.

Invariants, each held by `tests/unit/test_dead_letters.py`:
- A letter is open from its record to the first mark that names it.
- What is sent again is the record as its producer sent it, to the byte, or nothing.
- `qw-origin` names where the record first stood, however often it has come here: believed from its
  own headers only where it was read from the fleet's own lane.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from qwarden.contracts import headers, topics
from qwarden.contracts.dead_letter import (
    DeadLetter,
    Mark,
    Origin,
    Original,
    is_mark,
    original_of,
)
from qwarden.contracts.values import Instant
from qwarden.outcomes.source import Record

_letter = msgspec.json.Decoder(DeadLetter)
_mark = msgspec.json.Decoder(Mark)


class Place(NamedTuple):
    """Where a letter stands on `moderation.dead-letters`."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}/{self.offset}"


def place_of(text: str) -> Place:
    """The place that a person names. Raises `ValueError` with a sentence."""
    partition, slash, offset = text.partition("/")
    if not (slash and partition.isdecimal() and offset.isdecimal()):
        raise ValueError(
            f"{text!r} names no letter; name it as `qwarden dlq ls` does: PARTITION/OFFSET"
        )
    return Place(int(partition), int(offset))


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a letter without its content."""

    letter: str
    """Its place, as the commands take it."""
    at: Instant
    """When it was written."""
    origin: Origin
    error_class: str
    tenant: str
    event_id: str
    reason: str
    attempts: int
    consumer: str
    first_tried_at: Instant | None
    last_tried_at: Instant | None
    traceparent: str | None
    bytes: int
    """Of the record's value."""
    truncated: bool
    """Whether the letter does not hold all of its record, so that a replay needs the origin."""


def read_letter(record: Record) -> DeadLetter | Mark | None:
    """What a record of the topic says; None for one that is neither a letter nor a mark."""
    decoder = _mark if is_mark(record.headers) else _letter
    try:
        return decoder.decode(record.value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def letter_of(record: Record, dead: DeadLetter) -> Letter:
    return Letter(
        letter=str(Place(record.partition, record.offset)),
        at=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=record.timestamp),
        origin=dead.origin,
        error_class=dead.error_class,
        tenant=dead.tenant,
        event_id=dead.event_id,
        reason=dead.reason,
        attempts=dead.attempts,
        consumer=dead.consumer,
        first_tried_at=dead.first_tried_at,
        last_tried_at=dead.last_tried_at,
        traceparent=dead.traceparent,
        bytes=dead.content.bytes,
        truncated=dead.content.truncated or dead.envelope_truncated,
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters a person means: those at `places`, else all, as far as every filter that is
    given takes them. Times are those at which a letter was written."""

    places: frozenset[Place] = frozenset()
    error_classes: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, place: Place, letter: Letter) -> bool:
        return (
            (not self.places or place in self.places)
            and (not self.error_classes or letter.error_class in self.error_classes)
            and (not self.tenants or letter.tenant in self.tenants)
            and (self.since is None or letter.at >= self.since)
            and (self.until is None or letter.at < self.until)
        )


class Open:
    """The open letters that are wanted, after each record of the topic."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self.letters: dict[Place, Letter] = {}
        self.marks: dict[Place, Mark] = {}
        """Of the places that were named."""
        self.unreadable = 0
        """Records that are neither letters nor marks."""

    def take(self, record: Record) -> None:
        """The next record of its partition."""
        said = read_letter(record)
        if said is None:
            self.unreadable += 1
        elif isinstance(said, Mark):
            place = Place(said.partition, said.offset)
            self.letters.pop(place, None)
            if place in self._wanted.places:
                self.marks.setdefault(place, said)
        else:
            place = Place(record.partition, record.offset)
            letter = letter_of(record, said)
            if self._wanted.takes(place, letter):
                self.letters[place] = letter

    def missing(self) -> list[str]:
        """A sentence for each named place that has no open letter."""
        return [
            f"the letter {place} was {self.marks[place].what} by {self.marks[place].by} already"
            if place in self.marks
            else f"there is no open letter {place} that all filters take"
            for place in sorted(self._wanted.places - self.letters.keys())
        ]


class Sent(NamedTuple):
    """A record as it goes to `content.backlog`."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def original_from(dead: DeadLetter, found: Original | None) -> Original:
    """The record that a letter is of: from the letter, else `found`, which stands at its origin.

    Raises `ValueError` with a sentence where neither is the whole record.
    """
    whole = original_of(dead)
    if whole is not None:
        return whole
    origin = dead.origin
    where = f"{origin.topic}/{origin.partition}/{origin.offset}"
    if found is None:
        raise ValueError(
            f"the letter does not hold all of its record, and {where} is not there any more; ask "
            "its producer to send it again, then drop the letter"
        )
    if hashlib.sha256(found.value or b"").hexdigest() != dead.content.sha256:
        raise ValueError(
            f"the letter does not hold all of its record, and {where} now holds another one; ask "
            "its producer to send it again, then drop the letter"
        )
    return found


def replayed(place: Place, dead: DeadLetter, original: Original) -> Sent:
    """The original with where it comes from: the headers `qw-origin` and `qw-replay`.

    Raises `ValueError` with a sentence for a record that no client can send.
    """
    if dead.origin.topic == topics.CHUNKS:
        raise ValueError(
            "the record is a chunk, and its session is over; have its producer send the exchange "
            "again as a new session, then drop the letter"
        )
    if original.key is None and original.value is None:  # aiokafka asserts that it has one of them
        raise ValueError("the record has neither key nor value; there is nothing to judge: drop it")
    own = (headers.ORIGIN, headers.REPLAY)
    kept = [pair for pair in original.headers if pair[0] not in own]
    return Sent(
        original.key,
        original.value,
        [
            *kept,
            headers.origin(*_first_origin(dead.origin, original.headers)),
            (headers.REPLAY, f"{topics.DEAD_LETTERS}/{place}".encode()),
        ],
    )


def _first_origin(
    origin: Origin, carried: Iterable[tuple[str, bytes | None]]
) -> tuple[str, int, int]:
    """Where a record first stood. Anybody can write `qw-origin` elsewhere than on the backlog."""
    if origin.topic == topics.BACKLOG:
        first = headers.parsed_origin(headers.header(carried, headers.ORIGIN))
        if first is not None:
            return first
    return origin.topic, origin.partition, origin.offset
