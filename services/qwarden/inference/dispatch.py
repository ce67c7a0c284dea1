"""Rows from many events, packed into requests to one guard, through its outages.

A batch that waits is sent when one before it returns: an idle guard adds no delay, a busy one
fills its batches. Triton's own batcher then joins what several clients send.
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

import msgspec
from opentelemetry.trace import SpanContext

from qwarden import telemetry
from qwarden.backoff import Backoff
from qwarden.guard.answer import Answer, Failure, Unanswered
from qwarden.inference.asker import Asker, Failed, cancelled
from qwarden.inference.pace import Pace
from qwarden.inference.port import Guard, GuardUnavailable, Trouble
from qwarden.inference.trials import KNOWN_GOOD, UNTRIED, Trial, deadline_s
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

    def fail(self, error: Exception) -> None:
        self.tell(self.index, error)


class Dispatcher(Asker[_Row]):
    """Rows in, one answer each out; never an exception of the guard's for a row.

    A row that is given up is answered `no_answer`. `held` tells the log which records wait in an
    outage. `trace`: where requests are traced.
    """

    def __init__(
        self, guard: Guard, limits: Limits, chance: Callable[[], float] = random.random
    ) -> None:
        super().__init__(
            "the guard",
            "rows",
            limits.requests_in_flight,
            Backoff(limits.backoff_s, limits.max_backoff_s),
            chance,
        )
        self.held: Callable[[], str] = lambda: ""
        self.trace = OFF
        self._guard = guard
        self._limits = limits
        self._numbered = 0
        self._waiting: deque[_Row] = deque()
        self._suspects: list[tuple[int, int, _Row]] = []
        """A heap, by failures and then by arrival: who has not been tried alone goes first."""
        self._up = asyncio.Event()
        self._up.set()
        self._revision: asyncio.Task[str] | None = None
        telemetry.GUARD_REQUESTS_ALLOWED.set(self._pace.allowed)
        _BREAKER.set(0)

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
        await super().close()
        if self._revision is not None:
            await cancelled([self._revision])

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
                    self._open(self._breaker.went(str(error)))
            else:
                telemetry.GUARD_UP.set(1)
                return revision

    # Sending.

    def _fill(self) -> None:
        if not self._may_ask:
            return
        while self._suspects and len(self._alone) < self._limits.suspects_in_flight:
            self._start(self._send([heapq.heappop(self._suspects)[-1]]), self._alone)
        while self._waiting and len(self._together) < self._pace.allowed:
            self._start(self._send(self._next()), self._together)

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
            failed = [Failed(row, str(error), started, ended) for row in rows]
            self._unavailable(error, cuts, failed)
            return
        except Exception as error:  # a fault that waiting does not mend: its callers must know
            for row in rows:
                row.fail(error)
            return
        self._came(rows, answers, started, span)

    def _came(
        self, rows: list[_Row], answers: list[Answer], started: float, span: SpanContext | None
    ) -> None:
        """Hands out the answers of one request."""
        ended = time.monotonic()
        self._answered()
        if self._breaker.closed:
            telemetry.GUARD_UP.set(1)
        telemetry.GUARD_ROWS.observe(len(rows))
        telemetry.MODEL_SECONDS.observe(ended - started)
        model_s = ended - started
        failed = []
        for row, answer in zip(rows, answers, strict=True):
            if isinstance(answer, Unanswered) and answer.failure is Failure.NO_ANSWER:
                failed.append(Failed(row, answer.reason, started, ended))
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

    def _put_back(self, some: Sequence[_Row]) -> None:
        together = []
        for row in some:
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

    async def _ask_known_good(self, *, proves: bool) -> str:
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

    def _give_up(self, failed: Failed[_Row], reason: str, revision: str) -> None:
        row = failed.asked
        _log.warning("a row of %d bytes is given up: %s", len(row.data), reason)
        telemetry.ROWS_GIVEN_UP.inc()
        answer = Unanswered(Failure.NO_ANSWER, reason, revision)
        waited_s, model_s = failed.started - row.since, failed.ended - failed.started
        row.tell(row.index, Judged(answer, waited_s, model_s))

    # The guard's states.

    def _opened(self, reason: str) -> None:
        _log.warning("the guard is unavailable, waiting for it: %s %s", reason, self.held())
        telemetry.GUARD_UP.set(0)
        _BREAKER.set(1)
        self._up.clear()

    def _closed(self, *, answers: bool) -> None:
        if answers:
            telemetry.GUARD_UP.set(1)
        _BREAKER.set(0)
        self._up.set()

    def _set_pace(self, pace: Pace) -> None:
        super()._set_pace(pace)
        telemetry.GUARD_REQUESTS_ALLOWED.set(self._pace.allowed)
