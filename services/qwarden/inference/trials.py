"""What the failures of a row mean: sent as before, sent alone, or given up. Pure.

A row fails where its answer is `no_answer`, or where its request failed in any way that is not the
guard's absence (`Trouble.FAILED`). After each failure the known good conversation is asked, and:

Invariants, each held by `tests/property/test_trials.py`:
- Where it does not come back, it is an outage and the failure never happened.
- A first failure, in whatever company, only makes a suspect, and a suspect is sent alone: no row is
  given up for what a row beside it did.
- A row is given up after `FAILURES_ALONE` failures alone, each followed by the known good
  conversation coming back; never before, and never not.
- Its deadline alone grows with its length, and is never shorter than that of a shorter one.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden.guard.row import View, row_of

FAILURES_ALONE = 2
"""One may be the moment's: a server that restarts, a machine that is paused."""

BYTES_A_TOKEN = 3
"""English has four to five a token and most other scripts about three; too long a deadline costs
a wait, too short a one costs a verdict."""

KNOWN_GOOD = row_of(Conversation(Task.PROMPT, (Turn("user", "hello"),)).to_json(), (View.AS_SENT,))
"""What every guard can judge. Whoever does not answer it cannot answer anything."""


@dataclass(frozen=True, slots=True)
class Trial:
    """`suspect`: it has failed, and goes alone. `failures`: alone, each proven to be the row's."""

    suspect: bool = False
    failures: int = 0

    @property
    def given_up(self) -> bool:
        return self.failures >= FAILURES_ALONE

    def failed(self, *, good_came_back: bool) -> Trial:
        """After a failure, and what the known good conversation said then."""
        if not good_came_back:
            return self
        return Trial(True, self.failures + 1) if self.suspect else Trial(True)


UNTRIED = Trial()


def deadline_s(size: int, *, base_s: float, per_1000_tokens_s: float) -> float:
    """Seconds that a row of `size` bytes may take alone."""
    return base_s + per_1000_tokens_s * size / BYTES_A_TOKEN / 1000
