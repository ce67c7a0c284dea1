"""One contract for the broker, real and twin, as aiokafka's own clients see it.

What the driver of delivery leans on stands here: a test that passes on the twin and fails on Kafka
says that the runs on the twin prove nothing.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any, Protocol
from unittest import mock

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.client import ConnectionGroup
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceNumber,
)
from aiokafka.protocol.group import LeaveGroupRequest

from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from twin.broker import HOST, PORT, PRODUCE, VERSIONS, Broker
from twin.clock import run
from twin.network import Network

WITHIN_S = 30.0


class Side(Protocol):
    """A broker to test on: Kafka, or its twin."""

    @property
    def bootstrap(self) -> str: ...

    def run(self, test: Callable[[], Coroutine[Any, Any, None]]) -> None: ...

    async def make_topic(self, name: str, partitions: int, max_bytes: int) -> None: ...

    async def grow(self, name: str, partitions: int) -> None: ...

    async def delete_before(self, partition: TopicPartition, offset: int) -> None: ...

    def stop(self) -> None: ...

    def hang(self) -> None: ...

    def go_on(self) -> None: ...


class Twin:
    """The twin, in virtual time."""

    bootstrap = f"{HOST}:{PORT}"

    def run(self, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def within() -> None:
            self.broker = Broker()
            with Network(self.broker, random.Random(1)) as self.network:
                await test()

        run(within)

    async def make_topic(self, name: str, partitions: int, max_bytes: int) -> None:
        self.broker.make_topic(name, partitions, max_bytes)

    async def grow(self, name: str, partitions: int) -> None:
        self.broker.grow(name, partitions)

    async def delete_before(self, partition: TopicPartition, offset: int) -> None:
        self.broker.log(partition).delete_before(offset)

    def stop(self) -> None:
        self.network.stop_broker()

    def hang(self) -> None:
        self.network.hang_broker()

    def go_on(self) -> None:
        self.network.start_broker()


class Real:
    """Kafka, in real time."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.bootstrap = kafka.bootstrap

    def run(self, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run(test())

    async def make_topic(self, name: str, partitions: int, max_bytes: int) -> None:
        config = {"max.message.bytes": str(max_bytes)}
        async with self._admin() as admin:
            await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=config)])

    async def grow(self, name: str, partitions: int) -> None:
        async with self._admin() as admin:
            await admin.create_partitions({name: NewPartitions(partitions)})

    async def delete_before(self, partition: TopicPartition, offset: int) -> None:
        async with self._admin() as admin:
            await admin.delete_records({partition: RecordsToDelete(before_offset=offset)})

    def stop(self) -> None:
        self.kafka.kill()

    def hang(self) -> None:
        self.kafka.child.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        if self.kafka.alive:
            self.kafka.child.signal(signal.SIGCONT)
        else:
            self.kafka.start()

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()


@pytest.fixture(params=["twin", pytest.param("kafka", marks=pytest.mark.parts)])
def side(request: pytest.FixtureRequest) -> Side:
    return Twin() if request.param == "twin" else Real(request.getfixturevalue("kafka"))


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with Kafka(Home(tmp_path_factory.mktemp("frail"))) as kafka:
        yield kafka


@pytest.fixture(params=["twin", pytest.param("kafka", marks=pytest.mark.parts)])
def frail(request: pytest.FixtureRequest) -> Iterator[Side]:
    """A broker that a test may stop."""
    frail = Twin() if request.param == "twin" else Real(request.getfixturevalue("own_kafka"))
    try:
        yield frail
    finally:
        if isinstance(frail, Real):
            frail.go_on()


# What the tests do with a broker.


