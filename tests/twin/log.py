"""One partition's log: batches of records in Kafka's format 2, as bytes, at their offsets."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

Headers = Sequence[tuple[str, bytes | None]]

_BASE_OFFSET = struct.Struct(">q")
_CRC = struct.Struct(">I")
_ATTRIBUTES = struct.Struct(">h")
_CRC_AT, _ATTRIBUTES_AT = 17, 21
_CONTROL = 0x20
_STATE = struct.Struct(">iqqqhii")
"""From byte 23: last offset delta, first and last timestamp, producer id, epoch, base sequence,
count of records."""
_RETAINED = 5
"""Batches of one producer whose repetition the broker recognises."""


class Record(NamedTuple):
    """One record, as it stands in the log."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class State(NamedTuple):
    """What a batch says of its producer."""

    last_offset_delta: int
    first_timestamp: int
    last_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    records: int


def state_of(batch: bytes) -> State:
    return State(*_STATE.unpack_from(batch, 23))


def records_of(batch: bytes) -> list[Record]:
    found = []
    batches = MemoryRecords(batch)
    while batches.has_next():
        of_one = batches.next_batch()
        if not of_one.is_control_batch:
            found += [
                Record(each.offset, each.timestamp, each.key, each.value, tuple(each.headers))
                for each in of_one
            ]
    return found


def batch_of(
    records: Iterable[tuple[bytes | None, bytes | None, Headers]], timestamp: int
) -> bytes:
    """A batch of (key, value, headers), of no producer."""
    builder = DefaultRecordBatchBuilder(
        2, 0, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 24,
    )  # fmt: skip
    for number, (key, value, headers) in enumerate(records):
        builder.append(number, timestamp, key, value, list(headers))
    return bytes(builder.build())


def marker(producer_id: int, epoch: int, *, commit: bool, timestamp: int) -> bytes:
    """What ends a transaction in a log: it takes an offset, and no consumer returns it."""
    builder = DefaultRecordBatchBuilder(
        2, 0, is_transactional=1, producer_id=producer_id, producer_epoch=epoch, base_sequence=-1,
        batch_size=1 << 10,
    )  # fmt: skip
    builder.append(0, timestamp, struct.pack(">hh", 0, int(commit)), struct.pack(">hi", 0, 0), [])
    batch = bytearray(builder.build())
    (attributes,) = _ATTRIBUTES.unpack_from(batch, _ATTRIBUTES_AT)
    _ATTRIBUTES.pack_into(batch, _ATTRIBUTES_AT, attributes | _CONTROL)
    _CRC.pack_into(batch, _CRC_AT, calc_crc32c(bytes(batch[_ATTRIBUTES_AT:])))
    return bytes(batch)


class OutOfSequence(Exception):
    """A batch of an idempotent producer that does not follow its last one."""


@dataclass(slots=True)
class Log:
    """Batches in [start, end). Offsets are given once; deleting leaves the later ones in place."""

    start: int = 0
    end: int = 0
    _batches: list[bytes] = field(default_factory=list)
    _bases: list[int] = field(default_factory=list)
    _producers: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    """Producer to its last batches: first sequence, last sequence, offset."""

    def append(self, batch: bytes) -> int | None:
        """Gives the batch its offsets and returns the first; None for one that is here already.

        Raises OutOfSequence. As in Kafka, the first batch of a producer may have any sequence.
        """
        state = state_of(batch)
        sequenced = state.producer_id >= 0 and state.base_sequence >= 0
        if sequenced:
            last = state.base_sequence + state.records - 1
            known = self._producers.get(state.producer_id, [])
            if (state.base_sequence, last) in {each[:2] for each in known}:
                return None
            if known and known[-1][1] + 1 != state.base_sequence:
                raise OutOfSequence
            self._producers[state.producer_id] = [
                *known[-_RETAINED + 1 :],
                (state.base_sequence, last, self.end),
            ]
        base = self.end
        self._batches.append(_BASE_OFFSET.pack(base) + batch[_BASE_OFFSET.size :])
        self._bases.append(base)
        self.end = base + state.last_offset_delta + 1
        return base

    def offset_of(self, batch: bytes) -> int:
        """The offset that a repeated batch was given."""
        state = state_of(batch)
        for first, _, offset in self._producers[state.producer_id]:
            if first == state.base_sequence:
                return offset
        raise KeyError(state)

    def read(self, offset: int, most_bytes: int) -> bytes:
        """Whole batches from the one that holds `offset`: at least one, where there is one."""
        found: list[bytes] = []
        size = 0
        for batch in self._batches[max(0, bisect_right(self._bases, offset) - 1) :]:
            if found and size + len(batch) > most_bytes:
                break
            found.append(batch)
            size += len(batch)
        return b"".join(found) if offset < self.end else b""

    def records(self, offset: int = 0) -> list[Record]:
        """All records from `offset` on."""
        batches = self._batches[max(0, bisect_right(self._bases, offset) - 1) :]
        return [
            record
            for batch in batches
            for record in records_of(batch)
            if record.offset >= max(offset, self.start)
        ]

    def delete_before(self, offset: int) -> None:
        self.start = max(self.start, offset)
