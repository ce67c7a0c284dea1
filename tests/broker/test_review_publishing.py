"""The outbox on a real broker: what may be lost, or overtaken by what it had replaced, when a
publisher is stopped, killed or held up in the middle."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from sqlalchemy import update

from at_work import ALLOW, BLOCK, Work
from escalated import identity, verdict
from fleet import until
from qwarden import settings
from qwarden.contracts import topics
from qwarden.contracts.control import override_key
from qwarden.contracts.decision import Decision, decode_decision
from qwarden.contracts.names import name_of
from qwarden.control.kafka import KafkaControl
from qwarden.enforcement import commanding
from qwarden.kafka import create_topics
from qwarden.review.publishing import Publishing
from qwarden.review.refusals import Conflict
from qwarden.review.store import overrides
from qwarden.review.store.database import Database
from qwarden.review.store.schema import duties, items, outbox
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.ports import free_ports

pytestmark = pytest.mark.timeout(180)

CONTENT = identity("content", "same")
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[settings.Kafka]:
    with Kafka(Home(tmp_path_factory.mktemp("publishing"))) as kafka:
        made = settings.Kafka(bootstrap_servers=kafka.bootstrap)
        asyncio.run(
            create_topics(
                made, partitions=4, replication_factor=1, min_insync_replicas=1,
                max_event_bytes=topics.MAX_EVENT_BYTES,
            )
        )  # fmt: skip
        yield made


@pytest.fixture
async def work(database: Database) -> Work:
    """In real time: other processes look at the clock too. What is decided is due at once."""
    begun = await Work.begin(database)
    begun.now = time.time() - 60
    return begun


@pytest.fixture
async def tenant(request: pytest.FixtureRequest) -> str:
    """Of this test alone, so that what others have published is not in its way."""
    return f"{request.node.name}-{time.time_ns()}"


@dataclass
class Child:
    """A publisher as a process of its own."""

    process: asyncio.subprocess.Process

    async def says(self, word: str) -> None:
        """Waits until it does."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            while (line := await self.process.stdout.readline()).decode().strip() != word:
                assert line, f"it ended before it said {word!r}"

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        await self.process.stdin.drain()


