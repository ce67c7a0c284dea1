"""What a record owes: the messages that must be acknowledged before it is done."""

from __future__ import annotations

from typing import NamedTuple

from qwarden.contracts.headers import Header


class Message(NamedTuple):
    """One message to publish."""

    topic: str
    key: bytes | None
    value: bytes
    headers: list[Header]


Owed = tuple[Message, ...]
