"""A store that may be away: asked again after a while, and said once, not once a record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from qwarden.cache.port import AssessmentCache, CacheUnavailable
from qwarden.guard.answer import Assessment

_log = logging.getLogger(__name__)


class SkippedWhenAway:
    """A cache in front of another that never raises: while it is away, nothing is found in it.

    After a failure it is left alone for `pause_s`, so that an outage costs one timeout in that
    time and not one a batch.
    """

    def __init__(
        self,
        behind: AssessmentCache,
        *,
        pause_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._behind = behind
        self._pause_s = pause_s
        self._clock = clock
        self._again_at: float | None = None

    @property
    def away(self) -> bool:
        return self._again_at is not None

    async def get_many(self, keys: Sequence[bytes]) -> list[Assessment | None]:
        if not self._may_ask():
            return [None] * len(keys)
        try:
            found = await self._behind.get_many(keys)
        except CacheUnavailable as error:
            self._went(error)
            return [None] * len(keys)
        self._came_back()
        return found

    async def put_many(self, entries: Sequence[tuple[bytes, Assessment]]) -> bool:
        """Whether they are kept now."""
        if not self._may_ask():
            return False
        try:
            await self._behind.put_many(entries)
        except CacheUnavailable as error:
            self._went(error)
            return False
        self._came_back()
        return True

    async def close(self) -> None:
        await self._behind.close()

    def _may_ask(self) -> bool:
        return self._again_at is None or self._clock() >= self._again_at

    def _went(self, error: CacheUnavailable) -> None:
        if self._again_at is None:
            _log.warning("the cache is away, going on without it: %s", error)
        self._again_at = self._clock() + self._pause_s

    def _came_back(self) -> None:
        if self._again_at is not None:
            _log.warning("the cache is back")
            self._again_at = None
