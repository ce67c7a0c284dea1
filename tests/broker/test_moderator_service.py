"""Moderators with a guard of the test's on a real broker: lanes, halts, and losses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete
from faststream.kafka import KafkaBroker

import fleet
from fleet import Tap
from moderators import PARTITIONS, Fleetlet, Guard, holds, policies_in
from qwarden import settings
from qwarden.contracts import topics
from qwarden.contracts.control import Written
from qwarden.control.kafka import KafkaControl
from qwarden.dead_letters import resuming
from qwarden.delivery.consumer import Delivery
from qwarden.delivery.underway import Records
from qwarden.kafka import admin
from qwarden.moderator.service import ModeratorService
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka


@pytest.fixture(scope="module")
def own(own_kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Fleetlet:
    home = Home(tmp_path_factory.mktemp("service"))
    made = Fleetlet(own_kafka, home, policies_in(home.root))
    asyncio.run(made.make_topics())
    return made


async def test_new_content_waits_behind_an_outage_s_backlog(own: Fleetlet, group: str) -> None:
    old = await own.publish(1200, "old", age_s=3600)
    new = await own.publish(50, "new")
    guard = Guard()
    guard.seconds_a_row = 0.003
    async with Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap, own.moderating(group, guard):
        found = await fleet.outcomes(tap, new)
        assert len(found.verdicts.keys() & set(old)) < 600, "the old ones went first"
        found = await fleet.outcomes(tap, set(old) - found.verdicts.keys())
        assert found.account.repeats() == 0


async def test_a_tenant_that_floods_delays_the_others(own: Fleetlet, group: str) -> None:
    guard = Guard()
    guard.seconds_a_row = 0.003
    async with Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap, own.moderating(group, guard):
        flood = await own.publish(800, "flood", tenant="flood")
        calm = await own.publish(50, "calm")
        found = await fleet.outcomes(tap, calm)
        assert len(found.verdicts.keys() & set(flood)) < 400, "the flood went first"
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


@pytest.mark.parametrize("is_on_its_way", [False, True])
async def test_a_halt_that_comes_late_halts_the_fleet_again_after_a_resume(
    own: Fleetlet, group: str, is_on_its_way: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two moderators see one run. The record of the second is kept back by its broker until a
    person has resumed, either before it is sent or after."""
    guard = Guard()
    guard.crashes = lambda text: text.startswith("bad")
    lets_go = {"first": asyncio.Event(), "second": asyncio.Event()}
    publish = KafkaControl._publish
    came: list[int | None] = []

    def hold_back(service: ModeratorService, which: str) -> None:
        control = service._control

        async def held(message: Written, unless: Callable[[], bool]) -> int | None:
            assert isinstance(control, KafkaControl)
            if message.value is not None:
                await lets_go[which].wait()
            came.append(
                await publish(control, message, (lambda: False) if is_on_its_way else unless)
            )
            return came[-1]

        monkeypatch.setattr(control, "_publish", held)

    more = {"QWARDEN_TRITON__ROWS_A_REQUEST": "1"}
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, guard, **more) as first,
        own.moderating(group, guard, **more) as second,
    ):
        both = (first, second)
        hold_back(first, "first")
        hold_back(second, "second")
        await holds(
            lambda: all(len(each._interactive._window.partitions) == 2 for each in both),
            "each has its partitions",
        )
        origins = await own.publish(80, "bad", seed=group)
        await holds(lambda: all(each._run_seen is not None for each in both), "both have seen it")
        lets_go["first"].set()
        await holds(lambda: bool(second._control.halts()), "the first one's halt is read")
        guard.crashes = lambda text: False
        await resuming.resume(own.settings(group).kafka, dry_run=False)
        await holds(lambda: second._interactive.held is None, "the second one has resumed")
        lets_go["second"].set()
        await holds(lambda: len(came) == (3 if is_on_its_way else 2), "it has been seen to")
        await fleet.outcomes(tap, origins)
        later = KafkaControl(own.settings(group).kafka)
        await later.start()
        assert not later.halts(), "the late halt stands"
        await later.close()
        assert all(each._interactive.held is None for each in both)