class Heard(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes what a consumer is told of its partitions. `slow_s`: how long its revokes take."""

    def __init__(self, slow_s: float = 0.0) -> None:
        self.said: list[tuple[str, frozenset[int]]] = []
        self.slow_s = slow_s

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self.said.append(("revoked", frozenset(each.partition for each in revoked)))
        await asyncio.sleep(self.slow_s)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self.said.append(("assigned", frozenset(each.partition for each in assigned)))


class Place:
    """A topic and a group of one test's own."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.name = f"t-{uuid.uuid4().hex[:8]}"
        self._clients: list[Any] = []

    @classmethod
    @asynccontextmanager
    async def of(
        cls, side: Side, partitions: int = 2, max_bytes: int = 100_000
    ) -> AsyncIterator[Place]:
        place = cls(side)
        await side.make_topic(place.name, partitions, max_bytes)
        try:
            yield place
        finally:
            for client in reversed(place._clients):
                await client.stop()

    def __getitem__(self, partition: int) -> TopicPartition:
        return TopicPartition(self.name, partition)

    async def producer(self, **settings: Any) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(bootstrap_servers=self.side.bootstrap, **settings)
        self._clients.append(producer)
        await producer.start()
        return producer

    async def publish(self, count: int, partition: int = 0) -> None:
        producer = await self.producer()
        for number in range(count):
            await producer.send(self.name, str(number).encode(), partition=partition)
        await producer.flush()

    async def consumer(
        self, listener: ConsumerRebalanceListener | None = None, **settings: Any
    ) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **{
                "bootstrap_servers": self.side.bootstrap,
                "group_id": self.name,
                "auto_offset_reset": "earliest",
                "enable_auto_commit": False,
                "session_timeout_ms": 6000,
                "heartbeat_interval_ms": 300,
                "metadata_max_age_ms": 1000,
                **settings,
            }
        )
        self._clients.append(consumer)
        consumer.subscribe([self.name], listener=listener)
        await consumer.start()
        return consumer


async def until(check: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not check():
        assert time.monotonic() < deadline, f"not within {WITHIN_S} s: {what}"
        await asyncio.sleep(0.05)


async def read(consumer: AIOKafkaConsumer, count: int, **poll: Any) -> list[ConsumerRecord]:
    """Polls until so many records have come."""
    found: list[ConsumerRecord] = []
    deadline = time.monotonic() + WITHIN_S
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} records within {WITHIN_S} s"
        for records in (await consumer.getmany(timeout_ms=500, **poll)).values():
            found += records
    return found


async def end_of(consumer: AIOKafkaConsumer, partition: TopicPartition) -> int:
    end: int = (await consumer.end_offsets([partition]))[partition]
    return end


async def expel(consumer: AIOKafkaConsumer) -> None:
    """Takes a member out of its group without its knowledge."""
    of = consumer._coordinator
    request = LeaveGroupRequest(of.group_id, of.member_id)
    await consumer._client.send(of.coordinator_id, request, group=ConnectionGroup.COORDINATION)


# Records.


def test_a_record_comes_back_otherwise_than_it_was_sent(side: Side) -> None:
    async def test() -> None:
        async with Place.of(side) as place:
            producer = await place.producer(enable_idempotence=True)
            headers = [("a", b"1"), ("a", b"\xff"), ("", None)]
            sent = [
                await producer.send_and_wait(place.name, b"v", b"k", partition=1, headers=headers),
                await producer.send_and_wait(place.name, None, b"k", partition=1, timestamp_ms=7),
            ]
            records = await read(await place.consumer(), 2)
            assert [(r.partition, r.offset, r.key, r.value) for r in records] == [
                (1, 0, b"k", b"v"),
                (1, 1, b"k", None),
            ]
            assert list(records[0].headers) == headers
            assert [r.timestamp for r in records] == [each.timestamp for each in sent]
            assert records[1].timestamp == 7

    side.run(test)


def test_the_end_of_a_transaction_leaves_no_hole(side: Side) -> None:
    async def test() -> None:
        async with Place.of(side) as place:
            producer = await place.producer(transactional_id=place.name)
            for _ in range(2):
                async with producer.transaction():
                    await producer.send(place.name, b"1", partition=0)
                    await producer.send(place.name, b"2", partition=0)
            consumer = await place.consumer()
            records = await read(consumer, 4)
            assert [record.offset for record in records] == [0, 1, 3, 4]
            assert await end_of(consumer, place[0]) == 6
            await consumer.getmany(timeout_ms=300)
            assert await consumer.position(place[0]) in {5, 6}

    side.run(test)


