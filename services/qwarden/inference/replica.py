"""Appends for one replica of the stream guard, packed into requests, through its outages.

As `dispatch` does it for rows, with three queues, since an answer comes when its whole request has
been worked off: short appends go together; what takes the guard several steps goes alone; and a
transcript that is sent again goes alone when the rate of all replays allows it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import uuid4

from opentelemetry.trace import SpanContext

from qwarden import telemetry
from qwarden.backoff import Backoff
from qwarden.guard.stream import Append, Appended, Part, Status
from qwarden.inference.asker import Asker, Failed, cancelled
from qwarden.inference.port import GuardUnavailable, Trouble
from qwarden.inference.replay_rate import ReplayRate
from qwarden.inference.session import Session
from qwarden.inference.stream_port import StreamGuard
from qwarden.inference.trials import BYTES_A_TOKEN, UNTRIED, deadline_s
from qwarden.tracing import OFF, STREAM_REQUEST_SPAN, Trace

_log = logging.getLogger(__name__)

_LONG_BYTES = 1024
"""Some 300 tokens, over twenty times what a stream at 50 tokens a second sends in a step: until
they are worked off, all that share their request would wait."""

_KNOWN_GOOD = (Part("user", "hello", end=True),)
"""What every guard can judge. Whoever does not answer it cannot answer anything."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How appends are packed, and how those are tried that fail.

    Of each replica: `requests_in_flight`, of short appends, and as many again of what goes alone;
    `replay_tokens_a_second`; and `leave_s`, how long it may be away before its sessions go to the
    others. `probe_s`: how long the known good append may take. `alone_s`, `alone_1000_tokens_s`:
    how long what goes alone may.
    """

    appends_a_request: int
    requests_in_flight: int
    replay_tokens_a_second: float
    leave_s: float
    backoff_s: float
    max_backoff_s: float
    probe_s: float = 60.0
    alone_s: float = 150.0
    alone_1000_tokens_s: float = 20.0


class Left(Exception):
    """The replica is not asked any more: ask the session's owner of now."""


class NoAnswer(Exception):
    """An append failed alone, several times, while the guard answered others: it is given up."""


class Ask:
    """One append of a session on its way to an answer.

    `replayed`: tokens that are sent again with it, about; 0 where none are. `started`: what the
    rate of replays said of that. `answered` has its answer, or `Left`, `NoAnswer`, or a fault of
    the guard's that waiting does not mend.
    """

    __slots__ = (
        "_parts", "_session", "answered", "append", "replayed", "size", "started", "trace", "trial",
    )  # fmt: skip

    def __init__(
        self,
        session: Session,
        parts: Sequence[Part],
        *,
        replays: bool = False,
        trace: SpanContext | None = None,
    ) -> None:
        self.trace = trace
        self._session = session
        self._parts = parts
        self.append = session.next(parts)
        self.size = sum(len(part.text.encode(errors="surrogatepass")) for part in parts)
        self.replayed = 0
        self.started = 0.0
        self.trial = UNTRIED
        self.answered: asyncio.Future[Appended]
        if replays or session.in_doubt:
            self.begin_anew()

    def begin_anew(self) -> None:
        """With the whole transcript, from now on."""
        self.append = self._session.anew(self._parts)
        self.replayed = max(1, self._session.tokens + math.ceil(self.size / BYTES_A_TOKEN))

    def may_be_taken(self) -> None:
        """It was sent, and what became of it is not known."""
        if not any(part.text for part in self._parts):
            self._session.in_doubt = True
            self.begin_anew()

    def answer(self, answer: Appended) -> None:
        if not self.answered.done():  # else nobody waits any more
            self.answered.set_result(answer)

    def fail(self, error: Exception) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)


