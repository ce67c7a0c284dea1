"""Writes to the shared cache, off the path of verdicts: dropped when it falls behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque

from qwarden import telemetry
from qwarden.cache.outage import SkippedWhenAway
from qwarden.guard.answer import Assessment

_log = logging.getLogger(__name__)


class CacheWriter:
    """Keeps at most `waiting` entries in its queue and writes `batch` of them at a time."""

    def __init__(self, cache: SkippedWhenAway, *, waiting: int, batch: int) -> None:
        self._cache = cache
        self._batch = batch
        self._queue: deque[tuple[bytes, Assessment]] = deque()
        self._waiting = waiting
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task = asyncio.create_task(self._run(), name="cache-writer")

    def put(self, key: bytes, assessment: Assessment) -> None:
        """Queues one entry, or drops it: what is dropped is judged again, never wrong."""
        if len(self._queue) >= self._waiting:
            telemetry.CACHE_WRITES.labels("dropped").inc()
            return
        self._queue.append((key, assessment))
        self._idle.clear()
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                size = min(self._batch, len(self._queue))
                entries = [self._queue.popleft() for _ in range(size)]
                try:
                    kept = await self._cache.put_many(entries)
                except Exception as error:  # a fault of ours: what is dropped is judged again
                    _log.error("the cache is not written: %s", type(error).__name__)
                    kept = False
                telemetry.CACHE_WRITES.labels("kept" if kept else "dropped").inc(len(entries))
            self._idle.set()

    async def close(self, budget_s: float) -> None:
        """Writes what waits, within the budget, and ends."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), budget_s)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
