"""Whether an operator sees that work waits for something."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from prometheus_client import REGISTRY

from qwarden.cache.memory import MemoryCache
from qwarden.cache.outage import SkippedWhenAway
from qwarden.cache.port import CacheUnavailable
from qwarden.guard.answer import Answer, Assessment
from qwarden.inference.dispatch import Dispatcher, Limits
from qwarden.inference.port import GuardUnavailable

ANSWER = Assessment((1.0, 0.0, 0.0), (), None, 3, 0, "g@1")


def open_for(dependency: str) -> float | None:
    return REGISTRY.get_sample_value("qwarden_breaker_open", {"dependency": dependency})


class Guard:
    """A guard that is away for as long as the test says."""

    def __init__(self) -> None:
        self.away = True

    async def revision(self) -> str:
        return "g@1"

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        if self.away:
            raise GuardUnavailable("away")
        return [ANSWER for _ in rows]

    async def close(self) -> None: ...


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_an_outage_of_the_guard_is_not_seen_or_its_end_is_not() -> None:
    guard = Guard()
    limits = Limits(4, 1000, 2, backoff_s=0.001, max_backoff_s=0.004)
    dispatcher = Dispatcher(guard, limits)
    try:
        assert open_for("guard") == 0
        (asked,) = dispatcher.submit([b"row"])
        await until(lambda: open_for("guard") == 1)
        guard.away = False
        assert (await asked).answer is ANSWER
        await until(lambda: open_for("guard") == 0)
    finally:
        await dispatcher.close()


class _Behind:
    """A shared cache whose reads and writes fail apart."""

    def __init__(self) -> None:
        self.memory = MemoryCache(10, 60)
        self.fails: set[str] = set()

    async def get_many(self, keys: Sequence[bytes]) -> list[Assessment | None]:
        if "reads" in self.fails:
            raise CacheUnavailable("the test says so")
        return [self.memory.get(key) for key in keys]

    async def put_many(self, entries: Sequence[tuple[bytes, Assessment]]) -> None:
        if "writes" in self.fails:
            raise CacheUnavailable("the test says so")

    async def close(self) -> None: ...


async def test_a_redis_that_takes_no_writes_looks_well() -> None:
    behind, now = _Behind(), [0.0]
    cache = SkippedWhenAway(behind, pause_s=5, clock=lambda: now[0])
    assert open_for("redis") == 0
    behind.fails = {"writes"}
    await cache.put_many([(b"k", ANSWER)])
    assert open_for("redis") == 1
    await cache.get_many([b"k"])
    assert open_for("redis") == 1, "reads that are answered do not mend writes"
    behind.fails = set()
    now[0] = 6.0
    await cache.put_many([(b"k", ANSWER)])
    assert open_for("redis") == 0
    behind.fails = {"reads"}
    await cache.get_many([b"k"])
    assert open_for("redis") == 1
