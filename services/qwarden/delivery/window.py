"""The window: which delivered records are not done, and what may be committed. Pure.

Invariants, each held by `tests/property/test_window.py`:
- An offset is committed only when every delivered record below it, of the same epoch, is done.
- The watermark of a partition is the offset of its first unfinished record, else the position that
  was recorded when its last records were delivered. Offsets have holes: nothing is computed.
- Each assignment of a partition is an epoch. What finishes from an older one changes nothing
  (aiokafka stamps a commit with the group's generation at the time of sending, so the broker
  would not refuse it).
- The watermark of an epoch never goes back.
- A partition that is let go delivers nothing more, and of its outcomes only those go out that
  stand below one that has gone out: what is published behind an unfinished record is what the next
  owner publishes again, so that no partition is torn any more as soon as these are done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Partition(NamedTuple):
    """A topic's partition. Compares and hashes as aiokafka's own does."""

    topic: str
    partition: int


@dataclass(slots=True)
class _Assigned:
    epoch: int
    committed: int | None = None
    position: int | None = None
    unfinished: dict[int, int] = field(default_factory=dict)
    """Offset to timestamp, in the order of offsets, since a partition delivers them so."""

    uncommitted: dict[int, int] = field(default_factory=dict)
    """The same of all that is delivered and not committed, done or not."""

    sent: int = -1
    """The highest offset whose outcome has gone out."""

    is_let_go: bool = False

    def watermark(self) -> int | None:
        return next(iter(self.unfinished), self.position)


class Window:
    """All partitions assigned to this consumer. Not safe across threads."""

    def __init__(self) -> None:
        self._assigned: dict[Partition, _Assigned] = {}
        self._epoch = 0

    @property
    def partitions(self) -> frozenset[Partition]:
        return frozenset(self._assigned)

    @property
    def in_flight(self) -> int:
        """How many records of current epochs are delivered and not done."""
        return sum(len(assigned.unfinished) for assigned in self._assigned.values())

    @property
    def uncommitted(self) -> int:
        """How many records of current epochs are delivered and not committed."""
        return sum(len(assigned.uncommitted) for assigned in self._assigned.values())

    @property
    def is_torn(self) -> bool:
        """Whether an outcome went out that a commit would not cover now."""
        return any(
            assigned.unfinished and next(iter(assigned.unfinished)) <= assigned.sent
            for assigned in self._assigned.values()
        )

    def assign(self, partition: Partition) -> int:
        """A new epoch of this partition; what was in flight in an older one is forgotten."""
        self._epoch += 1
        self._assigned[partition] = _Assigned(self._epoch)
        return self._epoch

    def revoke(self, partition: Partition) -> None:
        """Ends the partition's epoch; what was not done will be delivered to its next owner."""
        self._assigned.pop(partition, None)

    def epoch_of(self, partition: Partition) -> int | None:
        """The partition's epoch, or None where it is not assigned."""
        assigned = self._assigned.get(partition)
        return None if assigned is None else assigned.epoch

    def begin(self, partition: Partition, position: int) -> None:
        """Notes where a partition without a commit is read from: that is committed too."""
        assigned = self._assigned.get(partition)
        if assigned is not None and assigned.position is None:
            assigned.position = position

    def deliver(
        self, partition: Partition, records: Iterable[tuple[int, int]], position: int
    ) -> int | None:
        """Notes records (offset, timestamp in ms) that one poll returned, and the consumer's
        position right after it: behind the last one there may be a hole, and in it the topic's end.

        Returns their epoch, or None where the partition is not assigned any more or let go: such
        records must not be handled, since nobody would commit them.
        """
        assigned = self._assigned.get(partition)
        if assigned is None or assigned.is_let_go:
            return None
        for offset, timestamp in records:
            assigned.unfinished[offset] = timestamp
            assigned.uncommitted[offset] = timestamp
        assigned.position = position
        return assigned.epoch

    def let_go(self) -> None:
        """Nothing new is delivered or goes out of any partition; what is torn may be mended."""
        for assigned in self._assigned.values():
            assigned.is_let_go = True

    def is_worth_judging(self, partition: Partition, epoch: int) -> bool:
        """Whether the outcome of a record that nobody has judged yet would go out."""
        assigned = self._current(partition, epoch)
        return assigned is not None and not assigned.is_let_go

    def send(self, partition: Partition, epoch: int, offset: int) -> bool:
        """Whether a record's outcome may go out, which is noted. False where its epoch is over, or
        where it is let go and the outcome would be torn off."""
        assigned = self._current(partition, epoch)
        if assigned is None:
            return False
        if offset > assigned.sent:
            if assigned.is_let_go:
                return False
            assigned.sent = offset
        return True

    def finish(self, partition: Partition, epoch: int, offset: int) -> bool:
        """Marks a record done. False where its epoch is over, or where it was let go before its
        outcome went out: it counts for nothing."""
        assigned = self._current(partition, epoch)
        if assigned is None or (assigned.is_let_go and offset > assigned.sent):
            return False
        return assigned.unfinished.pop(offset, None) is not None

    def to_commit(self) -> dict[Partition, tuple[int, int]]:
        """Partition to (epoch, watermark), for those whose watermark is not committed yet."""
        return {
            partition: (assigned.epoch, watermark)
            for partition, assigned in self._assigned.items()
            if (watermark := assigned.watermark()) is not None and watermark != assigned.committed
        }

    def committed(self, committed: Mapping[Partition, tuple[int, int]]) -> None:
        """Notes that the broker took these; a commit that failed stays to be made."""
        for partition, (epoch, watermark) in committed.items():
            assigned = self._current(partition, epoch)
            if assigned is not None:
                assigned.committed = watermark
                for offset in [o for o in assigned.uncommitted if o < watermark]:
                    del assigned.uncommitted[offset]

    def oldest_timestamp(self) -> int | None:
        """Kafka's timestamp (ms) of the oldest uncommitted record, or None when idle."""
        firsts = [
            next(iter(assigned.uncommitted.values()))
            for assigned in self._assigned.values()
            if assigned.uncommitted
        ]
        return min(firsts, default=None)

    def watermarks(self) -> dict[Partition, int]:
        """The watermark of each partition that has one."""
        return {
            partition: watermark
            for partition, assigned in self._assigned.items()
            if (watermark := assigned.watermark()) is not None
        }

    def _current(self, partition: Partition, epoch: int) -> _Assigned | None:
        assigned = self._assigned.get(partition)
        return assigned if assigned is not None and assigned.epoch == epoch else None
