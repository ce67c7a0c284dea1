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
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import (
    CommitFailedError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from aiokafka.structs import OffsetAndMetadata

from qwarden import telemetry
from qwarden.delivery.keeper import Keeper
from qwarden.delivery.key_order import KeyOrder, Place
from qwarden.delivery.lanes import lane_of
from qwarden.delivery.owed import Finish, Owed, Renew
from qwarden.delivery.positions import Accepted, Lost, start_of
from qwarden.delivery.publisher import Outcome, Publisher
from qwarden.delivery.room import Room
from qwarden.delivery.window import Partition, Window

_log = logging.getLogger(__name__)

Records = Sequence[ConsumerRecord]
"""Called once for each record of a batch, by its index, with what it owes."""
Handler = Callable[[Records, Finish], Awaitable[None]]
Refuse = Callable[[ConsumerRecord, str], Owed]
"""A record's dead letter, where what it owes cannot be published, and the reason."""

_WAIT_S = 1.0
"""How long a poll or a batch waits for room before it lets the frame's loop turn. aiokafka counts
the time between two polls against `max_poll_interval_ms`, past which the group goes on without
this consumer."""


_PLACE_S = 10.0
"""How long a broker may take to say what is committed and what is there: over a slow answer, under
the service's hung_s, within which there must be a poll."""


class _Batch:
    """One poll's records."""

    __slots__ = ("at", "bytes", "delivery", "outcomes", "records")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.at = time.monotonic()
        self.outcomes: list[_Outcome] = []
        """Until it is judged: an outcome knows its batch, and no cycle is left to the collector."""
        self.records: list[ConsumerRecord] = []
        self.bytes = 0

    def add(self, records: Records, outcomes: list[_Outcome]) -> None:
        """Takes the records of one partition."""
        self.outcomes += outcomes
        self.records += records
        self.bytes += sum([len(record.value or b"") for record in records])


class _Outcome:
    """A delivered record of an epoch, its place in its key's queue, and what it owes once it is
    finished."""

    __slots__ = (
        "batch", "epoch", "is_finished", "is_void", "owed", "place", "record", "renew", "where",
    )  # fmt: skip

    def __init__(
        self,
        batch: _Batch,
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
        self.renew: Renew | None = None

    def goes(self) -> bool:
        goes = not self.is_void and self.batch.delivery._window.send(
            self.where, self.epoch, self.record.offset
        )
        if goes and self.renew is not None:
            renew, self.renew = self.renew, None  # what is sent again stays what it was
            renewed = renew()
            if renewed is not None:
                self.owed = renewed
        return goes

    def settle(self) -> None:
        self.batch.delivery._settle(self)

    def refused(self, reason: str) -> Owed:
        return self.batch.delivery._refuse(self.record, reason)


Settled = Callable[[bool], None]
"""Told of a publication once: whether it is acknowledged, or its epoch ended before it went."""


class _Publication:
    """Messages that belong to no record's outcome."""

    __slots__ = ("_delivery", "_epoch", "_goes", "_of", "_refused", "_settled", "_where", "owed")

    def __init__(
        self,
        delivery: Delivery,
        where: Partition,
        epoch: int,
        *,
        owed: Owed,
        settled: Settled,
        refused: Callable[[str], Owed],
        of: Sequence[int],
    ) -> None:
        self.owed = owed
        self._delivery = delivery
        self._where = where
        self._epoch = epoch
        self._settled = settled
        self._refused = refused
        self._of = of
        self._goes = False

    def goes(self) -> bool:
        """Where it belongs to records that are torn, it goes also when they are let go."""
        window = self._delivery._window
        sent = [window.send(self._where, self._epoch, offset) for offset in self._of]
        self._goes = any(sent) or (
            not self._of and window.is_worth_judging(self._where, self._epoch)
        )
        if self._goes:
            self._delivery._published.add(self)
        return self._goes

    def settle(self) -> None:
        self._delivery._published.discard(self)
        self._settled(self._goes)
        self._delivery._progressed.set()

    def refused(self, reason: str) -> Owed:
        return self._refused(reason)


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
        self._handler = handler
        self._refuse = refuse
        self._room = room
        self._commit_interval_s = commit_interval_s
        self._commit_records = commit_records
        self._revoke_s = revoke_s
        self._look_s = look_s
        self._on_failure = on_failure
        self._keeper = keeper
        self._unplaced: set[Partition] = set()
        """Assigned, and their keeper does not know the commit yet."""
        self._reread: dict[Partition, int] = {}
        """Partitions that are read again, with the commit up to which they are."""
        self._beside: dict[Partition, tuple[int, str]] = {}
        """What is committed of each partition, as far as known here: offset and metadata."""
        self._published: set[_Publication] = set()
        """Publications of no record that went out and are not settled."""
        self._ahead = 0
        """Batches that are polled and that the handler has not seen."""
        self._window = Window()
        self._order: KeyOrder[Outcome] = KeyOrder()
        lane = lane_of(topic)
        self._verdict_seconds = None if lane is None else telemetry.VERDICT_SECONDS.of(lane)
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
        self.stuck: dict[Partition, int] = {}
        """Partitions whose position has not moved for two looks though records stand behind it."""
        self.failure: BaseException | None = None

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
        connections = self._consumer._client._conns.values() if self._consumer else ()
        return any(connection.connected() for connection in connections)

    def accept_losses(self, accepted: Mapping[Partition, Accepted]) -> None:
        """Goes on where people have accepted a loss. A commit stands there only after a record has
        come, so that the next owner may meet the same loss: these stay known."""
        self._accepted = accepted
        for where, lost in list(self.lost.items()):
            self._go_on_behind(where, lost)

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
        assert self._publisher is not None
        publication = _Publication(
            self, where, epoch, owed=owed, settled=settled, refused=refused, of=of
        )
        self._publisher.publish([publication])

    def read_up_to(self, where: Partition) -> int | None:
        """When a broker last said that there is nothing behind what the handler has seen of a
        partition (ms since 1970); None where there is more, or may be."""
        if self._ahead or self._paused or self._consumer is None or where in self._reread:
            return None
        partition = TopicPartition(*where)
        if partition not in self._consumer.assignment():
            return None
        state = self._consumer._subscription.subscription.assignment.state_value(partition)
        if not state.has_valid_position or state.highwater is None or state.paused:
            return None
        said: int | None = state.timestamp
        return said if state.position >= state.highwater else None

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
        if self._unplaced and not await self._place(consumer):
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
            await self._give_position(consumer, error.args[0])
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
        self.lost.clear()
        for partition in assigned:
            self._assign(Partition(*partition))
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
            self._forget(Partition(*partition))
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
        return self._window.is_torn or bool(self._published)

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
    ) -> _Batch | None:
        if self._stopping or self.failure:
            return None
        batch = _Batch(self)
        enter = self._order.enter
        if self._reread:
            polled = self._read_again(consumer, polled)
        for partition, records in polled.items():
            where = Partition(*partition)
            if where in self._unplaced:
                continue  # assigned during this poll; it will be sought to its place
            epoch = self._window.deliver(
                where,
                [(each.offset, each.timestamp) for each in records],
                _position(consumer, partition),
            )
            if epoch is not None:
                batch.add(
                    records,
                    [_Outcome(batch, each, where, epoch, enter(each.key)) for each in records],
                )
        if not batch.records:
            return None
        telemetry.RECORDS.add_many(len(batch.records), self.topic, "delivered")
        self._ahead += 1
        return batch

    async def _judge(self, batch: _Batch) -> None:
        publisher = self._publisher
        assert publisher is not None

        def finish(index: int, owed: Owed, renew: Renew | None = None, /) -> None:
            outcome = batch.outcomes[index]
            if outcome.is_finished:
                raise RuntimeError(f"record {index} of a batch was finished twice")
            outcome.is_finished = True
            outcome.owed, outcome.renew = owed, renew
            publisher.publish(self._order.finish(outcome.place, outcome))

        self._ahead -= 1
        epochs = {(outcome.where, outcome.epoch) for outcome in batch.outcomes}
        over = {each for each in epochs if not self._window.is_worth_judging(*each)}
        if over:
            self._leave_out(batch, over, publisher)
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

    def _leave_out(
        self, batch: _Batch, over: set[tuple[Partition, int]], publisher: Publisher
    ) -> None:
        """Takes from a batch what is of epochs that are over: it would be judged for nobody."""
        void = [each for each in batch.outcomes if (each.where, each.epoch) in over]
        batch.outcomes = [each for each in batch.outcomes if (each.where, each.epoch) not in over]
        batch.records = [each.record for each in batch.outcomes]
        for outcome in void:
            outcome.is_void = outcome.is_finished = True
            publisher.publish(self._order.finish(outcome.place, outcome))

    def _settle(self, outcome: _Outcome) -> None:
        batch = outcome.batch
        # Else they are kept until the last record of its batch is judged.
        outcome.owed, outcome.renew = (), None
        record = outcome.record
        is_done = not outcome.is_void and self._window.finish(
            outcome.where, outcome.epoch, record.offset
        )
        if is_done:
            telemetry.TOTAL_SECONDS.observe(time.monotonic() - batch.at)
            if self._verdict_seconds is not None:
                self._verdict_seconds.observe(max(0.0, time.time() - record.timestamp / 1000))
            self._done += 1
            if self._done >= self._commit_records:
                self._commit_due.set()
        telemetry.RECORDS.add(self.topic, "done" if is_done else "let_go")
        self._room.leave(1, len(record.value or b""))
        self._progressed.set()

    # Committing.

    async def commit(self) -> None:
        """Commits every watermark that is not committed; what fails stays to be committed."""
        async with self._commit_lock:
            self._done = 0
            marks = self._to_commit()
            if not marks or self._consumer is None:
                return
            try:
                await _commit(
                    self._consumer, {where: (at, text) for where, (_, at, text) in marks.items()}
                )
            except KafkaError as error:
                telemetry.COMMITS.labels(self.topic, "failed").inc()
                if not self._commit_failing:
                    _log.warning("a commit failed and stays to be made: %r", error)
                self._commit_failing = True
                return
            telemetry.COMMITS.labels(self.topic, "done").inc()
            self._commit_failing = False
            self._window.committed({where: (epoch, at) for where, (epoch, at, _) in marks.items()})
            for where, (epoch, at, text) in marks.items():
                if self._keeper is not None and self._window.epoch_of(where) == epoch:
                    self._beside[where] = at, text
                    self._keeper.committed(where, at, text)
            self._progressed.set()

    def _to_commit(self) -> dict[Partition, tuple[int, int, str]]:
        """Partition to (epoch, watermark, metadata), where any of them is not committed yet. With a
        keeper the same offset is committed again when there is something new to say beside it."""
        if self._keeper is None:
            return {
                where: (epoch, at, "") for where, (epoch, at) in self._window.to_commit().items()
            }
        found = {}
        for where, at in self._window.watermarks().items():
            epoch = self._window.epoch_of(where)
            if epoch is None or where in self._unplaced or where in self._reread:
                continue  # what is not read again yet is not known
            text = self._keeper.metadata(where, at)
            if self._beside.get(where) != (at, text):
                found[where] = epoch, at, text
        return found

    async def _commit_from_time_to_time(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._commit_interval_s):
                    await self._commit_due.wait()
            self._commit_due.clear()
            # Bounded, so that none outlives the revoke after it: aiokafka tries a commit again with
            # the generation of then, and it would overwrite the next owner's.
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
        """Whether partitions are read on. One that aiokafka cannot read (a header's name that is
        not UTF-8 ends its fetches, 0.14) says nothing by itself, and no lag shows it: what was
        never delivered is no lag of ours."""
        before: dict[Partition, int] = {}
        while True:
            await asyncio.sleep(self._look_s)
            unread: dict[Partition, int] = {}
            if not self._paused and self._consumer is not None:
                with contextlib.suppress(KafkaError):
                    unread = await self._unread(self._consumer)
            stuck = {where: at for where, at in unread.items() if before.get(where) == at}
            for where, at in stuck.items():
                if where not in self.stuck:
                    _log.error("%s/%s is not read on from offset %s", *where, at)
            self.stuck, before = stuck, unread

    async def _unread(self, consumer: AIOKafkaConsumer) -> dict[Partition, int]:
        """The positions of partitions behind which there are records."""
        assigned = [p for p in consumer.assignment() if Partition(*p) not in self.lost]
        ends = await consumer.end_offsets(assigned)
        found = {}
        for partition, end in ends.items():
            if partition in consumer.assignment():
                state = consumer._subscription.subscription.assignment.state_value(partition)
                if state.has_valid_position and state.position < end:
                    found[Partition(*partition)] = state.position
        return found

    # What the keeper is told.

    def _assign(self, where: Partition) -> None:
        self._window.assign(where)
        if self._keeper is not None:
            self._unplaced.add(where)

    def _forget(self, where: Partition) -> None:
        self._reread.pop(where, None)
        self._beside.pop(where, None)
        if self._keeper is not None and where not in self._unplaced:
            self._keeper.revoked(where)
        self._unplaced.discard(where)

    async def _place(self, consumer: AIOKafkaConsumer) -> bool:
        """Tells the keeper what is committed of the partitions that are new here, with the metadata
        that aiokafka's own `committed` leaves out. Whether it could: nothing is polled before."""
        epochs = {where: self._window.epoch_of(where) for where in self._unplaced}
        partitions = [TopicPartition(*where) for where in epochs]
        try:
            # A revoke waits for none of it.
            async with asyncio.timeout(_PLACE_S):
                committed = await consumer._coordinator.fetch_committed_offsets(partitions)
                begins = await consumer.beginning_offsets(partitions)
                ends = await consumer.end_offsets(partitions)
        except TimeoutError:
            return False
        except KafkaError as error:
            _log.warning("cannot read what is committed of %s, waiting: %r", self.topic, error)
            await asyncio.sleep(_WAIT_S)
            return False
        for where, epoch in epochs.items():
            partition = TopicPartition(*where)
            if self._window.epoch_of(where) == epoch and partition in consumer.assignment():
                self._unplaced.discard(where)
                there = begins[partition], ends[partition]
                self._begin(consumer, where, committed.get(partition), *there)
        return not self._unplaced

    def _begin(
        self,
        consumer: AIOKafkaConsumer,
        where: Partition,
        committed: OffsetAndMetadata | None,
        begin: int,
        end: int,
    ) -> None:
        """Begins an epoch of a partition whose records stand in [begin, end): at its commit, or
        where it must be read again from."""
        epoch = self._window.epoch_of(where)
        assert self._keeper is not None and epoch is not None
        partition = TopicPartition(*where)
        if committed is None:
            self._keeper.assigned(where, epoch, None, "")
            self._keeper.begins(where)
            # What a poll has taken before this is given again.
            consumer.seek(partition, begin)
            self._window.begin(where, begin)
            return
        until, text = committed.offset, committed.metadata or ""
        self._window.begin(where, until)
        self._window.committed({where: (epoch, until)})
        self._beside[where] = until, text
        start = self._keeper.assigned(where, epoch, until, text)
        if start is not None and start < begin:
            self._keeper.lost(where)
            start = begin
        # In a topic that was made again everything below the commit would pass for done.
        if start is None or start >= until or until > end:
            self._keeper.begins(where)
            start = until
        else:
            self._reread[where] = until
        consumer.seek(partition, start)

    def _read_again(
        self, consumer: AIOKafkaConsumer, polled: Mapping[TopicPartition, Records]
    ) -> Mapping[TopicPartition, Records]:
        """Gives the keeper what stands below the commits; returns what is delivered."""
        assert self._keeper is not None
        delivered = dict(polled)
        for where, until in list(self._reread.items()):
            partition = TopicPartition(*where)
            records = polled.get(partition, ())
            below = [record for record in records if record.offset < until]
            if below:
                telemetry.REREAD.labels(self.topic).inc(len(below))
                self._keeper.read_again(where, below)
            delivered[partition] = records[len(below) :]
            if delivered[partition] or _position(consumer, partition) >= until:
                del self._reread[where]
                self._keeper.begins(where)
        return {partition: records for partition, records in delivered.items() if records}

    # Positions.

    async def _give_position(self, consumer: AIOKafkaConsumer, said: object) -> None:
        """Acts on partitions that have no position: `said` is what aiokafka's error carries, a
        partition, or a mapping from partitions to the offset that is out of range."""
        known: dict[Any, int | None] = said if isinstance(said, dict) else {said: None}
        for partition, offset in known.items():
            where = Partition(*partition)
            epoch = self._window.epoch_of(where)
            if epoch is None or where in self._unplaced:
                continue
            begin = (await consumer.beginning_offsets([partition]))[partition]
            end = (await consumer.end_offsets([partition]))[partition]
            if self._window.epoch_of(where) != epoch or partition not in consumer.assignment():
                continue  # somebody else's by now
            if where in self._reread and self._skips_to(consumer, where, begin):
                continue
            start = start_of(offset, begin, end)
            if isinstance(start, Lost):
                consumer.pause(partition)
                if where not in self.lost and not self._is_accepted(where, start):
                    _log.error("%s", start.sentence(where.topic, where.partition))
                self.lost[where] = start
                self._go_on_behind(where, start)
            elif start.seek:
                consumer.seek(partition, start.offset)
                # Committed, so that what retention takes from now on is a loss that is seen.
                self._window.begin(where, start.offset)

    def _skips_to(self, consumer: AIOKafkaConsumer, where: Partition, begin: int) -> bool:
        """Retention has taken what was to be read again: goes on at the topic's beginning. Whether
        nothing else is lost."""
        assert self._keeper is not None
        self._keeper.lost(where)
        if begin <= self._reread[where]:
            consumer.seek(TopicPartition(*where), begin)
            return True
        del self._reread[where]
        self._keeper.begins(where)
        return False

    def _is_accepted(self, where: Partition, lost: Lost) -> bool:
        return where in self._accepted and self._accepted[where].covers(lost)

    def _go_on_behind(self, where: Partition, lost: Lost) -> None:
        partition = TopicPartition(*where)
        if (
            self._consumer is None
            or not self._is_accepted(where, lost)
            or partition not in self._consumer.assignment()
        ):
            return
        # A new epoch: in a topic that was made again offsets go back, and what was noted of the
        # old ones would pass for these.
        epoch = self._window.assign(where)
        if self._keeper is not None:
            self._forget(where)
            self._keeper.assigned(where, epoch, None, "")
            self._keeper.begins(where)
        self._consumer.seek(partition, self._accepted[where].start_behind(lost))
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


def _position(consumer: AIOKafkaConsumer, partition: TopicPartition) -> int:
    """Where the next fetch goes on, without an await: the frame's own question waits, and by then a
    rebalance may have moved it."""
    position: int = consumer._subscription.subscription.assignment.state_value(partition).position
    return position


async def _commit(consumer: AIOKafkaConsumer, offsets: Mapping[Partition, tuple[int, str]]) -> None:
    """One try, in the generation of now. aiokafka's own goes on with the generation of then, and
    with none once the member is out of the group, which an empty group takes: an old watermark then
    stands over a newer one (the twin of the tests, seed 161)."""
    coordinator = consumer._coordinator
    await coordinator.ensure_coordinator_known()
    async with coordinator._commit_lock:
        if coordinator.generation < 0:
            raise CommitFailedError("this consumer is not in its group")
        await coordinator._do_commit_offsets(
            None,
            {TopicPartition(*where): OffsetAndMetadata(*at) for where, at in offsets.items()},
        )
