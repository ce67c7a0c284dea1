"""What is under way between a poll and its acknowledgements: batches, the outcome of each of their
records, and what is published beside them. The window says what of it may go out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from aiokafka import ConsumerRecord

from qwarden.delivery.key_order import Place
from qwarden.delivery.owed import Decide, Owed, decided
from qwarden.delivery.publisher import Outcome
from qwarden.delivery.window import Partition, Window

Records = Sequence[ConsumerRecord]
Refuse = Callable[[ConsumerRecord, str], Owed]
"""A record's dead letter, where what it owes cannot be published, and the reason."""
Settled = Callable[[bool], None]
"""Told of an extra once: whether it is acknowledged, or its epoch ended before it went."""


class Batch:
    """One poll's records. `settle`: told of each of them once, when all that it owes is
    acknowledged, or none of it may go out."""

    __slots__ = ("at", "bytes", "outcomes", "records", "refuse", "settle", "window")

    def __init__(self, window: Window, settle: Callable[[Delivered], None], refuse: Refuse) -> None:
        self.window = window
        self.settle = settle
        self.refuse = refuse
        self.at = time.monotonic()
        self.outcomes: list[Delivered] = []
        """Until it is judged: an outcome knows its batch, and no cycle is left to the collector."""
        self.records: list[ConsumerRecord] = []
        self.bytes = 0

    def add(self, records: Records, outcomes: list[Delivered]) -> None:
        """Takes the records of one partition."""
        self.outcomes += outcomes
        self.records += records
        self.bytes += sum([len(record.value or b"") for record in records])

    def leave_out(self, over: set[tuple[Partition, int]]) -> list[Delivered]:
        """Takes out what is of epochs that are over: it would be judged for nobody."""
        void = [each for each in self.outcomes if (each.where, each.epoch) in over]
        self.outcomes = [each for each in self.outcomes if (each.where, each.epoch) not in over]
        self.records = [each.record for each in self.outcomes]
        for each in void:
            each.is_void = each.is_finished = True
        return void


class Delivered:
    """The outcome of a record that was delivered in an epoch: its place in its key's queue, and
    what it owes once it is finished."""

    __slots__ = (
        "_owed", "batch", "epoch", "is_finished", "is_void", "owed", "place", "record", "where",
    )  # fmt: skip

    def __init__(
        self,
        batch: Batch,
        record: ConsumerRecord,
        where: Partition,
        epoch: int,
        place: Place[Outcome] | None,
    ) -> None:
        self.batch = batch
        self.record = record
        self.where = where
        self.epoch = epoch
        self.place = place
        self.is_finished = False
        self.is_void = False
        """Whether nobody has judged it, so that it can be neither sent nor done."""
        self.owed: Owed = ()
        """Once it goes."""
        self._owed: Owed | Decide = ()
        """Until then."""

    def finish(self, owed: Owed | Decide) -> None:
        self.is_finished = True
        self._owed = owed

    def goes(self) -> bool:
        goes = not self.is_void and self.batch.window.send(
            self.where, self.epoch, self.record.offset
        )
        if goes and self._owed:
            owed, self._owed = self._owed, ()  # what is sent again stays what it was
            self.owed = decided(owed)
        return goes

    def settle(self) -> None:
        # Else they are kept until the last record of its batch is judged.
        self.owed = self._owed = ()
        self.batch.settle(self)

    def refused(self, reason: str) -> Owed:
        return self.batch.refuse(self.record, reason)


class Extra:
    """Messages that belong to no record's outcome. `of`: the offsets of the records that are
    finished when it is settled. `sent`: all such that went out and are not settled, which it joins
    and leaves."""

    __slots__ = (
        "_epoch", "_goes", "_of", "_refused", "_sent", "_settled", "_where", "_window", "owed",
    )  # fmt: skip

    def __init__(
        self,
        window: Window,
        sent: set[Extra],
        where: Partition,
        epoch: int,
        *,
        owed: Owed,
        settled: Settled,
        refused: Callable[[str], Owed],
        of: Sequence[int],
    ) -> None:
        self.owed = owed
        self._window = window
        self._sent = sent
        self._where = where
        self._epoch = epoch
        self._settled = settled
        self._refused = refused
        self._of = of
        self._goes = False

    def goes(self) -> bool:
        """Where it belongs to records that are torn, it goes also when they are let go."""
        window = self._window
        sent = [window.send(self._where, self._epoch, offset) for offset in self._of]
        self._goes = any(sent) or (
            not self._of and window.is_worth_judging(self._where, self._epoch)
        )
        if self._goes:
            self._sent.add(self)
        return self._goes

    def settle(self) -> None:
        self._sent.discard(self)
        self._settled(self._goes)

    def refused(self, reason: str) -> Owed:
        return self._refused(reason)
