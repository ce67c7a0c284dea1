"""What all services must know within seconds: the records of `moderation.control`.

A record is keyed by its kind, tenant and subject; a null value withdraws what stands under the key.
The topic is compacted, so a superseded record may be gone and offsets have holes. A reader keeps
what it does not know by its key and ignores it, so that an older service outlives a new kind.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, NamedTuple

import msgspec

from qwarden.contracts.headers import CLI, MODERATOR, Header, cloud_event
from qwarden.contracts.verdict import encode

Instant = Annotated[datetime, msgspec.Meta(tz=True)]


HALT, LOSS_ACCEPTED = "halt", "loss_accepted"
"""The kinds that this version knows."""


class Key(NamedTuple):
    """What a record is about. `tenant` and `subject` are empty where the kind has none."""

    kind: str
    tenant: str = ""
    subject: str = ""

    def encode(self) -> bytes:
        """The key's one canonical form, a JSON array without spaces: compaction compares bytes."""
        return msgspec.json.encode(tuple(self))


def decode_key(data: bytes | None) -> Key | None:
    """The key of a record, or None for bytes that no `Key.encode` gives."""
    try:
        key = Key(*msgspec.json.decode(data or b"", type=tuple[str, str, str]))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return key if key.encode() == data else None


class Halt(msgspec.Struct, frozen=True, kw_only=True):
    """The whole fleet stops judging until a person withdraws this."""

    schema_version: Literal[1] = 1
    reason: str
    """A sentence with the figures."""
    at: Instant
    """When it was decided."""
    by: str
    """Which consumer decided it."""

    def key(self) -> Key:
        return Key(HALT)


class LossAccepted(msgspec.Struct, frozen=True, kw_only=True):
    """A person has seen that records of a partition are lost; its reader goes on behind them."""

    schema_version: Literal[1] = 1
    topic: str
    partition: int
    group: str
    """Whose committed offset is out of range."""
    committed: int
    """That offset. The acceptance is of this one loss: another offset is another loss."""
    resume_at: int
    """Where to go on: the first record that is there."""
    at: Instant
    by: str
    """Who accepted it."""

    def key(self) -> Key:
        return loss_key(self.topic, self.partition, self.group)


Record = Halt | LossAccepted


def loss_key(topic: str, partition: int, group: str) -> Key:
    """The key of a loss. A topic's name has no slash, so no two losses share one."""
    return Key(LOSS_ACCEPTED, subject=f"{topic}/{partition}/{group}")


class Written(NamedTuple):
    """A record as it is written; a null `value` withdraws."""

    key: bytes
    value: bytes | None
    headers: list[Header]


def written(record: Record) -> Written:
    """The message that puts a record in force."""
    key = record.key()
    about = cloud_event(
        key.kind.replace("_", "-"),
        "/".join((*key, record.by, record.at.isoformat())),
        by=CLI if isinstance(record, LossAccepted) else MODERATOR,
    )
    return Written(key.encode(), encode(record), about)


def withdrawn(key: Key) -> Written:
    """The message that withdraws what stands under a key. Its headers say nothing: a null value
    has no identity of its own, and compaction removes it in the end."""
    return Written(key.encode(), None, [])
