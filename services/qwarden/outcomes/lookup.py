"""An assessment for each row, from the nearest place that has it.

This process, then Redis for all that is left of a batch in one round trip, then the guard. Equal
rows that are in flight at the same time are asked for once.

The guard's answer can move a little with what else is in its batch. One whose score is so near a
number of the policy's that this may decide is looked up once more, `exact`: the guard judges it
alone, in one fixed shape, and that answer replaces the other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec
from opentelemetry.trace import SpanContext
from prometheus_client import Counter

from qwarden import telemetry
from qwarden.cache.memory import MemoryCache
from qwarden.cache.outage import SkippedWhenAway
from qwarden.cache.writer import CacheWriter
from qwarden.contracts.keys import ContentKey
from qwarden.guard.answer import Answer, Assessment
from qwarden.guard.row import View, tail_of
from qwarden.inference.dispatch import Dispatcher, Judged
from qwarden.policy.policy import Policy

_EXACT_TAIL = tail_of((View.AS_SENT,), exact=True)
"""Instead of a row's last brace, where it names its views already."""
_ROUNDED = 0.001
"""Policies read scores of three decimals: so far may rounding carry a sum of two."""


class Wanted(msgspec.Struct, frozen=True):
    """One row to be looked up: its bytes, the hash and the views that they hold, whose cache it may
    use, the policy that reads the answer, where that may ask for an exact one, and what the spans
    of its record hang on, where it is traced."""

    row: bytes
    content_hash: bytes
    views: tuple[View, ...]
    scope: str
    policy: Policy | None = None
    is_exact: bool = False
    trace: SpanContext | None = None


class Found(msgspec.Struct, frozen=True):
    """An answer: from `memory`, `redis`, `joined` or `miss`, with the seconds it took there, and
    those of the shared cache's read before it; when it was there, where that took any time, and the
    span of the request that gave it, where that is traced."""

    answer: Answer
    place: str
    queue_s: float = 0.0
    model_s: float = 0.0
    read_s: float = 0.0
    ended: float = 0.0
    span: SpanContext | None = None


OnFound = Callable[[int, Found], None]


class _Search:
    """The rows of one `find`, until all of their answers are here. `bound`: as `Lookup` has it."""

    __slots__ = ("_bound", "_error", "_is_over", "_left", "_near", "_on_found", "_wake", "wanted")

    def __init__(self, wanted: Sequence[Wanted], bound: float, on_found: OnFound) -> None:
        self.wanted = list(wanted)
        self._bound = bound
        self._on_found = on_found
        self._left = len(wanted)
        self._near: list[int] = []
        self._error: BaseException | None = None
        self._is_over = False
        self._wake = asyncio.Event()

    def tell(self, index: int, found: Found) -> None:
        """Takes an answer, or keeps its row to be asked for exactly. A fault of `on_found` is for
        its own search alone, and kept from the others that wait for the same row."""
        if self._is_over:
            return
        want = self.wanted[index]
        if self._bound and self._is_near(want, found.answer):
            self.wanted[index] = msgspec.structs.replace(
                want, row=want.row[:-1] + _EXACT_TAIL, is_exact=True
            )
            self._near.append(index)
            self._wake.set()
            return
        try:
            self._on_found(index, found)
        except Exception as error:
            self._error = self._error or error
        self._left -= 1
        if not self._left:
            self._wake.set()

    def fail(self, error: BaseException) -> None:
        """There will be no answer."""
        self._error = self._error or error
        self._left = 0
        self._is_over = True
        self._wake.set()

    async def near(self) -> list[int]:
        """The next rows that are to be asked for exactly, all that are known by now; none when all
        is told. Raises what failed."""
        while self._left and not self._near:
            self._wake.clear()
            await self._wake.wait()
        if not self._left and self._error is not None:
            raise self._error
        near, self._near = self._near, []
        return near

    def end(self) -> None:
        """Nobody waits any more."""
        self._is_over = True

    def _is_near(self, want: Wanted, answer: Answer) -> bool:
        policy = want.policy
        if policy is None or want.is_exact or not policy.thresholds:
            return False
        return isinstance(answer, Assessment) and policy.is_near(
            answer.scores, self._bound + _ROUNDED
        )


_Waiting = tuple[_Search, int, str | None]
"""Who waits for a row, by which index, and from which place its answer will be, where it is not
that of the answer."""


