"""What the fault tests share: a broker of their own with moderators whose guard is the test's, and
parts that stand still for a while."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer, ConsumerRecord

from moderators import Fleetlet, Guard, policies_in
from qwarden import kafka as kafka_tools
from qwarden.contracts import topics
from qwarden.contracts.verdict import Verdict, decode_verdict
from qwarden.guard.answer import Answer, Triple, Unanswered
from qwarden.guard.row import Row
from qwarden.moderator.service import ModeratorService
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.part import Part
from unit.builders import SAFE, assessment

Pair = tuple[bytes | None, bytes | None]
"""A record's key and value."""


@contextmanager
def still(part: Part) -> Iterator[None]:
    """The part's process is there, keeps its connections, and does nothing."""
    part.child.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        part.child.signal(signal.SIGCONT)


@contextmanager
def fleetlet(home: Home, kafka: Kafka) -> Iterator[Fleetlet]:
    """Starts the broker, and makes the topics."""
    with kafka:
        made = Fleetlet(kafka, home, policies_in(home.root))
        asyncio.run(made.make_topics())
        yield made


class ToldGuard(Guard):
    """Says of a text what the test says, and keeps its answer back until the test lets it go."""

    def __init__(self) -> None:
        super().__init__()
        self.says: Callable[[str], Triple] = lambda text: SAFE
        self.keeps_back: Callable[[str], bool] = lambda text: False
        self.lets_go = asyncio.Event()

    def _say(self, row: bytes) -> Answer:
        answer = super()._say(row)
        return answer if isinstance(answer, Unanswered) else assessment(self.says(text_of(row)))

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        if any(self.keeps_back(text_of(row)) for row in rows):
            await self.lets_go.wait()
        return await super().judge(rows, timeout_s=timeout_s)


def text_of(row: bytes) -> str:
    return Row.from_json(row).conversation.turns[-1].content


async def publish(
    bootstrap: str, pairs: Iterable[Pair], *, partition: int | None = None, at_ms: int | None = None
) -> list[str]:
    """Publishes on `content.events` and returns the origins, in order."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", linger_ms=5, max_request_size=4_000_000
    )
    await producer.start()
    try:
        sent = [
            await producer.send(topics.CONTENT, value, key, partition=partition, timestamp_ms=at_ms)
            for key, value in pairs
        ]
        done = [await each for each in sent]
    finally:
        await producer.stop()
    return [f"{topics.CONTENT}/{each.partition}/{each.offset}" for each in done]


async def is_ready(service: ModeratorService) -> bool:
    return not service.not_ready()


async def is_alive(service: ModeratorService) -> bool:
    return not service.not_alive()


async def committed(own: Fleetlet, group: str) -> dict[int, int]:
    """The group's offsets on `content.events`, as the broker has them."""
    async with kafka_tools.admin(own.settings(group).kafka) as admin:
        offsets = await admin.list_consumer_group_offsets(group)
    return {where.partition: at.offset for where, at in offsets.items()}


@dataclass
class Written:
    """All of one topic, or of its later part."""

    records: list[ConsumerRecord] = field(default_factory=list)

    def verdicts(self) -> list[Verdict]:
        return [decode_verdict(record.value) for record in self.records]

    def by_origin(self) -> Counter[str]:
        return Counter(
            data.decode()
            for record in self.records
            for name, data in record.headers
            if name == "qw-origin"
        )


async def written(own: Fleetlet, topic: str) -> Written:
    """Everything that stands on a topic now, in the order of each partition."""
    found = Written()
    async with kafka_tools.reading(
        own.settings("none").kafka, topic, from_beginning=True, follow=False
    ) as records:
        async for record in records:
            found.records.append(record)
    return found


def repeated_below(by_origin: Counter[str], before: dict[int, int]) -> list[str]:
    """Origins with more than one outcome although they were committed then."""
    return [
        origin
        for origin, count in by_origin.items()
        if count > 1 and int(origin.split("/")[2]) < before.get(int(origin.split("/")[1]), 0)
    ]