class Replica(Asker[Ask]):
    """Asks in, an answer each; never an exception of the guard's absence."""

    def __init__(
        self,
        address: str,
        guard: StreamGuard,
        limits: StreamLimits,
        chance: Callable[[], float],
        trace: Trace = OFF,
    ) -> None:
        super().__init__(
            f"the stream guard at {address}",
            "appends",
            limits.requests_in_flight,
            Backoff(limits.backoff_s, limits.max_backoff_s),
            chance,
        )
        self.away_since: float | None = None
        """When its outage began, by `time.monotonic`; None while it answers."""
        self._trace = trace
        self._guard = guard
        self._limits = limits
        self._rate = ReplayRate(limits.replay_tokens_a_second)
        self._short: deque[Ask] = deque()
        self._apart: deque[Ask] = deque()
        self._replays: deque[Ask] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        """When the rate allows the next replay."""
        self._known_good = Append("", f"known-good {uuid4()}", 0, _KNOWN_GOOD)
        """Its session begins anew each time, and is no other client's."""

    async def ask(self, ask: Ask) -> Appended:
        """The answer to an ask. Raises `Left`, `NoAnswer`, or a fault of the guard's that waiting
        does not mend."""
        if self._left:
            raise Left
        ask.answered = asyncio.get_running_loop().create_future()
        self._queue_of(ask).append(ask)
        self._fill()
        return await ask.answered

    def hand_back(self) -> None:
        """What waits here goes to whom its sessions belong to now; what is under way stays."""
        for queue in (self._short, self._apart, self._replays):
            while queue:
                queue.popleft().fail(Left())

    async def leave(self) -> None:
        """As `hand_back`, for good: waits until what is under way has ended, and closes."""
        self._left = True
        self.hand_back()
        if self._proving is not None:  # an absent guard would be asked for ever
            await cancelled([self._proving])
        failed, self._failed = self._failed, []
        self._put_back([each.asked for each in failed])
        while running := [*self._together, *self._alone]:
            await asyncio.wait(running)
        await self.close()

    async def close(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        await super().close()
        await self._guard.close()

    # Sending.

    def _queue_of(self, ask: Ask) -> deque[Ask]:
        if ask.replayed:
            return self._replays
        return self._apart if ask.trial.suspect or ask.size > _LONG_BYTES else self._short

    def _fill(self) -> None:
        if not self._may_ask:
            return
        while len(self._together) < self._pace.allowed and (asks := self._next_short()):
            self._start(self._send(asks), self._together)
        while len(self._alone) < self._pace.allowed and (ask := self._next_alone()) is not None:
            self._start(self._send([ask], alone=True), self._alone)

    def _next_short(self) -> list[Ask]:
        asks: list[Ask] = []
        while self._short and len(asks) < self._limits.appends_a_request:
            ask = self._short.popleft()
            if not ask.answered.done():
                asks.append(ask)
        return asks

    def _next_alone(self) -> Ask | None:
        while self._apart:
            ask = self._apart.popleft()
            if not ask.answered.done():
                return ask
        while self._replays and self._replays[0].answered.done():
            self._replays.popleft()
        if not self._replays:
            return None
        now = time.monotonic()
        wait_s = self._rate.wait_s(now)
        if wait_s > 0:
            if self._alarm is None:
                self._alarm = asyncio.get_running_loop().call_later(wait_s, self._rate_allows)
            return None
        ask = self._replays.popleft()
        ask.started = self._rate.start(ask.replayed, now)
        return ask

    def _rate_allows(self) -> None:
        self._alarm = None
        self._fill()

    async def _send(self, asks: list[Ask], *, alone: bool = False) -> None:
        cuts = self._pace.cuts
        started = time.monotonic()
        timeout_s = self._alone_s(asks[0]) if alone else None
        try:
            traced = [ask.trace for ask in asks if ask.trace is not None]
            with self._trace.request(STREAM_REQUEST_SPAN, traced, len(asks)):
                answers = await self._append([ask.append for ask in asks], timeout_s)
        except GuardUnavailable as error:
            for ask in asks:
                ask.may_be_taken()
            ended = time.monotonic()
            failed = [Failed(ask, str(error), started, ended) for ask in asks]
            self._unavailable(error, cuts, failed)
            return
        except Exception as error:  # a fault that waiting does not mend: its callers must know
            for ask in asks:
                ask.fail(error)
            return
        self._answered()
        telemetry.STREAM_REQUEST_APPENDS.observe(len(asks))
        telemetry.STREAM_REQUEST_SECONDS.observe(time.monotonic() - started)
        for ask, answer in zip(asks, answers, strict=True):
            if ask.replayed and answer.status in (Status.DONE, Status.CLOSED):
                telemetry.STREAM_REPLAYS.inc()
                telemetry.STREAM_REPLAYED_TOKENS.inc(ask.replayed)
            elif ask.replayed:
                self._rate.give_back(ask.started, ask.replayed)
            ask.answer(answer)

    async def _append(self, appends: Sequence[Append], timeout_s: float | None) -> list[Appended]:
        answers = await self._guard.append(appends, timeout_s=timeout_s)
        if len(answers) != len(appends):
            raise GuardUnavailable(
                f"the guard gave {len(answers)} answers for {len(appends)} appends", Trouble.FAILED
            )
        return answers

    def _alone_s(self, ask: Ask) -> float:
        return deadline_s(
            ask.size if not ask.replayed else ask.replayed * BYTES_A_TOKEN,
            base_s=self._limits.alone_s,
            per_1000_tokens_s=self._limits.alone_1000_tokens_s,
        )

    def _put_back(self, some: Sequence[Ask]) -> None:
        for ask in reversed(some):
            if self._left:
                ask.fail(Left())
            else:
                self._queue_of(ask).appendleft(ask)

    # Failing.

    async def _ask_known_good(self, *, proves: bool) -> str:
        """That memory is full is an answer of a guard that is there, but proves nothing of one that
        judges."""
        [answer] = await self._append([self._known_good], self._limits.probe_s)
        is_there = answer.status is Status.FULL and not proves
        if answer.status is not Status.DONE and not is_there:
            raise GuardUnavailable(
                f"the known good append is answered {answer.status}: {answer.reason}",
                Trouble.BUSY if answer.status is Status.FULL else Trouble.FAILED,
            )
        return answer.revision

    def _give_up(self, failed: Failed[Ask], reason: str, revision: str) -> None:
        ask = failed.asked
        if not ask.answered.done():
            _log.warning("an append of %d bytes is given up: %s", ask.size, reason)
            telemetry.STREAM_APPENDS.add("given_up")
            ask.fail(NoAnswer(reason))

    # The guard's states.

    def _opened(self, reason: str) -> None:
        _log.warning("%s is unavailable, waiting for it: %s", self._name, reason)
        self.away_since = time.monotonic()

    def _closed(self, *, answers: bool) -> None:
        self.away_since = None