class Lookup:
    """Finds answers for batches of rows. `shared` and `writer` are None without Redis.
    `exact_bound`: the most that a batch moves a score by; 0 where it moves none."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        keys: ContentKey,
        memory: MemoryCache,
        shared: SkippedWhenAway | None,
        writer: CacheWriter | None,
        *,
        exact_bound: float = 0.0,
    ) -> None:
        self._dispatcher = dispatcher
        self._keys = keys
        self._memory = memory
        self._shared = shared
        self._writer = writer
        self._exact_bound = exact_bound
        self._in_flight: dict[bytes, list[_Waiting]] = {}

    async def find(self, wanted: Sequence[Wanted], on_found: OnFound) -> None:
        """Calls `on_found` once for each row, by its index, in any order, as answers come.

        Waits through outages of the guard. Raises what the guard raises beside them, and what
        `on_found` raises.
        """
        revision = await self._dispatcher.revision()
        search = _Search(wanted, self._exact_bound, on_found)
        try:
            await self._look(search, range(len(wanted)), revision, telemetry.LOOKUPS)
            while near := await search.near():
                await self._look(search, near, revision, telemetry.EXACT)
        finally:
            search.end()

    async def _look(
        self, search: _Search, indices: Iterable[int], revision: str, counted: Counter
    ) -> None:
        """Has the search told of these of its rows, from wherever the answers are."""
        asked: list[tuple[bytes, Wanted]] = []
        counts = {"memory": 0, "joined": 0}
        for index in indices:
            want = search.wanted[index]
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
            counted.labels(place).inc(count)
        if asked:
            await self._ask(asked, revision, counted)

    async def _ask(
        self, asked: list[tuple[bytes, Wanted]], revision: str, counted: Counter
    ) -> None:
        """Has the searches of these keys told, from Redis or by the guard."""
        try:
            missing, read_s = await self._read_shared(asked, counted)
        except asyncio.CancelledError:
            # This search has ended, and those that have joined it go on: by the guard.
            joined = []
            for key, want in asked:
                if len(self._in_flight[key]) > 1:
                    joined.append((key, want))
                else:
                    del self._in_flight[key]
            self._judge(joined, revision, counted)
            raise
        except BaseException as error:
            for key, _ in asked:
                self._fail(key, error)
            raise
        self._judge(missing, revision, counted, read_s)

    def _judge(
        self,
        missing: list[tuple[bytes, Wanted]],
        revision: str,
        counted: Counter,
        read_s: float = 0.0,
    ) -> None:
        """Has the searches of these keys told by the guard."""
        counted.labels("miss").inc(len(missing))

        def judged(index: int, said: Judged | Exception) -> None:
            key, want = missing[index]
            if isinstance(said, Exception):
                self._fail(key, said)
                return
            answer = said.answer
            self._tell(
                key,
                Found(answer, "miss", said.queue_s, said.model_s, read_s, said.ended, said.span),
            )
            if isinstance(answer, Assessment):
                self._keep(key, want, answer, revision)

        traced = {
            index: want.trace for index, (_, want) in enumerate(missing) if want.trace is not None
        }
        self._dispatcher.ask([want.row for _, want in missing], judged, traced)

    async def _read_shared(
        self, asked: list[tuple[bytes, Wanted]], counted: Counter
    ) -> tuple[list[tuple[bytes, Wanted]], float]:
        """What is not there, and the seconds that this took."""
        if self._shared is None:
            return asked, 0.0
        started = time.monotonic()
        found = await self._shared.get_many([key for key, _ in asked])
        ended = time.monotonic()
        read_s = ended - started
        telemetry.CACHE_SECONDS.observe(read_s)
        missing = []
        for (key, want), kept in zip(asked, found, strict=True):
            if kept is None:
                missing.append((key, want))
            else:
                self._memory.put(key, kept)
                self._tell(key, Found(kept, "redis", read_s=read_s, ended=ended))
        counted.labels("redis").inc(len(asked) - len(missing))
        return missing, read_s

    def _tell(self, key: bytes, found: Found) -> None:
        for search, index, place in self._in_flight.pop(key):
            if place is None:
                search.tell(index, found)
            else:
                search.tell(index, msgspec.structs.replace(found, place=place))

    def _fail(self, key: bytes, error: BaseException) -> None:
        for search, _, _ in self._in_flight.pop(key):
            search.fail(error)

    def _key(self, want: Wanted, revision: str) -> bytes:
        """Exact answers have keys of their own, so that no other one is taken for exact."""
        content = want.content_hash + b"exact" if want.is_exact else want.content_hash
        return self._keys.cache_key(content, views=want.views, scope=want.scope, revision=revision)

    def _keep(self, key: bytes, want: Wanted, assessment: Assessment, revision: str) -> None:
        """Keeps an assessment under the revision that gave it, which may be newer than asked; an
        exact one also instead of the one that was not."""
        if assessment.revision != revision:
            key = self._key(want, assessment.revision)
        keys = [key]
        if want.is_exact:
            plain = msgspec.structs.replace(want, is_exact=False)
            keys.append(self._key(plain, assessment.revision))
        for each in keys:
            self._memory.put(each, assessment)
            if self._writer is not None:
                self._writer.put(each, assessment)
