"""Sentinels and clusters while their servers die and slots move: misses, never errors for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from contract.test_cache_port import assessment, key
from qwarden.cache.cluster import ClusterCache
from qwarden.cache.codec import PREFIX
from qwarden.cache.opening import open_cache
from qwarden.cache.outage import SkippedWhenAway
from qwarden.cache.port import AssessmentCache, CacheUnavailable
from qwarden.guard.answer import Assessment
from qwarden.stack.home import Home
from qwarden.stack.ports import free_ports
from qwarden.stack.valkey import Valkey
from valkeys import SLOTS, Cluster, Watched

ENTRIES = [(key(f"entry-{n}"), assessment(n)) for n in range(60)]
KEYS = [each for each, _ in ENTRIES]
PAUSE_S = 0.5


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as part:
        yield part


@pytest.fixture
async def cache(cluster: Cluster) -> AsyncIterator[AssessmentCache]:
    made = opened(cluster.url)
    yield made
    await made.close()


def opened(url: str) -> AssessmentCache:
    return open_cache(url, ttl_s=60, timeout_s=2, pause_s=PAUSE_S)


def owner(of: bytes) -> int:
    """Which of three nodes a key's slot is given to at first."""
    return min(key_slot(PREFIX + of) // (SLOTS // 3), 2)


async def until(
    cache: AssessmentCache, good: Callable[[Sequence[Assessment | None]], bool], what: str
) -> None:
    """Writes and reads until what is found is good; no call may fail on the way."""

    async def found() -> Sequence[Assessment | None]:
        await cache.put_many(ENTRIES)
        return await cache.get_many(KEYS)

    await holds(found, good, what)


async def holds(
    ask: Callable[[], Awaitable[Sequence[Assessment | None]]],
    good: Callable[[Sequence[Assessment | None]], bool],
    what: str,
) -> None:
    deadline = time.monotonic() + 60
    while not good(await ask()):
        assert time.monotonic() < deadline, f"not within a minute: {what}"
        await asyncio.sleep(0.1)


def all_found(found: Sequence[Assessment | None]) -> bool:
    return list(found) == [each for _, each in ENTRIES]


async def test_a_batch_costs_each_owner_one_request(
    cluster: Cluster, cache: AssessmentCache
) -> None:
    await cache.put_many(ENTRIES)

    def reads() -> list[int]:
        return [cluster.client(n).info("stats")["total_reads_processed"] for n in range(3)]

    before = reads()
    for _ in range(10):
        assert all_found(await cache.get_many(KEYS))
    rounds = [after - was for after, was in zip(reads(), before, strict=True)]
    # Beside the ten: what the question itself costs, and what the nodes say to one another.
    assert all(10 <= each < 100 for each in rounds), rounds


async def test_a_node_that_dies_costs_its_own_keys_and_no_others(
    cluster: Cluster, cache: AssessmentCache, caplog: pytest.LogCaptureFixture
) -> None:
    await cache.put_many(ENTRIES)
    assert all_found(await cache.get_many(KEYS))
    cluster.nodes[1].kill()
    for _ in range(20):
        found = await cache.get_many(KEYS)
        await cache.put_many(ENTRIES)
        assert found == [None if owner(each) == 1 else of for each, of in ENTRIES]
    said = [r.getMessage() for r in caplog.records if "is away for reads" in r.getMessage()]
    assert len(said) == 1 and str(cluster.nodes[1].port) in said[0], said
    cluster.nodes[1].start()
    await until(cache, all_found, "the node that is back is read and written again")


async def test_a_node_that_hangs_costs_one_time_out_in_a_pause(
    cluster: Cluster, tmp_path: Path
) -> None:
    now = [0.0]
    cache = ClusterCache(cluster.url, ttl_s=60, timeout_s=0.5, pause_s=30, clock=lambda: now[0])
    try:
        await cache.put_many(ENTRIES)
        child = cluster.nodes[2].child
        child.signal(19)  # SIGSTOP
        began = time.monotonic()
        for _ in range(100):
            found = await cache.get_many(KEYS)
        took_s = time.monotonic() - began
        child.signal(18)  # SIGCONT
        assert found == [None if owner(each) == 2 else of for each, of in ENTRIES]
        assert took_s < 25, "a time-out for each batch would take 50 s"
    finally:
        await cache.close()


async def test_a_key_that_has_moved_is_a_miss_and_its_new_owner_is_learned(
    cluster: Cluster, cache: AssessmentCache
) -> None:
    moved = next(each for each in KEYS if owner(each) == 0)
    slot = key_slot(PREFIX + moved)
    assert await cache.get_many(KEYS) == [None] * len(KEYS)
    new = cluster.identity(2)
    for node in (2, 0, 1):
        cluster.client(node).execute_command("CLUSTER", "SETSLOT", slot, "NODE", new)
    assert await cache.get_many([moved]) == [None]
    await until(cache, all_found, "the new owner is asked")
    assert cluster.client(2).exists(PREFIX + moved)


async def test_a_key_that_is_on_its_way_is_a_miss(cluster: Cluster, cache: AssessmentCache) -> None:
    moving = next(each for each in KEYS if owner(each) == 0)
    slot = key_slot(PREFIX + moving)
    importing, migrating = cluster.client(1), cluster.client(0)
    importing.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.identity(0))
    migrating.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.identity(1))
    with pytest.raises(Exception, match=f"{slot} "):  # what a node says of it: ASK
        migrating.get(PREFIX + moving)
    for _ in range(3):
        await cache.put_many(ENTRIES)
        found = await cache.get_many(KEYS)
    asked = [each for each in KEYS if key_slot(PREFIX + each) != slot]
    assert [of for each, of in zip(KEYS, found, strict=True) if each in asked] == [
        of for each, of in ENTRIES if each in asked
    ]
    assert found[KEYS.index(moving)] is None


