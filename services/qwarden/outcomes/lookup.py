"""An assessment for each row, from the nearest place that has it.

This process, then Redis for all that is left of a batch in one round trip, then the guard. Equal
rows that are in flight at the same time are asked for once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec

from qwarden import telemetry
from qwarden.cache.memory import MemoryCache
from qwarden.cache.outage import SkippedWhenAway
from qwarden.cache.writer import CacheWriter
from qwarden.contracts.keys import ContentKey
from qwarden.guard.answer import Answer, Assessment
from qwarden.guard.row import View
from qwarden.inference.dispatch import Dispatcher, Judged


class Wanted(msgspec.Struct, frozen=True):
    """One row to be looked up: its bytes, the hash and the views that they hold, and whose cache
    it may use."""

    row: bytes
    content_hash: bytes
    views: tuple[View, ...]
    scope: str


class Found(msgspec.Struct, frozen=True):
    """An answer: from `memory`, `redis`, `joined` or `miss`, with the seconds it took there."""

    answer: Answer
    place: str
    queue_s: float = 0.0
    model_s: float = 0.0


OnFound = Callable[[int, Found], None]


class _Search:
    """The rows of one `find`, until all of their answers are here."""

    __slots__ = ("_done", "_error", "_left", "_on_found")

    def __init__(self, rows: int, on_found: OnFound) -> None:
        self._on_found = on_found
        self._left = rows
        self._error: BaseException | None = None
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell(self, index: int, found: Found) -> None:
        """Takes an answer. A fault of `on_found` is for its own search alone, and kept from the
        others that wait for the same row."""
        if self._done.cancelled():
            return
        try:
            self._on_found(index, found)
        except Exception as error:
            self._error = self._error or error
        self._left -= 1
        if not self._left:
            self._end()

    def fail(self, error: BaseException) -> None:
        """There will be no answer."""
        self._error = self._error or error
        self._end()

    def _end(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    async def wait(self) -> None:
        """Until all is told, or it failed. Raises what failed."""
        if self._left:
            await self._done
        if self._error is not None:
            raise self._error


_Waiting = tuple[_Search, int, str | None]
"""Who waits for a row, by which index, and from which place its answer will be, where it is not
that of the answer."""


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
        self._in_flight: dict[bytes, list[_Waiting]] = {}

    async def find(self, wanted: Sequence[Wanted], on_found: OnFound) -> None:
        """Calls `on_found` once for each row, by its index, in any order, as answers come.

        Waits through outages of the guard. Raises what the guard raises beside them, and what
        `on_found` raises.
        """
        revision = await self._dispatcher.revision()
        search = _Search(len(wanted), on_found)
        asked: list[tuple[bytes, Wanted]] = []
        counts = {"memory": 0, "joined": 0}
        for index, want in enumerate(wanted):
            key = self._key(want, revision)
            kept = self._memory.get(key)
            if kept is not None:
                counts["memory"] += 1
                search.tell(index, Found(kept, "memory"))
                continue
            waiting = self._in_flight.get(key)
            if waiting is None:
                self._in_flight[key] = [(search, index, None)]
                asked.append((key, want))
            else:
                counts["joined"] += 1
                waiting.append((search, index, "joined"))
        for place, count in counts.items():
            telemetry.LOOKUPS.labels(place).inc(count)
        if asked:
            await self._ask(asked, revision)
        await search.wait()

    async def _ask(self, asked: list[tuple[bytes, Wanted]], revision: str) -> None:
        """Has the searches of these keys told, from Redis or by the guard."""
        try:
            missing = await self._read_shared(asked)
        except BaseException as error:
            for key, _ in asked:
                self._fail(key, error)
            raise
        telemetry.LOOKUPS.labels("miss").inc(len(missing))

        def judged(index: int, said: Judged | Exception) -> None:
            key, want = missing[index]
            if isinstance(said, Exception):
                self._fail(key, said)
                return
            answer = said.answer
            self._tell(key, Found(answer, "miss", said.queue_s, said.model_s))
            if isinstance(answer, Assessment):
                self._keep(key, want, answer, revision)

        self._dispatcher.ask([want.row for _, want in missing], judged)

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
                self._tell(key, Found(kept, "redis"))
        telemetry.LOOKUPS.labels("redis").inc(len(asked) - len(missing))
        return missing

    def _tell(self, key: bytes, found: Found) -> None:
        for search, index, place in self._in_flight.pop(key):
            if place is None:
                search.tell(index, found)
            else:
                search.tell(index, Found(found.answer, place, found.queue_s, found.model_s))

    def _fail(self, key: bytes, error: BaseException) -> None:
        for search, _, _ in self._in_flight.pop(key):
            search.fail(error)

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
            self._writer.put(key, assessment)