def test_offsets_begin_elsewhere_after_records_were_deleted(side: Side) -> None:
    async def test() -> None:
        async with Place.of(side) as place:
            await place.publish(10)
            await side.delete_before(place[0], 4)
            consumer = await place.consumer()
            assert await consumer.beginning_offsets([place[0]]) == {place[0]: 4}
            assert await end_of(consumer, place[0]) == 10
            assert [record.offset for record in await read(consumer, 6)] == list(range(4, 10))

    side.run(test)


# Polling.


def test_a_poll_returns_more_than_it_may_or_waits_for_ever(side: Side) -> None:
    async def test() -> None:
        async with Place.of(side) as place:
            await place.publish(25)
            consumer = await place.consumer()
            polled = [await read(consumer, 1, max_records=10) for _ in range(3)]
            assert [len(records) for records in polled] == [10, 10, 5]
            assert await consumer.position(place[0]) == 25
            began = time.monotonic()
            assert await consumer.getmany(timeout_ms=400) == {}
            assert 0.3 < time.monotonic() - began < 3
            assert await consumer.getmany(timeout_ms=0) == {}

    side.run(test)


def test_what_was_fetched_for_a_paused_partition_is_returned_or_lost(side: Side) -> None:
    async def test() -> None:
        async with Place.of(side) as place:
            await place.publish(20, 0)
            await place.publish(20, 1)
            consumer = await place.consumer()
            await read(consumer, 1, max_records=3)
            await asyncio.sleep(0.5)
            held = {tp: await consumer.position(tp) for tp in (place[0], place[1])}
            consumer.pause(place[0], place[1])
            assert consumer.paused() == {place[0], place[1]}
            assert await consumer.getmany(timeout_ms=500) == {}
            assert {tp: await consumer.position(tp) for tp in held} == held
            consumer.resume(place[1])
            rest = await read(consumer, 20 - held[place[1]])
            assert {record.partition for record in rest} == {1}
            assert rest[0].offset == held[place[1]]
            consumer.resume(place[0])
            rest = await read(consumer, 20 - held[place[0]])
            assert rest[0].offset == held[place[0]]

    side.run(test)


def test_a_seek_is_answered_from_what_was_fetched_before(side: Side) -> None:
    async def test() -> None:
        async with Place.of(side) as place:
            await place.publish(10)
            consumer = await place.consumer()
            await read(consumer, 1, max_records=2)
            consumer.seek(place[0], 7)
            assert [record.offset for record in await read(consumer, 3)] == [7, 8, 9]
            with pytest.raises(IllegalStateError):
                consumer.seek(place[9], 0)

    side.run(test)


def test_a_partition_without_a_commit_is_read_from_anywhere(side: Side) -> None:
    async def test() -> None:
        async with Place.of(side, partitions=1) as place:
            await place.publish(3)
            consumer = await place.consumer(auto_offset_reset="none")
            with pytest.raises(NoOffsetForPartitionError) as raised:
                await consumer.getmany(timeout_ms=5000)
            assert raised.value.args[0] == place[0]
            consumer.seek(place[0], 1)
            assert [record.offset for record in await read(consumer, 2)] == [1, 2]

    side.run(test)


@pytest.mark.parametrize("committed", [2, 30])
def test_an_offset_out_of_range_is_not_told(side: Side, committed: int) -> None:
    async def test() -> None:
        async with Place.of(side, partitions=1) as place:
            await place.publish(10)
            first = await place.consumer()
            await first.commit({place[0]: committed})
            await first.stop()
            await side.delete_before(place[0], 5)
            consumer = await place.consumer(auto_offset_reset="none")
            with pytest.raises(OffsetOutOfRangeError) as raised:
                await consumer.getmany(timeout_ms=5000)
            assert raised.value.args[0] == {place[0]: committed}
            consumer.pause(place[0])
            assert await consumer.getmany(timeout_ms=300) == {}

    side.run(test)


# Groups.


