"""A part of the stack goes away and comes back: nothing is lost, and it is said once."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fleet
import traffic
from fleet import Fleet
from qwarden.contracts import topics
from qwarden.stack.process import descendants
from qwarden.stack.service import Service


@asynccontextmanager
async def moderating(fleet_: Fleet, group: str, **more: str) -> AsyncIterator[Service]:
    """A moderator of a group that has read everything so far."""
    service = fleet_.moderator(group, **more)
    await asyncio.to_thread(service.start)
    try:
        yield service
    finally:
        await asyncio.to_thread(service.stop)


def lines(log: Path, words: str, since: int) -> list[str]:
    """What the log has said since then with these words."""
    said = log.read_bytes()[since:].decode().splitlines()
    return [line for line in said if words in json.loads(line)["message"]]


def events(seed: int, count: int = 120) -> list[traffic.Made]:
    return traffic.events(seed, count, distinct=count, tenants=("paper",))


async def published(own: Fleet, seed: int) -> list[str]:
    return await fleet.publish_events(own.kafka.bootstrap, events(seed))


async def test_an_absent_triton_loses_records_or_fills_the_dead_letters(own: Fleet) -> None:
    async with (
        fleet.Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        moderating(own, "triton-away") as service,
    ):
        log = service.child.log
        since = log.stat().st_size
        await asyncio.to_thread(own.triton.kill)
        origins = await published(own, 31)

        async def waits() -> bool:
            await tap.read()
            return not fleet.answers(service, "/readyz") and bool(
                lines(log, "is unavailable", since)
            )

        await fleet.until(waits, "the moderator waits, and is not ready")
        assert fleet.answers(service, "/healthz"), "waiting out an outage is alive"
        assert not tap.records[topics.VERDICTS]
        (said,) = lines(log, "is unavailable", since)
        assert "content.events/" in said, "it does not say for which records"
        await asyncio.to_thread(own.triton.start)
        found = await fleet.outcomes(tap, origins)
        assert not found.dead
        assert {verdict.basis.value for verdict in found.verdicts.values()} == {"guard"}
        assert found.account.repeats() == 0
        assert len(lines(log, "is unavailable", since)) == 1
        assert len(lines(log, "is back", since)) == 1


async def test_a_deadline_that_passes_in_an_outage_is_judged_all_the_same(own: Fleet) -> None:
    async with (
        fleet.Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        moderating(own, "deadline-passes") as service,
    ):
        await asyncio.to_thread(own.triton.kill)
        soon = datetime.now(UTC) + timedelta(seconds=1)
        event = {
            "event_id": "soon",
            "tenant": "paper",
            "text": "Who reads this in time?",
            "deadline": soon.isoformat(),
        }
        origins = await fleet.publish(
            own.kafka.bootstrap, topics.CONTENT, [(b"soon", json.dumps(event).encode())]
        )

        async def late() -> bool:
            waits = not await asyncio.to_thread(fleet.answers, service, "/readyz")
            return waits and datetime.now(UTC) > soon

        await fleet.until(late, "the moderator waits beyond the deadline")
        await asyncio.to_thread(own.triton.start)
        found = await fleet.outcomes(tap, origins)
        assert found.verdicts[origins[0]].basis.value == "expired"


async def test_a_dead_stub_leaves_triton_up_and_answering_nothing(own: Fleet) -> None:
    async with (
        fleet.Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        moderating(own, "stub-dies"),
    ):
        stubs = [
            process
            for process in descendants(own.triton.child.pid)
            if b"python_backend_stub" in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        ]
        assert stubs
        for stub in stubs:
            stub.signal(signal.SIGKILL)
        origins = await published(own, 32)
        found = await fleet.outcomes(tap, origins)
        assert not found.dead
        assert own.triton.alive


async def test_an_absent_redis_stops_the_moderator(own: Fleet) -> None:
    async with (
        fleet.Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        moderating(own, "redis-away", QWARDEN_REDIS__PAUSE_S="0.5") as service,
    ):
        log = service.child.log
        since = log.stat().st_size
        await asyncio.to_thread(own.valkey.kill)
        for seed in (33, 34):
            found = await fleet.outcomes(tap, await published(own, seed))
            assert not found.dead
            assert fleet.answers(service, "/readyz"), "readiness must not ask for Redis"
        assert len(lines(log, "the cache is away for reads", since)) == 1
        await asyncio.to_thread(own.valkey.start)
        seed = 35

        async def back() -> bool:
            nonlocal seed
            seed += 1
            await fleet.outcomes(tap, await published(own, seed))
            return bool(lines(log, "the cache is back for reads", since))

        await fleet.until(back, "the cache is used again")
        assert len(lines(log, "the cache is away for reads", since)) == 1


async def test_a_broker_that_restarts_loses_records_in_flight(own: Fleet) -> None:
    async with (
        fleet.Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        moderating(own, "broker-restarts") as service,
    ):
        before = await published(own, 61)
        await asyncio.to_thread(own.kafka.kill)
        await asyncio.to_thread(own.kafka.start)
        origins = before + await published(own, 62)
        found = await fleet.outcomes(tap, origins)
        assert not found.dead
        assert found.account.contradicted() == set()
        assert found.contradictions == []
        assert service.alive