@asynccontextmanager
async def publishing(
    url: str, broker: settings.Kafka, holder: str, stops_at: str = ""
) -> AsyncIterator[Child]:
    script = Path(__file__).parents[1] / "publishers.py"
    arguments = (url, broker.bootstrap_servers, holder, *([stops_at] if stops_at else []))
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        yield Child(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def here(work: Work, broker: settings.Kafka, **how: Any) -> Publishing:
    """A publisher in this process."""
    return Publishing(work.database, broker, settings.Review(), identity("here"), **how)


async def give_up(work: Work, holder: str) -> None:
    """As if the duty's holder had been silent for as long as others wait for it."""
    async with work.database.writing() as tx:
        await tx.execute(update(duties).where(duties.c.holder == holder).values(until=0.0))


async def records(broker: settings.Kafka, topic: str, *, committed: bool = True) -> list[Any]:
    """All of a topic in the order of each partition, as a reader of committed records has it, or as
    one of all of them."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=broker.bootstrap_servers,
        group_id=None,
        isolation_level="read_committed" if committed else "read_uncommitted",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        found: list[Any] = []
        partitions = list(consumer.assignment())
        ends = await consumer.end_offsets(partitions)
        for partition in partitions:
            consumer.seek(partition, 0)
        async with asyncio.timeout(WITHIN_S):
            while not all([await consumer.position(each) >= ends[each] for each in partitions]):
                for some in (await consumer.getmany(timeout_ms=200)).values():
                    found += some
        return found
    finally:
        await consumer.stop()


async def decisions(
    broker: settings.Kafka, tenant: str, *, committed: bool = True
) -> list[Decision]:
    found = await records(broker, topics.DECISIONS, committed=committed)
    return [
        said for said in (decode_decision(each.value) for each in found) if said.tenant == tenant
    ]


@asynccontextmanager
async def following(broker: settings.Kafka) -> AsyncIterator[KafkaControl]:
    """What every moderator knows."""
    control = KafkaControl(broker)
    await control.start()
    try:
        yield control
    finally:
        await control.close()


async def test_who_was_stopped_before_sending_cannot_undo_what_came_since(
    work: Work, database_url: str, broker: settings.Kafka, tenant: str
) -> None:
    old = identity("old")
    first = verdict(1, tenant=tenant, content_hash=CONTENT)
    await work.comes(first)
    await work.next_one(work.ann, replace(BLOCK, override=True))
    async with publishing(database_url, broker, old, "begin") as stopped:
        await stopped.says("read")
        stopped.signal(signal.SIGSTOP)
        assert [row.is_taken for row in await work.waiting()] == [True, True]
        await work.comes(
            verdict(1, tenant=tenant, content_hash=CONTENT, edit=1, verdict_id=identity(tenant))
        )
        await work.next_one(work.ben, replace(ALLOW, override=True))
        await give_up(work, old)
        made = here(work, broker)
        await made.round()
        assert (made.published, await work.waiting()) == (4, [])
        stopped.signal(signal.SIGCONT)
        await stopped.go_on()
        await stopped.says("fenced")
        await made.close()
    async with following(broker) as control:
        stands = control.override_of(tenant, CONTENT)
    assert stands is not None and stands.action == "allow"
    chain = await decisions(broker, tenant)
    assert [each.action for each in chain] == ["block", "allow"]
    assert chain[1].supersedes == chain[0].decision_id
    everything = await records(broker, topics.DECISIONS, committed=False)
    about = name_of(tenant, first.event_id).encode()
    assert len([each for each in everything if each.key == about]) == 2  # nothing came after


async def test_what_a_killed_publisher_had_sent_is_sent_again(
    work: Work, database_url: str, broker: settings.Kafka, tenant: str
) -> None:
    """And while its transaction hangs open nobody waits for a freeze."""
    old = identity("old")
    for name in range(20):
        await work.comes(verdict(name, tenant=tenant))
    ruled = [await work.next_one(work.ann, replace(BLOCK, override=True)) for _ in range(20)]
    async with publishing(database_url, broker, old, "commit") as killed, following(broker) as all_:
        await killed.says("sent")
        assert len(await decisions(broker, tenant, committed=False)) == 20
        assert await decisions(broker, tenant) == []
        begun = time.monotonic()
        await commanding.freeze(
            broker, tenant, frozen=True, reason="a test", at=datetime.now(UTC), by="test"
        )
        await until(partial(is_frozen, all_, tenant), "everybody knows the freeze", 10)
        assert time.monotonic() - begun < 10
        killed.signal(signal.SIGKILL)
        await killed.process.wait()
    await give_up(work, old)
    made = here(work, broker)
    await made.round()
    await made.close()
    assert await work.waiting() == []
    seen = [each.decision_id for each in await decisions(broker, tenant)]
    assert sorted(seen) == sorted(each for one in ruled for each in one.decisions)
    async with following(broker) as control:
        hashes = [verdict(name).content_hash or "" for name in range(20)]
        assert all(control.override_of(tenant, each) is not None for each in hashes)


async def test_what_is_taken_back_is_never_heard_of(
    work: Work, broker: settings.Kafka, tenant: str
) -> None:
    """While a publisher is at work, at the very moment when it is due."""
    wait_s = 0.3
    work.limits = work.limits.model_copy(update={"take_back_s": wait_s})
    made = here(work, broker)

    async def publishes() -> None:
        while True:
            await made.round()
            await asyncio.sleep(0.01)

    publisher = asyncio.create_task(publishes())
    taken_back, said = set(), set()
    for name in range(15):
        work.now = time.time()
        await work.comes(verdict(name, tenant=tenant))
        ruled = await work.next_one(work.ann, BLOCK)
        await asyncio.sleep(max(0.0, ruled.take_back_until - time.time() - 0.03 + 0.004 * name))
        work.now = ruled.take_back_until - 0.001  # by a clock that is behind
        try:
            lease = await work.takes_back(work.ann, ruled.ruling_id)
        except Conflict:
            said |= set(ruled.decisions)
        else:
            assert lease is not None
            taken_back |= set(ruled.decisions)
            async with work.database.writing() as tx:
                await tx.execute(items.delete())
    await until(partial(nothing_waits, work), "all is published", WITHIN_S)
    publisher.cancel()
    await asyncio.gather(publisher, return_exceptions=True)
    await made.close()
    heard = [each.decision_id for each in await decisions(broker, tenant)]
    assert sorted(heard) == sorted(said)
    assert not taken_back & set(heard)


async def test_two_publishers_send_each_record_once(
    work: Work, broker: settings.Kafka, tenant: str
) -> None:
    one, two = here(work, broker), Publishing(
        work.database, broker, settings.Review(), identity("two")
    )  # fmt: skip
    for name in range(12):
        await work.comes(verdict(name, tenant=tenant))
        await work.next_one(work.ann, BLOCK)
        await asyncio.gather(one.round(), two.round())
    assert await work.waiting() == []
    await asyncio.gather(one.close(), two.close())
    heard = [each.decision_id for each in await decisions(broker, tenant)]
    assert len(heard) == len(set(heard)) == 12
    assert one.published + two.published == 12


async def test_a_null_ends_an_override_in_every_moderator(
    work: Work, broker: settings.Kafka, tenant: str
) -> None:
    await work.comes(verdict(1, tenant=tenant, content_hash=CONTENT))
    await work.next_one(work.ann, replace(BLOCK, override=True))
    made = here(work, broker)
    async with following(broker) as control:
        await made.round()
        await until(partial(stands, control, tenant), "the override stands", 10)
        async with work.database.writing() as tx:
            assert await overrides.end_due(tx, time.time() + 31 * 86_400, 10) == 1
            await tx.execute(update(outbox).values(publish_at=0.0))
        await made.round()
        await until(partial(stands_no_more, control, tenant), "it has ended", 10)
    await made.close()
    key = override_key(tenant, CONTENT).encode()
    found = await records(broker, topics.CONTROL)
    assert [each.value is None for each in found if each.key == key] == [False, True]


async def test_a_broker_that_is_away_is_told_and_nothing_is_lost(
    work: Work, broker: settings.Kafka, tenant: str
) -> None:
    await work.comes(verdict(1, tenant=tenant))
    await work.next_one(work.ann, BLOCK)
    away = here(work, settings.Kafka(bootstrap_servers=f"127.0.0.1:{free_ports(1)[0]}"))
    with pytest.raises(KafkaError):
        await away.round()
    assert len(await work.waiting()) == 1
    made = here(work, broker)
    await made.round()
    await made.close()
    assert len(await decisions(broker, tenant)) == 1


async def is_frozen(control: KafkaControl, tenant: str) -> bool:
    return tenant in commanding.frozen_tenants(control.policies())


async def nothing_waits(work: Work) -> bool:
    return await work.waiting() == []


async def stands(control: KafkaControl, tenant: str) -> bool:
    return control.override_of(tenant, CONTENT) is not None


async def stands_no_more(control: KafkaControl, tenant: str) -> bool:
    return not await stands(control, tenant)
