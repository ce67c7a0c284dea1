"""The driver: it polls, lets a handler judge, publishes what records owe, and commits. It decides
nothing: the window, the room, the key order and the start positions do (their modules say what
holds). `assignment` knows where each partition is read, `commits` when it is committed,
`underway` what lies between.

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
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError

from qwarden import telemetry
from qwarden.aiokafka_insides import has_connection, nothing_behind_since, position_of
from qwarden.delivery.assignment import Assignment
from qwarden.delivery.commits import Commits
from qwarden.delivery.keeper import Keeper
from qwarden.delivery.key_order import KeyOrder
from qwarden.delivery.lanes import lane_of
from qwarden.delivery.owed import Decide, Finish, Owed
from qwarden.delivery.positions import Accepted, Lost
from qwarden.delivery.publisher import Outcome, Publisher
from qwarden.delivery.room import Room
from qwarden.delivery.standing_still import StandingStill
from qwarden.delivery.underway import Batch, Delivered, Extra, Records, Refuse, Settled
from qwarden.delivery.window import Partition, Window

_log = logging.getLogger(__name__)

Handler = Callable[[Records, Finish], Awaitable[None]]
"""Called with a batch; it finishes each record by its index, once, with what it owes."""

_WAIT_S = 1.0
"""How long a poll or a batch waits for room before it lets the frame's loop turn: far under hung_s
and `max_poll_interval_ms`, against which aiokafka counts the time between two polls, and past which
the group goes on without this consumer."""


class Delivery(ConsumerRebalanceListener):  # type: ignore[misc]
    """One consumer of `topic`. `handler` judges a batch and calls `finish` for each record.

    `room` bounds what is judged at a time; a batch that finds none waits in the window, unfinished,
    while its partitions are paused and polled on. `commit_interval_s` and `commit_records`: how
    long, and after how many records that are done, a commit waits. `revoke_s`: how long a revoke
    may take. `look_s`: how often it is looked whether every partition is read on. `keeper`: who has
    something to say beside each commit, and to be told at each assignment.
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
        look_s: float,
        on_failure: Callable[[], None],
        keeper: Keeper | None = None,
    ) -> None:
        self.topic = topic
        self.joined = False
        """Whether the group has given this consumer an assignment, if only an empty one."""
        self.failure: BaseException | None = None
        self._handler = handler
        self._refuse = refuse
        self._room = room
        self._commit_interval_s = commit_interval_s
        self._revoke_s = revoke_s
        self._look_s = look_s
        self._on_failure = on_failure
        lane = lane_of(topic)
        self._verdict_seconds = None if lane is None else telemetry.VERDICT_SECONDS.of(lane)
        self._window = Window()
        self._order: KeyOrder[Outcome] = KeyOrder()
        self._assignment = Assignment(topic, self._window, keeper, lambda: self._paused)
        self._commits = Commits(
            topic, self._assignment, interval_s=commit_interval_s, records=commit_records
        )
        self._still = StandingStill()
        self._extras: set[Extra] = set()
        """Those that went out and are not settled."""
        self._ahead = 0
        """Batches that are polled and that the handler has not seen."""
        self._polled: Batch | None = None
        """Between a poll and its handler."""
        self._waiting: Batch | None = None
        """Handled, and not let in yet."""
        self._paused = False
        self._held: str | None = None
        self._progressed = asyncio.Event()
        """Set when anything has changed that somebody may wait for."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._consumer: AIOKafkaConsumer | None = None
        self._publisher: Publisher | None = None
        self._stopping = False
        self._polled_at: float | None = None

    # What the service calls.

    def start(self, publisher: Publisher) -> None:
        """Begins to publish and commit. To be called before the frame polls."""
        self._publisher = publisher
        self._spawn(self._commit_from_time_to_time(), "delivery-commit")
        self._spawn(self._measure_from_time_to_time(), "delivery-measure")
        self._spawn(self._look_from_time_to_time(), "delivery-look")

    def polls(self) -> None:
        """The frame's loop begins now: one that never comes to its first poll hangs too."""
        self._polled_at = time.monotonic()

    def hold(self, reason: str) -> None:
        """Judges nothing more, and keeps the partitions, until `release`."""
        self._held = reason

    def release(self) -> None:
        self._held = None
        self._progressed.set()

    @property
    def idle_s(self) -> float:
        """Seconds since the frame last polled, or began to; 0 before, while it waits for a broker.
        It polls every other second at least, also while it waits out an outage, so that a longer
        time is a loop that hangs."""
        return 0.0 if self._polled_at is None else time.monotonic() - self._polled_at

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to any broker."""
        return self._consumer is not None and has_connection(self._consumer)

    @property
    def lost(self) -> Mapping[Partition, Lost]:
        """Partitions that are stopped since records were lost, until a person has seen it."""
        return self._assignment.lost

    @property
    def stuck(self) -> Mapping[Partition, int]:
        """Partitions whose position has not moved for two looks though records stand behind it."""
        return self._still.partitions

    def accept_losses(self, accepted: Mapping[Partition, Accepted]) -> None:
        """Goes on where people have accepted a loss, now or when it is met."""
        self._assignment.accept(accepted, self._consumer)

    def epoch_of(self, where: Partition) -> int | None:
        """The partition's epoch, or None where it is not assigned. What the handler is given is of
        the current one, as long as it has not waited."""
        return self._window.epoch_of(where)

    def publish(
        self,
        where: Partition,
        epoch: int,
        owed: Owed,
        settled: Settled,
        refused: Callable[[str], Owed],
        *,
        of: Sequence[int] = (),
    ) -> None:
        """Publishes what belongs to no record's outcome, behind what was published before; it is
        void when the epoch is over. `of`: the offsets of records that are finished when it is
        settled, so that a revoke waits for them. `refused`: what is owed instead where no broker
        takes it, by the reason."""

        def told(went: bool) -> None:
            settled(went)
            self._progressed.set()

        assert self._publisher is not None
        extra = Extra(
            self._window,
            self._extras,
            where,
            epoch,
            owed=owed,
            settled=told,
            refused=refused,
            of=of,
        )
        self._publisher.publish([extra])

    def read_up_to(self, where: Partition) -> int | None:
        """When a broker last said that there is nothing behind what the handler has seen of a
        partition (ms since 1970); None where there is more, or may be."""
        if self._ahead or self._paused or self._consumer is None:
            return None
        partition = TopicPartition(*where)
        if partition not in self._consumer.assignment() or self._assignment.is_read_again(where):
            return None
        return nothing_behind_since(self._consumer, partition)

    @property
    def is_full(self) -> bool:
        """Whether nothing is read on since there is no room for it."""
        return self._paused and self._held is None

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
        if self.failure is not None:
            # The frame goes on until the service has ended it: an empty poll at once would keep
            # the loop from everything else.
            await asyncio.sleep(_WAIT_S)
            return ()
        if self._polled is not None:
            # Only a fault in the frame comes here; what it left behind would hold the watermark.
            self._fail(RuntimeError("a polled batch did not reach its handler"))
            return ()
        if not await self._assignment.place(consumer):
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
            await self._assignment.give_position(consumer, error.args[0])
            return ()
        self._polled = self._register(consumer, polled)
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
            self._assignment.assign(Partition(*partition))
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
            self._assignment.revoke(Partition(*partition))
        self._progressed.set()

    async def _let_go(self) -> None:
        """Half of the budget is for what is torn, half for the commit."""
        self._window.let_go()
        if not await self._soon(lambda: not self._is_torn(), self._revoke_s / 2):
            _log.warning("records are let go that were published in part, and come again")
        try:
            async with asyncio.timeout(self._revoke_s / 2):
                await self.commit()
        except TimeoutError:
            _log.warning("the last commit took over %s s", self._revoke_s / 2)

    def _is_torn(self) -> bool:
        return self._window.is_torn or bool(self._extras)

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
        size = len(batch.records), batch.bytes
        if self._held is not None or not self._room.has(*size, before):
            return False
        self._waiting = None
        self._room.enter(*size)
        self._spawn(self._judge(batch), "delivery-judge")
        return True

    def _is_finished(self) -> bool:
        return self._room.is_empty and (self._waiting is None or self._held is not None)

    # Judging.

    def _register(
        self, consumer: AIOKafkaConsumer, polled: Mapping[TopicPartition, Records]
    ) -> Batch | None:
        if self._stopping or self.failure:
            return None
        batch = Batch(self._window, self._settle, self._refuse)
        enter = self._order.enter
        for partition, records in self._assignment.delivered(consumer, polled).items():
            where = Partition(*partition)
            if not self._assignment.is_placed(where):
                continue  # assigned during this poll; it will be sought to its place
            position = position_of(consumer, partition)
            assert position is not None, "records have just come from there"
            epoch = self._window.deliver(
                where, [(each.offset, each.timestamp) for each in records], position
            )
            if epoch is not None:
                batch.add(
                    records,
                    [Delivered(batch, each, where, epoch, enter(each.key)) for each in records],
                )
        if not batch.records:
            return None
        telemetry.RECORDS.add_many(len(batch.records), self.topic, "delivered")
        self._ahead += 1
        return batch

    async def _judge(self, batch: Batch) -> None:
        publisher = self._publisher
        assert publisher is not None

        def finish(index: int, owed: Owed | Decide, /) -> None:
            outcome = batch.outcomes[index]
            if outcome.is_finished:
                raise RuntimeError(f"record {index} of a batch was finished twice")
            outcome.finish(owed)
            publisher.publish(self._order.finish(outcome.place, outcome))

        self._ahead -= 1
        epochs = {(outcome.where, outcome.epoch) for outcome in batch.outcomes}
        over = {each for each in epochs if not self._window.is_worth_judging(*each)}
        if over:
            for outcome in batch.leave_out(over):
                publisher.publish(self._order.finish(outcome.place, outcome))
        if not batch.records:
            return
        try:
            await self._handler(batch.records, finish)
            left = sum([not outcome.is_finished for outcome in batch.outcomes])
            if left:
                # Nothing would ever finish them, and the watermark would stand still in silence.
                raise RuntimeError(f"{left} records got no outcome")
            batch.outcomes.clear()
        except Exception as error:
            self._fail(error)

    def _settle(self, outcome: Delivered) -> None:
        record = outcome.record
        is_done = not outcome.is_void and self._window.finish(
            outcome.where, outcome.epoch, record.offset
        )
        if is_done:
            telemetry.TOTAL_SECONDS.observe(time.monotonic() - outcome.batch.at)
            if self._verdict_seconds is not None:
                self._verdict_seconds.observe(max(0.0, time.time() - record.timestamp / 1000))
            self._commits.done()
        telemetry.RECORDS.add(self.topic, "done" if is_done else "let_go")
        self._room.leave(1, len(record.value or b""))
        self._progressed.set()

    # From time to time.

    async def commit(self) -> None:
        """Commits every watermark that is not committed; what fails stays to be committed."""
        if self._consumer is not None:
            await self._commits.commit(self._consumer)
            self._progressed.set()

    async def _commit_from_time_to_time(self) -> None:
        while True:
            await self._commits.until_due()
            # Bounded, so that none outlives the revoke after it: it is stamped with the generation
            # in which it is sent, so that one which waits for a broker until then would overwrite
            # the next owner's.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._revoke_s / 2):
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
        telemetry.PARTITIONS.labels(topic, "stuck").set(len(self.stuck))
        telemetry.PARTITIONS.labels(topic, "paused").set(assigned if self._paused else 0)
        oldest = window.oldest_timestamp()
        age = 0.0 if oldest is None else max(0.0, time.time() - oldest / 1000)
        telemetry.OLDEST_SECONDS.labels(topic).set(age)

    async def _look_from_time_to_time(self) -> None:
        while True:
            await asyncio.sleep(self._look_s)
            if self._paused or self._consumer is None:
                self._still.nothing()
            else:
                await self._still.look(self._consumer, self.lost)

    # Its tasks.

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
