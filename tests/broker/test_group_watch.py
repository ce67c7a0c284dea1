"""How whole groups stand, asked of a real broker by whoever is left alive."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from prometheus_client import REGISTRY

from moderators import Fleetlet, policies_in
from qwarden import settings
from qwarden.delivery.group_watch import GroupWatch
from qwarden.doctor.examination import examine, patient_of
from qwarden.enforcement.commanding import standing
from qwarden.kafka import admin, committed_in, partitions_of, reading
from qwarden.kafka import publish as sent
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stretch import stretch_of

TOPIC = "watched"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker of this file's own, since a test ends it. It takes as long to know again what groups
    have committed as one that has much of it: it reads the commits one by one."""
    home = Home(tmp_path_factory.mktemp("watched"))
    one_by_one = {"offsets.load.buffer.size": "1", "group.coordinator.append.linger.ms": "0"}
    with Kafka(home, settings=one_by_one) as kafka:
        yield kafka


@pytest.fixture
async def topic(own: Kafka, request: pytest.FixtureRequest) -> str:
    """A topic of the test's own, of two partitions, kept for an hour."""
    name = f"{TOPIC}.{abs(hash(request.node.name))}"
    async with admin(_settings(own)) as client:
        kept = {"retention.ms": "3600000", "cleanup.policy": "delete"}
        await client.create_topics([NewTopic(name, 2, 1, topic_configs=kept)])
    return name


def _settings(kafka: Kafka) -> settings.Kafka:
    return settings.Kafka(bootstrap_servers=kafka.bootstrap, request_timeout_ms=5000)


@asynccontextmanager
async def watching(kafka: Kafka, topic: str, *, every_s: float = 20.0) -> AsyncIterator[GroupWatch]:
    watch = GroupWatch(_settings(kafka), {topic: f"{topic}-group"}, every_s=every_s)
    try:
        yield watch
    finally:
        await watch.close()


async def publish(
    kafka: Kafka, topic: str, count: int, *, age_s: float = 0, transaction: str | None = None
) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=transaction)
    await producer.start()
    at = int((time.time() - age_s) * 1000)
    try:
        if transaction is not None:
            await producer.begin_transaction()
        for n in range(count):
            await producer.send_and_wait(topic, b"x" * 2000, partition=n % 2, timestamp_ms=at)
        if transaction is not None:
            await producer.commit_transaction()
    finally:
        await producer.stop()


async def commit(kafka: Kafka, topic: str, offsets: dict[int, int], *, times: int = 1) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=f"{topic}-group")
    consumer.assign([TopicPartition(topic, each) for each in offsets])
    await consumer.start()
    try:
        for _ in range(times):
            await consumer.commit({TopicPartition(topic, n): at for n, at in offsets.items()})
    finally:
        await consumer.stop()


def figure(name: str, topic: str) -> float | None:
    group = {} if name == "topic_retention_seconds" else {"group": f"{topic}-group"}
    return REGISTRY.get_sample_value(f"qwarden_{name}", {**group, "topic": topic})


async def until(holds: Callable[[], bool], watch: GroupWatch) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it has not come so within 60 s"
        await watch.look()
        await asyncio.sleep(0.05)


async def test_a_group_without_any_consumer_has_no_lag(own: Kafka, topic: str) -> None:
    await publish(own, topic, 10, age_s=600)
    await publish(own, topic, 10, age_s=5)
    async with watching(own, topic) as watch:
        await watch.look()
        assert figure("group_lag_records", topic) == 20
        first = figure("group_lag_seconds", topic)
        assert first is not None
        assert 600 <= first < 700
        assert figure("topic_retention_seconds", topic) == 3600
        await commit(own, topic, {0: 10, 1: 6})
        await watch.look()
        assert figure("group_lag_records", topic) == 4
        young = figure("group_lag_seconds", topic)
        assert young is not None
        assert 5 <= young < 300, "what is committed is no lag any more"
        still = figure("group_stuck_seconds", topic)
        assert still is not None
        await until(lambda: (figure("group_stuck_seconds", topic) or 0) > still + 1, watch)
        older = figure("group_lag_seconds", topic)
        assert older is not None
        assert older >= young + 1
        await commit(own, topic, {0: 10, 1: 10})
        await watch.look()
        assert figure("group_lag_records", topic) == 0
        assert figure("group_lag_seconds", topic) == 0
        assert figure("group_stuck_seconds", topic) == 0


