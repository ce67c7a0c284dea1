"""Moderators with a guard of the test's on a real broker: lanes, halts, and losses."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

import fleet
from fleet import Tap
from qwarden import bootstrap
from qwarden import kafka as kafka_tools
from qwarden import settings as settings_module
from qwarden.contracts import topics
from qwarden.dead_letters import resuming
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
    "policies/answers.yaml": (
        "name: answers\ncontroversial: {default: review}\nunsafe: {default: block}\n"
        "on_outage: review\n"
    ),
    "tenants/answers.yaml": "name: answers\npolicies: [answers]\n",
    "tenants/flood.yaml": "name: flood\npolicies: [default]\ntokens_a_minute: 200\n",
}


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
        self, group: str, guard: Guard, **more: str
    ) -> AsyncIterator[ModeratorService]:
        settings = self.settings(group, **more)
        async with bootstrap.moderator(settings, guard) as (judge, dispatcher):
            service = ModeratorService(settings, judge, dispatcher, bootstrap.control_of(settings))
            running = asyncio.create_task(service.run())
            try:
                yield service
            finally:
                service.stop()
                assert await running == 0

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
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self.kafka.bootstrap, group_id=of, enable_auto_commit=False
            )
            await consumer.start()
            partitions = [TopicPartition(topic, n) for n in range(PARTITIONS)]
            consumer.assign(partitions)
            await consumer.commit(await consumer.end_offsets(partitions))
            await consumer.stop()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleetlet]:
    home = Home(tmp_path_factory.mktemp("service"))
    policies = tmp_path_factory.mktemp("policies")
    for name, text in POLICIES.items():
        (policies / name).parent.mkdir(exist_ok=True)
        (policies / name).write_text(text)
    with Kafka(home) as kafka:
        made = Fleetlet(kafka, home, policies)
        asyncio.run(
            kafka_tools.create_topics(
                made.settings("none").kafka,
                partitions=PARTITIONS,
                replication_factor=1,
                min_insync_replicas=1,
                max_event_bytes=900_000,
            )
        )
        yield made


@pytest.fixture
async def group(own: Fleetlet, request: pytest.FixtureRequest) -> str:
    name: str = request.node.name[:60]
    await own.at_the_end(name)
    return name


async def holds(check: Callable[[], bool], what: str, within_s: float = 60) -> None:
    async def asked() -> bool:
        return check()

    await fleet.until(asked, what, within_s)


async def test_new_content_waits_behind_an_outage_s_backlog(own: Fleetlet, group: str) -> None:
    old = await own.publish(3000, "old", age_s=3600)
    new = await own.publish(50, "new")
    guard = Guard()
    guard.seconds_a_row = 0.001
    async with Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap, own.moderating(group, guard):
        found = await fleet.outcomes(tap, new)
        assert len(found.verdicts.keys() & set(old)) < 1500, "the old ones went first"
        found = await fleet.outcomes(tap, set(old) - found.verdicts.keys())
        assert found.account.repeats() == 0


async def test_a_tenant_that_floods_delays_the_others(own: Fleetlet, group: str) -> None:
    guard = Guard()
    guard.seconds_a_row = 0.002
    async with Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap, own.moderating(group, guard):
        flood = await own.publish(1500, "flood", tenant="flood")
        calm = await own.publish(50, "calm")
        found = await fleet.outcomes(tap, calm)
        assert len(found.verdicts.keys() & set(flood)) < 750, "the flood went first"
        found = await fleet.outcomes(tap, set(flood) - found.verdicts.keys())
        assert found.account.repeats() == 0


async def test_a_bad_deploy_drains_into_the_dead_letters(own: Fleetlet, group: str) -> None:
    guard = Guard()
    guard.crashes = lambda text: text.startswith("bad")
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, guard, QWARDEN_TRITON__ROWS_A_REQUEST="1") as one,
    ):
        first = await own.publish(40, "bad")
        await holds(lambda: one._interactive.held is not None, "the moderator is halted")
        more = await own.publish(40, "bad", seed="!")
        async with own.moderating(group, guard) as other:
            await holds(lambda: other._interactive.joined, "a later one has joined")
            assert other._interactive.held is not None, "it began before it knew of the halt"
            await holds(
                lambda: len(one._interactive._window.partitions) == 2, "each keeps its partitions"
            )
            await tap.read()
            dead = len(tap.records[topics.DEAD_LETTERS])
            assert dead == 4, "the fifth makes it a run, and is asked again"
            assert not {fleet.origin_of(r) for r in tap.records[topics.DEAD_LETTERS]} & set(more)
            guard.crashes = lambda text: False
            halts = await resuming.resume(own.settings(group).kafka, dry_run=False)
            assert "different contents failed" in next(iter(halts.values())).reason
            found = await fleet.outcomes(tap, first + more)
            assert len(found.dead) == dead
            assert one._interactive.held is None


async def test_a_loop_that_hangs_counts_as_alive(
    own: Fleetlet, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with own.moderating(group, Guard(), QWARDEN_MODERATOR__HUNG_S="2.5") as one:
        await holds(lambda: one._interactive.joined, "it polls")
        assert (await one._healthz({})).status_code == 200
        turns = asyncio.Event()
        polled = AIOKafkaConsumer.getmany

        async def hung(*arguments: object, **more: object) -> object:
            await turns.wait()
            return await polled(*arguments, **more)

        monkeypatch.setattr(AIOKafkaConsumer, "getmany", hung)

        async def is_dead() -> bool:
            return (await one._healthz({})).status_code == 503

        await fleet.until(is_dead, "it says that it hangs", 20)
        turns.set()

        async def is_alive() -> bool:
            return not await is_dead()

        await fleet.until(is_alive, "it says that it is alive", 20)


async def test_one_tenant_s_broken_records_halt_everybody(own: Fleetlet, group: str) -> None:
    async with Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap, own.moderating(group, Guard()) as m:
        broken = await fleet.publish(
            own.kafka.bootstrap, topics.CONTENT, [(b"k", b"{broken") for _ in range(2000)]
        )
        good = await own.publish(20, "good")
        found = await fleet.outcomes(tap, broken + good)
        assert set(found.dead) == set(broken)
        assert m._interactive.held is None


async def test_an_outage_dead_letters_or_stops_those_who_need_not_wait(
    own: Fleetlet, group: str
) -> None:
    guard = Guard()
    async with Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap, own.moderating(group, guard):
        await fleet.outcomes(tap, await own.publish(10, "before"))
        guard.away = True
        waits = await own.publish(500, "waits")
        answered = await own.publish(500, "answered", tenant="answers")
        found = await fleet.outcomes(tap, answered)
        assert {verdict.cause for verdict in found.verdicts.values()} == {"outage"}
        assert set(found.verdicts) == set(answered), "what may wait was judged without a guard"
        guard.away = False
        found = await fleet.outcomes(tap, waits)
        assert {verdict.basis.value for verdict in found.verdicts.values()} == {"guard"}
        assert not found.dead


async def test_a_lost_partition_jumps_by_itself_or_never_goes_on(own: Fleetlet, group: str) -> None:
    kafka = own.settings(group).kafka
    lost = TopicPartition(topics.CONTENT, 1)
    setter = AIOKafkaConsumer(
        bootstrap_servers=own.kafka.bootstrap, group_id=group, enable_auto_commit=False
    )
    await setter.start()
    setter.assign([lost])
    end = (await setter.end_offsets([lost]))[lost]
    await own.publish(100, "gone")
    end_after = (await setter.end_offsets([lost]))[lost]
    assert end_after > end + 3
    await setter.commit({lost: end})
    await setter.stop()
    admin = AIOKafkaAdminClient(bootstrap_servers=own.kafka.bootstrap)
    await admin.start()
    await admin.delete_records({lost: RecordsToDelete(before_offset=end + 3)})
    await admin.close()
    guard = Guard()

    async with Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap, own.moderating(group, guard) as one:
        fresh = await own.publish(100, "fresh")
        elsewhere = [origin for origin in fresh if "/1/" not in origin]
        here = [origin for origin in fresh if "/1/" in origin]
        found = await fleet.outcomes(tap, elsewhere)
        assert not found.verdicts.keys() & set(here)
        assert one._interactive.lost
        accepted = await resuming.accept_loss(
            kafka, lost, group, at=datetime.now(UTC), by="test", dry_run=False
        )
        assert (accepted.committed, accepted.resume_at) == (end, end + 3)
        await fleet.outcomes(tap, here)
        assert not one._interactive.lost
