"""What rules read of one judged task, and how a rule's conditions hold of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from qwarden.contracts.values import Plain
from qwarden.guard.answer import Safety, Triple
from qwarden.guard.language import UNDETERMINED

Score = Literal["safe", "controversial", "unsafe", "flagged"]
"""What a rule may compare with numbers; `flagged` is P(Controversial) + P(Unsafe)."""

_AT: Mapping[Score, int] = {"safe": 0, "controversial": 1, "unsafe": 2}

NO_METADATA: Mapping[str, Plain] = {}


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known of a task before anybody judges it. `language`: a tag, or `und`. `unknown`: the
    names of metadata that a record does not hold and that its event may have had."""

    tenant: str
    task: str
    language: str = UNDETERMINED
    origin: str = "automatic"
    reach: int | None = None
    metadata: Mapping[str, Plain] = field(default_factory=lambda: NO_METADATA)
    unknown: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Reading:
    """All that rules read. `scores`: of Safe, Controversial, Unsafe, as published. `categories`:
    the names that were decoded, best first; None where they were not: of what is Safe, above the
    guard's floor."""

    about: Circumstances
    safety: Safety
    scores: Triple
    categories: tuple[str, ...] | None = ()
    refusal: bool | None = None


def score_of(name: Score, scores: Triple) -> float:
    """One score of three, or what two of them add up to."""
    if name == "flagged":
        # Of scores with three decimals the sum may be off by a millionth and no more.
        return round(scores[1] + scores[2], 6)
    return scores[_AT[name]]


Holds = Callable[[Reading], bool | None]
"""Whether a condition holds; None where the reading does not say."""


def plain_of(metadata: Mapping[str, object], names: Iterable[str]) -> Mapping[str, Plain]:
    """The metadata of these names that rules can read: text, numbers, true and false."""
    return {
        name: value
        for name in names
        if isinstance(value := metadata.get(name), str | int | float | bool)
    }


def reading_of(
    about: Circumstances,
    safety: Safety,
    scores: Triple,
    categories: tuple[str, ...],
    refusal: bool | None = None,
) -> Reading:
    """What rules read of an answer: its scores as they are published, so that who reads the verdict
    decides alike. What is Safe and names no category was not decoded, whatever the guard's floor:
    what is decoded has one at least."""
    safe, controversial, unsafe = (round(score, 3) for score in scores)
    decoded = categories if categories or safety is not Safety.SAFE else None
    return Reading(about, safety, (safe, controversial, unsafe), decoded, refusal)
