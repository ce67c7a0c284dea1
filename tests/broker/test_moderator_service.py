"""Moderators with a guard of the test's on a real broker: lanes, halts, and losses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

import fleet
from fleet import Tap
from moderators import Fleetlet, Guard, holds, policies_in
from qwarden.contracts import topics
from qwarden.dead_letters import resuming
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleetlet]:
    home = Home(tmp_path_factory.mktemp("service"))
    with Kafka(home) as kafka:
        made = Fleetlet(kafka, home, policies_in(home.root))
        asyncio.run(made.make_topics())
        yield made


@pytest.fixture
async def group(own: Fleetlet, request: pytest.FixtureRequest) -> str:
    name: str = request.node.name[:60]
    await own.at_the_end(name)
    return name


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
    async with own.moderating(
        group, Guard(), QWARDEN_MODERATOR__HUNG_S="2.5", QWARDEN_KAFKA__REQUEST_TIMEOUT_MS="2000"
    ) as one:
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
            kafka, lost, group, lost_from=None, at=datetime.now(UTC), by="test", dry_run=False
        )
        assert (accepted.committed, accepted.resume_at) == (end, end + 3)
        await fleet.outcomes(tap, here)
        assert not one._interactive.lost


async def test_a_moderator_without_a_broker_is_ready_or_ends_late(
    own: Fleetlet, group: str
) -> None:
    async with own.moderating(group, Guard(), QWARDEN_MODERATOR__DRAIN_S="2") as one:

        async def ready() -> bool:
            return (await one._readyz({})).status_code == 200

        await fleet.until(ready, "it is ready")
        await asyncio.to_thread(own.kafka.kill)

        async def waits() -> bool:
            return not await ready()

        await fleet.until(waits, "it is not ready", 20)
        await asyncio.to_thread(own.kafka.start)
        await fleet.until(ready, "it is ready again")
        await asyncio.to_thread(own.kafka.kill)
        began = time.monotonic()
    ended = time.monotonic() - began
    await asyncio.to_thread(own.kafka.start)
    assert ended < 2 + 5 + 3 + 5, "over drain_s, revoke_s and the goodbyes"
