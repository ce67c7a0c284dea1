"""The driver: it polls, lets a handler judge, publishes what records owe, and commits. It decides
nothing: the window, the room, the key order and the start positions do (their modules say what
holds).

FastStream is the frame, with one subscriber whose acknowledgement is ours: FastStream's own commits
the fetch position of every partition, and passes over a failed or unfinished record.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from qwarden import telemetry
from qwarden.delivery.key_order import KeyOrder, Place
from qwarden.delivery.owed import Owed
from qwarden.delivery.positions import Accepted, Lost, start_of
from qwarden.delivery.publisher import Outcome, Publisher
from qwarden.delivery.room import Room
from qwarden.delivery.window import Partition, Window

_log = logging.getLogger(__name__)

Records = Sequence[ConsumerRecord]
Finish = Callable[[int, Owed], None]
"""Called once for each record of a batch, by its index, with what it owes."""
Handler = Callable[[Records, Finish], Awaitable[None]]
Refuse = Callable[[ConsumerRecord, str], Owed]
"""A record's dead letter, where what it owes cannot be published, and the reason."""

_WAIT_S = 1.0
"""How long a poll or a batch waits for room before it lets the frame's loop turn. aiokafka counts
the time between two polls against `max_poll_interval_ms`, past which the group goes on without
this consumer."""


class _Batch:
    """One poll's records until each of them is settled."""

    __slots__ = ("at", "bytes", "epochs", "left", "places", "records", "where")

    def __init__(
        self,
        records: Records,
        where: list[Partition],
        epochs: list[int],
        places: list[Place[Outcome] | None],
    ) -> None:
        self.records = records
        self.where = where
        self.epochs = epochs
        self.places = places
        self.left = len(records)
        self.bytes = sum(len(record.value or b"") for record in records)
        self.at = time.monotonic()


class _Outcome:
    """What one record of a batch owes."""

    __slots__ = ("_batch", "_delivery", "_index", "owed")

    def __init__(self, delivery: Delivery, batch: _Batch, index: int, owed: Owed) -> None:
        self._delivery = delivery
        self._batch = batch
        self._index = index
        self.owed = owed

    def goes(self) -> bool:
        batch, index = self._batch, self._index
        return self._delivery._window.send(
            batch.where[index], batch.epochs[index], batch.records[index].offset
        )

    def settle(self) -> None:
        self._delivery._settle(self._batch, self._index)

    def refused(self, reason: str) -> Owed:
        return self._delivery._refuse(self._batch.records[self._index], reason)


