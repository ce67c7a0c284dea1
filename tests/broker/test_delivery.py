"""The delivery on a real broker: what may be lost by others is not lost here."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.record.util import calc_crc32c
from faststream.kafka import KafkaBroker

import fleet
from moderators import holds
from qwarden.delivery.consumer import Delivery, Handler
from qwarden.delivery.owed import Finish, Message, Owed
from qwarden.delivery.publisher import Publisher
from qwarden.delivery.room import Room
from qwarden.delivery.subscriber import subscribe
from qwarden.delivery.underway import Records
from qwarden.delivery.window import Partition
from qwarden.kafka import open_producer
from qwarden.settings import Kafka as KafkaSettings
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

    @property
    def dead(self) -> str:
        return f"{self.name}-dead"

    async def make(self, **of_the_output: str) -> None:
        await fleet.make_topic(self.bootstrap, self.name, self.partitions)
        await fleet.make_topic(self.bootstrap, self.out, self.partitions, **of_the_output)
        await fleet.make_topic(self.bootstrap, self.dead, 1)

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


def refusal(topics: Topics, record: ConsumerRecord) -> Owed:
    """Owes a dead letter."""
    origin = f"{record.topic}/{record.partition}/{record.offset}"
    return (Message(topics.dead, record.key, b"refused", [("qw-origin", origin.encode())]),)


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
    uncommitted: int = 100_000,
    max_records: int = 100,
    limit: int = 1_000_000,
    max_poll_interval_ms: int = 300_000,
    drain: bool = True,
) -> AsyncIterator[Delivery]:
    """One consumer of the group; with `drain` it ends as a service does, else as a crash does."""
    delivery = Delivery(
        topics.name,
        handler,
        lambda record, reason: refusal(topics, record),
        room=Room(records=polls * max_records, most_bytes=most_bytes, uncommitted=uncommitted),
        commit_interval_s=0.1,
        commit_records=1000,
        revoke_s=5,
        look_s=0.5,
        on_failure=lambda: None,
    )
    settings = KafkaSettings(bootstrap_servers=topics.bootstrap)
    publisher = Publisher(
        partial(open_producer, settings, (limit, 1_000_000)),
        limits={topics.out: limit, topics.dead: 1_000_000},
        close_s=5,
        on_failure=lambda error: None,
    )
    broker = KafkaBroker(topics.bootstrap, consumer_only=True, logger=None)
    subscribe(
        broker,
        delivery,
        group_id=topics.name,
        max_records=max_records,
        connection={
            "session_timeout_ms": 6000,
            "heartbeat_interval_ms": 500,
            "max_poll_interval_ms": max_poll_interval_ms,
        },
    )
    publisher.start()
    delivery.start(publisher)
    await broker.start()
    try:
        yield delivery
    finally:
        await delivery.drain(10 if drain else 0)
        await broker.stop()
        await publisher.close()


async def read_out(
    topics: Topics, origins: list[str], within_s: float = 60, topic: str | None = None
) -> list[str]:
    """Reads the output, or another topic, from its beginning until all origins are there; returns
    all origins."""
    consumer = AIOKafkaConsumer(
        topic or topics.out,
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

        await fleet.until(complete, f"{len(origins)} records on {topic or topics.out}", within_s)
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


async def test_what_waits_behind_its_key_is_decided_before_it_goes(topics: Topics) -> None:
    await topics.publish(2, keys=1)
    asked: list[str] = []

    async def handler(records: Records, finish: Finish) -> None:
        for index in reversed(range(len(records))):
            (before,) = echo(topics, records[index])
            origin = f"sent/0/{records[index].offset}"
            now = (before._replace(headers=[("qw-origin", origin.encode())]),)

            def decide(origin: str = origin, now: Owed = now) -> Owed:
                asked.append(origin)
                return now

            finish(index, decide)

    async with consuming(topics, handler, polls=1, max_records=2):
        sent = await read_out(topics, ["sent/0/0", "sent/0/1"])
    assert sent == asked == ["sent/0/0", "sent/0/1"]


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
            await holds(
                lambda: len(one._window.partitions) == len(other._window.partitions) == 2,
                "each of two consumers has two of four partitions",
            )
            second = await topics.publish(300)
            await read_out(topics, second)
            await fleet.until(lambda: is_idle(one), "the first consumer is done")
        await holds(
            lambda: len(one._window.partitions) == topics.partitions,
            "the first consumer has all partitions again",
        )
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
            await holds(
                lambda: bool(other._window.partitions), "the second consumer has partitions"
            )
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


@dataclass
class Guard:
    """A handler that answers while it is let, after a random while."""

    topics: Topics
    most_s: float = 0.0
    seed: int = 0
    up: asyncio.Event = field(default_factory=asyncio.Event)
    judged: int = 0

    async def __call__(self, records: Records, finish: Finish) -> None:
        rng = random.Random(self.seed)

        async def one(index: int) -> None:
            await asyncio.sleep(rng.random() * self.most_s)
            await self.up.wait()
            self.judged += 1
            finish(index, echo(self.topics, records[index]))

        await asyncio.gather(*(one(index) for index in range(len(records))))


async def test_an_outage_longer_than_the_poll_interval_takes_the_partitions_away(
    topics: Topics,
) -> None:
    origins = await topics.publish(2000)
    guard = Guard(topics)

    async with consuming(topics, guard, max_records=50, max_poll_interval_ms=3000) as delivery:
        await holds(lambda: delivery._paused, "the window is full and the partitions are paused")
        epoch, in_flight = delivery._window._epoch, delivery._window.in_flight
        await asyncio.sleep(9)  # three times what a consumer may take from poll to poll
        assert delivery._window._epoch == epoch, "a rebalance in an outage"
        assert delivery._window.in_flight == in_flight <= 5 * 50
        guard.up.set()
        seen = await read_out(topics, origins)
    assert sorted(seen) == sorted(origins)


async def test_partitions_paused_for_want_of_room_are_read_again_after_a_rebalance(
    topics: Topics,
) -> None:
    origins = await topics.publish(1000)
    guard = Guard(topics)

    async with consuming(topics, guard, max_records=20, polls=2) as one:
        await holds(lambda: one._paused, "the window is full")
        async with consuming(topics, guard, max_records=20, polls=2) as other:
            await holds(
                lambda: len(one._window.partitions) == len(other._window.partitions) == 2,
                "both have partitions",
            )
            await asyncio.sleep(2.5)  # two polls, each of which would find records
            assert one.failure is None
            assert one._window.in_flight <= 20, "more than the batch that waits"
            guard.up.set()
            seen = await read_out(topics, origins)
    assert sorted(seen) == sorted(origins)


async def test_more_is_delivered_than_may_lie_uncommitted_behind_one_slow_record(
    topics: Topics,
) -> None:
    origins = await topics.publish(2000)
    slow = asyncio.Event()

    async def handler(records: Records, finish: Finish) -> None:
        for index, record in enumerate(records):
            if record.offset or record.partition:
                finish(index, echo(topics, record))
        if any(record.offset == record.partition == 0 for record in records):
            await slow.wait()
            (index,) = [i for i, r in enumerate(records) if r.offset == r.partition == 0]
            finish(index, echo(topics, records[index]))

    async with consuming(topics, handler, max_records=50, uncommitted=200) as delivery:
        await holds(
            lambda: delivery._paused and delivery._window.uncommitted >= 200,
            "the window holds what it may",
        )
        assert delivery._window.uncommitted <= 200 + 2 * 50
        slow.set()
        assert sorted(await read_out(topics, origins)) == sorted(origins)


async def test_some_slow_records_stop_the_lane(topics: Topics) -> None:
    origins = await topics.publish(2000)
    released = asyncio.Event()

    async def handler(records: Records, finish: Finish) -> None:
        for index, record in enumerate(records):
            if record.offset % 100:
                finish(index, echo(topics, record))
        await released.wait()
        for index, record in enumerate(records):
            if not record.offset % 100:
                finish(index, echo(topics, record))

    slow = {origin for origin in origins if int(origin.rpartition("/")[2]) % 100 == 0}
    async with consuming(topics, handler, max_records=20, polls=4):
        await read_out(topics, [origin for origin in origins if origin not in slow])
        released.set()
        assert sorted(await read_out(topics, origins)) == sorted(origins)


async def test_a_hold_gives_the_partitions_away_or_judges_on(topics: Topics) -> None:
    guard = Guard(topics)
    guard.up.set()

    async with consuming(topics, guard, max_poll_interval_ms=3000) as delivery:
        await holds(lambda: bool(delivery._window.partitions), "the consumer has partitions")
        delivery.hold("a person wants it")
        epoch = delivery._window._epoch
        origins = await topics.publish(500)
        await asyncio.sleep(5)
        assert guard.judged == 0
        assert delivery._window._epoch == epoch
        delivery.release()
        assert sorted(await read_out(topics, origins)) == sorted(origins)


async def test_a_restart_while_records_are_judged_repeats_what_was_published(
    topics: Topics,
) -> None:
    origins = await topics.publish(3000, keys=50)
    guard = Guard(topics, most_s=0.3)
    guard.up.set()

    async with consuming(topics, guard, max_records=50):
        for _ in range(3):
            before = guard.judged
            async with consuming(topics, guard, max_records=50) as other:

                async def has_some(other: Delivery = other) -> bool:
                    return bool(other._window.in_flight)

                await fleet.until(has_some, "the second consumer judges")
            assert guard.judged > before
        seen = await read_out(topics, origins)
    assert len(seen) == len(set(seen)), "a rebalance repeats records"
    assert sorted(seen) == sorted(origins)


@pytest.mark.parametrize("commits", ["the second commits", "the second dies before it commits"])
async def test_a_partition_that_comes_back_goes_on_where_its_first_owner_was(
    topics: Topics, commits: str
) -> None:
    """From A to B and back to A, while A still works on what it had before."""
    origins = await topics.publish(400)
    first, second = Guard(topics), Guard(topics)

    async with consuming(topics, first, max_records=20, polls=2) as one:
        await holds(lambda: one._window.in_flight > 0, "the first works")
        drains = commits == "the second commits"
        async with consuming(topics, second, max_records=20, polls=2, drain=drains) as other:
            await holds(
                lambda: len(one._window.partitions) == len(other._window.partitions) == 2,
                "both have partitions",
            )
            if drains:
                second.up.set()
                await holds(lambda: second.judged > 100, "the second has done some")
        first.up.set()  # also what it began before the second came
        seen = await read_out(topics, origins, within_s=90)
    assert set(seen) == set(origins)
    assert len(seen) == len(set(seen)), "what an older epoch finished was published too"


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
        await holds(lambda: delivery._window.in_flight == 20, "one batch is judged and one waits")
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
        await holds(
            lambda: {len(one._window.partitions), len(other._window.partitions)} == {0, 1},
            "one of two consumers has the one partition",
        )
        assert one.joined
        assert other.joined
        assert set(await read_out(topics, origins)) == set(origins)


@pytest.mark.parametrize("known", ["the limit is known", "only the broker knows it"])
async def test_a_record_that_no_broker_takes_stops_publication_or_takes_others_along(
    kafka: Kafka, known: str
) -> None:
    topics = Topics(kafka.bootstrap)
    await topics.make(max_message_bytes="3000")
    sizes = [5000 if n in (7, 8, 301) else 10 for n in range(600)]
    origins = await fleet.publish(
        topics.bootstrap,
        topics.name,
        [(f"k{n % 20}".encode(), f"{n}".encode().ljust(size)) for n, size in enumerate(sizes)],
    )
    small = [origin for origin, size in zip(origins, sizes, strict=True) if size == 10]
    limit = 3000 if known == "the limit is known" else 1_000_000

    async with consuming(topics, echoing(topics), limit=limit) as delivery:
        seen = await read_out(topics, small)
        dead = await read_out(topics, sorted(set(origins) - set(small)), topic=topics.dead)

        async def all_is_committed() -> bool:
            await delivery.commit()
            ends = await fleet.ends_of(topics.bootstrap, topics.name)
            return await topics.committed() == {p.partition: end for p, end in ends.items()}

        await fleet.until(all_is_committed, "everything is committed")
        assert delivery.failure is None
    assert sorted(seen) == sorted(small)
    assert len(dead) == 3
    arrival = {origin: number for number, origin in enumerate(origins)}
    by_key: dict[int, list[int]] = {}
    for origin in seen:
        by_key.setdefault(arrival[origin] % 20, []).append(arrival[origin])
    assert all(arrived == sorted(arrived) for arrived in by_key.values())


async def test_a_partition_that_cannot_be_read_on_is_not_seen(
    topics: Topics, caplog: pytest.LogCaptureFixture
) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=topics.bootstrap)
    await producer.start()
    batch = producer.create_batch()
    batch.append(key=b"k", value=b"v", timestamp=None, headers=[("AAAA", b"x")])
    batch.close()
    batch._build()
    written = bytearray(bytes(batch._buffer)).replace(b"AAAA", b"\xff\xfe\xff\xfe")
    written[17:21] = calc_crc32c(bytes(written[21:])).to_bytes(4, "big")
    batch._buffer = bytes(written)
    await (await producer.send_batch(batch, topics.name, partition=1))
    await producer.stop()
    async with consuming(topics, echoing(topics)) as delivery:

        async def stuck() -> bool:
            return Partition(topics.name, 1) in delivery.stuck

        await fleet.until(stuck, "it says that the partition is stuck")
    assert any("is not read on from offset" in r.getMessage() for r in caplog.records)