def test_a_rebalance_leaves_a_member_some_of_its_partitions(side: Side) -> None:
    """Eager: all of them go, whatever comes back."""

    async def test() -> None:
        async with Place.of(side, partitions=4) as place:
            heard, other_heard = Heard(), Heard()
            consumer = await place.consumer(heard)
            everything = frozenset(range(4))
            assert heard.said == [("revoked", frozenset()), ("assigned", everything)]
            other = await place.consumer(other_heard)
            await until(lambda: len(heard.said) >= 4, "the first is told of a rebalance")
            (_, gone), (_, back) = heard.said[2:4]
            assert gone == everything
            assert len(back) == 2
            assert other_heard.said[-1] == ("assigned", everything - back)
            await other.stop()
            await until(lambda: len(heard.said) >= 6, "the first is told of another one")
            assert heard.said[4:6] == [("revoked", back), ("assigned", everything)]
            assert consumer.assignment() == {place[n] for n in everything}

    side.run(test)


def test_a_pause_outlives_a_rebalance(side: Side) -> None:
    async def test() -> None:
        async with Place.of(side) as place:
            await place.publish(5, 0)
            await place.publish(5, 1)
            heard = Heard()
            consumer = await place.consumer(heard)
            consumer.pause(place[0], place[1])
            other = await place.consumer()
            await other.stop()
            await until(lambda: len(heard.said) >= 6, "everything is back")
            assert consumer.paused() == set()
            assert len(await read(consumer, 10)) == 10

    side.run(test)


def test_a_commit_of_an_older_assignment_is_refused(side: Side) -> None:
    """It is not: aiokafka stamps it with the generation at the time of sending."""

    async def test() -> None:
        async with Place.of(side) as place:
            await place.publish(10)
            heard = Heard()
            consumer = await place.consumer(heard)
            await read(consumer, 10)
            other = await place.consumer()
            await other.stop()
            await until(lambda: len(heard.said) >= 6, "everything is back")
            await consumer.commit({place[0]: 7})
            assert await consumer.committed(place[0]) == 7

    side.run(test)


def test_a_commit_within_a_revoke_is_refused(side: Side) -> None:
    async def test() -> None:
        async with Place.of(side) as place:
            took: list[int] = []

            class Commits(Heard):
                async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
                    if revoked:
                        await consumer.commit({place[0]: 3})
                        took.append(3)

            consumer = await place.consumer(Commits())
            other = await place.consumer()
            await until(lambda: bool(took), "the commit is taken")
            assert await other.committed(place[0]) == 3

    side.run(test)


def test_a_member_that_is_out_commits(side: Side) -> None:
    async def test() -> None:
        async with Place.of(side) as place:
            heard = Heard()
            consumer = await place.consumer(heard, heartbeat_interval_ms=2000)
            await place.consumer()
            await until(lambda: len(heard.said) >= 4, "the two share")
            (mine,) = consumer.assignment()
            await expel(consumer)
            with pytest.raises(CommitFailedError):
                await consumer.commit({mine: 1})
            await until(lambda: len(heard.said) >= 6, "it has joined again")
            assert await consumer.committed(mine) is None
            (mine,) = consumer.assignment()
            await consumer.commit({mine: 2})
            assert await consumer.committed(mine) == 2

    side.run(test)


def test_a_commit_of_a_partition_of_another_member_is_taken(side: Side) -> None:
    """By aiokafka it is not: the broker would take it."""

    async def test() -> None:
        async with Place.of(side) as place:
            heard = Heard()
            consumer = await place.consumer(heard)
            await place.consumer()
            await until(lambda: len(heard.said) >= 4, "the two share")
            (other,) = {place[0], place[1]} - consumer.assignment()
            with pytest.raises(IllegalStateError):
                await consumer.commit({other: 1})

    side.run(test)


def test_committed_offsets_are_not_read_back(side: Side) -> None:
    async def test() -> None:
        async with Place.of(side) as place:
            await place.publish(10)
            consumer = await place.consumer()
            assert await consumer.committed(place[0]) is None
            await consumer.commit({place[0]: 4})
            await consumer.commit({place[0]: 6, place[1]: 0})
            assert await consumer.committed(place[0]) == 6
            assert await consumer.committed(place[1]) == 0
            await consumer.stop()
            again = await place.consumer(auto_offset_reset="none")
            assert [record.offset for record in await read(again, 4)] == [6, 7, 8, 9]

    side.run(test)