class Delivery(ConsumerRebalanceListener):  # type: ignore[misc]
    """One consumer of `topic`. `handler` judges a batch and calls `finish` for each record.

    `room` bounds what is judged at a time; a batch that finds none waits in the window, unfinished,
    while its partitions are paused and polled on. `commit_interval_s` and `commit_records`: how
    long, and after how many records that are done, a commit waits. `revoke_s`: how long a revoke
    may take.
    """

    def __init__(
        self,
        topic: str,
        handler: Handler,
        refuse: Refuse,
        *,
        room: Room,
        commit_interval_s: float,
        commit_records: int,
        revoke_s: float,
        on_failure: Callable[[], None],
    ) -> None:
        self.topic = topic
        self._handler = handler
        self._refuse = refuse
        self._room = room
        self._commit_interval_s = commit_interval_s
        self._commit_records = commit_records
        self._revoke_s = revoke_s
        self._on_failure = on_failure
        self._window = Window()
        self._order: KeyOrder[Outcome] = KeyOrder()
        self._polled: _Batch | None = None
        """Between a poll and its handler."""
        self._waiting: _Batch | None = None
        """Handled, and not let in yet."""
        self._paused = False
        self._held: str | None = None
        self._progressed = asyncio.Event()
        """Set when anything has changed that somebody may wait for."""
        self._done = 0
        """Records done since the last commit."""
        self._commit_due = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._consumer: AIOKafkaConsumer | None = None
        self._publisher: Publisher | None = None
        self._commit_lock = asyncio.Lock()
        self._commit_failing = False
        self._stopping = False
        self._polled_at: float | None = None
        self.joined = False
        """Whether the group has given this consumer an assignment, if only an empty one."""
        self.lost: dict[Partition, Lost] = {}
        """Partitions that are stopped since records were lost, until a person has seen it."""
        self._accepted: Mapping[Partition, Accepted] = {}
        self.failure: BaseException | None = None

    # What the service calls.

    def start(self, publisher: Publisher) -> None:
        """Begins to publish and commit. To be called before the frame polls."""
        self._publisher = publisher
        self._spawn(self._commit_from_time_to_time(), "delivery-commit")
        self._spawn(self._measure_from_time_to_time(), "delivery-measure")

    def hold(self, reason: str) -> None:
        """Judges nothing more, and keeps the partitions, until `release`."""
        self._held = reason

    def release(self) -> None:
        self._held = None
        self._progressed.set()

    @property
    def idle_s(self) -> float:
        """Seconds since the frame last polled; 0 before it has begun. It polls every other second
        at least, also while it waits out an outage, so that a longer time is a loop that hangs."""
        return 0.0 if self._polled_at is None else time.monotonic() - self._polled_at

    def accept_losses(self, accepted: Mapping[Partition, Accepted]) -> None:
        """Goes on where people have accepted a loss. A commit stands there only after a record has
        come, so that the next owner may meet the same loss: these stay known."""
        self._accepted = accepted
        for where, lost in list(self.lost.items()):
            self._go_on_behind(where, lost)

    @property
    def held(self) -> str | None:
        """Why nothing is judged, or None."""
        return self._held

    async def drain(self, budget_s: float) -> None:
        """Takes nothing more, finishes what is in flight within the budget, and commits."""
        self._stopping = True
        await self._soon(self._is_finished, budget_s)
        if self._window.in_flight:
            _log.warning(
                "%d records were not finished; they will be delivered again: %s",
                self._window.in_flight,
                self.in_flight(),
            )
        await self._let_go()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def in_flight(self) -> str:
        """Which records are in flight, for a log line: partitions, first offsets, and how many."""
        marks = self._window.watermarks()
        starts = ", ".join(f"{p.topic}/{p.partition} from {at}" for p, at in sorted(marks.items()))
        return f"({self._window.in_flight} records in flight: {starts or 'none'})"

    # What the frame calls.

    async def poll(
        self, consumer: AIOKafkaConsumer, *, timeout_ms: int, max_records: int | None
    ) -> Records:
        """One poll; a partition without a position gets one, or stops.

        What it returns is in the window before anything else is awaited. Between a poll and its
        handler there may be a rebalance: a batch that took its epoch only then would stand in the
        new one, above records that the new one has yet to deliver, and pass over them.
        """
        self._consumer = consumer
        self._polled_at = time.monotonic()
        if self._polled is not None:
            # Only a fault in the frame comes here; what it left behind would hold the watermark.
            self._fail(RuntimeError("a polled batch did not reach its handler"))
            return ()
        if self._held is not None and not self._paused:
            self._pause()
        if self._paused and await self._soon(self._may_go_on, _WAIT_S):
            self._resume()
        try:
            polled = await consumer.getmany(
                timeout_ms=0 if self._paused else timeout_ms, max_records=max_records
            )
        except (NoOffsetForPartitionError, OffsetOutOfRangeError) as error:
            await self._position(consumer, error.args[0])
            return ()
        self._polled = self._register(list(chain.from_iterable(polled.values())))
        return self._polled.records if self._polled else ()

    async def take(self) -> None:
        """The batch of the last poll: judges it, or pauses the partitions where there is no room
        for it soon. Returns when it is clear which, not when it is judged."""
        batch, self._polled = self._polled, None
        if batch is None:
            return
        if self._waiting is not None:
            # Paused partitions give nothing; to drop the one that waits would hold the watermark.
            self._fail(RuntimeError("a poll beside a batch that waits"))
            return
        self._waiting = batch
        if not await self._soon(self._let_in, _WAIT_S):
            self._pause()

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        for partition in assigned:
            self._window.assign(Partition(*partition))
        if self._paused:
            self._pause()  # an assignment begins without the pauses of the one before
        self.joined = True

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Finishes what is torn, commits what is done, and lets the rest go: the next owner gets
        it again."""
        if not revoked:
            return
        await self._let_go()
        for partition in revoked:
            self._window.revoke(Partition(*partition))
            self.lost.pop(Partition(*partition), None)
        self._progressed.set()

    async def _let_go(self) -> None:
        """Half of the budget is for what is torn, half for the commit."""
        self._window.let_go()
        if not await self._soon(lambda: not self._window.is_torn, self._revoke_s / 2):
            _log.warning("records are let go that were published in part, and come again")
        try:
            await asyncio.wait_for(self.commit(), self._revoke_s / 2)
        except TimeoutError:
            _log.warning("the last commit took over %s s", self._revoke_s / 2)

    async def _soon(self, holds: Callable[[], bool], within_s: float) -> bool:
        """Waits until it holds, that long at most, or until delivery has failed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not (held := holds()) and self.failure is None:
                    self._progressed.clear()
                    await self._progressed.wait()
                return held
        return False

    # Intake.

    def _may_go_on(self) -> bool:
        return self._let_in() and self._held is None and self._room.is_low(self._window.uncommitted)

    def _pause(self) -> None:
        assert self._consumer is not None
        self._paused = True
        self._consumer.pause(*self._consumer.assignment())

    def _resume(self) -> None:
        assert self._consumer is not None
        self._paused = False
        stopped = {TopicPartition(*where) for where in self.lost}
        self._consumer.resume(*(self._consumer.assignment() - stopped))

    def _let_in(self) -> bool:
        """Judges the batch that waits, if there is room for it. Whether none waits any more."""
        batch = self._waiting
        if batch is None:
            return True
        before = self._window.uncommitted - len(batch.records)
        if self._held is not None or not self._room.has(batch.bytes, before):
            return False
        self._waiting = None
        self._room.enter(batch.bytes)
        self._spawn(self._judge(batch), "delivery-judge")
        return True

    def _is_finished(self) -> bool:
        return self._room.is_empty and (self._waiting is None or self._held is not None)

    # Judging.

    def _register(self, records: Records) -> _Batch | None:
        if not records or self._stopping or self.failure:
            return None
        by_partition: dict[Partition, list[tuple[int, int]]] = {}
        for record in records:
            where = Partition(record.topic, record.partition)
            by_partition.setdefault(where, []).append((record.offset, record.timestamp))
        epochs = {where: self._window.deliver(where, of) for where, of in by_partition.items()}
        names = {where: where for where in epochs}
        kept: list[ConsumerRecord] = []
        stood: list[Partition] = []
        of_epoch: list[int] = []
        for record in records:
            where = names[Partition(record.topic, record.partition)]
            epoch = epochs[where]
            if epoch is not None:
                kept.append(record)
                stood.append(where)
                of_epoch.append(epoch)
        if not kept:
            return None
        return _Batch(kept, stood, of_epoch, [self._order.enter(record.key) for record in kept])

    async def _judge(self, batch: _Batch) -> None:
        finished = [False] * len(batch.records)
        publisher = self._publisher
        assert publisher is not None

        def finish(index: int, owed: Owed) -> None:
            if finished[index]:
                raise RuntimeError(f"record {index} of a batch was finished twice")
            finished[index] = True
            outcome = _Outcome(self, batch, index, owed)
            publisher.publish(self._order.finish(batch.places[index], outcome))

        if not any(map(self._window.is_worth_judging, batch.where, batch.epochs)):
            for index in range(len(batch.records)):
                finish(index, ())
            return
        try:
            await self._handler(batch.records, finish)
            if not all(finished):
                # Nothing would ever finish them, and the watermark would stand still in silence.
                raise RuntimeError(f"{finished.count(False)} records got no outcome")
        except Exception as error:
            self._fail(error)

    def _settle(self, batch: _Batch, index: int) -> None:
        record = batch.records[index]
        if self._window.finish(batch.where[index], batch.epochs[index], record.offset):
            telemetry.TOTAL_SECONDS.observe(time.monotonic() - batch.at)
            self._done += 1
            if self._done >= self._commit_records:
                self._commit_due.set()
        batch.left -= 1
        if batch.left == 0:
            self._room.leave(batch.bytes)
        self._progressed.set()

    # Committing.

    async def commit(self) -> None:
        """Commits every watermark that is not committed; what fails stays to be committed."""
        async with self._commit_lock:
            self._done = 0
            marks = self._window.to_commit()
            if not marks or self._consumer is None:
                return
            offsets = {TopicPartition(*where): at for where, (_, at) in marks.items()}
            try:
                await self._consumer.commit(offsets)
            except KafkaError as error:
                telemetry.COMMITS.labels(self.topic, "failed").inc()
                if not self._commit_failing:
                    _log.warning("a commit failed and stays to be made: %r", error)
                self._commit_failing = True
                return
            telemetry.COMMITS.labels(self.topic, "done").inc()
            self._commit_failing = False
            self._window.committed(marks)
            self._progressed.set()

    async def _commit_from_time_to_time(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._commit_due.wait(), self._commit_interval_s)
            self._commit_due.clear()
            await self.commit()

    async def _measure_from_time_to_time(self) -> None:
        """Apart from the commits, which a broker that is away holds up."""
        while True:
            await asyncio.sleep(self._commit_interval_s)
            self._measure()

    def _measure(self) -> None:
        window, topic = self._window, self.topic
        assigned = len(window.partitions)
        telemetry.IN_FLIGHT.labels(topic).set(window.in_flight)
        telemetry.PARTITIONS.labels(topic, "assigned").set(assigned)
        telemetry.PARTITIONS.labels(topic, "stopped").set(len(self.lost))
        telemetry.PARTITIONS.labels(topic, "paused").set(assigned if self._paused else 0)
        oldest = window.oldest_timestamp()
        age = 0.0 if oldest is None else max(0.0, time.time() - oldest / 1000)
        telemetry.OLDEST_SECONDS.labels(topic).set(age)
        if self._consumer is None:
            return
        lag = 0
        for where, at in window.watermarks().items():
            end = self._consumer.highwater(TopicPartition(*where)) or at
            lag += max(0, end - at)
        telemetry.LAG.labels(topic).set(lag)

    # Positions.

    async def _position(self, consumer: AIOKafkaConsumer, said: object) -> None:
        """Acts on a partition that has no position: `said` is what aiokafka's error carries, a
        partition, or a mapping from partitions to the offset that is out of range."""
        known: dict[Any, int | None] = said if isinstance(said, dict) else {said: None}
        for partition, offset in known.items():
            if partition not in consumer.assignment():
                continue
            begin = (await consumer.beginning_offsets([partition]))[partition]
            end = (await consumer.end_offsets([partition]))[partition]
            if partition not in consumer.assignment():
                continue
            start = start_of(offset, begin, end)
            if isinstance(start, Lost):
                where = Partition(*partition)
                consumer.pause(partition)
                if where not in self.lost and not self._is_accepted(where, start):
                    _log.error("%s", start.sentence(where.topic, where.partition))
                self.lost[where] = start
                self._go_on_behind(where, start)
            elif start.seek:
                consumer.seek(partition, start.offset)

    def _is_accepted(self, where: Partition, lost: Lost) -> bool:
        return where in self._accepted and self._accepted[where].covers(lost)

    def _go_on_behind(self, where: Partition, lost: Lost) -> None:
        if self._consumer is None or not self._is_accepted(where, lost):
            return
        partition = TopicPartition(*where)
        self._consumer.seek(partition, self._accepted[where].resume_at)
        del self.lost[where]
        _log.warning("%s/%s goes on behind a loss that a person has accepted", *where)
        if not self._paused:
            self._consumer.resume(partition)

    def _spawn(self, running: Any, name: str) -> None:
        task = asyncio.create_task(running, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fail(task.exception())

    def _fail(self, error: BaseException | None) -> None:
        if self.failure is None:
            self.failure = error
            # Its type and its place: an error's own words can quote content.
            place = traceback.extract_tb(error.__traceback__)[-1:] if error else []
            _log.critical(
                "delivery failed, the process ends; nothing unfinished was committed: %s at %s %s",
                type(error).__name__,
                ", ".join(f"{at.filename}:{at.lineno}" for at in place) or "an unknown place",
                self.in_flight(),
            )
            self._progressed.set()
            self._on_failure()
