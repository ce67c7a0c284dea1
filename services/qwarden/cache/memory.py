"""Assessments in this process: least recently used first out."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from qwarden.guard.answer import Assessment


class MemoryCache:
    """At most `entries` assessments, each for `ttl_s` seconds.

    An assessment takes about 500 bytes (measured with tracemalloc), so 100,000 take 50 MB.
    """

    def __init__(
        self, entries: int, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._entries = entries
        self._ttl_s = ttl_s
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[float, Assessment]] = OrderedDict()

    def get(self, key: bytes) -> Assessment | None:
        found = self._kept.get(key)
        if found is None:
            return None
        ends, assessment = found
        if ends <= self._clock():
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return assessment

    def put(self, key: bytes, assessment: Assessment) -> None:
        self._kept[key] = (self._clock() + self._ttl_s, assessment)
        self._kept.move_to_end(key)
        if len(self._kept) > self._entries:
            self._kept.popitem(last=False)

    async def get_many(self, keys: Sequence[bytes]) -> list[Assessment | None]:
        return [self.get(key) for key in keys]

    async def put_many(self, entries: Sequence[tuple[bytes, Assessment]]) -> None:
        for key, assessment in entries:
            self.put(key, assessment)

    async def close(self) -> None:
        self._kept.clear()