def test_a_revoke_that_takes_too_long_holds_up_the_group(side: Side) -> None:
    async def test() -> None:
        async with Place.of(side) as place:
            heard = Heard(slow_s=3)
            consumer = await place.consumer(heard, rebalance_timeout_ms=1500)
            began = time.monotonic()
            other = await place.consumer(rebalance_timeout_ms=1500)
            assert other.assignment() == {place[0], place[1]}
            assert 1 < time.monotonic() - began < 2.9
            with pytest.raises(CommitFailedError):
                await consumer.commit({place[0]: 1})

    side.run(test)


def test_a_member_that_does_not_poll_keeps_its_partitions(side: Side) -> None:
    async def test() -> None:
        async with Place.of(side) as place:
            await place.publish(1)
            await place.publish(1, 1)
            idle, busy = Heard(), Heard()
            await place.consumer(idle, max_poll_interval_ms=1500)
            other = await place.consumer(busy)
            await until(lambda: len(other.assignment()) == 1, "the two share")
            deadline = time.monotonic() + WITHIN_S
            while len(other.assignment()) < 2:
                assert time.monotonic() < deadline
                await other.getmany(timeout_ms=100)
            assert busy.said[-1] == ("assigned", frozenset({0, 1}))

    side.run(test)


def test_a_member_that_raised_and_does_not_poll_is_out(side: Side) -> None:
    """It is not: in aiokafka 0.14 a poll that raises counts as one that goes on, for ever."""

    async def test() -> None:
        async with Place.of(side) as place:
            idle = await place.consumer(auto_offset_reset="none", max_poll_interval_ms=1000)
            await place.publish(1)
            with pytest.raises(NoOffsetForPartitionError):
                await idle.getmany(timeout_ms=5000)
            other = await place.consumer()
            await until(lambda: len(other.assignment()) == 1, "the two share")
            for _ in range(8):
                await other.getmany(timeout_ms=500)
            assert len(other.assignment()) == 1

    side.run(test)


def test_a_member_that_falls_silent_keeps_its_partitions(side: Side) -> None:
    async def test() -> None:
        async with Place.of(side) as place:
            silent = await place.consumer()
            heard = Heard()
            other = await place.consumer(heard)
            await until(lambda: len(other.assignment()) == 1, "the two share")
            began = time.monotonic()
            silent._coordinator._do_heartbeat = mock.AsyncMock(return_value=True)
            await until(lambda: len(other.assignment()) == 2, "the other has both")
            assert 4 < time.monotonic() - began < 10

    side.run(test)


def test_new_partitions_are_not_seen(side: Side) -> None:
    async def test() -> None:
        async with Place.of(side) as place:
            heard = Heard()
            await place.consumer(heard)
            await side.grow(place.name, 3)
            await until(lambda: len(heard.said) >= 4, "a rebalance")
            assert heard.said[2:4] == [
                ("revoked", frozenset({0, 1})),
                ("assigned", frozenset({0, 1, 2})),
            ]

    side.run(test)


# Producing.


def test_acknowledgements_come_out_of_order(side: Side) -> None:
    async def test() -> None:
        async with Place.of(side) as place:
            producer = await place.producer(
                enable_idempotence=True, acks="all", linger_ms=2, max_batch_size=500
            )
            came: list[tuple[int, int]] = []
            futures = []
            for number in range(200):
                sent = await producer.send(place.name, b"x" * 50, partition=number % 2)
                sent.add_done_callback(
                    lambda done: came.append((done.result().partition, done.result().offset))
                )
                futures.append(sent)
            await asyncio.gather(*futures)
            for partition in (0, 1):
                assert [offset for of, offset in came if of == partition] == list(range(100))

    side.run(test)


def test_a_refused_batch_gives_its_sequence_number_back(side: Side) -> None:
    """It does not: everything later of its partition is refused, until another producer comes."""

    async def test() -> None:
        async with Place.of(side, max_bytes=2_000) as place:
            settings = {"enable_idempotence": True, "max_batch_size": 10_000}
            producer = await place.producer(**settings)
            await producer.send_and_wait(place.name, b"1", partition=0)
            with pytest.raises(MessageSizeTooLargeError):
                await producer.send_and_wait(place.name, b"x" * 5_000, partition=0)
            for _ in range(2):
                with pytest.raises(OutOfOrderSequenceNumber):
                    await producer.send_and_wait(place.name, b"2", partition=0)
            await producer.send_and_wait(place.name, b"other", partition=1)
            another = await place.producer(**settings)
            await another.send_and_wait(place.name, b"3", partition=0)
            records = await read(await place.consumer(), 3)
            assert sorted(record.value for record in records) == [b"1", b"3", b"other"]

    side.run(test)


