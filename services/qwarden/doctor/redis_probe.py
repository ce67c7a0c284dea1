"""What the shared cache says of itself, and whether an assessment comes back from it."""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from qwarden.cache import connecting
from qwarden.cache.opening import open_cache
from qwarden.cache.port import CacheUnavailable
from qwarden.doctor import caches, clocks
from qwarden.doctor.finding import Findings
from qwarden.guard.answer import Assessment
from qwarden.redis_address import read_address
from qwarden.settings import Redis

_ASKED = 20
"""Of so many questions the median is told."""
_ANSWER_S = 5.0
"""How long one is waited for here: longer than the services do, to say how slow it is."""
_KEPT_S = 5
"""How long what is written for a trial stays."""

Unreachable = (RedisError, OSError, TimeoutError)


async def look_at_cache(found: Findings, redis: Redis) -> None:
    """`redis.url` must be there."""
    assert redis.url is not None
    address = read_address(redis.url.get_secret_value())
    where = {"single": "server", "sentinel": "Sentinel", "cluster": "cluster"}[address.kind]
    try:
        if address.kind != "cluster":
            async with _client(redis) as client:
                info = await client.info()
                took = []
                for _ in range(_ASKED):
                    began = time.perf_counter()
                    await client.ping()
                    took.append(time.perf_counter() - began)
            caches.judge(
                found,
                where,
                info,
                answer_s=statistics.median(took),
                timeout_s=redis.timeout_s,
            )
        await _try_out(found, redis)
    except (AuthenticationError, NoPermissionError) as error:
        found.wrong(
            where,
            f"it does not let this user do what the cache needs ({error}); allow MGET, SET, "
            "EVALSHA, SCRIPT LOAD, INFO and TIME, on keys qw:*; the password stands in "
            "QWARDEN_REDIS__URL",
        )
    except Unreachable as error:
        found.away(
            where,
            f"it does not answer ({error}); the fleet judges on without it, each text anew: is "
            "QWARDEN_REDIS__URL right, and the server up?",
        )


async def _try_out(found: Findings, redis: Redis) -> None:
    """Writes an assessment that nobody asks for, and reads it, as the services do."""
    assert redis.url is not None
    cache = open_cache(
        redis.url.get_secret_value(),
        ttl_s=_KEPT_S,
        timeout_s=_ANSWER_S,
        pause_s=redis.pause_s,
        certificates=redis.certificates,
    )
    key = secrets.token_bytes(16)
    written = Assessment((1.0, 0.0, 0.0), (), None, 1, 0, "doctor")
    try:
        await cache.put_many([(key, written)])
        [read] = await cache.get_many([key])
    except CacheUnavailable as error:
        found.wrong("round trip", f"an assessment cannot be written and read: {error}")
        return
    finally:
        await cache.close()
    if read is None or read.revision != written.revision:
        found.wrong(
            "round trip",
            "an assessment that was written is not there a moment later; see maxmemory and its "
            "policy, and whether reads go to a replica",
        )
    else:
        found.good("round trip", "an assessment was written and read")


async def look_at_clock(found: Findings, redis: Redis) -> None:
    """The server's clock, beside ours."""
    assert redis.url is not None
    if read_address(redis.url.get_secret_value()).kind == "cluster":
        return
    async with _client(redis) as client:
        sent = time.time()
        seconds, microseconds = await client.time()
        came = time.time()
    said = seconds + microseconds / 1_000_000
    clocks.judge(found, clocks.reading("Redis", sent=sent, said=said, came=came))


@asynccontextmanager
async def _client(redis: Redis) -> AsyncIterator[Any]:
    assert redis.url is not None
    client, *beside = connecting.open_clients(
        redis.url.get_secret_value(), _ANSWER_S, redis.certificates
    )
    try:
        await client.ping()
        yield client
    finally:
        for each in (client, *beside):
            await each.aclose()
