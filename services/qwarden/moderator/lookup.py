"""An assessment for each row, from the nearest place that has it.

This process, then Redis for all that is left of a batch in one round trip, then the guard. Equal
rows that are in flight at the same time are asked for once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qwarden import telemetry
from qwarden.cache.memory import MemoryCache
from qwarden.cache.outage import SkippedWhenAway
from qwarden.cache.writer import CacheWriter
from qwarden.contracts.keys import ContentKey
from qwarden.guard.answer import Answer, Assessment
from qwarden.guard.row import View
from qwarden.inference.dispatch import Dispatcher, Judged


@dataclass(frozen=True, slots=True)
class Wanted:
    """One row to be looked up: its bytes, the hash and the views that they hold, and whose cache
    it may use."""

    row: bytes
    content_hash: bytes
    views: tuple[View, ...]
    scope: str


@dataclass(frozen=True, slots=True)
class Found:
    """An answer: from `memory`, `redis`, `joined` or `miss`, with the seconds it took there."""

    answer: Answer
    place: str
    queue_s: float = 0.0
    model_s: float = 0.0


OnFound = Callable[[int, Found], None]


class Lookup:
    """Finds answers for batches of rows. `shared` and `writer` are None without Redis."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        keys: ContentKey,
        memory: MemoryCache,
        shared: SkippedWhenAway | None,
        writer: CacheWriter | None,
    ) -> None:
        self._dispatcher = dispatcher
        self._keys = keys
        self._memory = memory
        self._shared = shared
        self._writer = writer
        self._in_flight: dict[bytes, asyncio.Future[Found]] = {}

    async def find(self, wanted: Sequence[Wanted], on_found: OnFound) -> None:
        """Calls `on_found` once for each row, by its index, in any order, as answers come.

        Waits through outages of the guard. Raises what the guard raises beside them, and what
        `on_found` raises.
        """
        failures: list[Exception] = []
        revision = await self._dispatcher.revision()
        waits: list[asyncio.Future[Found]] = []
        asked: list[tuple[bytes, Wanted]] = []
        counts = {"memory": 0, "joined": 0}
        for index, want in enumerate(wanted):
            key = self._key(want, revision)
            kept = self._memory.get(key)
            if kept is not None:
                counts["memory"] += 1
                on_found(index, Found(kept, "memory"))
                continue
            future = self._in_flight.get(key)
            if future is None:
                future = asyncio.get_running_loop().create_future()
                self._in_flight[key] = future
                asked.append((key, want))
                future.add_done_callback(_tell(on_found, index, None, failures))
            else:
                counts["joined"] += 1
                future.add_done_callback(_tell(on_found, index, "joined", failures))
            waits.append(future)
        for place, count in counts.items():
            telemetry.LOOKUPS.labels(place).inc(count)
        if asked:
            await self._ask(asked, revision)
        await asyncio.gather(*waits)
        if failures:
            raise failures[0]

    async def _ask(self, asked: list[tuple[bytes, Wanted]], revision: str) -> None:
        """Resolves the futures of these keys, from Redis or by the guard."""
        try:
            missing = await self._read_shared(asked)
        except BaseException as error:
            for key, _ in asked:
                self._in_flight.pop(key).set_exception(error)
            raise
        telemetry.LOOKUPS.labels("miss").inc(len(missing))
        rows = self._dispatcher.submit([want.row for _, want in missing])
        for (key, want), row in zip(missing, rows, strict=True):
            row.add_done_callback(self._judged(key, want, revision))

    async def _read_shared(self, asked: list[tuple[bytes, Wanted]]) -> list[tuple[bytes, Wanted]]:
        if self._shared is None:
            return asked
        started = time.monotonic()
        found = await self._shared.get_many([key for key, _ in asked])
        telemetry.CACHE_SECONDS.observe(time.monotonic() - started)
        missing = []
        for (key, want), kept in zip(asked, found, strict=True):
            if kept is None:
                missing.append((key, want))
            else:
                self._memory.put(key, kept)
                self._in_flight.pop(key).set_result(Found(kept, "redis"))
        telemetry.LOOKUPS.labels("redis").inc(len(asked) - len(missing))
        return missing

    def _judged(
        self, key: bytes, want: Wanted, revision: str
    ) -> Callable[[asyncio.Future[Judged]], None]:
        def resolve(row: asyncio.Future[Judged]) -> None:
            waiting = self._in_flight.pop(key)
            if row.cancelled():
                waiting.cancel()
                return
            error = row.exception()
            if error is not None:
                waiting.set_exception(error)
                return
            judged = row.result()
            waiting.set_result(Found(judged.answer, "miss", judged.queue_s, judged.model_s))
            if isinstance(judged.answer, Assessment):
                self._keep(key, want, judged.answer, revision)

        return resolve

    def _key(self, want: Wanted, revision: str) -> bytes:
        return self._keys.cache_key(
            want.content_hash, views=want.views, scope=want.scope, revision=revision
        )

    def _keep(self, key: bytes, want: Wanted, assessment: Assessment, revision: str) -> None:
        """Keeps an assessment under the revision that gave it, which may be newer than asked."""
        if assessment.revision != revision:
            key = self._key(want, assessment.revision)
        self._memory.put(key, assessment)
        if self._writer is not None:
            # Queued behind the verdicts of this batch, which the loop runs first.
            asyncio.get_running_loop().call_soon(self._writer.put, key, assessment)


def _tell(
    on_found: OnFound, index: int, place: str | None, failures: list[Exception]
) -> Callable[[asyncio.Future[Found]], None]:
    def tell(future: asyncio.Future[Found]) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        found = future.result()
        if place is not None:
            found = Found(found.answer, place, found.queue_s, found.model_s)
        try:
            on_found(index, found)
        except Exception as error:  # a future's callback has nobody to raise to
            failures.append(error)

    return tell
