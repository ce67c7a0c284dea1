"""What the guard answers for one conversation: an assessment, or why there is none."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass


class Safety(enum.StrEnum):
    """How safe content is. By name only: the numbers of checkpoints are not in this order."""

    SAFE = "Safe"
    CONTROVERSIAL = "Controversial"
    UNSAFE = "Unsafe"


SAFETIES: tuple[Safety, ...] = (Safety.SAFE, Safety.CONTROVERSIAL, Safety.UNSAFE)
"""The order of every triple of logits or scores in this project."""

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the guard says; it knows no policy and no tenant.

    `logits`: raw, of Safe, Controversial, Unsafe, after the forced `Safety:`, each the logit of
    that word's first token. `categories`: (name, probability) as decoded, best first; empty above
    the floor. `refusal`: for responses only. `tokens`: how many were judged, without the
    template. `dropped_turns`: oldest turns left out so that the rest fits the context.
    `revision`: of the guard that answered.
    """

    logits: Triple
    categories: tuple[tuple[str, float], ...]
    refusal: bool | None
    tokens: int
    dropped_turns: int
    revision: str

    @property
    def scores(self) -> Triple:
        """Probabilities of Safe, Controversial, Unsafe: a softmax over the three logits."""
        top = max(self.logits)
        safe, controversial, unsafe = (math.exp(value - top) for value in self.logits)
        total = safe + controversial + unsafe
        return safe / total, controversial / total, unsafe / total

    @property
    def safety(self) -> Safety:
        """The likeliest word; of equal ones the more severe, so that a tie is never Safe."""
        return max(zip(self.logits, range(3), SAFETIES, strict=True))[2]


class Failure(enum.StrEnum):
    """Why one row has no assessment. Never a reason to call it Safe."""

    REFUSED = "refused"
    """The row itself is wrong and always will be: a dead letter."""
    TOO_LONG = "too_long"
    """The last turn alone is over the checkpoint's context."""
    NO_ANSWER = "no_answer"
    """The engine failed on this row (not a number, out of memory alone)."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """No assessment for this row, why, and under which revision that was found."""

    failure: Failure
    reason: str
    revision: str


Answer = Assessment | Unanswered
