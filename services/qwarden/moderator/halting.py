"""Whether what the guard fails on is a run that must halt the whole fleet. Pure.

One row that ends the guard, or that it never answers, is that row's fault and becomes its outcome.
Many different ones are the deploy's: going on would drain the topic into the dead letters or onto
the reviewers. So the last outcomes are looked at, and the fleet halts where enough different
contents among them crashed the guard or were given up.

Invariants, each held by `tests/property/test_halting.py`:
- Only a failure halts, and only with `contents` different contents that failed within the last
  `outcomes`; one content that fails again, for whomever, counts once.
- Failures of two tenants' own contents halt whoever else is answered. A content is its first
  sender's within these outcomes: another tenant that repeats it is no second witness.
- Failures of one tenant alone do not halt where another tenant's row was answered between the
  first and the last of the latest `contents` of them: one tenant's poison stops nobody else.
- What is refused at the door is no outcome here, so it can neither halt nor put off a halt.
- A run is told once: after it the count begins anew.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import msgspec

from qwarden.guard.answer import Answer, Failure, Unanswered

_RUNS = {Failure.CRASHED: "crashed the guard", Failure.NO_ANSWER: "got no answer"}
"""The failures that may be the guard's own, and how a person reads them."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run that halts: how many different `contents` failed, of which `tenants`, by failure, among
    how many `outcomes`."""

    contents: int
    outcomes: int
    tenants: tuple[str, ...]
    failures: tuple[tuple[Failure, int], ...]

    @property
    def reason(self) -> str:
        """A sentence with the figures and what to do."""
        how = " and ".join(f"{count} {_RUNS[failure]}" for failure, count in self.failures)
        whose = (
            f"of {len(self.tenants)} tenants"
            if len(self.tenants) > 1
            else f"all of the tenant {self.tenants[0]!r}, while no other tenant's row was answered"
        )
        return (
            f"{self.contents} different contents failed among the last {self.outcomes} rows that "
            f"the guard was asked about: {how}; {whose}. Mend the guard or its deploy, then: "
            "qwarden dlq resume"
        )


class _Outcome(msgspec.Struct, frozen=True):
    tenant: str
    content: bytes = b""
    failure: Failure | None = None


def may_be_the_guards_fault(answer: Answer) -> bool:
    """Whether a row failed in a way that may say more of the guard than of the row."""
    return isinstance(answer, Unanswered) and answer.failure in _RUNS


class Halting:
    """The decider: fed with each row's outcome, in the order in which they come.

    `contents` failures of different contents among the last `outcomes` halt.
    """

    def __init__(self, *, contents: int, outcomes: int) -> None:
        self._contents = contents
        self._last: deque[_Outcome] = deque(maxlen=outcomes)

    def saw(self, tenant: str, content_hash: bytes, answer: Answer) -> Run | None:
        """What the guard said to one row of this tenant, or the run that it completes.

        Only what the guard itself was asked: an answer from a cache says nothing of the guard.
        """
        failure = answer.failure if isinstance(answer, Unanswered) else None
        if failure not in _RUNS:
            self._last.append(_Outcome(tenant))
            return None
        self._last.append(_Outcome(tenant, content_hash, failure))
        run = self._run()
        if run is not None:
            self.reset()
        return run

    def reset(self) -> None:
        """The count begins anew: for when a halt has come into force, or was withdrawn."""
        self._last.clear()

    def _run(self) -> Run | None:
        first: dict[bytes, _Outcome] = {}
        for outcome in self._last:
            if outcome.failure is not None:
                first.setdefault(outcome.content, outcome)
        if len(first) < self._contents:
            return None
        tenants = {outcome.tenant for outcome in first.values()}
        if len(tenants) == 1 and self._others_were_answered(*tenants):
            return None
        failures = [outcome.failure for outcome in first.values()]
        return Run(
            contents=len(first),
            outcomes=len(self._last),
            tenants=tuple(sorted(tenants)),
            failures=tuple((each, failures.count(each)) for each in _RUNS if each in failures),
        )

    def _others_were_answered(self, tenant: str) -> bool:
        """Whether another tenant's row was, since the latest `contents` failures began."""
        failed: set[bytes] = set()
        latest = reversed(self._last)
        while len(failed) < self._contents:
            outcome = next(latest)
            if outcome.failure is not None:
                failed.add(outcome.content)
            elif outcome.tenant != tenant:
                return True
        return False
