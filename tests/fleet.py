"""What the tests on a real broker share: publish, read, wait with a deadline, account."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from qwarden import kafka as kafka_tools
from qwarden import settings as settings_module
from qwarden.contracts import headers, topics
from qwarden.contracts.verdict import Verdict, decode_verdict
from qwarden.guard.conversation import Task
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.service import Service
from qwarden.stack.triton import Triton
from qwarden.stack.valkey import Valkey
from qwarden.verify.account import Account
from traffic import Made

DEADLINE_S = 240.0
SHORT_SESSION = {
    "QWARDEN_KAFKA__SESSION_TIMEOUT_MS": "3000",
    "QWARDEN_MODERATOR__REVOKE_S": "2",
    "QWARDEN_STREAMER__REVOKE_S": "2",
    "QWARDEN_REVIEW__REVOKE_S": "2",
}
"""So long a group waits for a member that was killed: where a test kills one and starts the next,
it waits it out. Each revoke is under it."""
POLICIES = Path(__file__).parent / "e2e" / "policies"


@dataclass
class Fleet:
    """The parts of the path, and how a service joins them."""

    home: Home
    kafka: Kafka
    valkey: Valkey
    triton: Triton

    def settings(self, **more: str) -> dict[str, str]:
        return {
            "QWARDEN_CONTENT_KEY": self.home.content_key(),
            "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": self.kafka.bootstrap,
            "QWARDEN_KAFKA__SESSION_TIMEOUT_MS": "6000",
            "QWARDEN_REDIS__URL": self.valkey.url,
            "QWARDEN_REDIS__TIMEOUT_S": "5",
            "QWARDEN_TRITON__URL": self.triton.grpc,
            "QWARDEN_POLICY__PATH": str(POLICIES),
            **more,
        }

    async def make_topics(self, partitions: int) -> None:
        settings = settings_module.load(self.settings())
        made = await kafka_tools.create_topics(
            settings.kafka,
            partitions=partitions,
            replication_factor=1,
            min_insync_replicas=1,
            max_event_bytes=settings.moderator.max_event_bytes,
        )
        assert set(made) == set(topics.ALL)

    def moderator(self, group: str, **more: str) -> Service:
        return Service(self.home, "moderator", self.settings(QWARDEN_KAFKA__GROUP_ID=group, **more))


async def make_topic(bootstrap: str, name: str, partitions: int, **configs: str) -> None:
    """`configs`: with _ for the . of Kafka's names."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        named = {key.replace("_", "."): value for key, value in configs.items()}
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=named)])
    finally:
        await admin.close()


def clear(kafka: Kafka) -> None:
    """Deletes all topics, and with them what groups have committed; returns when they are gone.
    Starts the broker where a test that failed has left it dead."""
    if not kafka.alive:
        kafka.start()
    asyncio.run(_clear(kafka.bootstrap))


