"""Bugs to plant in the driver, each a class that stands in for one of its parts: a suite that stays
green with one of them sees nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

import qwarden.delivery.consumer as driver
from qwarden.delivery.consumer import Delivery, Handler
from qwarden.delivery.key_order import KeyOrder, Place, T
from qwarden.delivery.owed import Decide, Finish, Owed
from qwarden.delivery.underway import Records
from qwarden.delivery.window import Partition, Window
from twin.members import SOUND, Parts


@dataclass(slots=True)
class _Seen:
    """What one epoch was given, by a window that keeps its own books."""

    epoch: int
    position: int
    unfinished: set[int] = field(default_factory=set)
    committed: int | None = None


class KeepsOwnBooks(Window):
    """A window that commits by books of its own, kept beside those of the sound one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[Partition, _Seen] = {}

    def deliver(
        self, partition: Partition, records: Iterable[tuple[int, int]], position: int
    ) -> int | None:
        records = list(records)
        epoch = super().deliver(partition, records, position)
        if epoch is not None:
            seen = self.seen.get(partition)
            if seen is None or seen.epoch != epoch:
                seen = self.seen[partition] = _Seen(epoch, 0)
            seen.position = records[-1][0] + 1
            seen.unfinished |= {offset for offset, _ in records}
        return epoch

    def revoke(self, partition: Partition) -> None:
        super().revoke(partition)
        self.seen.pop(partition, None)

    def finish(self, partition: Partition, epoch: int, offset: int) -> bool:
        is_done = super().finish(partition, epoch, offset)
        if is_done:
            self.seen[partition].unfinished.discard(offset)
        return is_done

    def to_commit(self) -> dict[Partition, tuple[int, int]]:
        return {
            partition: (seen.epoch, self.mark(seen))
            for partition, seen in self.seen.items()
            if self.mark(seen) != seen.committed
        }

    def committed(self, committed: Mapping[Partition, tuple[int, int]]) -> None:
        super().committed(committed)
        for partition, (epoch, mark) in committed.items():
            if partition in self.seen and self.seen[partition].epoch == epoch:
                self.seen[partition].committed = mark

    def mark(self, seen: _Seen) -> int:
        return min(seen.unfinished, default=seen.position)


class CommitsThePosition(KeepsOwnBooks):
    """As FastStream's own acknowledgement does."""

    def mark(self, seen: _Seen) -> int:
        return seen.position


class CommitsOneMore(KeepsOwnBooks):
    """Takes the first unfinished offset for the last finished one."""

    def mark(self, seen: _Seen) -> int:
        return min(seen.unfinished, default=seen.position - 1) + 1


class PassesOverWhatWaits(KeepsOwnBooks):
    """Counts a record as unfinished from when it is judged, and not from when it is polled."""

    def __init__(self) -> None:
        super().__init__()
        self.judged: set[tuple[int, int]] = set()
        """Epochs and offsets."""

    def mark(self, seen: _Seen) -> int:
        begun = [offset for offset in seen.unfinished if (seen.epoch, offset) in self.judged]
        return min(begun, default=seen.position)


def _noting_what_is_judged(handler: Handler, delivery: Callable[[], Delivery]) -> Handler:
    async def noting(records: Records, finish: Finish) -> None:
        window = delivery()._window
        assert isinstance(window, PassesOverWhatWaits)
        for record in records:
            seen = window.seen.get(Partition(record.topic, record.partition))
            if seen is not None:
                window.judged.add((seen.epoch, record.offset))
        await handler(records, finish)

    return noting


def _skipping_on_an_exception(handler: Handler, delivery: Callable[[], Delivery]) -> Handler:
    async def skipping(records: Records, finish: Finish) -> None:
        finished: set[int] = set()

        def noting(index: int, owed: Owed | Decide, /) -> None:
            finished.add(index)
            finish(index, owed)

        try:
            await handler(records, noting)
        except RuntimeError:
            for index in set(range(len(records))) - finished:
                finish(index, ())

    return skipping


