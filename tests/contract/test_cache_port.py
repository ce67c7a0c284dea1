"""One contract for every cache: in this process, and Redis (Valkey) as one server, as the one that
Sentinels name, and as a cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from qwarden.cache import codec
from qwarden.cache.memory import MemoryCache
from qwarden.cache.opening import open_cache
from qwarden.cache.outage import SkippedWhenAway
from qwarden.cache.port import AssessmentCache, CacheUnavailable
from qwarden.cache.redis import RedisCache
from qwarden.cache.writer import CacheWriter
from qwarden.guard.answer import Assessment, Entry, assessment_of
from qwarden.guard.row import View
from qwarden.stack.home import Home
from qwarden.stack.valkey import Valkey
from valkeys import Cluster, Watched

pytestmark = pytest.mark.parts

Open = Callable[[int], AbstractAsyncContextManager[AssessmentCache]]


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with Watched(tmp_path_factory.mktemp("sentinel"), password="pass word") as part:
        yield part


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), password="pass word") as part:
        yield part


@pytest.fixture(params=["memory", "valkey", "sentinel", "cluster"])
def opened(request: pytest.FixtureRequest) -> Open:
    url = "" if request.param == "memory" else request.getfixturevalue(request.param).url

    @asynccontextmanager
    async def cache(ttl_s: int) -> AsyncIterator[AssessmentCache]:
        made: AssessmentCache
        made = MemoryCache(1000, ttl_s)
        if url:
            made = open_cache(url, ttl_s=ttl_s, timeout_s=5, pause_s=1)
        try:
            yield made
        finally:
            await made.close()

    return cache


def assessment(n: int) -> Assessment:
    """One of a view, or of two where `n` is odd."""
    logits, categories = (n + 0.1, -1.5, 1e-7), (("Unethical Acts", 0.25), ("PII", 0.5))
    views = tuple(View) if n % 2 else (View.AS_SENT,)
    entries = [Entry(view, 0, logits, categories, True, n) for view in views]
    return assessment_of(entries, 2, "guard@1")


def key(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


async def test_what_is_read_is_what_was_written(opened: Open) -> None:
    entries = [(key(f"round-{n}"), assessment(n)) for n in range(300)]
    async with opened(60) as cache:
        await cache.put_many(entries)
        found = await cache.get_many([each for each, _ in entries])
    assert found == [each for _, each in entries]


async def test_an_absent_key_is_none_in_its_own_place(opened: Open) -> None:
    async with opened(60) as cache:
        await cache.put_many([(key("here"), assessment(1))])
        found = await cache.get_many([key("gone-1"), key("here"), key("gone-2")])
    assert found == [None, assessment(1), None]


async def test_the_later_write_stands(opened: Open) -> None:
    async with opened(60) as cache:
        await cache.put_many([(key("twice"), assessment(1))])
        await cache.put_many([(key("twice"), assessment(2))])
        assert await cache.get_many([key("twice")]) == [assessment(2)]


async def test_an_empty_batch_is_no_error(opened: Open) -> None:
    async with opened(60) as cache:
        await cache.put_many([])
        assert await cache.get_many([]) == []


async def test_every_entry_ends_by_itself(opened: Open) -> None:
    async with opened(1) as cache:
        await cache.put_many([(key("short"), assessment(1))])
        assert await cache.get_many([key("short")]) == [assessment(1)]
        deadline = time.monotonic() + 10
        while await cache.get_many([key("short")]) != [None]:
            assert time.monotonic() < deadline, "an entry of one second was there after ten"
            await asyncio.sleep(0.1)


async def test_foreign_bytes_under_our_key_are_not_an_assessment(valkey: Valkey) -> None:
    cache = RedisCache(valkey.url, ttl_s=60, timeout_s=5)
    nan = codec.encode(Assessment((float("nan"), 0.0, 0.0), (), None, 1, 0, "g"))
    not_utf8 = codec.encode(assessment(1)).replace(b"PII", b"P\xff\xff")
    try:
        for foreign in (b"", b"\x00", b"\x01", b"\x02garbage", b"\x01" + b"x" * 40, nan, not_utf8):
            await cache._client.set(b"qw:a:" + key("foreign"), foreign)
            assert await cache.get_many([key("foreign")]) == [None]
    finally:
        await cache.close()


async def test_an_absent_redis_is_said_once_and_costs_one_timeout(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    with Valkey(Home(tmp_path_factory.mktemp("away"))) as part:
        behind = RedisCache(part.url, ttl_s=60, timeout_s=1)
        cache = SkippedWhenAway(behind, pause_s=5, clock=lambda: now[0])
        assert await cache.put_many([(key("kept"), assessment(1))])
        part.kill()
        for _ in range(50):
            assert await cache.get_many([key("kept")]) == [None]
            assert not await cache.put_many([(key("kept"), assessment(1))])
        said = [r.getMessage() for r in caplog.records if "is away" in r.getMessage()]
        assert len(said) == 2, "once for reads and once for writes"
        with pytest.raises(CacheUnavailable):
            await behind.get_many([key("kept")])

        part.start()
        now[0] = 6.0
        assert await cache.put_many([(key("back"), assessment(2))])
        assert await cache.get_many([key("back")]) == [assessment(2)]
        assert len([r for r in caplog.records if "is back" in r.getMessage()]) == 2
        await cache.close()


async def test_a_full_redis_is_not_read_any_more(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    with Valkey(Home(tmp_path_factory.mktemp("full"))) as part:
        behind = RedisCache(part.url, ttl_s=60, timeout_s=1)
        cache = SkippedWhenAway(behind, pause_s=5, clock=lambda: now[0])
        assert await cache.put_many([(key("kept"), assessment(1))])
        await behind._client.config_set("maxmemory", "1")
        for _ in range(4):
            now[0] += 6
            assert not await cache.put_many([(key("more"), assessment(2))])
            assert await cache.get_many([key("kept")]) == [assessment(1)]
        assert len([r for r in caplog.records if "is away for writes" in r.getMessage()]) == 1
        assert not [r for r in caplog.records if "is back" in r.getMessage()]
        await cache.close()


async def test_a_writer_that_falls_behind_drops_and_never_waits() -> None:
    class Stuck:
        def __init__(self) -> None:
            self.release = asyncio.Event()
            self.kept: list[bytes] = []

        async def get_many(self, keys: object) -> list[Assessment | None]:
            return []

        async def put_many(self, entries: list[tuple[bytes, Assessment]]) -> None:
            await self.release.wait()
            self.kept += [each for each, _ in entries]

        async def close(self) -> None: ...

    stuck = Stuck()
    writer = CacheWriter(SkippedWhenAway(stuck, pause_s=1), waiting=10, batch=5)  # type: ignore[arg-type]
    writer.put(key("0"), assessment(0))
    await asyncio.sleep(0)
    for n in range(1, 1000):
        writer.put(key(str(n)), assessment(n))
    stuck.release.set()
    await writer.close(5)
    assert key("0") in stuck.kept
    assert 10 <= len(stuck.kept) <= 11


async def test_a_fault_in_a_write_ends_all_later_writes() -> None:
    class Faulty(MemoryCache):
        async def put_many(self, entries: Sequence[tuple[bytes, Assessment]]) -> None:
            if entries[0][0] == key("0"):
                raise ZeroDivisionError
            await super().put_many(entries)

    behind = Faulty(100, 60)
    writer = CacheWriter(SkippedWhenAway(behind, pause_s=1), waiting=10, batch=1)
    writer.put(key("0"), assessment(0))
    writer.put(key("1"), assessment(1))
    await writer.close(5)
    assert await behind.get_many([key("0"), key("1")]) == [None, assessment(1)]


def test_the_least_recently_used_goes_first() -> None:
    cache = MemoryCache(2, 60)
    cache.put(b"a", assessment(1))
    cache.put(b"b", assessment(2))
    assert cache.get(b"a") is not None
    cache.put(b"c", assessment(3))
    assert cache.get(b"b") is None
    assert cache.get(b"a") == assessment(1)