async def _clear(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()

    async def gone() -> bool:
        # Kafka's own stay: groups and transactions go on in them.
        there = [name for name in await admin.list_topics() if not name.startswith("__")]
        if there:
            await admin.delete_topics(there)
        return not there

    try:
        await until(gone, "all topics are deleted")
    finally:
        await admin.close()


async def publish(
    bootstrap: str, topic: str, records: Iterable[tuple[bytes | None, bytes | None]]
) -> list[str]:
    """Publishes (key, value) pairs and returns their origins, in order."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", linger_ms=5, max_request_size=2_000_000
    )
    await producer.start()
    try:
        sent = [await producer.send(topic, key=key, value=value) for key, value in records]
        done = [await each for each in sent]
    finally:
        await producer.stop()
    return [f"{topic}/{each.partition}/{each.offset}" for each in done]


async def publish_events(bootstrap: str, made: Sequence[Made]) -> list[str]:
    return await publish(bootstrap, topics.CONTENT, [(each.key, each.value) for each in made])


async def until(check: Callable[[], Awaitable[bool]], what: str, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not await check():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.05)


async def ends_of(bootstrap: str, topic: str) -> dict[TopicPartition, int]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, group_id=None)
    await consumer.start()
    try:
        ends: dict[TopicPartition, int] = await consumer.end_offsets(list(consumer.assignment()))
        return ends
    finally:
        await consumer.stop()


class Tap:
    """Reads topics from where they end when it is made; keeps everything."""

    def __init__(self, bootstrap: str, *names: str) -> None:
        self._consumer = AIOKafkaConsumer(
            *names,
            bootstrap_servers=bootstrap,
            group_id=None,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=50,
            max_partition_fetch_bytes=4_000_000,
        )
        self.records: dict[str, list[ConsumerRecord]] = {name: [] for name in names}

    async def __aenter__(self) -> Tap:
        await self._consumer.start()
        partitions = list(self._consumer.assignment())
        for partition, end in (await self._consumer.end_offsets(partitions)).items():
            self._consumer.seek(partition, end)
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._consumer.stop()

    async def read(self) -> int:
        """Takes what has come; returns how many records."""
        polled = await self._consumer.getmany(timeout_ms=200)
        for partition, records in polled.items():
            self.records[partition.topic] += records
        return sum(len(records) for records in polled.values())

    async def read_to_the_end(self) -> None:
        """Reads until every topic's present end is reached."""
        ends = await self._consumer.end_offsets(list(self._consumer.assignment()))
        while True:
            await self.read()
            at = [await self._consumer.position(partition) for partition in ends]
            if all(a >= end for a, end in zip(at, ends.values(), strict=True)):
                return


@dataclass
class Outcomes:
    """What one pass gave, by origin: verdicts on prompts and responses, those on reasoning apart,
    dead letters, and escalations."""

    account: Account
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    thinking: dict[str, Verdict] = field(default_factory=dict)
    carried: dict[str, str] = field(default_factory=dict)
    dead: dict[str, str] = field(default_factory=dict)
    review: set[str] = field(default_factory=set)
    evidence: set[str] = field(default_factory=set)
    contradictions: list[str] = field(default_factory=list)

    async def take_the_rest(self, tap: Tap) -> None:
        """Takes what stands behind the last verdict."""
        await tap.read_to_the_end()
        self.take(tap)

    def take(self, tap: Tap) -> None:
        for record in tap.records[topics.VERDICTS]:
            origin = origin_of(record)
            verdict = decode_verdict(record.value)
            self.account.verdict(origin, verdict)
            of_task = self.thinking if verdict.task == Task.THINKING else self.verdicts
            before = of_task.setdefault(origin, verdict)
            if before.verdict_id == verdict.verdict_id and meaning(before) != meaning(verdict):
                self.contradictions.append(origin)
            self.carried[origin] = headers.header(record.headers, headers.CACHE) or ""
        for record in tap.records[topics.DEAD_LETTERS]:
            self.account.dead_letter(origin_of(record))
            self.dead[origin_of(record)] = msgspec.json.decode(record.value)["error_class"]
        self.review |= {origin_of(record) for record in tap.records[topics.REVIEW]}
        self.evidence |= {origin_of(record) for record in tap.records[topics.EVIDENCE]}
        for records in tap.records.values():
            records.clear()


OUTPUTS = (topics.VERDICTS, topics.REVIEW, topics.EVIDENCE, topics.DEAD_LETTERS)


async def outcomes(
    tap: Tap,
    origins: Iterable[str],
    within_s: float = DEADLINE_S,
    thinking: Iterable[str] = (),
) -> Outcomes:
    """Reads until every origin has its outcome; fails where one is late. `thinking`: those that
    must have two verdicts."""
    found = Outcomes(Account(origins))
    for origin in thinking:
        found.account.expect(origin, (Task.RESPONSE, Task.THINKING))

    async def complete() -> bool:
        await tap.read()
        found.take(tap)
        return not found.account.missing()

    await until(complete, f"outcomes of all {found.account.expected} records", within_s)
    # What goes with a verdict was acknowledged before it, and may be read behind it.
    await found.take_the_rest(tap)
    return found


def origin_of(record: ConsumerRecord) -> str:
    origin = headers.header(record.headers, headers.ORIGIN)
    assert origin is not None, "an outcome without qw-origin"
    return origin


def meaning(verdict: Verdict) -> tuple[object, ...]:
    """What two records with one id must agree on."""
    return verdict.safety, tuple(verdict.categories or ()), verdict.action, verdict.basis


def answers(service: Service, path: str) -> bool:
    """Whether a service answers GET `path` with 200; one that does not answer does not."""
    try:
        return httpx.get(f"http://{service.http}{path}", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def metric(address: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels, as Prometheus would read it."""
    total = 0.0
    for line in httpx.get(f"http://{address}/metrics").text.splitlines():
        head, _, number = line.rpartition(" ")
        bare, _, rest = head.partition("{")
        if bare == name and all(f'{key}="{value}"' in rest for key, value in labels.items()):
            total += float(number)
    return total
