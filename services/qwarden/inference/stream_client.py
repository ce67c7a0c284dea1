"""The one client of the stream guard: sessions in, the scores of their tokens out.

The guard may forget a session at any time. Its transcript is kept here, and is sent again where the
guard asks for it; what was answered before is not answered twice.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from opentelemetry.trace import SpanContext

from qwarden import telemetry
from qwarden.backoff import Backoff
from qwarden.guard.stream import Append, Appended, Part, Status
from qwarden.inference.replica import Ask, Left, Replica, StreamLimits
from qwarden.inference.replicas import Look, Replicas
from qwarden.inference.session import Heard, Session
from qwarden.inference.stream_port import StreamGuard
from qwarden.tracing import OFF

_log = logging.getLogger(__name__)


class AppendRefused(Exception):
    """The guard refuses this append, and always will; the session is as it was before."""


class StreamClient:
    """Sessions over all replicas of the stream guard, through their outages.

    While no replica answers (`outage` says why), appends wait; `on_change` is called when that
    begins or ends, `on_failure` where the client cannot go on itself. `guard_at` opens the guard at
    an address that `look` has found. `chance` gives numbers in [0, 1) for the backoff.
    """

    def __init__(
        self,
        guard_at: Callable[[str], StreamGuard],
        look: Look,
        limits: StreamLimits,
        *,
        look_s: float = 10.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        self._chance = chance
        self._backoff = Backoff(limits.backoff_s, limits.max_backoff_s)
        self.trace = OFF
        """Where requests are traced; of the replicas that come after it is set."""
        self._replicas = Replicas(
            look,
            lambda address: Replica(address, guard_at(address), limits, chance, self.trace),
            look_s=look_s,
            leave_s=limits.leave_s,
        )
        self._replicas.on_change = self._changed
        self._replicas.on_failure = self._failed

    @property
    def outage(self) -> str | None:
        """Why no replica is available, or None while any is."""
        return self._replicas.outage

    async def close(self) -> None:
        """Ends what runs; appends that have no answer stay without one."""
        await self._replicas.close()

    async def append(
        self,
        session: Session,
        parts: Sequence[Part],
        *,
        replays: bool = False,
        trace: SpanContext | None = None,
    ) -> Heard:
        """Sends more of a session, and waits for what its tokens say, through outages.

        One append of a session at a time. `replays`: this text was judged before, and takes its
        turn with all that is sent again. `trace`: what the spans of its record hang on, where it is
        traced. After a cancelled append the next one begins with the same text, which the guard may
        have taken. Raises `AppendRefused`; `NoAnswer` where the guard fails on this append alone;
        what a guard raises that cannot answer any more.
        """
        if session.busy:
            raise ValueError(
                f"an append of the session {session.session!r} is under way; join this one to the "
                "next"
            )
        if session.closed or not parts:
            return Heard((), session.closed, session.revision)
        session.busy = True
        ask = Ask(session, parts, replays=replays, trace=trace)
        try:
            return session.heard(parts, *await self._answered(session, ask))
        except BaseException:
            ask.may_be_taken()
            raise
        finally:
            session.busy = False

    async def _answered(self, session: Session, ask: Ask) -> tuple[Append, Appended]:
        """The append that was sent at last, and the answer of a guard that took it."""
        again = 0
        await self._replicas.there()
        while True:
            try:
                answer = await self._replicas.owner(session.tenant, session.session).ask(ask)
            except Left:
                continue
            telemetry.STREAM_APPENDS.add(answer.status)
            if answer.status in (Status.DONE, Status.CLOSED):
                return ask.append, answer
            if answer.status is Status.REFUSED:
                raise AppendRefused(answer.reason)
            if answer.status is Status.REPLAY and ask.append.offset:
                ask.begin_anew()
                continue
            # Memory is full; or what began anew is lost at once, since memory is nearly.
            again += 1
            if again == 1:
                _log.info("the stream guard has no room for a session now: %s", answer.reason)
            await asyncio.sleep(self._backoff.wait_s(again, self._chance()))

    def _changed(self) -> None:
        self.on_change()

    def _failed(self, error: BaseException) -> None:
        self.on_failure(error)