CONSUMER = """
import asyncio, sys
from aiokafka import AIOKafkaConsumer

async def main(bootstrap, topic):
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=f"{topic}-group", enable_auto_commit=False,
        auto_offset_reset="earliest", session_timeout_ms=30000,
    )
    await consumer.start()
    async for record in consumer:
        await consumer.commit()
        print("committed", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_killed_consumer_takes_its_lag_along(own: Kafka, topic: str) -> None:
    await publish(own, topic, 4)
    consumer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CONSUMER, own.bootstrap, topic, stdout=asyncio.subprocess.PIPE
    )
    assert consumer.stdout is not None
    async with watching(own, topic) as watch:
        try:
            async with asyncio.timeout(60):
                for _ in range(4):
                    assert await consumer.stdout.readline()
            await until(lambda: figure("group_lag_records", topic) == 0, watch)
        finally:
            consumer.kill()
            await consumer.wait()
        await publish(own, topic, 3)
        await watch.look()
        assert figure("group_lag_records", topic) == 3, "nobody has left the group yet"
        first = figure("group_lag_seconds", topic)
        assert first is not None
        await until(lambda: (figure("group_lag_seconds", topic) or 0) > first + 1, watch)
        assert (figure("group_stuck_seconds", topic) or 0) > 0.5


async def test_the_end_of_a_transaction_is_a_record_that_nobody_does(
    own: Kafka, topic: str
) -> None:
    await publish(own, topic, 4, age_s=600, transaction=topic)
    async with watching(own, topic) as watch:
        await commit(own, topic, {0: 2, 1: 2})
        await watch.look()
        assert figure("group_lag_records", topic) == 0, "behind the commit there are markers alone"
        assert figure("group_lag_seconds", topic) == 0
        await publish(own, topic, 1, age_s=30)
        await watch.look()
        assert (figure("group_lag_records", topic) or 0) > 0
        age = figure("group_lag_seconds", topic)
        assert age is not None
        assert 30 <= age < 300, "the record behind the marker is read"


async def test_a_topic_that_lost_what_nobody_had_read_looks_done(own: Kafka, topic: str) -> None:
    await publish(own, topic, 20, age_s=60)
    await commit(own, topic, {0: 2, 1: 10})
    async with admin(_settings(own)) as client:
        await client.delete_records({TopicPartition(topic, 0): RecordsToDelete(5)})
    async with watching(own, topic) as watch:
        await watch.look()
        assert figure("group_lag_records", topic) == 5
        age = figure("group_lag_seconds", topic)
        assert age is not None
        assert age >= 60


async def test_a_figure_stands_though_no_broker_says_it(own: Kafka, topic: str) -> None:
    await publish(own, topic, 2)
    looks = {"group": f"{topic}-group", "result": "failed"}

    def failed() -> float:
        return REGISTRY.get_sample_value("qwarden_group_looks_total", looks) or 0

    async with watching(own, topic, every_s=3.0) as watch:
        await watch.look()
        assert figure("group_lag_records", topic) == 2
        own.kill()
        try:
            await watch.look()
            assert failed() == 1
            for name in ("lag_records", "lag_seconds", "stuck_seconds"):
                assert figure(f"group_{name}", topic) is None
            assert figure("topic_retention_seconds", topic) is None
        finally:
            own.start()
        await until(lambda: figure("group_lag_records", topic) == 2, watch)


async def test_a_coordinator_that_is_loading_has_nothing_committed(own: Kafka, topic: str) -> None:
    await publish(own, topic, 10)
    await commit(own, topic, {0: 3, 1: 2}, times=2000)
    partitions = [TopicPartition(topic, each) for each in range(2)]
    own.kill()
    own.start()
    said = None
    deadline = time.monotonic() + 60
    async with admin(_settings(own)) as client:
        while said is None:
            assert time.monotonic() < deadline, "the coordinator is not back within 60 s"
            try:
                said = await committed_in(client, f"{topic}-group", partitions)
            except KafkaError:
                await asyncio.sleep(0.05)
    assert said == {partitions[0]: 3, partitions[1]: 2}


async def test_a_group_whose_topic_is_away_hides_the_others(own: Kafka, topic: str) -> None:
    await publish(own, topic, 2)
    groups = {f"{topic}.none": "none", topic: f"{topic}-group"}
    watch = GroupWatch(_settings(own), groups, every_s=20.0)
    try:
        for _ in range(2):
            await watch.look()
            assert figure("group_lag_records", topic) == 2
            assert (figure("group_lag_seconds", topic) or 0) > 0
    finally:
        await watch.close()


async def test_a_broker_that_makes_topics_by_itself_gets_one_of_its_defaults(
    tmp_path: Path,
) -> None:
    makes = {"auto.create.topics.enable": "true"}
    home = Home(tmp_path)
    with Kafka(home, settings=makes) as kafka:
        fleetlet = Fleetlet(kafka, home, policies_in(home.root))
        patient = patient_of(fleetlet.settings("none"), has_key=True)
        async with admin(_settings(kafka)) as client:

            async def there() -> set[str]:
                return set(await client.list_topics())

            async with watching(kafka, "watched") as watch:
                await watch.look()
            with pytest.raises(UnknownTopicOrPartitionError):
                await partitions_of(_settings(kafka), "counted")
            with pytest.raises(UnknownTopicOrPartitionError):
                await stretch_of(_settings(kafka), "measured")
            with pytest.raises(UnknownTopicOrPartitionError):
                async with reading(_settings(kafka), "read", from_beginning=True, follow=False):
                    pass
            with pytest.raises(UnknownTopicOrPartitionError):
                await sent(_settings(kafka), "written", [b"{}"], lambda *_: None)
            with pytest.raises(UnknownTopicOrPartitionError):
                await standing(_settings(kafka))
            async for _ in examine(patient, ("topics", "groups", "control", "key", "clocks")):
                pass
            # Had one of these made its topic, that would be there before this one.
            deadline = time.monotonic() + 60
            while "asked" not in await there():
                assert time.monotonic() < deadline
                await client.describe_topics(["asked"])
                await asyncio.sleep(0.05)
            assert {name for name in await there() if not name.startswith("__")} == {"asked"}


async def test_an_error_of_a_client_that_closes_ends_the_watch(own: Kafka, topic: str) -> None:
    await publish(own, topic, 2)
    async with watching(own, topic) as watch:
        await watch.look()

        class Broken(Exception):
            """Of no kind that a client is known to raise."""

        consumer = watch._consumer
        assert consumer is not None
        stop = consumer.stop

        async def stops() -> None:
            await stop()
            raise Broken

        consumer.stop = stops
        await watch.close()
        await watch.look()
        assert figure("group_lag_records", topic) == 2
