"""Rows from many events, packed into requests to one guard, through its outages.

A batch that waits is sent when one before it returns: an idle guard adds no delay, a busy one
fills its batches. Triton's own batcher then joins what several clients send.

What a failure means is decided by `trials` (a row), `breaker` (the guard) and `pace` (how much at a
time); here it is only waited and done.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec
from opentelemetry.trace import SpanContext

from qwarden import telemetry
from qwarden.guard.answer import Answer, Failure, Unanswered
from qwarden.inference.backoff import Backoff
from qwarden.inference.breaker import Breaker
from qwarden.inference.pace import Pace
from qwarden.inference.port import Guard, GuardUnavailable, Trouble
from qwarden.inference.trials import FAILURES_ALONE, KNOWN_GOOD, UNTRIED, Trial, deadline_s
from qwarden.tracing import OFF, REQUEST_SPAN

_log = logging.getLogger(__name__)

_BREAKER = telemetry.BREAKER_OPEN.labels("guard")


@dataclass(frozen=True, slots=True)
class Limits:
    """How rows are packed, and how those are tried that fail.

    `bytes_a_request` keeps one request's work bounded where texts are long; a row that alone is
    larger goes alone. `suspects_in_flight`: beside `requests_in_flight`. `probe_s`: how long the
    known good conversation may take. `alone_s`, `alone_1000_tokens_s`: how long a suspect may.
    """

    rows_a_request: int
    bytes_a_request: int
    requests_in_flight: int
    backoff_s: float
    max_backoff_s: float
    suspects_in_flight: int = 2
    probe_s: float = 60.0
    alone_s: float = 150.0
    alone_1000_tokens_s: float = 20.0


class Judged(msgspec.Struct, frozen=True):
    """An answer, the seconds the row waited for a request, the seconds of that request, when it
    ended (of the clock that does not jump), and its span where it is traced."""

    answer: Answer
    queue_s: float
    model_s: float
    ended: float = 0.0
    span: SpanContext | None = None


Tell = Callable[[int, Judged | Exception], None]
"""Called once with a row's index and its answer, or a fault of the guard's that waiting does not
mend. May not raise: the rows beside it are still to be told."""


class _Row(msgspec.Struct):
    number: int
    data: bytes
    index: int
    tell: Tell
    since: float
    trial: Trial = UNTRIED
    trace: SpanContext | None = None


@dataclass(frozen=True, slots=True)
class _Failed:
    """A row that failed, and what would be said of it if it were given up now."""

    row: _Row
    reason: str
    started: float
    ended: float


class Dispatcher:
    """Rows in, one answer each out; never an exception of the guard's for a row.

    While the guard is unavailable, rows wait: one known good conversation at a time asks for it,
    with backoff, and it is said once. A row that fails where that conversation does not is tried
    alone, and then answered `no_answer`. `held` tells the log which records wait; `on_change` is
    called when an outage begins or ends, `on_failure` where it cannot go on itself. `trace`: where
    requests are traced. `chance` gives numbers in [0, 1) for the backoff.
    """

    def __init__(
        self, guard: Guard, limits: Limits, chance: Callable[[], float] = random.random
    ) -> None:
        self.held: Callable[[], str] = lambda: ""
        self.on_change: Callable[[], None] = lambda: None
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        self.trace = OFF
        self._guard = guard
        self._limits = limits
        self._chance = chance
        self._backoff = Backoff(limits.backoff_s, limits.max_backoff_s)
        self._numbered = 0
        self._waiting: deque[_Row] = deque()
        self._suspects: list[tuple[int, int, _Row]] = []
        """A heap, by failures and then by arrival: who has not been tried alone goes first."""
        self._together: set[asyncio.Task[None]] = set()
        self._alone: set[asyncio.Task[None]] = set()
        self._failed: list[_Failed] = []
        """Failures whose proof, the known good conversation after them, is still to be asked."""
        self._asking: asyncio.Task[None] | None = None
        self._breaker = Breaker()
        self._up = asyncio.Event()
        self._up.set()
        self._pace = Pace.of(limits.requests_in_flight)
        self._pause: asyncio.TimerHandle | None = None
        self._revision: asyncio.Task[str] | None = None
        telemetry.GUARD_REQUESTS_ALLOWED.set(self._pace.allowed)
        _BREAKER.set(0)

    @property
    def outage(self) -> str | None:
        """Why the guard is unavailable, or None where it answers."""
        return self._breaker.reason

    def ask(
        self,
        rows: Sequence[bytes],
        tell: Tell,
        traced: Mapping[int, SpanContext] | None = None,
    ) -> None:
        """Takes rows, and tells the answer to each, in any order, from the event loop. `traced`:
        of the records of some rows, by index.

        A call and no future: nobody awaits a row alone, and a future with its callback is 0.4 µs.
        """
        since = time.monotonic()
        first = self._numbered
        self._numbered += len(rows)
        self._waiting.extend(
            [_Row(first + index, row, index, tell, since) for index, row in enumerate(rows)]
        )
        if traced:
            for row in islice(self._waiting, len(self._waiting) - len(rows), None):
                row.trace = traced.get(row.index)
        self._fill()

    @property
    def waiting(self) -> int:
        """Rows that are not sent yet."""
        return len(self._waiting) + len(self._suspects)

    def submit(self, rows: Sequence[bytes]) -> list[asyncio.Future[Judged]]:
        """A future for each row, in their order."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Judged]] = [loop.create_future() for _ in rows]

        def tell(index: int, said: Judged | Exception) -> None:
            if futures[index].done():
                return
            if isinstance(said, Exception):
                futures[index].set_exception(said)
            else:
                futures[index].set_result(said)

        self.ask(rows, tell)
        return futures

    async def revision(self) -> str:
        """The guard's revision; waits through outages."""
        if self._revision is None or self._revision.done():
            self._revision = asyncio.create_task(self._ask_revision(), name="guard-revision")
        return await asyncio.shield(self._revision)

    async def close(self) -> None:
        """Ends what runs; rows that have no answer stay without one."""
        if self._pause is not None:
            self._pause.cancel()
        tasks: list[asyncio.Task[Any]] = [*self._together, *self._alone]
        tasks += [task for task in (self._asking, self._revision) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask_revision(self) -> str:
        while True:
            await self._up.wait()
            cuts = self._pace.cuts
            try:
                revision = await self._guard.revision()
            except GuardUnavailable as error:
                if error.trouble is Trouble.BUSY:
                    self._refused(cuts)
                    await asyncio.sleep(self._pause_s())
                else:  # it is asked about no row, so none can be to blame
                    self._went(str(error))
            else:
                telemetry.GUARD_UP.set(1)
                return revision

    # Sending.

    def _fill(self) -> None:
        """Sends what may be sent now."""
        if not self._breaker.closed or self._pause is not None:
            return
        while self._suspects and len(self._alone) < self._limits.suspects_in_flight:
            self._start([heapq.heappop(self._suspects)[-1]], self._alone)
        while self._waiting and len(self._together) < self._pace.allowed:
            self._start(self._next(), self._together)

    def _start(self, rows: list[_Row], running: set[asyncio.Task[None]]) -> None:
        def sent(task: asyncio.Task[None]) -> None:
            running.discard(task)
            if not task.cancelled():
                self._ended(task)
                self._fill()

        task = asyncio.create_task(self._send(rows), name="guard-request")
        running.add(task)
        task.add_done_callback(sent)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.on_failure(error)

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
        cuts = self._pace.cuts
        started = time.monotonic()
        timeout_s = self._alone_s(rows[0]) if rows[0].trial.suspect else None
        try:
            traced = [row.trace for row in rows if row.trace is not None]
            with self.trace.request(REQUEST_SPAN, traced, len(rows)) as span:
                answers = await self._judge([row.data for row in rows], timeout_s)
        except GuardUnavailable as error:
            ended = time.monotonic()
            if error.trouble is Trouble.FAILED:
                self._fail([_Failed(row, str(error), started, ended) for row in rows])
                return
            self._take_back(rows)
            if error.trouble is Trouble.BUSY:
                self._refused(cuts)
            else:
                self._went(str(error))
            return
        except Exception as error:  # a fault that waiting does not mend: its callers must know
            for row in rows:
                row.tell(row.index, error)
            return
        self._came(rows, answers, started, span)

    def _came(
        self, rows: list[_Row], answers: list[Answer], started: float, span: SpanContext | None
    ) -> None:
        """Hands out the answers of one request."""
        ended = time.monotonic()
        self._breaker = self._breaker.answered()
        self._paced(self._pace.answered())
        if self._breaker.closed:
            telemetry.GUARD_UP.set(1)
        telemetry.GUARD_ROWS.observe(len(rows))
        telemetry.MODEL_SECONDS.observe(ended - started)
        model_s = ended - started
        failed = []
        for row, answer in zip(rows, answers, strict=True):
            if isinstance(answer, Unanswered) and answer.failure is Failure.NO_ANSWER:
                failed.append(_Failed(row, answer.reason, started, ended))
            else:
                row.tell(row.index, Judged(answer, started - row.since, model_s, ended, span))
        if failed:
            self._fail(failed)

    async def _judge(self, rows: Sequence[bytes], timeout_s: float | None) -> list[Answer]:
        answers = await self._guard.judge(rows, timeout_s=timeout_s)
        if len(answers) != len(rows):
            raise GuardUnavailable(
                f"the guard gave {len(answers)} answers for {len(rows)} rows", Trouble.FAILED
            )
        return answers

    def _alone_s(self, row: _Row) -> float:
        return deadline_s(
            len(row.data),
            base_s=self._limits.alone_s,
            per_1000_tokens_s=self._limits.alone_1000_tokens_s,
        )

    def _take_back(self, rows: Sequence[_Row]) -> None:
        """Puts rows where they were: none is overtaken by what came after it."""
        together = []
        for row in rows:
            if row.trial.suspect:
                heapq.heappush(self._suspects, (row.trial.failures, row.number, row))
            else:
                together.append(row)
        last = max((row.number for row in together), default=-1)
        while self._waiting and self._waiting[0].number < last:
            together.append(self._waiting.popleft())
        together.sort(key=lambda row: row.number)
        self._waiting.extendleft(reversed(together))

    # Failing.

    def _fail(self, failed: list[_Failed]) -> None:
        """Has each failure proven or forgotten: in an outage it proves nothing."""
        if self._breaker.closed:
            self._failed += failed
            self._ask()
        else:
            self._take_back([each.row for each in failed])

    def _ask(self) -> None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_until_settled(), name="guard-probe")
            self._asking.add_done_callback(self._ended)

    async def _ask_until_settled(self) -> None:
        """Asks the known good conversation until there is neither outage nor failure to prove."""
        while self._failed or not self._breaker.closed:
            if not self._breaker.closed:
                failures = self._breaker.failures
                await asyncio.sleep(self._backoff.wait_s(failures, self._chance()))
            failed, self._failed = self._failed, []
            cuts = self._pace.cuts
            self._breaker = self._breaker.asks()
            try:
                revision = await self._ask_once()
            except GuardUnavailable as error:
                if error.trouble is Trouble.BUSY:
                    self._refused(cuts)
                    if self._breaker.closed:
                        # It is there, and nothing is said of the failures yet: ask again.
                        self._failed = [*failed, *self._failed]
                        await asyncio.sleep(self._pause_s())
                        continue
                self._did_not_come_back(str(error))
                self._settle(failed, None)
            except Exception as error:  # a fault that waiting does not mend: its callers must know
                for each in failed:
                    each.row.tell(each.row.index, error)
                self._breaker = Breaker()  # who waits asks, and hears it for itself
                _BREAKER.set(0)
                self._up.set()
                self.on_change()
            else:
                self._close_breaker()
                # Open still, it went while it was asked: what failed just before went with it.
                self._settle(failed, revision if self._breaker.closed else None)
            self._fill()

    async def _ask_once(self) -> str:
        """The revision that answered the known good conversation."""
        try:
            [answer] = await self._judge([KNOWN_GOOD], self._limits.probe_s)
            if isinstance(answer, Unanswered):
                raise GuardUnavailable(
                    f"the known good conversation is answered {answer.failure}: {answer.reason}",
                    Trouble.FAILED,
                )
        except GuardUnavailable:
            telemetry.GUARD_PROBES.labels("failed").inc()
            raise
        telemetry.GUARD_PROBES.labels("answered").inc()
        return answer.revision

    def _settle(self, failed: Sequence[_Failed], revision: str | None) -> None:
        """Draws the conclusion from failures; `revision`: of the guard that answered the known
        good conversation after them, None where there was no such answer."""
        back = []
        suspects = [each for each in failed if not each.row.trial.suspect]
        if suspects and revision is not None:
            _log.warning(
                "%d rows are tried alone; the guard failed on them and not on the known good "
                "conversation: %s",
                len(suspects),
                suspects[0].reason,
            )
        for each in failed:
            row = each.row
            row.trial = row.trial.failed(good_came_back=revision is not None)
            if revision is not None and row.trial.given_up:
                reason = f"no answer {FAILURES_ALONE} times alone, at last: {each.reason}"
                _log.warning("a row of %d bytes is given up: %s", len(row.data), reason)
                telemetry.ROWS_GIVEN_UP.inc()
                answer = Unanswered(Failure.NO_ANSWER, reason, revision)
                waited_s, model_s = each.started - row.since, each.ended - each.started
                row.tell(row.index, Judged(answer, waited_s, model_s))
            else:
                back.append(row)
        self._take_back(back)

    # The guard's states.

    def _went(self, reason: str) -> None:
        """A request found it away."""
        self._open_breaker(self._breaker.went(reason))

    def _did_not_come_back(self, reason: str) -> None:
        self._open_breaker(self._breaker.good_did_not(reason))

    def _open_breaker(self, opened: Breaker) -> None:
        was, self._breaker = self._breaker, opened
        if was.closed:
            _log.warning(
                "the guard is unavailable, waiting for it: %s %s", opened.reason, self.held()
            )
            telemetry.GUARD_UP.set(0)
            _BREAKER.set(1)
            self._up.clear()
            self.on_change()
        failed, self._failed = self._failed, []
        self._settle(failed, None)
        self._ask()

    def _close_breaker(self) -> None:
        was, self._breaker = self._breaker, self._breaker.good_came_back()
        if was.closed or not self._breaker.closed:
            return
        _log.warning("the guard is back")
        telemetry.GUARD_UP.set(1)
        _BREAKER.set(0)
        self._up.set()
        self.on_change()

    def _refused(self, cuts: int) -> None:
        """The guard has enough: fewer requests, after a pause."""
        self._paced(self._pace.refused(cuts))
        if self._pause is None:
            loop = asyncio.get_running_loop()
            self._pause = loop.call_later(self._pause_s(), self._resume)

    def _pause_s(self) -> float:
        return self._backoff.wait_s(self._pace.refusals, self._chance())

    def _resume(self) -> None:
        self._pause = None
        self._fill()

    def _paced(self, pace: Pace) -> None:
        was, self._pace = self._pace, pace
        if was.allowed == pace.allowed:
            return
        telemetry.GUARD_REQUESTS_ALLOWED.set(pace.allowed)
        if was.allowed == was.most:
            _log.warning(
                "the guard is busy: %d requests in flight, not %d", pace.allowed, pace.most
            )
        elif pace.allowed == pace.most:
            _log.warning("the guard takes %d requests in flight again", pace.most)
