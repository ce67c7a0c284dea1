"""What an assessment gives a verdict. Pure."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from qwarden.contracts.verdict import (
    Action,
    CategoryScore,
    Facts,
    Guard,
    Notice,
    PolicyUsed,
    Scores,
    Verdict,
    ViewScores,
)
from qwarden.guard.answer import Assessment, Safety, Triple
from qwarden.policy import reading
from qwarden.policy.file import Handling
from qwarden.policy.policy import Decided, Policy
from qwarden.policy.reading import Circumstances, Reading

CALIBRATION = "none"


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


def reading_of(about: Circumstances, assessment: Assessment) -> Reading:
    """What rules read of an assessment."""
    decoded = tuple(name for name, _ in assessment.categories)
    return reading.reading_of(
        about, assessment.safety, assessment.scores, decoded, assessment.refusal
    )


def policy_used(policy: Policy, decided: Decided) -> PolicyUsed:
    """Which policy acted, and by which of its rules."""
    return PolicyUsed(policy.name, policy.version, policy.serial, decided.rule)


def notice_of(decided: Decided, language: str | None) -> Notice | None:
    """What the user is told, where a rule restricts."""
    reason = decided.reason
    if reason is None:
        return None
    return Notice(reason.ground, reason.clause, reason.text(language))


def meanwhile_of(decided: Decided) -> str | None:
    """What the platform does until a person has decided, where one is asked."""
    return None if decided.handling is None else decided.handling.meanwhile


def handling_of(policy: Policy | None, verdict: Verdict) -> Handling | None:
    """How people are asked, where a verdict goes to them."""
    if verdict.action is not Action.REVIEW or policy is None or verdict.policy is None:
        return None
    return policy.handling_of(verdict.policy.rule)


def facts_of(about: Circumstances) -> Facts:
    """What rules read beside the assessment, as a verdict keeps it."""
    return Facts(origin=about.origin, reach=about.reach, metadata=dict(about.metadata))