class ResendsOnATimeout(AIOKafkaProducer):  # type: ignore[misc]
    """Sends once more what has no acknowledgement after a second."""

    async def send(self, *message: Any, **more: Any) -> Any:
        sent = await super().send(*message, **more)

        def again() -> None:
            if not sent.done() and not self._closed:
                asyncio.get_running_loop().create_task(
                    AIOKafkaProducer.send(self, *message, **more)
                )

        asyncio.get_running_loop().call_later(1.0, again)
        return sent


class AcknowledgedWhenSent(AIOKafkaProducer):  # type: ignore[misc]
    """Takes a message that the producer has for one that the broker has."""

    async def send(self, *message: Any, **more: Any) -> Any:
        sent = await super().send(*message, **more)
        sent.add_done_callback(lambda done: done.cancelled() or done.exception())
        taken = asyncio.get_running_loop().create_future()
        taken.set_result(None)
        return taken


class AcceptsAStaleEpoch(Window):
    """Takes the finish of an older epoch for one of this epoch's."""

    def __init__(self) -> None:
        super().__init__()
        self._now: dict[Partition, int] = {}

    def assign(self, partition: Partition) -> int:
        self._now[partition] = super().assign(partition)
        return self._now[partition]

    def finish(self, partition: Partition, epoch: int, offset: int) -> bool:
        return super().finish(partition, self._now.get(partition, epoch), offset)


class ForgetsTheOrder(KeyOrder[T]):
    """Releases an outcome when it is finished, whatever is before it with its key."""

    def finish(self, place: Place[T] | None, outcome: T) -> list[T]:
        return [outcome]


class LetsGoWithoutACommit(Delivery):
    """Revokes without a last commit."""

    async def on_partitions_revoked(self, revoked: Any) -> None:
        with mock.patch.object(self, "commit", mock.AsyncMock()):
            await super().on_partitions_revoked(revoked)


class ReadsOnFromTheEnd(AIOKafkaConsumer):  # type: ignore[misc]
    """Starts a partition without a commit at its end, as Kafka's default does."""

    def __init__(self, *topics: str, **settings: Any) -> None:
        super().__init__(*topics, **settings | {"auto_offset_reset": "latest"})


@dataclass(frozen=True, slots=True)
class Bug:
    """`seen`: a pattern of the violation by which it shows. `inside`: what stands in for a class
    that the driver itself makes, by its name there. `orderly`: it shows where nobody dies."""

    seen: str
    parts: Parts = SOUND
    inside: Mapping[str, Any] = field(default_factory=dict)
    orderly: bool = False

    @contextmanager
    def planted(self) -> Iterator[Parts]:
        with ExitStack() as stack:
            for name, planted in self.inside.items():
                stack.enter_context(mock.patch.object(driver, name, planted))
            yield self.parts


_LOST = "has no outcome"
_DISORDER = "was published before"

BUGS = {
    "the position is committed": Bug(_LOST, inside={"Window": CommitsThePosition}),
    "one offset too many is committed": Bug(_LOST, inside={"Window": CommitsOneMore}),
    "a waiting batch is passed over": Bug(
        _LOST, Parts(handler=_noting_what_is_judged), {"Window": PassesOverWhatWaits}
    ),
    "an exception skips its batch": Bug(
        f"{_LOST}|{_DISORDER}", Parts(handler=_skipping_on_an_exception)
    ),
    "a timeout sends again": Bug("sent twice by one", Parts(producer=ResendsOnATimeout)),
    "a stale epoch is accepted": Bug(_LOST, inside={"Window": AcceptsAStaleEpoch}),
    "an outcome counts before its acknowledgement": Bug(
        _LOST, Parts(producer=AcknowledgedWhenSent)
    ),
    "a key has no order": Bug(_DISORDER, inside={"KeyOrder": ForgetsTheOrder}),
    "a new partition is read from its end": Bug(
        f"{_LOST}|{_DISORDER}", Parts(consumer=ReadsOnFromTheEnd)
    ),
    "a revoke commits nothing": Bug(
        "published again", Parts(delivery=LetsGoWithoutACommit), orderly=True
    ),
}
