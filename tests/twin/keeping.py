"""A keeper on the twin: it knows, for each key, the records since the last one that ended anything,
and at every assignment compares what it has read again with what stands in the log."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from aiokafka import ConsumerRecord

from qwarden.delivery.consumer import Delivery, Handler
from qwarden.delivery.owed import Finish
from qwarden.delivery.underway import Records
from qwarden.delivery.window import Partition

ENDS = 20
"""A record with a value of that length ends what its key has begun."""

Read = Callable[[Partition, int], Sequence[ConsumerRecord]]
"""The records of a partition's log below an offset."""


class Spans:
    """Implements `Keeper`."""

    def __init__(self, read: Read, violated: Callable[[str], None]) -> None:
        self._read = read
        self._violated = violated
        self.rereads = 0
        self._open: dict[Partition, dict[bytes, list[int]]] = {}
        self._ended: dict[Partition, list[tuple[int, int]]] = {}
        """First and last offset of what has ended, and may be above the watermark."""
        self._committed: dict[Partition, int] = {}
        self._last: dict[Partition, int] = {}
        self._begun: set[Partition] = set()

    def assigned(
        self, where: Partition, epoch: int, committed: int | None, metadata: str
    ) -> int | None:
        if where in self._open:
            self._violated(f"{where} was assigned twice")
        self._open[where], self._ended[where], self._last[where] = {}, [], -1
        self._committed[where] = committed or 0
        return json.loads(metadata)["from"] if metadata else None

    def lost(self, where: Partition) -> None:
        self._violated(f"{where} is said to have lost what it has")

    def read_again(self, where: Partition, records: Sequence[ConsumerRecord]) -> None:
        self.rereads += len(records)
        for record in records:
            if where in self._begun or record.offset >= self._committed[where]:
                self._violated(f"{where}/{record.offset} was read again, and is new")
            self._take(where, record)

    def begins(self, where: Partition) -> None:
        self._begun.add(where)
        true: dict[bytes, list[int]] = {}
        for record in self._read(where, self._committed[where]):
            _step(true, record)
        if true != self._open[where]:
            self._violated(f"of {where} is known {self._open[where]}, and there is {true}")

    def metadata(self, where: Partition, watermark: int) -> str:
        self._ended[where] = [each for each in self._ended[where] if each[1] >= watermark]
        firsts = [offsets[0] for offsets in self._open[where].values()]
        start = min([*firsts, *(first for first, _ in self._ended[where])], default=watermark)
        return json.dumps({"from": start}) if start < watermark else ""

    def committed(self, where: Partition, watermark: int, metadata: str) -> None:
        if where not in self._begun:
            self._violated(f"{where} was committed before it was read again")

    def revoked(self, where: Partition) -> None:
        for of in (self._open, self._ended, self._committed, self._last):
            of.pop(where)
        self._begun.discard(where)

    def handling(self, handler: Handler) -> Handler:
        async def handled(records: Records, finish: Finish) -> None:
            for record in records:
                where = Partition(record.topic, record.partition)
                if where not in self._begun:
                    self._violated(f"{where}/{record.offset} was handled before it was read again")
                else:
                    self._take(where, record)
            await handler(records, finish)

        return handled

    def _take(self, where: Partition, record: ConsumerRecord) -> None:
        if record.offset <= self._last[where]:
            self._violated(f"{where}/{record.offset} came behind {self._last[where]}")
        self._last[where] = record.offset
        ended = _step(self._open[where], record)
        if ended:
            self._ended[where].append((ended[0], record.offset))


def handling(handler: Handler, delivery: Callable[[], Delivery]) -> Handler:
    """Has what is handled noted by the delivery's own keeper."""

    async def handled(records: Records, finish: Finish) -> None:
        keeper = delivery()._assignment._keeper
        assert isinstance(keeper, Spans)
        await keeper.handling(handler)(records, finish)

    return handled


def _step(open_: dict[bytes, list[int]], record: ConsumerRecord) -> list[int]:
    """Takes a record; what it has ended."""
    if record.key is None:
        return []
    open_.setdefault(record.key, []).append(record.offset)
    if len(record.value or b"") == ENDS:
        return open_.pop(record.key)
    return []
