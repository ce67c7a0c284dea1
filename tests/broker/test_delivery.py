"""The delivery on a real broker: what may be lost by others is not lost here."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from faststream.kafka import KafkaBroker

import fleet
from qwarden.delivery.consumer import Delivery, Finish, Handler, Records
from qwarden.delivery.owed import Message, Owed
from qwarden.delivery.subscriber import producer_of, subscribe
from qwarden.delivery.window import Partition
from qwarden.stack.kafka import Kafka


@dataclass
class Topics:
    """An input and an output topic of a test's own, and its group."""

    bootstrap: str
    name: str = field(default_factory=lambda: f"t-{uuid.uuid4().hex[:8]}")
    partitions: int = 4

    @property
    def out(self) -> str:
        return f"{self.name}-out"

    async def make(self) -> None:
        await fleet.make_topic(self.bootstrap, self.name, self.partitions)
        await fleet.make_topic(self.bootstrap, self.out, self.partitions)

    async def publish(self, count: int, *, keys: int | None = None) -> list[str]:
        records: list[tuple[bytes | None, bytes | None]] = [
            (f"k{n % keys}".encode() if keys else None, str(n).encode()) for n in range(count)
        ]
        return await fleet.publish(self.bootstrap, self.name, records)

    async def committed(self) -> dict[int, int]:
        """The group's offsets, as the broker has them."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            offsets = await admin.list_consumer_group_offsets(self.name)
        finally:
            await admin.close()
        return {p.partition: at.offset for p, at in offsets.items() if at.offset >= 0}


@pytest.fixture
async def topics(kafka: Kafka) -> Topics:
    made = Topics(kafka.bootstrap)
    await made.make()
    return made


def echo(topics: Topics, record: ConsumerRecord) -> Owed:
    """Owes one message that names its record."""
    origin = f"{record.topic}/{record.partition}/{record.offset}"
    return (Message(topics.out, record.key, record.value, [("qw-origin", origin.encode())]),)


def echoing(topics: Topics) -> Handler:
    """A handler that finishes each record at once."""

    async def handler(records: Records, finish: Finish) -> None:
        for index, record in enumerate(records):
            finish(index, echo(topics, record))

    return handler


@asynccontextmanager
async def consuming(
    topics: Topics,
    handler: Handler,
    *,
    polls: int = 4,
    most_bytes: int = 10_000_000,
    max_records: int = 100,
    drain: bool = True,
) -> AsyncIterator[Delivery]:
    """One consumer of the group; with `drain` it ends as a service does, else as a crash does."""
    delivery = Delivery(
        handler,
        polls_in_flight=polls,
        bytes_in_flight=most_bytes,
        commit_interval_s=0.1,
        revoke_s=5,
        on_failure=lambda: None,
    )
    broker = KafkaBroker(
        topics.bootstrap, enable_idempotence=True, acks="all", linger_ms=2, logger=None
    )
    subscriber = subscribe(
        broker,
        topics.name,
        delivery,
        group_id=topics.name,
        max_records=max_records,
        connection={"session_timeout_ms": 6000, "heartbeat_interval_ms": 500},
    )
    await broker.start()
    assert subscriber.consumer is not None
    delivery.start(subscriber.consumer, producer_of(broker))
    try:
        yield delivery
    finally:
        await delivery.drain(10 if drain else 0)
        await broker.stop()


async def read_out(topics: Topics, origins: list[str], within_s: float = 60) -> list[str]:
    """Reads the output from its beginning until all origins are there; returns all origins."""
    consumer = AIOKafkaConsumer(
        topics.out,
        bootstrap_servers=topics.bootstrap,
        group_id=None,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
    )
    await consumer.start()
    seen: list[str] = []
    try:
        await consumer.seek_to_beginning()

        async def complete() -> bool:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                seen.extend(fleet.origin_of(record) for record in records)
            return set(origins) <= set(seen)

        await fleet.until(complete, f"{len(origins)} records on {topics.out}", within_s)
        await complete()
    finally:
        await consumer.stop()
    return seen


async def test_records_published_before_the_group_existed_are_not_passed_over(
    topics: Topics,
) -> None:
    origins = await topics.publish(500)

    async with consuming(topics, echoing(topics)):
        seen = await read_out(topics, origins)
    assert sorted(seen) == sorted(origins)


async def test_a_slow_record_holds_back_the_commit_and_not_the_work(topics: Topics) -> None:
    origins = await topics.publish(400)
    held = asyncio.Event()
    slow = f"{topics.name}/0/3"

    async def handler(records: Records, finish: Finish) -> None:
        waiting = []
        for index, record in enumerate(records):
            if f"{record.topic}/{record.partition}/{record.offset}" == slow:
                waiting.append((index, record))
            else:
                finish(index, echo(topics, record))
        if waiting:
            await held.wait()
            for index, record in waiting:
                finish(index, echo(topics, record))

    others = [origin for origin in origins if origin != slow]
    async with consuming(topics, handler) as delivery:
        await read_out(topics, others)

        async def rest_is_committed() -> bool:
            committed = await topics.committed()
            ends = await fleet.ends_of(topics.bootstrap, topics.name)
            return all(committed.get(p.partition) == end for p, end in ends.items() if p.partition)

        await fleet.until(rest_is_committed, "the other partitions are committed")
        assert (await topics.committed())[0] == 3
        held.set()
        await read_out(topics, origins)

        async def all_is_committed() -> bool:
            await delivery.commit()
            ends = await fleet.ends_of(topics.bootstrap, topics.name)
            return await topics.committed() == {p.partition: end for p, end in ends.items()}

        await fleet.until(all_is_committed, "everything is committed")


async def test_what_was_not_done_at_a_crash_comes_again_and_nothing_below_is_lost(
    topics: Topics,
) -> None:
    origins = await topics.publish(300)
    stuck = {f"{topics.name}/{partition}/5" for partition in range(topics.partitions)}

    def handler_that(holds: set[str]) -> Handler:
        async def handler(records: Records, finish: Finish) -> None:
            forever = False
            for index, record in enumerate(records):
                if f"{record.topic}/{record.partition}/{record.offset}" in holds:
                    forever = True
                else:
                    finish(index, echo(topics, record))
            if forever:
                await asyncio.Event().wait()

        return handler

    async with consuming(topics, handler_that(stuck), drain=False):
        await read_out(topics, [origin for origin in origins if origin not in stuck])
    assert all(offset <= 5 for offset in (await topics.committed()).values())
    async with consuming(topics, handler_that(set())):
        seen = await read_out(topics, origins)
    assert set(seen) == set(origins)


async def test_a_handler_that_fails_commits_nothing_of_its_batch(topics: Topics) -> None:
    origins = await topics.publish(40)

    async def failing(records: Records, finish: Finish) -> None:
        finish(0, echo(topics, records[0]))
        raise RuntimeError("a fault in the handler")

    async with consuming(topics, failing, drain=False) as delivery:

        async def failed() -> bool:
            return delivery.failure is not None

        await fleet.until(failed, "the delivery says that it failed")
        assert isinstance(delivery.failure, RuntimeError)
    assert sum((await topics.committed()).values()) <= 1

    async with consuming(topics, echoing(topics)):
        assert set(await read_out(topics, origins)) == set(origins)


async def test_records_of_one_key_are_published_in_the_order_of_arrival(topics: Topics) -> None:
    origins = await topics.publish(600, keys=20)
    rng = random.Random(7)

    async def handler(records: Records, finish: Finish) -> None:
        async def one(index: int) -> None:
            await asyncio.sleep(rng.random() * 0.05)
            finish(index, echo(topics, records[index]))

        await asyncio.gather(*(one(index) for index in range(len(records))))

    async with consuming(topics, handler, max_records=50):
        seen = await read_out(topics, origins)
    assert len(seen) == len(origins)
    arrival = {origin: number for number, origin in enumerate(origins)}
    by_key: dict[int, list[int]] = {}
    for origin in seen:
        by_key.setdefault(arrival[origin] % 20, []).append(arrival[origin])
    assert all(arrived == sorted(arrived) for arrived in by_key.values())
    assert len(by_key) == 20


async def test_a_record_that_the_handler_forgets_stops_everything_in_silence(
    topics: Topics,
) -> None:
    await topics.publish(40)

    async def forgetful(records: Records, finish: Finish) -> None:
        for index, record in enumerate(records[1:], start=1):
            finish(index, echo(topics, record))

    async with consuming(topics, forgetful, drain=False) as delivery:

        async def failed() -> bool:
            return delivery.failure is not None

        await fleet.until(failed, "the delivery says that it failed")
        assert "got no outcome" in str(delivery.failure)


async def test_a_header_that_is_null_or_not_text_holds_its_whole_poll(topics: Topics) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=topics.bootstrap)
    await producer.start()
    odd = (("x", None), ("x", b"\xff\xfe"), ("", b""), ("content-type", b"\x00"))
    for header in odd:
        await producer.send(topics.name, value=b"odd", key=b"k", headers=[header], partition=0)
    await producer.stop()
    origins = [f"{topics.name}/0/{offset}" for offset in range(len(odd))]
    origins += await topics.publish(50, keys=3)

    async with consuming(topics, echoing(topics)):
        seen = await read_out(topics, origins)
    assert sorted(seen) == sorted(origins)


async def test_more_bytes_than_the_budget_are_judged_at_a_time(topics: Topics) -> None:
    origins = await fleet.publish(
        topics.bootstrap, topics.name, [(None, b"x" * 1000) for _ in range(200)]
    )
    judged_now = 0
    most = 0

    async def handler(records: Records, finish: Finish) -> None:
        nonlocal judged_now, most
        judged_now += len(records)
        most = max(most, judged_now)
        await asyncio.sleep(0.01)
        judged_now -= len(records)
        for index, record in enumerate(records):
            finish(index, echo(topics, record))

    async with consuming(topics, handler, most_bytes=25_000, max_records=10):
        seen = await read_out(topics, origins)
    assert sorted(seen) == sorted(origins)
    assert most == 20


async def is_idle(delivery: Delivery) -> bool:
    return not delivery._window.in_flight and not delivery._window.to_commit()


async def test_an_idle_rebalance_repeats_nothing(topics: Topics) -> None:
    first = await topics.publish(300)

    async with consuming(topics, echoing(topics)) as one:
        await read_out(topics, first)
        await fleet.until(lambda: is_idle(one), "the first consumer is done")
        async with consuming(topics, echoing(topics)) as other:

            async def shared() -> bool:
                return len(one._window.partitions) == len(other._window.partitions) == 2

            await fleet.until(shared, "each of two consumers has two of four partitions")
            second = await topics.publish(300)
            await read_out(topics, second)
            await fleet.until(lambda: is_idle(one), "the first consumer is done")

        async def alone() -> bool:
            return len(one._window.partitions) == topics.partitions

        await fleet.until(alone, "the first consumer has all partitions again")
        third = await topics.publish(300)
        seen = await read_out(topics, first + second + third)
    assert sorted(seen) == sorted(first + second + third)


async def test_a_rebalance_under_load_loses_nothing(topics: Topics) -> None:
    origins = await topics.publish(2000)
    rng = random.Random(3)

    async def handler(records: Records, finish: Finish) -> None:
        for index, record in enumerate(records):
            await asyncio.sleep(rng.random() * 0.002)
            finish(index, echo(topics, record))

    async with consuming(topics, handler, max_records=20):
        await read_out(topics, origins[:1])
        async with consuming(topics, handler, max_records=20) as other:

            async def has_some() -> bool:
                return bool(other._window.partitions)

            await fleet.until(has_some, "the second consumer has partitions")
        seen = await read_out(topics, origins, within_s=90)
    assert set(seen) == set(origins)


@pytest.mark.parametrize("where", ["below the beginning", "beyond the end"])
async def test_an_offset_out_of_range_stops_its_partition_and_jumps_nowhere(
    topics: Topics, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    origins = await topics.publish(400)
    lost = TopicPartition(topics.name, 1)
    end = (await fleet.ends_of(topics.bootstrap, topics.name))[lost]
    setter = AIOKafkaConsumer(
        bootstrap_servers=topics.bootstrap, group_id=topics.name, enable_auto_commit=False
    )
    await setter.start()
    setter.assign([lost])
    await setter.commit({lost: 2 if where == "below the beginning" else end + 50})
    await setter.stop()
    if where == "below the beginning":
        admin = AIOKafkaAdminClient(bootstrap_servers=topics.bootstrap)
        await admin.start()
        await admin.delete_records({lost: RecordsToDelete(before_offset=10)})
        await admin.close()

    async with consuming(topics, echoing(topics)) as delivery:
        seen = await read_out(topics, [o for o in origins if "/1/" not in o])

        async def stopped() -> bool:
            return Partition(*lost) in delivery.lost

        await fleet.until(stopped, "the partition is stopped")
        found = delivery.lost[Partition(*lost)]
        more = await topics.publish(100)
        seen = await read_out(topics, [o for o in more if "/1/" not in o])
    assert not [origin for origin in seen if f"{topics.name}/1/" in origin]
    expected = (2, 10) if where == "below the beginning" else (end + 50, end)
    assert (found.first, found.end) == expected
    said = [r.getMessage() for r in caplog.records if "is stopped" in r.getMessage()]
    assert len(said) == 1
    assert f"{topics.name}/1" in said[0]


async def test_a_waiting_batch_counts_as_unfinished(topics: Topics) -> None:
    await topics.publish(200)
    release = asyncio.Event()
    taken: list[int] = []

    async def handler(records: Records, finish: Finish) -> None:
        taken.append(len(records))
        await release.wait()
        for index, record in enumerate(records):
            finish(index, echo(topics, record))

    async with consuming(topics, handler, polls=1, max_records=10) as delivery:

        async def two_polled() -> bool:
            return delivery._window.in_flight == 20

        await fleet.until(two_polled, "one batch is judged and one waits")
        await delivery.commit()
        assert taken == [10]
        assert set((await topics.committed()).values()) <= {0}
        release.set()


async def test_a_spare_without_partitions_counts_as_not_joined(kafka: Kafka) -> None:
    topics = Topics(kafka.bootstrap, partitions=1)
    await topics.make()
    origins = await topics.publish(10)

    async with (
        consuming(topics, echoing(topics)) as one,
        consuming(topics, echoing(topics)) as other,
    ):

        async def settled() -> bool:
            return {len(one._window.partitions), len(other._window.partitions)} == {0, 1}

        await fleet.until(settled, "one of two consumers has the one partition")
        assert one.joined
        assert other.joined
        assert set(await read_out(topics, origins)) == set(origins)
