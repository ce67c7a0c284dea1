"""What a policy says of content that was judged already, or why that cannot be told. Pure.

A record is read as its rules read it (`records.reading_of`); the guard is not asked again. What a
record does not say is not guessed: where a rule needs it, nothing is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qwarden.contracts.verdict import Action
from qwarden.policy.conditions import When, compiled, holds, unjudged
from qwarden.policy.file import OnExpired, OnOutage, OnUnjudged, PolicyFile
from qwarden.policy.policy import Decided, Policy, Undecided
from qwarden.policy.reading import Circumstances, Reading
from qwarden.policy.records import Recorded, about_of, reading_of

UNDECIDED = "undecided"
"""Stands beside the actions where nothing can be said."""
WORDS: tuple[str, ...] = (*Action, UNDECIDED)
OUTAGE, DEADLINE = "outage", "deadline"
"""Causes for which nothing was judged, where the policy has a key of their own."""

_NOT_DECODED = "its categories were not decoded: P(Safe) was over the guard's floor"
_WAITS = "it would have waited for the guard"


@dataclass(frozen=True, slots=True)
class Untold:
    """A policy's word that is not known: which rule may match or not, and why."""

    rule: str
    reason: str


Told = Decided | Untold


def told(policy: Policy, recorded: Recorded, unknown: frozenset[str]) -> Told:
    """What a policy says of a record."""
    reading = reading_of(recorded, unknown)
    if reading is not None:
        said = policy.decide_or_tell(reading)
        if isinstance(said, Undecided):
            return Untold(said.rule, _why(policy.file, said.rule, reading))
        return said
    about = about_of(recorded, unknown)
    file = policy.file
    if recorded.cause == DEADLINE:
        return _otherwise("on_expired", file.on_expired, about, policy.expired)
    if recorded.cause == OUTAGE:
        return _otherwise("on_outage", file.on_outage, about, policy.in_outage)
    return _otherwise("on_unjudged", file.on_unjudged, about, policy.unjudged)


def word_of(said: Told) -> str:
    """The action, or that there is none."""
    return UNDECIDED if isinstance(said, Untold) else str(said.action)


def _otherwise(
    name: str,
    others: Sequence[OnExpired | OnOutage | OnUnjudged],
    about: Circumstances,
    decide: Callable[[Circumstances], Decided | None],
) -> Told:
    """What is done without a judgement, where the circumstances say so."""
    reading = unjudged(about)
    matches = ((each.when, holds(compiled(each.when), reading)) for each in others)
    when, is_sure = next(each for each in matches if each[1] is not False)
    if not is_sure:
        return Untold(name, _why_not(when, about))
    return decide(about) or Untold(name, _WAITS)


def _why(file: PolicyFile, rule: str, reading: Reading) -> str:
    when = next(each.when for each in file.rules if each.name == rule)
    if reading.categories is None and when.category is not None:
        return _NOT_DECODED
    return _why_not(when, reading.about)


def _why_not(when: When, about: Circumstances) -> str:
    names = [f"metadata.{name}" for name in when.metadata if name in about.unknown]
    return f"its facts lack {', '.join(names)}"
