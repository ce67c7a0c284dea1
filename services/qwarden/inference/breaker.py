"""Whether the guard is asked, or waited for. Pure: no clock, no chance.

Closed: rows are sent. Open: they wait. Probing: they wait, and one known good conversation is out.

Invariants, each held by `tests/property/test_trials.py`:
- One probe at a time: none is asked for while one is out.
- Only an answer to a probe that was sent since the breaker opened closes it. An answer that was
  under way when the guard went says nothing of the guard that is there now.
- `failures` grows with each probe that fails and each time the guard goes again, and is 0 only once
  a request was answered: a guard that answers probes and nothing else is asked ever more rarely.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace


class State(enum.Enum):
    CLOSED = enum.auto()
    OPEN = enum.auto()
    PROBING = enum.auto()


@dataclass(frozen=True, slots=True)
class Breaker:
    """`reason`: of the last failure, None while closed. `failures`: since a request of rows was
    answered, which is what the backoff counts."""

    state: State = State.CLOSED
    reason: str | None = None
    failures: int = 0

    @property
    def closed(self) -> bool:
        return self.state is State.CLOSED

    def went(self, reason: str) -> Breaker:
        """A request found the guard away; while it is known to be, that is nothing new."""
        if not self.closed:
            return self
        return Breaker(State.OPEN, reason, self.failures + 1)

    def asks(self) -> Breaker:
        """A known good conversation goes out."""
        return replace(self, state=State.PROBING) if self.state is State.OPEN else self

    def good_came_back(self) -> Breaker:
        if self.state is not State.PROBING:
            return self
        return Breaker(State.CLOSED, None, self.failures)

    def good_did_not(self, reason: str) -> Breaker:
        """Where it was asked on behalf of a row, the breaker opens: it is an outage."""
        return Breaker(State.OPEN, reason, self.failures + 1)

    def answered(self) -> Breaker:
        """A request of rows was answered."""
        return Breaker() if self.closed else self
