"""What a record owes: the messages that must be acknowledged before it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from qwarden.contracts.headers import Header

_BATCH_BYTES = 61
_RECORD_BYTES = 36
_HEADER_BYTES = 10
"""Kafka's record format 2 (KIP-98): a batch of one record, the record's own lengths at their
longest, and those of a header."""


class Message(NamedTuple):
    """One message to publish."""

    topic: str
    key: bytes | None
    value: bytes
    headers: list[Header]


Owed = tuple[Message, ...]

Decide = Callable[[], Owed]
"""Decides what is owed, and counts it. Called once, right before that is sent for the first time:
it may have waited long for what came before it with its key."""


class Finish(Protocol):
    """Finishes the record of this number of a batch, once."""

    def __call__(self, index: int, owed: Owed | Decide, /) -> None: ...


def decided(owed: Owed | Decide) -> Owed:
    """What is owed, now that it is sent."""
    return owed if isinstance(owed, tuple) else owed()


def size_of(message: Message) -> int:
    """How large the message is on its topic, alone in its batch and uncompressed, at most (bytes):
    what `max.message.bytes` bounds."""
    size = _BATCH_BYTES + _RECORD_BYTES + len(message.key or b"") + len(message.value)
    for name, data in message.headers:
        size += _HEADER_BYTES + len(name.encode()) + len(data or b"")
    return size
