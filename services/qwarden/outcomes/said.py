"""What an assessment gives a verdict. Pure."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from qwarden.contracts.verdict import CategoryScore, Guard, Scores, ViewScores
from qwarden.guard.answer import Assessment, Safety, Triple

CALIBRATION = "none"
POLICY_SERIAL = 0
"""No policy has come into force by `moderation.control` yet: policies are read from files."""


class Said(msgspec.Struct, frozen=True):
    """What an assessment gives a verdict; all null where there is none."""

    safety: str | None = None
    scores: Scores | None = None
    categories: list[str] | None = None
    category_scores: list[CategoryScore] | None = None
    refusal: bool | None = None
    views: list[ViewScores] | None = None
    dropped: tuple[str, ...] = ()
    """What the guard left out."""


NOTHING = Said()


def said_of(assessment: Assessment, safety: Safety) -> Said:
    """The words of a verdict for this assessment; `safety` is its own."""
    decoded = assessment.categories
    return Said(
        safety=str(safety),
        scores=scores_of(assessment.scores),
        # The guard's own word for Safe is `None`, also where the floor had categories decoded.
        categories=[] if safety is Safety.SAFE else [name for name, _ in decoded],
        category_scores=(
            [CategoryScore(name, round(score, 3)) for name, score in decoded] if decoded else None
        ),
        refusal=assessment.refusal,
        views=(
            [
                ViewScores(
                    entry.view.value, entry.piece, entry.safety.value, scores_of(entry.scores)
                )
                for entry in assessment.entries
            ]
            if assessment.entries
            else None
        ),
        dropped=(f"oldest:{assessment.dropped_turns}",) if assessment.dropped_turns else (),
    )


def scores_of(scores: Triple) -> Scores:
    """Rounded as they are published."""
    safe, controversial, unsafe = scores
    return Scores(round(safe, 3), round(controversial, 3), round(unsafe, 3))


@lru_cache(maxsize=64)
def guard_of(revision: str) -> Guard:
    """Who answers under this revision."""
    return Guard(revision.split("@", maxsplit=1)[0], revision, CALIBRATION)
