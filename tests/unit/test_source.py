"""Where a record stood first, and how large a key and headers may be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from qwarden.contracts import topics
from qwarden.contracts.headers import Header
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.delivery.owed import Message, size_of
from qwarden.outcomes.source import MAX_ENVELOPE_BYTES, Source


@dataclass(frozen=True)
class Polled:
    """A record as a poll gives it."""

    topic: str
    headers: list[Header] = field(default_factory=list)
    partition: int = 2
    offset: int = 7
    timestamp: int = 1_740_830_400_000
    key: bytes | None = b"k"
    value: bytes | None = b"{}"


FIRST: list[Header] = [("qw-origin", b"shop.comments/3/41")]


@pytest.mark.parametrize(
    ("record", "stood"),
    [
        (Polled(topics.CONTENT), (topics.CONTENT, 2, 7)),
        (Polled(topics.CONTENT, FIRST), (topics.CONTENT, 2, 7)),
        (Polled("shop.comments", FIRST), ("shop.comments", 2, 7)),
        (Polled(topics.BACKLOG, FIRST), ("shop.comments", 3, 41)),
        (Polled(topics.BACKLOG), (topics.BACKLOG, 2, 7)),
        (Polled(topics.BACKLOG, [("qw-origin", b"nowhere")]), (topics.BACKLOG, 2, 7)),
    ],
)
def test_an_origin_is_believed_of_who_may_not_say_it(
    record: Polled, stood: tuple[str, int, int]
) -> None:
    source = Source.of(record)
    assert (source.topic, source.partition, source.offset) == stood
    assert (source.key, source.value, source.timestamp) == (b"k", b"{}", 1_740_830_400_000)
    assert source.headers == record.headers


def test_a_key_and_headers_that_no_outcome_could_repeat_are_taken() -> None:
    name = "héader"
    nothing: Any = ("empty", None)  # as a poll may give it
    room = MAX_ENVELOPE_BYTES - len(b"key") - len(name.encode()) - len(nothing[0])
    fits = Source("t", 0, 0, 0, b"key", None, [(name, b"x" * room), nothing])
    assert fits.envelope_bytes() == MAX_ENVELOPE_BYTES
    fits.check_envelope()
    over = Source("t", 0, 0, 0, b"key", None, [(name, b"x" * (room + 1)), nothing])
    with pytest.raises(Refused, match="have 32,769 bytes and the limit is 32,768") as refused:
        over.check_envelope(event_id="e1", tenant="demo")
    told = refused.value
    assert (told.error_class, told.event_id, told.tenant) == (ErrorClass.TOO_LARGE, "e1", "demo")
    with pytest.raises(Refused) as unnamed:
        over.check_envelope()
    assert (unnamed.value.event_id, unnamed.value.tenant) == ("", "")
    assert Source("t", 0, 0, 0, None, None, []).envelope_bytes() == 0


def test_the_bytes_of_a_headers_name_are_counted_as_its_characters() -> None:
    """A name of a thousand emoji is four thousand bytes on its topic."""
    plain, emoji = (
        size_of(Message("t", None, b"", [(name * 1000, b"")])) for name in ("x", "\N{OWL}")
    )
    assert emoji - plain == 3000
