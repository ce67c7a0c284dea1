"""How long to wait before a thing is tried again. Pure: chance is given.

Invariants, each held by `tests/property/test_trials.py`:
- A wait is at least half of its step and at most the whole: many clients of one guard, which all
  lost it at the same moment, do not all come back at the same moment.
- The step is `first_s` after the first failure, doubles with each, and is never over `most_s`.
"""

from __future__ import annotations

from dataclasses import dataclass

_DOUBLINGS = 60
"""Beyond any setting's range; more would only overflow."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """`first_s`, `most_s`: the first step and the longest, in seconds."""

    first_s: float
    most_s: float

    def wait_s(self, failures: int, chance: float) -> float:
        """Seconds to wait after so many failures in a row; `chance` is in [0, 1)."""
        step = min(self.first_s * 2.0 ** min(max(failures - 1, 0), _DOUBLINGS), self.most_s)
        return step * (1 + chance) / 2
