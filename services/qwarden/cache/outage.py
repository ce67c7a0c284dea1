"""A store that may be away: asked again after a while, and said once, not once a record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from qwarden import telemetry
from qwarden.cache.port import AssessmentCache, CacheUnavailable
from qwarden.guard.answer import Assessment

_log = logging.getLogger(__name__)


class Rest:
    """One kind of call to the store, left alone for `pause_s` after a failure."""

    def __init__(self, kind: str, pause_s: float, clock: Callable[[], float]) -> None:
        self._kind = kind
        self._pause_s = pause_s
        self._clock = clock
        self.again_at: float | None = None

    def may_ask(self) -> bool:
        return self.again_at is None or self._clock() >= self.again_at

    def failed(self, error: CacheUnavailable) -> None:
        if self.again_at is None:
            _log.warning("the cache is away for %s, going on without it: %s", self._kind, error)
        self.again_at = self._clock() + self._pause_s

    def answered(self) -> None:
        if self.again_at is not None:
            _log.warning("the cache is back for %s", self._kind)
            self.again_at = None


class SkippedWhenAway:
    """A cache in front of another that never raises: while it is away, nothing is found in it.

    After a failure it is left alone for `pause_s`, so that an outage costs one timeout in that
    time and not one a batch. Reads and writes apart: a Redis that is full, or a replica, still
    answers reads.
    """

    def __init__(
        self,
        behind: AssessmentCache,
        *,
        pause_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._behind = behind
        self._reads = Rest("reads", pause_s, clock)
        self._writes = Rest("writes", pause_s, clock)
        self._measure()

    async def get_many(self, keys: Sequence[bytes]) -> list[Assessment | None]:
        if not self._reads.may_ask():
            return [None] * len(keys)
        try:
            found = await self._behind.get_many(keys)
        except CacheUnavailable as error:
            self._reads.failed(error)
            self._measure()
            return [None] * len(keys)
        self._reads.answered()
        self._measure()
        return found

    async def put_many(self, entries: Sequence[tuple[bytes, Assessment]]) -> bool:
        """Whether they are kept now."""
        if not self._writes.may_ask():
            return False
        try:
            await self._behind.put_many(entries)
        except CacheUnavailable as error:
            self._writes.failed(error)
            self._measure()
            return False
        self._writes.answered()
        self._measure()
        return True

    def _measure(self) -> None:
        is_away = any(each.again_at is not None for each in (self._reads, self._writes))
        telemetry.BREAKER_OPEN.labels("redis").set(is_away)

    async def close(self) -> None:
        await self._behind.close()
