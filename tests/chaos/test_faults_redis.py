"""A Redis that hangs, is full, or throws out what it holds: the fleet goes on at its pace."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis.asyncio as redis

import fleet
from chaos import faults
from fleet import Tap
from moderators import Fleetlet, Guard
from qwarden.moderator.service import ModeratorService
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.valkey import Valkey

EVENTS = 1000
LONGER_S = 2.0
"""What a Redis that does not answer may cost on top: a read and a write that time out (0.25 s
each), with room for a busy machine. A timeout a poll of 20 would be 3 s."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults-redis")


@pytest.fixture(scope="module")
def own(home: Path) -> Iterator[Fleetlet]:
    with faults.fleetlet(Home(home), Kafka(Home(home))) as made:
        yield made


@pytest.fixture
def valkey(home: Path) -> Iterator[Valkey]:
    """Empty, for each test."""
    with Valkey(Home(home)) as part:
        yield part


@pytest.fixture
async def client(valkey: Valkey) -> redis.Redis:
    return redis.Redis.from_url(valkey.url)


def shared_alone(valkey: Valkey) -> dict[str, str]:
    """Settings with Redis as the only cache, which is asked again soon."""
    return {
        "QWARDEN_REDIS__URL": valkey.url,
        "QWARDEN_REDIS__PAUSE_S": "1",
        "QWARDEN_MODERATOR__MEMORY_ENTRIES": "0",
        "QWARDEN_MODERATOR__POLL_RECORDS": "20",
    }


PATIENT = {"QWARDEN_REDIS__TIMEOUT_S": "5"}
"""For a Redis that answers: a busy machine's answer may be late, and is no outage here."""


class Round:
    """Events are published, and all of them are judged, once, while the service is ready."""

    def __init__(self, own: Fleetlet, tap: Tap, service: ModeratorService) -> None:
        self._own = own
        self._tap = tap
        self._service = service

    async def __call__(self, name: str, count: int = EVENTS) -> tuple[float, dict[str, int]]:
        """Seconds that it took, and how many verdicts came from each place."""
        await fleet.until(lambda: faults.is_ready(self._service), "both lanes have joined", 30)
        began = time.monotonic()
        origins = await self._own.publish(count, name)
        found = await fleet.outcomes(self._tap, origins, within_s=60)
        took_s = time.monotonic() - began
        assert self._service.not_ready() == [], "readiness asks for Redis"
        assert not found.dead and found.account.repeats() == 0
        places = [found.carried[origin] for origin in origins]
        return took_s, {place: places.count(place) for place in set(places)}


async def test_a_redis_that_hangs_stops_the_moderator(
    own: Fleetlet, group: str, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    guard = Guard()
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, guard, **shared_alone(valkey)) as one,
    ):
        judge = Round(own, tap, one)
        await judge("warm", 50)
        well_s, _ = await judge("well")
        with faults.still(valkey):
            for name in ("hung", "hung-on"):
                hung_s, places = await judge(name)
                print(f"\n{EVENTS} events: {well_s:.2f} s, {hung_s:.2f} s while Redis hangs")
                assert hung_s < well_s + LONGER_S
                assert set(places) == {"miss"}
        assert caplog.text.count("the cache is away for reads") == 1
        began = time.monotonic()

        async def back() -> bool:
            _, places = await judge("well")
            return places == {"redis": EVENTS}

        await fleet.until(back, "what Redis has is read from it again", 20)
        print(f"Redis is used again {time.monotonic() - began:.1f} s after it went on")


async def test_a_redis_that_is_full_stops_the_moderator_or_its_reads(
    own: Fleetlet,
    group: str,
    valkey: Valkey,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard = Guard()
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, guard, **shared_alone(valkey), **PATIENT) as one,
    ):
        judge = Round(own, tap, one)
        await judge("kept")

        async def all_kept() -> bool:
            return bool(await client.dbsize() == EVENTS)

        await fleet.until(all_kept, "all of it is in Redis", 10)
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("maxmemory", "1mb")
        well_s, places = await judge("kept")
        assert places == {"redis": EVENTS}, "a full Redis still answers"
        full_s, places = await judge("full")
        print(f"\n{EVENTS} events: {well_s:.2f} s from Redis, {full_s:.2f} s while it is full")
        assert full_s < well_s + LONGER_S
        assert set(places) == {"miss"}
        assert await client.dbsize() == EVENTS
        assert caplog.text.count("the cache is away for writes") == 1
        assert "the cache is away for reads" not in caplog.text
        await client.config_set("maxmemory", "0")
        rounds = 0

        async def written_again() -> bool:
            nonlocal rounds
            rounds += 1
            await judge(f"again-{rounds}", 20)
            return bool(await client.dbsize() > EVENTS)

        await fleet.until(written_again, "it is written to again", 20)
    await client.aclose()


async def test_a_redis_that_evicts_gives_wrong_answers_or_is_taken_for_away(
    own: Fleetlet,
    group: str,
    valkey: Valkey,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await client.config_set("maxmemory-policy", "allkeys-lru")
    guard = Guard()
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, guard, **shared_alone(valkey), **PATIENT) as one,
    ):
        judge = Round(own, tap, one)
        await judge("first")
        # Now that its connections have their buffers: what comes next has no room but theirs.
        used = int((await client.info("memory"))["used_memory"])
        await client.config_set("maxmemory", str(used))
        for name in ("second", "third"):
            await judge(name)
        evicted = int((await client.info("stats"))["evicted_keys"])
        _, places = await judge("first")
        print(f"\n{evicted} keys are evicted; of the first {EVENTS} texts again: {places}")
        assert evicted > 0
        assert places.get("miss", 0) > 0, "nothing of it was evicted"
        assert "the cache is away" not in caplog.text
    await client.aclose()
