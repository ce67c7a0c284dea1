"""Moderators in the test's process, with its own guard or a real one, on a real broker."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

import fleet
from qwarden import bootstrap
from qwarden import kafka as kafka_tools
from qwarden import settings as settings_module
from qwarden.contracts import topics
from qwarden.guard.answer import Answer, Failure, Unanswered
from qwarden.guard.row import Row
from qwarden.inference.memory import MemoryGuard
from qwarden.inference.port import GuardUnavailable, Trouble
from qwarden.moderator.service import ModeratorService
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from unit.builders import REVISION, SAFE, assessment

PARTITIONS = 4
POLICIES = {
    "policies/answers.yaml": ("name: answers\nextends: default\non_outage: review\n"),
    "tenants/answers.yaml": "name: answers\npolicies: [answers]\n",
    "tenants/flood.yaml": "name: flood\npolicies: [default]\ntokens_a_minute: 200\n",
}


def policies_in(folder: Path, files: Mapping[str, str] = POLICIES) -> Path:
    """Writes these files there, and says where."""
    policies = folder / "policies"
    for name, text in files.items():
        (policies / name).parent.mkdir(parents=True, exist_ok=True)
        (policies / name).write_text(text)
    return policies


class Guard(MemoryGuard):
    """Says what the test wants, when it wants it."""

    def __init__(self) -> None:
        super().__init__(self._say, revision=REVISION)
        self.crashes: Callable[[str], bool] = lambda text: False
        self.away = False
        self.seconds_a_row = 0.0

    def _say(self, row: bytes) -> Answer:
        text = Row.from_json(row).conversation.turns[-1].content
        if self.crashes(text):
            return Unanswered(Failure.CRASHED, "exit code 139", REVISION)
        return assessment(SAFE)

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        if self.away:
            raise GuardUnavailable("the test says so", Trouble.AWAY)
        await asyncio.sleep(self.seconds_a_row * len(rows))
        return await super().judge(rows, timeout_s=timeout_s)


@dataclass
class Fleetlet:
    """A broker with the topics of a fleet, and moderators in this process."""

    kafka: Kafka
    home: Home
    policies: Path

    def settings(self, group: str, **more: str) -> settings_module.Settings:
        return settings_module.load(
            {
                "QWARDEN_CONTENT_KEY": self.home.content_key(),
                "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": self.kafka.bootstrap,
                "QWARDEN_KAFKA__GROUP_ID": group,
                "QWARDEN_KAFKA__SESSION_TIMEOUT_MS": "6000",
                "QWARDEN_HTTP__PORT": "0",
                "QWARDEN_TRITON__BACKOFF_S": "0.05",
                "QWARDEN_TRITON__MAX_BACKOFF_S": "0.2",
                "QWARDEN_POLICY__PATH": str(self.policies),
                **more,
            }
        )

    @asynccontextmanager
    async def moderating(
        self, group: str, guard: Guard | None, **more: str
    ) -> AsyncIterator[ModeratorService]:
        """`guard`: None for the one that the settings name."""
        settings = self.settings(group, **more)
        async with bootstrap.moderator(settings, guard) as (judge, dispatcher):
            service = ModeratorService(settings, judge, dispatcher, bootstrap.control_of(settings))
            running = asyncio.create_task(service.run())
            try:
                yield service
            finally:
                service.stop()
                assert await running == 0

    async def make_topics(self) -> None:
        await kafka_tools.create_topics(
            self.settings("none").kafka,
            partitions=PARTITIONS,
            replication_factor=1,
            min_insync_replicas=1,
            max_event_bytes=900_000,
        )

    async def publish(
        self, count: int, name: str, *, age_s: float = 0, tenant: str = "demo", seed: str = ""
    ) -> list[str]:
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka.bootstrap, linger_ms=5)
        await producer.start()
        at = int((time.time() - age_s) * 1000)
        try:
            sent = [
                await producer.send(
                    topics.CONTENT,
                    json.dumps(
                        {"event_id": f"{name}-{n}", "tenant": tenant, "text": f"{name} {n}{seed}"}
                    ).encode(),
                    f"{name}-{n}".encode(),
                    timestamp_ms=at,
                )
                for n in range(count)
            ]
            done = [await each for each in sent]
        finally:
            await producer.stop()
        return [f"{topics.CONTENT}/{each.partition}/{each.offset}" for each in done]

    async def at_the_end(self, group: str) -> None:
        """Lets a group begin behind everything that other tests have published."""
        for topic, of in self.settings(group).kafka.groups.items():
            await self.at(of, await fleet.ends_of(self.kafka.bootstrap, topic))

    async def at(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Commits these offsets for a group that nobody is in."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.kafka.bootstrap, group_id=group, enable_auto_commit=False
        )
        await consumer.start()
        try:
            consumer.assign(list(offsets))
            await consumer.commit(offsets)
        finally:
            await consumer.stop()


async def holds(check: Callable[[], bool], what: str, within_s: float = 60) -> None:
    async def asked() -> bool:
        return check()

    await fleet.until(asked, what, within_s)
