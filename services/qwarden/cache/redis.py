"""Assessments in Redis 6 or later, or Valkey: shared by all moderators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis.asyncio as redis
from redis.exceptions import RedisError

from qwarden.cache import codec
from qwarden.cache.port import CacheUnavailable
from qwarden.guard.answer import Assessment

_PREFIX = b"qw:a:"

# One call for a whole batch: a pipelined SET with EX costs 13 µs a key on the client, a script's
# arguments cost a fraction of that.
_PUT = """
for i = 1, #KEYS do
  redis.call('SET', KEYS[i], ARGV[i + 1], 'EX', ARGV[1])
end
return #KEYS
"""


class RedisCache:
    """One round trip a batch to read (MGET), one to write (a script).

    `timeout_s` bounds each of them; it is short, since judging anew costs some ten milliseconds.
    """

    def __init__(self, url: str, *, ttl_s: int, timeout_s: float) -> None:
        self._ttl_s = ttl_s
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=None,
        )
        self._put = self._client.register_script(_PUT)

    async def get_many(self, keys: Sequence[bytes]) -> list[Assessment | None]:
        if not keys:
            return []
        try:
            values: list[Any] = await self._client.mget([_PREFIX + key for key in keys])
        except (RedisError, OSError, TimeoutError) as error:
            raise CacheUnavailable(f"Redis does not answer: {error}") from error
        return [codec.decode(value) for value in values]

    async def put_many(self, entries: Sequence[tuple[bytes, Assessment]]) -> None:
        if not entries:
            return
        keys = [_PREFIX + key for key, _ in entries]
        values = [codec.encode(assessment) for _, assessment in entries]
        try:
            await self._put(keys=keys, args=[self._ttl_s, *values])
        except (RedisError, OSError, TimeoutError) as error:
            raise CacheUnavailable(f"Redis does not answer: {error}") from error

    async def close(self) -> None:
        await self._client.aclose()
