"""How many requests may be in flight. Pure.

Invariants, each held by `tests/property/test_trials.py`:
- Always between 1 and the setting.
- Halved once for all the requests that were in flight together: one full queue refuses them all,
  and that is one piece of news.
- Grows by one after as many answers as are allowed in flight, never by more.
- `refusals` in a row, which the pause before the next request grows with, is 0 after an answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Pace:
    """`most`: the setting. `cuts`: how often it was halved, which a request remembers from when it
    was sent. `answers`: since the last change."""

    most: int
    allowed: int
    cuts: int = 0
    answers: int = 0
    refusals: int = 0

    @classmethod
    def of(cls, most: int) -> Pace:
        return cls(most, most)

    def refused(self, cuts: int) -> Pace:
        """The guard had enough; `cuts` is what the request remembers."""
        if cuts != self.cuts:
            return self
        return Pace(self.most, max(1, self.allowed // 2), self.cuts + 1, 0, self.refusals + 1)

    def answered(self) -> Pace:
        if self.allowed == self.most:
            return replace(self, refusals=0) if self.refusals else self
        if self.answers + 1 < self.allowed:
            return replace(self, answers=self.answers + 1, refusals=0)
        return Pace(self.most, self.allowed + 1, self.cuts)