async def test_a_replica_that_takes_its_owners_place_is_found(
    cluster: Cluster, cache: AssessmentCache, tmp_path: Path
) -> None:
    settings = {"cluster-enabled": "yes", "cluster-node-timeout": "1000"}
    (tmp_path / "replica").mkdir()
    with Valkey(Home(tmp_path / "replica"), settings=settings) as replica:
        cluster.join(replica, of=0)
        await until(cache, all_found, "everything is kept")
        cluster.nodes[0].kill()
        await until(cache, all_found, "the replica is asked in its owner's place")


async def test_a_cluster_that_is_away_is_said_once_and_found_again(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cache = SkippedWhenAway(opened(cluster.url), pause_s=PAUSE_S)
    assert await cache.put_many(ENTRIES)
    for node in cluster.nodes:
        node.kill()
    for _ in range(50):
        assert await cache.get_many(KEYS) == [None] * len(KEYS)
        assert not await cache.put_many(ENTRIES)
    away = [r.getMessage() for r in caplog.records if "no node of the cluster" in r.getMessage()]
    assert len(away) == 2, "once for reads and once for writes"
    for node in cluster.nodes:
        node.start()

    async def found() -> Sequence[Assessment | None]:
        await cache.put_many(ENTRIES)
        return await cache.get_many(KEYS)

    await holds(found, all_found, "the cluster that is back is used again")
    await cache.close()


async def test_a_server_without_a_cluster_is_told_from_one(tmp_path: Path) -> None:
    with Valkey(Home(tmp_path)) as alone:
        cache = opened(f"redis+cluster://127.0.0.1:{alone.port}")
        with pytest.raises(CacheUnavailable, match="cluster support disabled"):
            await cache.get_many(KEYS)
        await cache.close()


async def test_a_failover_of_a_sentinel_is_followed(tmp_path: Path) -> None:
    with Watched(tmp_path, password="secret") as watched:
        cache = SkippedWhenAway(opened(watched.url), pause_s=PAUSE_S)
        assert await cache.put_many(ENTRIES)
        assert all_found(await cache.get_many(KEYS))
        watched.first.kill()

        async def found() -> Sequence[Assessment | None]:
            kept = await cache.put_many(ENTRIES)
            return await cache.get_many(KEYS) if kept else []

        await holds(found, all_found, "the replica is written in the first server's place")
        await cache.close()


async def test_a_service_that_no_sentinel_knows_is_named(tmp_path: Path) -> None:
    with Watched(tmp_path) as watched:
        cache = opened(watched.url.replace("/fleet", "/another"))
        with pytest.raises(CacheUnavailable, match="'another'"):
            await cache.get_many(KEYS)
        await cache.close()


async def test_sentinels_that_are_away_are_told_as_objects_and_without_a_cause(
    tmp_path: Path,
) -> None:
    first, second = free_ports(2)
    cache = opened(f"redis+sentinel://:secret@127.0.0.1:{first},127.0.0.1:{second}/fleet")
    with pytest.raises(CacheUnavailable) as raised:
        await cache.get_many(KEYS)
    await cache.close()
    said = str(raised.value)
    assert said.startswith(
        "Redis does not answer: no Sentinel of QWARDEN_REDIS__URL names a server for 'fleet' that "
        "is up; the last that was asked: Error 111 connecting to "
    ), said
    assert str(second) in said
    assert "object" not in said and "<" not in said, said


@pytest.mark.parametrize("scheme", ["redis+sentinel", "redis+cluster"])
async def test_each_of_many_servers_that_hang_costs_a_time_out(scheme: str) -> None:
    asked = 0

    def took(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1

    hanging = [await asyncio.start_server(took, "127.0.0.1", 0) for _ in range(8)]
    servers = ",".join(f"127.0.0.1:{each.sockets[0].getsockname()[1]}" for each in hanging)
    path = "/fleet" if scheme == "redis+sentinel" else ""
    cache = open_cache(f"{scheme}://{servers}{path}", ttl_s=60, timeout_s=0.2, pause_s=1)
    for _ in range(2):
        with pytest.raises(CacheUnavailable):
            await cache.get_many(KEYS)
        assert asked <= 4, "all of them are waited for by one batch"
    await cache.close()
    for each in hanging:
        each.close()


async def test_batches_that_come_first_at_once_each_ask_who_owns_what(
    cluster: Cluster, cache: AssessmentCache
) -> None:
    await asyncio.gather(*(cache.get_many(KEYS) for _ in range(20)))
    asked = [cluster.client(n).info("commandstats") for n in range(3)]
    assert sum(each.get("cmdstat_cluster|slots", {"calls": 0})["calls"] for each in asked) == 1


async def test_a_cluster_that_was_met_while_it_forms_stays_half_used(cluster: Cluster) -> None:
    third = SLOTS // 3
    for node in range(3):
        cluster.client(node).execute_command("CLUSTER", "DELSLOTSRANGE", third, 2 * third - 1)
    cache = opened(cluster.url)
    await cache.put_many(ENTRIES)
    assert await cache.get_many(KEYS) == [None if owner(each) == 1 else of for each, of in ENTRIES]
    cluster.client(1).execute_command("CLUSTER", "ADDSLOTSRANGE", third, 2 * third - 1)
    await until(cache, all_found, "the slots that have got their owner are used")
    await cache.close()


RIGHTS = {
    "redis": ("+mget", "+evalsha", "+script|load", "+set"),
    "redis+cluster": ("+get", "+set", "+cluster|slots"),
}
"""What docs/platforms.md says that an account needs."""


@pytest.mark.parametrize("scheme", RIGHTS)
async def test_an_account_with_the_rights_that_the_page_names_is_enough(
    tmp_path: Path, scheme: str
) -> None:
    def allow(client: Any) -> None:
        client.execute_command(
            "ACL", "SETUSER", "fleet", "on", ">secret", "~qw:a:*", *RIGHTS[scheme]
        )

    async def holds_all(server: str) -> None:
        cache = opened(f"{scheme}://fleet:secret@{server}")
        await cache.put_many(ENTRIES)
        assert all_found(await cache.get_many(KEYS))
        await cache.close()

    page = (Path(__file__).parents[2] / "docs" / "platforms.md").read_text(encoding="utf-8")
    assert " ".join(("~qw:a:*", *RIGHTS[scheme])) in page
    if scheme == "redis":
        with Valkey(Home(tmp_path)) as alone:
            allow(redis.Redis(port=alone.port))
            await holds_all(f"127.0.0.1:{alone.port}")
    else:
        with Cluster(tmp_path) as three:
            for node in range(3):
                allow(three.client(node))
            await holds_all(three.url.rpartition("/")[2])
