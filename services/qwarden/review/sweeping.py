"""What one process does for all, again and again, and what each does for itself: never silently
dead."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden import telemetry
from qwarden.backoff import Backoff
from qwarden.policy.tenants import Freezes
from qwarden.review.failing import where
from qwarden.review.store import audit, breaches, duties, leases, overrides, retention
from qwarden.review.store.database import Database, is_outage
from qwarden.settings import Review

_log = logging.getLogger(__name__)

Round = Callable[[], Awaitable[None]]
"""One round of the work."""
Step = Callable[[AsyncConnection, float], Awaitable[int]]
"""A part of a round in one transaction, and now; how much it did: 0 where nothing is left."""
Done = Callable[[int], object]
"""Is told how much a step did, once that is committed."""

_ROWS = 500
"""Of one step, at most: some 50 ms of the database, for which nobody waits noticeably."""
_MOST_STEPS = 20
"""Of one kind in a round: the other kinds come to their turn while there is much to do."""

_BACKOFF = Backoff(0.5, 10.0)
"""How often failed work is tried again: a database that restarts is back in some seconds."""
_HUNG_S = 120.0
"""A round takes milliseconds; every statement and every lock has an end long before this."""
_DUTY_S = 15.0
"""How long the others wait for a process that died on duty. Over what a round may take with a slow
database, and well under what people notice of an expired lease."""


class Work:
    """Rounds of one kind of work, every `every_s` seconds, until it is cancelled. A round that
    fails is told by its kind alone, since an error's own words can quote content, and tried
    again. `done`: a count by which a round that takes long is known to go on."""

    def __init__(
        self, name: str, every_s: float, a_round: Round, done: Callable[[], int] = lambda: 0
    ) -> None:
        self.name = name
        self._done = done
        self._done_then = 0
        self._every_s = every_s
        self._round = a_round
        self._failures = 0
        self._turned_at: float | None = None

    async def run(self) -> None:
        while True:
            self._turned_at = time.monotonic()
            try:
                await self._round()
            except Exception as error:
                self._failures += 1
                telemetry.REVIEW_FAILING.labels(self.name).set(1)
                self._tell(error)
                await asyncio.sleep(_BACKOFF.wait_s(self._failures, random.random()))
                continue
            self._failures = 0
            telemetry.REVIEW_FAILING.labels(self.name).set(0)
            await asyncio.sleep(self._every_s)

    @property
    def hangs(self) -> str | None:
        """Why this does not go on, or None. Trying again is going on."""
        if self._turned_at is None:
            return None
        done = self._done()
        if done != self._done_then:
            self._done_then, self._turned_at = done, time.monotonic()
        still_s = time.monotonic() - self._turned_at
        if still_s < _HUNG_S + self._every_s:
            return None
        return f"the {self.name} has stood still for {still_s:.0f} s"

    def _tell(self, error: Exception) -> None:
        if self._failures > 1:
            return  # the first one has told of it, and the metrics do
        if is_outage(error):
            _log.warning("the %s waits for the database: %s", self.name, type(error).__name__)
        else:
            _log.error("the %s fails, and is tried again: %s", self.name, where(error))


class Duty:
    """What one process does for all: whoever holds it. `holder`: 32 digits of this process's own.
    `now`: seconds since 1970."""

    def __init__(
        self, database: Database, name: str, holder: str, now: Callable[[], float]
    ) -> None:
        self._database = database
        self._name = name
        self._holder = holder
        self._now = now

    async def do(
        self, step: Step, done: Done = lambda some: None, most_steps: int = _MOST_STEPS
    ) -> None:
        """Takes a step, again and again while there is more to do. Each is a transaction that holds
        the duty until its end."""
        for _ in range(most_steps):
            async with self._database.writing() as tx:
                if not await duties.hold(tx, self._name, self._holder, self._now(), _DUTY_S):
                    return
                some = await step(tx, self._now())
            done(some)
            if not some:
                break


def sweeps(duty: Duty, limits: Review, freezes: Callable[[], Freezes | None]) -> Round:
    """Ends leases whose holders are gone, acts on breaches, ends overrides, and deletes what is
    past its time. `freezes`: those that stand, or None while that is not known: then no breach
    blocks or allows anything, and waits."""

    async def expire(tx: AsyncConnection, now: float) -> int:
        return await leases.expire(tx, now)

    async def breach(tx: AsyncConnection, now: float) -> int:
        stand = freezes()
        return 0 if stand is None else await breaches.sweep(tx, now, limits, stand.holds)

    async def end_overrides(tx: AsyncConnection, now: float) -> int:
        return await overrides.end_due(tx, now, _ROWS)

    async def forget(tx: AsyncConnection, now: float) -> int:
        return await retention.sweep(tx, now, limits, _ROWS)

    async def a_round() -> None:
        # A step that fails stops no other, and is told of when they are through.
        failed: list[Exception] = []
        for one in (
            partial(duty.do, expire, telemetry.REVIEW_LEASES_EXPIRED.inc),
            partial(duty.do, breach, telemetry.REVIEW_BREACHES.inc),
            partial(duty.do, end_overrides),
            partial(duty.do, forget, most_steps=1),
        ):
            try:
                await one()
            except Exception as error:
                failed.append(error)
        if failed:
            raise failed[0]

    return a_round


def seals(duty: Duty) -> Round:
    """Gives the audit log's rows their place in the chain."""

    async def seal(tx: AsyncConnection, now: float) -> int:
        return await audit.seal(tx, _ROWS)

    async def a_round() -> None:
        await duty.do(seal)

    return a_round
