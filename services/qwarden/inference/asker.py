"""Who asks one guard, through its outages: what `dispatch` and `replica` have in common.

What a failure means is decided by `trials` (what was asked), `breaker` (the guard) and `pace` (how
much at a time); here it is only waited and done.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from qwarden.backoff import Backoff
from qwarden.inference.breaker import Breaker
from qwarden.inference.pace import Pace
from qwarden.inference.port import GuardUnavailable, Trouble
from qwarden.inference.trials import FAILURES_ALONE, Trial

_log = logging.getLogger(__name__)


class Tried(Protocol):
    """What is asked of a guard: a row, an append."""

    trial: Trial

    def fail(self, error: Exception) -> None:
        """To who asked: a fault that waiting does not mend."""
        ...


T = TypeVar("T", bound=Tried)


@dataclass(frozen=True, slots=True)
class Failed(Generic[T]):
    """Something that failed, and why; when its request began and ended (s, of a clock that does not
    jump)."""

    asked: T
    reason: str
    started: float
    ended: float


class Asker(ABC, Generic[T]):
    """While the guard is unavailable, what is asked waits: one known good text at a time asks for
    it, with backoff, and it is said once. What fails where that text does not is tried alone, and
    then given up.

    `on_change` is called when an outage begins or ends, `on_failure` where it cannot go on itself.
    `name`: of the guard, for the log; `asked`: what is asked, in the plural. `chance` gives numbers
    in [0, 1) for the backoff.
    """

    def __init__(
        self,
        name: str,
        asked: str,
        requests_in_flight: int,
        backoff: Backoff,
        chance: Callable[[], float],
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        self._name = name
        self._asked = asked
        self._backoff = backoff
        self._chance = chance
        self._breaker = Breaker()
        self._pace = Pace.of(requests_in_flight)
        self._pause: asyncio.TimerHandle | None = None
        self._together: set[asyncio.Task[None]] = set()
        self._alone: set[asyncio.Task[None]] = set()
        self._failed: list[Failed[T]] = []
        """Failures whose proof, the known good text after them, is still to be asked."""
        self._proving: asyncio.Task[None] | None = None
        self._left = False
        """Whether nothing is asked any more."""

    @property
    def outage(self) -> str | None:
        """Why the guard is unavailable, or None where it answers."""
        return self._breaker.reason

    async def close(self) -> None:
        """Ends what runs; what has no answer stays without one."""
        if self._pause is not None:
            self._pause.cancel()
        tasks = [*self._together, *self._alone]
        if self._proving is not None:
            tasks.append(self._proving)
        await cancelled(tasks)

    # What differs.

    @abstractmethod
    def _fill(self) -> None:
        """Sends what may be sent now, where `_may_ask`."""

    @abstractmethod
    def _put_back(self, some: Sequence[T]) -> None:
        """These wait again, none of them overtaken by what came after it."""

    @abstractmethod
    async def _ask_known_good(self, *, proves: bool) -> str:
        """The revision that answers it; `proves`: failures hang on it. Raises `GuardUnavailable`
        where it does not come back."""

    @abstractmethod
    def _give_up(self, failed: Failed[T], reason: str, revision: str) -> None:
        """It gets no answer from this revision; `reason` is said to who asked."""

    @abstractmethod
    def _opened(self, reason: str) -> None:
        """An outage begins."""

    @abstractmethod
    def _closed(self, *, answers: bool) -> None:
        """An outage is over; not `answers`: only since waiting does not mend it."""

    # Sending.

    @property
    def _may_ask(self) -> bool:
        return self._breaker.closed and self._pause is None and not self._left

    def _start(self, request: Coroutine[Any, Any, None], running: set[asyncio.Task[None]]) -> None:
        def sent(task: asyncio.Task[None]) -> None:
            running.discard(task)
            if not task.cancelled():
                self._ended(task)
                self._fill()

        task = asyncio.create_task(request, name="guard-request")
        running.add(task)
        task.add_done_callback(sent)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.on_failure(error)

    def _unavailable(self, error: GuardUnavailable, cuts: int, failed: list[Failed[T]]) -> None:
        """The request of these has no answers; `cuts`: of the pace when it was sent."""
        if error.trouble is Trouble.FAILED:
            self._fail(failed)
            return
        self._put_back([each.asked for each in failed])
        if error.trouble is Trouble.BUSY:
            self._refused(cuts)
        else:
            self._open(self._breaker.went(str(error)))

    def _answered(self) -> None:
        """A request was answered."""
        self._breaker = self._breaker.answered()
        self._set_pace(self._pace.answered())

    # Failing.

    def _fail(self, failed: list[Failed[T]]) -> None:
        """Has each failure proven or forgotten: in an outage it proves nothing."""
        if self._breaker.closed and not self._left:
            self._failed += failed
            self._prove()
        else:
            self._put_back([each.asked for each in failed])

    def _prove(self) -> None:
        if not self._left and (self._proving is None or self._proving.done()):
            self._proving = asyncio.create_task(self._prove_all(), name="guard-probe")
            self._proving.add_done_callback(self._ended)

    async def _prove_all(self) -> None:
        """Asks the known good text until there is neither outage nor failure to prove."""
        while self._failed or not self._breaker.closed:
            if not self._breaker.closed:
                await asyncio.sleep(self._backoff.wait_s(self._breaker.failures, self._chance()))
            failed, self._failed = self._failed, []
            cuts = self._pace.cuts
            self._breaker = self._breaker.asks()
            try:
                revision = await self._ask_known_good(proves=bool(failed))
            except GuardUnavailable as error:
                if error.trouble is Trouble.BUSY:
                    self._refused(cuts)
                    if self._breaker.closed:
                        # It is there, and nothing is said of the failures yet: ask again.
                        self._failed = [*failed, *self._failed]
                        await asyncio.sleep(self._pause_s())
                        continue
                self._open(self._breaker.good_did_not(str(error)))
                self._settle(failed, None)
            except asyncio.CancelledError:
                self._failed = [*failed, *self._failed]
                raise
            except Exception as error:  # a fault that waiting does not mend: its callers must know
                for each in failed:
                    each.asked.fail(error)
                self._close(Breaker(), answers=False)  # who waits asks, and hears it for itself
            else:
                self._close(self._breaker.good_came_back(), answers=True)
                # Open still, it went while it was asked: what failed just before went with it.
                self._settle(failed, revision if self._breaker.closed else None)
            self._fill()

    def _settle(self, failed: Sequence[Failed[T]], revision: str | None) -> None:
        """Draws the conclusion from failures; `revision`: of the guard that answered the known good
        text after them, None where there was no such answer."""
        suspects = [each for each in failed if not each.asked.trial.suspect]
        if suspects and revision is not None:
            _log.warning(
                "%d %s are tried alone; %s failed on them and not on the known good text: %s",
                len(suspects),
                self._asked,
                self._name,
                suspects[0].reason,
            )
        back = []
        for each in failed:
            asked = each.asked
            asked.trial = asked.trial.failed(good_came_back=revision is not None)
            if revision is not None and asked.trial.given_up:
                reason = f"no answer {FAILURES_ALONE} times alone, at last: {each.reason}"
                self._give_up(each, reason, revision)
            else:
                back.append(asked)
        self._put_back(back)

    # The guard's states.

    def _open(self, breaker: Breaker) -> None:
        was, self._breaker = self._breaker, breaker
        if was.closed:
            assert breaker.reason is not None
            self._opened(breaker.reason)
            self.on_change()
        failed, self._failed = self._failed, []
        self._settle(failed, None)
        self._prove()

    def _close(self, breaker: Breaker, *, answers: bool) -> None:
        was, self._breaker = self._breaker, breaker
        if was.closed or not breaker.closed:
            return
        if answers:
            _log.warning("%s is back", self._name)
        self._closed(answers=answers)
        self.on_change()

    def _refused(self, cuts: int) -> None:
        """The guard has enough: fewer requests, after a pause."""
        self._set_pace(self._pace.refused(cuts))
        if self._pause is None:
            loop = asyncio.get_running_loop()
            self._pause = loop.call_later(self._pause_s(), self._resume)

    def _pause_s(self) -> float:
        return self._backoff.wait_s(self._pace.refusals, self._chance())

    def _resume(self) -> None:
        self._pause = None
        self._fill()

    def _set_pace(self, pace: Pace) -> None:
        was, self._pace = self._pace, pace
        if was.allowed == pace.allowed:
            return
        if was.allowed == was.most:
            _log.warning(
                "%s is busy: %d requests in flight, not %d", self._name, pace.allowed, pace.most
            )
        elif pace.allowed == pace.most:
            _log.warning("%s takes %d requests in flight again", self._name, pace.most)


async def cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancels these, and waits until they are over."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
