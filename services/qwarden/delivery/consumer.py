"""The driver: it polls, lets a handler judge, sends what records owe, and commits. It decides
nothing: the window, the key order and the start positions do (their modules say what holds).

FastStream is the frame, with one subscriber whose acknowledgement is ours: FastStream's own commits
the fetch position of every partition, and passes over a failed or unfinished record.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
)

from qwarden import telemetry
from qwarden.delivery.key_order import KeyOrder, Place
from qwarden.delivery.owed import Message, Owed
from qwarden.delivery.positions import Lost, start_of
from qwarden.delivery.window import Partition, Window

_log = logging.getLogger(__name__)

Records = Sequence[ConsumerRecord]
Finish = Callable[[int, Owed], None]
"""Called once for each record of a batch, by its index, with what it owes."""
Handler = Callable[[Records, Finish], Awaitable[None]]

_SEND_CHUNK = 500
"""Outcomes sent before their acknowledgements are awaited together."""


class _Batch:
    """One poll's records until each of them is done or belongs to somebody else."""

    __slots__ = ("at", "bytes", "epochs", "left", "places", "records")

    def __init__(
        self, records: Records, epochs: list[int], places: list[Place[_Outcome] | None]
    ) -> None:
        self.records = records
        self.epochs = epochs
        self.places = places
        self.left = len(records)
        self.bytes = sum(len(record.value or b"") for record in records)
        self.at = time.monotonic()


class _Room:
    """How much may be judged at a time: so many polls and bytes, or one poll of any size."""

    def __init__(self, polls: int, most_bytes: int) -> None:
        self._polls = polls
        self._most_bytes = most_bytes
        self._inside = 0
        self._bytes = 0
        self._left = asyncio.Event()

    async def enter(self, size: int) -> None:
        while self._inside and (
            self._inside >= self._polls or self._bytes + size > self._most_bytes
        ):
            self._left.clear()
            await self._left.wait()
        self._inside += 1
        self._bytes += size

    def leave(self, size: int) -> None:
        self._inside -= 1
        self._bytes -= size
        self._left.set()


_Outcome = tuple[_Batch, int, Owed]


