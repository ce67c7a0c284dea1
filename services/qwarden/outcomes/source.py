"""Where a record stood and what it carried.

What is made for each record is a struct of msgspec, which takes 0.05 µs for six fields; a frozen
dataclass takes 0.5 µs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from qwarden.contracts import topics
from qwarden.contracts.headers import ORIGIN, Header, header, parsed_origin
from qwarden.contracts.refusal import ErrorClass, Refused

MAX_ENVELOPE_BYTES = 32 * 1024
"""Of a record's key and headers: what we write repeats them within `CONTENT_OVERHEAD_BYTES`."""


class Record(Protocol):
    """What a poll gives, and what a file's line is dressed as."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[Header]: ...


class Source(msgspec.Struct, frozen=True):
    """Where a record stood and what it carried. Timestamps are Kafka's, ms since 1970."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]

    @classmethod
    def of(cls, record: Record) -> Source:
        """What a record carries, and where it stood first: on the backlog its origin is believed,
        since only the fleet writes there."""
        where = None
        if record.topic == topics.BACKLOG:
            where = parsed_origin(header(record.headers, ORIGIN))
        topic, partition, offset = where or (record.topic, record.partition, record.offset)
        return cls(
            topic,
            partition,
            offset,
            record.timestamp,
            record.key,
            record.value,
            record.headers,
        )

    def envelope_bytes(self) -> int:
        size = len(self.key or b"")
        for name, data in self.headers:
            size += len(name.encode()) + len(data or b"")
        return size

    def check_envelope(self, *, event_id: str = "", tenant: str = "") -> None:
        """Raises `Refused` for a key and headers that no outcome could repeat; it names what is
        known of the record."""
        size = self.envelope_bytes()
        if size > MAX_ENVELOPE_BYTES:
            raise Refused(
                ErrorClass.TOO_LARGE,
                f"the record's key and headers have {size:,} bytes and the limit is "
                f"{MAX_ENVELOPE_BYTES:,}; send large things in the value",
                event_id=event_id,
                tenant=tenant,
            )
