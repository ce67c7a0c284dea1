"""Rows from many events, packed into requests to one guard, through its outages.

A batch that waits is sent when one before it returns: an idle guard adds no delay, a busy one
fills its batches. Triton's own batcher then joins what several clients send.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwarden import telemetry
from qwarden.guard.answer import Answer
from qwarden.inference.port import Guard, GuardUnavailable

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How rows are packed. `bytes_a_request` keeps one request's work bounded where texts are
    long; a row that alone is larger goes alone."""

    rows_a_request: int
    bytes_a_request: int
    requests_in_flight: int
    backoff_s: float
    max_backoff_s: float


@dataclass(slots=True)
class Judged:
    """An answer, the seconds the row waited for a request, and the seconds of that request."""

    answer: Answer
    queue_s: float
    model_s: float


@dataclass(slots=True)
class _Row:
    data: bytes
    future: asyncio.Future[Judged]
    since: float = field(default_factory=time.monotonic)


class Dispatcher:
    """Rows in, one answer each out; never an exception of the guard's for a row.

    While the guard is unavailable, rows wait: one request at a time asks again, with backoff, and
    it is said once. `held` tells the log which records wait.
    """

    def __init__(self, guard: Guard, limits: Limits) -> None:
        self.held: Callable[[], str] = lambda: ""
        self._guard = guard
        self._limits = limits
        self._waiting: deque[_Row] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._outage: str | None = None
        self._backoff_s = limits.backoff_s
        self._probe: asyncio.TimerHandle | None = None
        self._revision: asyncio.Task[str] | None = None

    @property
    def outage(self) -> str | None:
        """Why the guard is unavailable, or None where it answers."""
        return self._outage

    def submit(self, rows: Sequence[bytes]) -> list[asyncio.Future[Judged]]:
        """A future for each row, in their order."""
        loop = asyncio.get_running_loop()
        waiting = [_Row(row, loop.create_future()) for row in rows]
        self._waiting.extend(waiting)
        self._fill()
        return [row.future for row in waiting]

    async def revision(self) -> str:
        """The guard's revision; waits through outages."""
        if self._revision is None or self._revision.done():
            self._revision = asyncio.create_task(self._ask_revision(), name="guard-revision")
        return await asyncio.shield(self._revision)

    async def close(self) -> None:
        """Ends what runs; rows that have no answer stay without one."""
        if self._probe is not None:
            self._probe.cancel()
        tasks: list[asyncio.Task[Any]] = [*self._running]
        if self._revision is not None:
            tasks.append(self._revision)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask_revision(self) -> str:
        backoff = self._limits.backoff_s
        while True:
            try:
                revision = await self._guard.revision()
            except GuardUnavailable as error:
                self._went(str(error))
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, self._limits.max_backoff_s)
            else:
                self._came_back()
                self._fill()
                return revision

    def _fill(self) -> None:
        if self._outage is not None:
            self._probe_later()
            return
        while self._waiting and len(self._running) < self._limits.requests_in_flight:
            self._start()

    def _start(self) -> None:
        task = asyncio.create_task(self._send(self._next()), name="guard-request")
        self._running.add(task)
        task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            self._fill()

    def _probe_later(self) -> None:
        """In an outage one request asks again; the others would only fail beside it."""
        if self._probe is None and not self._running and self._waiting:
            loop = asyncio.get_running_loop()
            self._probe = loop.call_later(self._backoff_s, self._probe_now)
            self._backoff_s = min(self._backoff_s * 2, self._limits.max_backoff_s)

    def _probe_now(self) -> None:
        self._probe = None
        if self._waiting:
            self._start()

    def _next(self) -> list[_Row]:
        rows = [self._waiting.popleft()]
        size = len(rows[0].data)
        while (
            self._waiting
            and len(rows) < self._limits.rows_a_request
            and size + len(self._waiting[0].data) <= self._limits.bytes_a_request
        ):
            rows.append(self._waiting.popleft())
            size += len(rows[-1].data)
        return rows

    async def _send(self, rows: list[_Row]) -> None:
        started = time.monotonic()
        try:
            answers = await self._guard.judge([row.data for row in rows])
        except GuardUnavailable as error:
            self._waiting.extendleft(reversed(rows))
            self._went(str(error))
            return
        except Exception as error:  # a fault that waiting does not mend: its callers must know
            for row in rows:
                row.future.set_exception(error)
            return
        self._came_back()
        ended = time.monotonic()
        telemetry.GUARD_ROWS.observe(len(rows))
        telemetry.MODEL_SECONDS.observe(ended - started)
        for row, answer in zip(rows, answers, strict=True):
            row.future.set_result(Judged(answer, started - row.since, ended - started))

    def _went(self, reason: str) -> None:
        if self._outage is None:
            _log.warning("the guard is unavailable, waiting for it: %s %s", reason, self.held())
            telemetry.GUARD_UP.set(0)
        self._outage = reason

    def _came_back(self) -> None:
        if self._outage is not None:
            _log.warning("the guard is back")
            self._outage = None
        self._backoff_s = self._limits.backoff_s
        telemetry.GUARD_UP.set(1)