class Delivery(ConsumerRebalanceListener):  # type: ignore[misc]
    """One consumer of one topic. `handler` judges a batch and calls `finish` for each record.

    `polls_in_flight` and `bytes_in_flight`: batches judged at a time, and the bytes of their
    values; the next one waits, unhandled and uncommitted, and nothing more is polled.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        polls_in_flight: int,
        bytes_in_flight: int,
        commit_interval_s: float,
        revoke_s: float,
        on_failure: Callable[[], None],
    ) -> None:
        self._handler = handler
        self._polled: _Batch | None = None
        self._room = _Room(polls_in_flight, bytes_in_flight)
        self._commit_interval_s = commit_interval_s
        self._revoke_s = revoke_s
        self._on_failure = on_failure
        self._window = Window()
        self._order: KeyOrder[_Outcome] = KeyOrder()
        self._outbox: deque[_Outcome] = deque()
        self._outbox_filled = asyncio.Event()
        self._progressed = asyncio.Event()
        """Set when records were finished, or none will be."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._consumer: AIOKafkaConsumer | None = None
        self._producer: AIOKafkaProducer | None = None
        self._commit_lock = asyncio.Lock()
        self._commit_failing = False
        self._stopping = False
        self.joined = False
        """Whether the group has given this consumer an assignment, if only an empty one."""
        self.lost: dict[Partition, Lost] = {}
        """Partitions that are stopped since records were lost, until a person has seen it."""
        self.failure: BaseException | None = None

    # What the frame calls.

    def start(self, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer) -> None:
        """Begins to send and commit."""
        self._consumer, self._producer = consumer, producer
        self._spawn(self._send_outbox(), "delivery-send")
        self._spawn(self._commit_from_time_to_time(), "delivery-commit")
        self._spawn(self._measure_from_time_to_time(), "delivery-measure")

    async def poll(
        self, consumer: AIOKafkaConsumer, *, timeout_ms: int, max_records: int | None
    ) -> Records:
        """One poll; a partition without a position gets one, or stops.

        What it returns is in the window before anything else is awaited. Between a poll and its
        handler there may be a rebalance: a batch that took its epoch only then would stand in the
        new one, above records that the new one has yet to deliver, and pass over them.
        """
        self._consumer = consumer
        if self._polled is not None:
            # Only a fault in the frame comes here; what it left behind would hold the watermark.
            self._fail(RuntimeError("a polled batch did not reach its handler"))
            return ()
        try:
            polled = await consumer.getmany(timeout_ms=timeout_ms, max_records=max_records)
        except (NoOffsetForPartitionError, OffsetOutOfRangeError) as error:
            await self._position(consumer, error.args[0])
            return ()
        self._polled = self._register(list(chain.from_iterable(polled.values())))
        return self._polled.records if self._polled else ()

    async def take(self) -> None:
        """The batch of the last poll. Returns when there is room for the next one, not when it is
        judged; until then the batch waits in the window, unfinished."""
        batch, self._polled = self._polled, None
        if batch is not None:
            await self._room.enter(batch.bytes)
            self._spawn(self._judge(batch), "delivery-judge")

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        for partition in assigned:
            self._window.assign(Partition(*partition))
        self.joined = True

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Commits what is done and lets the rest go: the next owner gets it again."""
        if not revoked:
            return
        try:
            await asyncio.wait_for(self.commit(), self._revoke_s)
        except TimeoutError:
            _log.warning("the last commit before a rebalance took over %s s", self._revoke_s)
        for partition in revoked:
            self._window.revoke(Partition(*partition))
            self.lost.pop(Partition(*partition), None)
        self._progressed.set()

    async def drain(self, budget_s: float) -> None:
        """Takes nothing more, finishes what is in flight within the budget, and commits."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(budget_s):
                while self._window.in_flight and not self.failure:
                    self._progressed.clear()
                    await self._progressed.wait()
        if self._window.in_flight:
            _log.warning(
                "%d records were not finished; they will be delivered again: %s",
                self._window.in_flight,
                self.held(),
            )
        try:
            await asyncio.wait_for(self.commit(), self._revoke_s)
        except TimeoutError:
            _log.warning("the last commit took over %s s", self._revoke_s)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def held(self) -> str:
        """Which records are in flight, for a log line: partitions, first offsets, and how many."""
        marks = self._window.watermarks()
        starts = ", ".join(f"{p.topic}/{p.partition} from {at}" for p, at in sorted(marks.items()))
        return f"({self._window.in_flight} records in flight: {starts or 'none'})"

    # Judging.

    def _register(self, records: Records) -> _Batch | None:
        if not records or self._stopping or self.failure:
            return None
        by_partition: dict[Partition, list[tuple[int, int]]] = {}
        for record in records:
            where = Partition(record.topic, record.partition)
            by_partition.setdefault(where, []).append((record.offset, record.timestamp))
        epochs = {where: self._window.deliver(where, of) for where, of in by_partition.items()}
        kept = [r for r in records if epochs[Partition(r.topic, r.partition)] is not None]
        if not kept:
            return None
        return _Batch(
            kept,
            [epochs[Partition(r.topic, r.partition)] or 0 for r in kept],
            [self._order.enter(record.key) for record in kept],
        )

    async def _judge(self, batch: _Batch) -> None:
        finished = [False] * len(batch.records)

        def finish(index: int, owed: Owed) -> None:
            if finished[index]:
                raise RuntimeError(f"record {index} of a batch was finished twice")
            finished[index] = True
            outcome = (batch, index, owed)
            self._outbox.extend(self._order.finish(batch.places[index], outcome))
            self._outbox_filled.set()

        if not any(self._is_ours(batch, index) for index in range(len(batch.records))):
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

    # Sending.

    async def _send_outbox(self) -> None:
        while True:
            await self._outbox_filled.wait()
            self._outbox_filled.clear()
            while self._outbox:
                chunk = [self._outbox.popleft() for _ in range(min(_SEND_CHUNK, len(self._outbox)))]
                acknowledgements = []
                for batch, index, owed in chunk:
                    if self._is_ours(batch, index):
                        for message in owed:
                            acknowledgements.append(await self._send(message))
                self._spawn(self._settle(chunk, acknowledgements), "delivery-settle")

    async def _send(self, message: Message) -> asyncio.Future[Any]:
        """Hands a message to the producer, and waits as long as it has no room or no leader.

        Both of these errors are local: the message is in no batch, so trying again repeats nothing.
        """
        assert self._producer is not None
        said = False
        while True:
            try:
                sent: asyncio.Future[Any] = await self._producer.send(
                    message.topic,
                    value=message.value,
                    key=message.key,
                    headers=message.headers,
                )
                return sent
            except (KafkaTimeoutError, UnknownTopicOrPartitionError) as error:
                if not said:
                    _log.warning("cannot publish to %s, waiting: %r", message.topic, error)
                    said = True
                await asyncio.sleep(0.2)

    async def _settle(
        self, chunk: list[_Outcome], acknowledgements: list[asyncio.Future[Any]]
    ) -> None:
        try:
            await asyncio.gather(*acknowledgements)
        except KafkaError as error:
            self._fail(error)
            return
        now = time.monotonic()
        for batch, index, _ in chunk:
            record = batch.records[index]
            self._window.finish(
                Partition(record.topic, record.partition), batch.epochs[index], record.offset
            )
            telemetry.TOTAL_SECONDS.observe(now - batch.at)
            batch.left -= 1
            if batch.left == 0:
                self._room.leave(batch.bytes)
        self._progressed.set()

    def _is_ours(self, batch: _Batch, index: int) -> bool:
        record = batch.records[index]
        return self._window.is_current(
            Partition(record.topic, record.partition), batch.epochs[index]
        )

    # Committing.

    async def commit(self) -> None:
        """Commits every watermark that is not committed; what fails stays to be committed."""
        async with self._commit_lock:
            marks = self._window.to_commit()
            if not marks or self._consumer is None:
                return
            offsets = {TopicPartition(*where): at for where, (_, at) in marks.items()}
            try:
                await self._consumer.commit(offsets)
            except KafkaError as error:
                telemetry.COMMITS.labels("failed").inc()
                if not self._commit_failing:
                    _log.warning("a commit failed and stays to be made: %r", error)
                self._commit_failing = True
                return
            telemetry.COMMITS.labels("done").inc()
            self._commit_failing = False
            self._window.committed(marks)

    async def _commit_from_time_to_time(self) -> None:
        while True:
            await asyncio.sleep(self._commit_interval_s)
            await self.commit()

    async def _measure_from_time_to_time(self) -> None:
        """Apart from the commits, which a broker that is away holds up."""
        while True:
            await asyncio.sleep(self._commit_interval_s)
            self._measure()

    def _measure(self) -> None:
        telemetry.IN_FLIGHT.set(self._window.in_flight)
        telemetry.PARTITIONS.labels("assigned").set(len(self._window.partitions))
        telemetry.PARTITIONS.labels("stopped").set(len(self.lost))
        oldest = self._window.oldest_timestamp()
        age = 0.0 if oldest is None else max(0.0, time.time() - oldest / 1000)
        telemetry.OLDEST_SECONDS.set(age)
        if self._consumer is None:
            return
        lag: dict[str, int] = {}
        for where, at in self._window.watermarks().items():
            end = self._consumer.highwater(TopicPartition(*where)) or at
            lag[where.topic] = lag.get(where.topic, 0) + max(0, end - at)
        for topic, records in lag.items():
            telemetry.LAG.labels(topic).set(records)

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
                if where not in self.lost:
                    _log.error("%s", start.sentence(where.topic, where.partition))
                self.lost[where] = start
            elif start.seek:
                consumer.seek(partition, start.offset)

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
                self.held(),
            )
            self._progressed.set()
            self._on_failure()