def test_what_follows_a_refused_first_batch_is_refused(side: Side) -> None:
    """It is not: of a producer that it does not know the broker takes any sequence number, so that
    records may pass those of a batch before them."""

    async def test() -> None:
        async with Place.of(side, max_bytes=2_000) as place:
            producer = await place.producer(enable_idempotence=True, max_batch_size=10_000)
            first = await producer.send(place.name, b"x" * 5_000, partition=0)
            with pytest.raises(MessageSizeTooLargeError):
                await first
            passed = await producer.send_and_wait(place.name, b"2", partition=0)
            assert passed.offset == 0

    side.run(test)


# A broker that is away.


@pytest.mark.parametrize("how", ["stopped", "hung"])
def test_a_broker_that_is_away_ends_a_consumer_or_loses_a_record(frail: Side, how: str) -> None:
    async def test() -> None:
        async with Place.of(frail) as place:
            settings = {"request_timeout_ms": 2000}
            await place.publish(3)
            consumer = await place.consumer(session_timeout_ms=30_000, **settings)
            producer = await place.producer(
                enable_idempotence=True, acks="all", max_batch_size=300, **settings
            )
            await producer.send_and_wait(place.name, b"before", partition=1)
            await read(consumer, 4)
            frail.stop() if how == "stopped" else frail.hang()
            sent = [
                await producer.send(place.name, b"x" * 200, partition=1),
                await producer.send(place.name, b"x" * 200, partition=1),
            ]
            with pytest.raises(KafkaTimeoutError):
                for _ in range(3):
                    sent.append(await producer.send(place.name, b"x" * 200, partition=1))
            assert await consumer.getmany(timeout_ms=500) == {}
            commit = asyncio.create_task(consumer.commit({place[0]: 3}))
            done, _ = await asyncio.wait([commit, *sent], timeout=2)
            assert not done, "commits and sends wait as long as the broker is away"
            frail.go_on()
            await asyncio.wait_for(commit, WITHIN_S)
            offsets = [(await asyncio.wait_for(each, WITHIN_S)).offset for each in sent]
            assert offsets == [*range(1, len(sent) + 1)], "sent once, in order"
            assert len(await read(consumer, len(sent))) == len(sent)
            assert await consumer.committed(place[0]) == 3

    frail.run(test)


# What the real one cannot be asked.


@pytest.mark.parts
def test_the_twin_speaks_other_versions_than_kafka(kafka: Kafka) -> None:
    async def test() -> None:
        async with Place.of(Real(kafka)) as place:
            consumer = await place.consumer()
            (connection, *_) = consumer._client._conns.values()
            for api, version in VERSIONS.items():
                oldest, newest = connection._versions[api]
                assert oldest <= version <= newest, f"API {api}"

    asyncio.run(test())


def test_a_reply_that_is_lost_doubles_its_records() -> None:
    twin = Twin()

    async def test() -> None:
        async with Place.of(twin) as place:
            producer = await place.producer(enable_idempotence=True)
            twin.network.lose_replies(PRODUCE, 2)
            sent = [
                await producer.send_and_wait(place.name, str(n).encode(), partition=0)
                for n in range(5)
            ]
            assert [each.offset for each in sent] == list(range(5))
            assert twin.broker.log(place[0]).end == 5

    twin.run(test)


def test_a_future_of_a_topic_that_is_held_ends() -> None:
    twin = Twin()

    async def test() -> None:
        async with Place.of(twin) as place:
            producer = await place.producer(enable_idempotence=True)
            release = twin.broker.hold(place.name)
            sent = await producer.send(place.name, b"1", partition=0)
            done, _ = await asyncio.wait([sent], timeout=3600)
            assert not done
            release()
            assert (await sent).offset == 0

    twin.run(test)