async def test_a_broker_that_goes_while_a_consumer_starts_ends_the_moderator(
    own: Fleetlet, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = KafkaBroker.start
    went = asyncio.Event()

    async def goes_first(broker: KafkaBroker) -> None:
        await asyncio.to_thread(own.kafka.kill)
        went.set()
        await started(broker)

    monkeypatch.setattr(KafkaBroker, "start", goes_first)
    async with (
        own.moderating(group, Guard(), QWARDEN_MODERATOR__HUNG_S="2.5",
                       QWARDEN_KAFKA__REQUEST_TIMEOUT_MS="2000") as one,
    ):  # fmt: skip
        async with asyncio.timeout(30):
            await went.wait()
        end = time.monotonic() + 4
        while time.monotonic() < end:
            assert not one._end.is_set()
            assert not one.not_alive(), "waiting it out is no hanging"
            await asyncio.sleep(0.2)
        await asyncio.to_thread(own.kafka.start)
        async with Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap:
            await fleet.outcomes(tap, await own.publish(20, "after"))


async def test_a_loop_that_hangs_counts_as_alive(
    own: Fleetlet, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with own.moderating(
        group, Guard(), QWARDEN_MODERATOR__HUNG_S="2.5", QWARDEN_KAFKA__REQUEST_TIMEOUT_MS="2000"
    ) as one:
        await holds(lambda: one._interactive.joined, "it polls")
        assert not one.not_alive()
        turns = asyncio.Event()
        polled = AIOKafkaConsumer.getmany

        async def hung(*arguments: object, **more: object) -> object:
            await turns.wait()
            return await polled(*arguments, **more)

        monkeypatch.setattr(AIOKafkaConsumer, "getmany", hung)
        await holds(lambda: bool(one.not_alive()), "it says that it hangs", 20)
        turns.set()
        await holds(lambda: not one.not_alive(), "it says that it is alive", 20)


async def test_a_loop_that_never_comes_to_its_first_poll_counts_as_alive(
    own: Fleetlet, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = asyncio.Event()
    poll = Delivery.poll

    async def hung(*arguments: Any, **more: Any) -> Records:
        await turns.wait()
        return await poll(*arguments, **more)

    monkeypatch.setattr(Delivery, "poll", hung)
    async with own.moderating(
        group, Guard(), QWARDEN_MODERATOR__HUNG_S="2.5", QWARDEN_KAFKA__REQUEST_TIMEOUT_MS="2000"
    ) as one:
        await holds(lambda: bool(one.not_alive()), "it says that it hangs", 20)
        turns.set()
        await holds(lambda: not one.not_alive(), "it says that it is alive", 20)


async def test_one_tenant_s_broken_records_halt_everybody(own: Fleetlet, group: str) -> None:
    async with Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap, own.moderating(group, Guard()) as m:
        broken = await fleet.publish(
            own.kafka.bootstrap, topics.CONTENT, [(b"k", b"{broken") for _ in range(400)]
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
        waits = await own.publish(100, "waits")
        answered = await own.publish(100, "answered", tenant="answers")
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
    end = (await fleet.ends_of(own.kafka.bootstrap, topics.CONTENT))[lost]
    await own.publish(100, "gone")
    assert (await fleet.ends_of(own.kafka.bootstrap, topics.CONTENT))[lost] > end + 3
    await own.at(group, {lost: end})
    async with admin(kafka) as client:
        await client.delete_records({lost: RecordsToDelete(before_offset=end + 3)})
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


async def make_again(kafka: settings.Kafka, topic: str) -> None:
    async with admin(kafka) as client:
        await client.delete_topics([topic])

        async def is_made() -> bool:
            response = await client.create_topics([NewTopic(topic, PARTITIONS, 1)])
            return bool(response.topic_errors[0][1] == 0)

        await fleet.until(is_made, "the topic is there again")


async def committed(kafka: settings.Kafka, group: str) -> dict[TopicPartition, int]:
    async with admin(kafka) as client:
        offsets = await client.list_consumer_group_offsets(group)
    return {where: at.offset for where, at in offsets.items()}


async def go_on_behind(
    kafka: settings.Kafka, group: str, service: ModeratorService, *, named: bool
) -> None:
    """Waits until every partition is stopped, and accepts the losses; `named`: with the offset that
    the moderator names, else with the committed one."""
    lane = service._interactive
    await holds(lambda: len(lane.lost) == PARTITIONS, "every partition is stopped")
    assert service.not_ready()
    for where, lost in list(lane.lost.items()):
        assert "made again" in lost.sentence(*where)
        accepted = await resuming.accept_loss(
            kafka, TopicPartition(*where), group, lost_from=lost.first if named else None,
            at=datetime.now(UTC), by="test", dry_run=False,
        )  # fmt: skip
        assert accepted.resume_at == 0


@pytest.mark.parametrize("lives_through", [False, True])
async def test_a_topic_that_was_made_again_is_read_from_old_offsets_or_never(
    own: Fleetlet, group: str, lives_through: bool
) -> None:
    """By a member that sees nothing of it, and by the next one. Kafka forgets the offsets of the
    old topic, but a late commit of such a member stands for the new one."""
    kafka = own.settings(group).kafka
    bootstrap = own.kafka.bootstrap
    async with Tap(bootstrap, *fleet.OUTPUTS) as tap:
        async with own.moderating(group, Guard()) as one:
            await fleet.outcomes(tap, await own.publish(160, "old"))
            old = await fleet.ends_of(bootstrap, topics.CONTENT)

            async def all_is_committed() -> bool:
                return await committed(kafka, group) == old

            await fleet.until(all_is_committed, "all is committed")
            if lives_through:
                one._interactive.hold("the test says so")  # else a fetch would be told at once
                consumer = one._interactive._consumer
                assert consumer is not None
                await holds(
                    lambda: one._interactive._paused and not consumer._fetcher._in_flight,
                    "it reads nothing",
                )
                await make_again(kafka, topics.CONTENT)
                new = await own.publish(40, "new")
                one._interactive.release()
                await go_on_behind(kafka, group, one, named=True)
                found = await fleet.outcomes(tap, new)
        if not lives_through:
            await make_again(kafka, topics.CONTENT)
            await own.at(group, old)
            new = await own.publish(40, "new")
            async with own.moderating(group, Guard()) as one:
                await go_on_behind(kafka, group, one, named=False)
                found = await fleet.outcomes(tap, new)
    assert found.account.repeats() == 0
    assert await committed(kafka, group) == await fleet.ends_of(bootstrap, topics.CONTENT)


async def test_a_moderator_without_a_broker_is_ready_or_ends_late(
    own: Fleetlet, group: str
) -> None:
    async with own.moderating(group, Guard(), QWARDEN_MODERATOR__DRAIN_S="2") as one:

        async def ready() -> bool:
            return not one.not_ready()

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
