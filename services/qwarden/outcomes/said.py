"""What an assessment gives a verdict, and the verdict that it comes to. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from qwarden.contracts.verdict import (
    Action,
    Basis,
    CategoryScore,
    Facts,
    Guard,
    Notice,
    PolicyUsed,
    Scores,
    Verdict,
    ViewScores,
    verdict_id,
)
from qwarden.guard.answer import Assessment, Safety, Triple
from qwarden.guard.conversation import Task
from qwarden.policy import reading
from qwarden.policy.file import Handling
from qwarden.policy.policy import Decided, Policy
from qwarden.policy.reading import Circumstances, Reading

_CALIBRATION = "none"
"""Scores are published as the checkpoint gives them: there is no calibration yet."""


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


def verdict_saying(
    *,
    tenant: str,
    event_id: str,
    task: Task | None,
    key_id: str,
    value: bytes,
    language: str | None,
    facts: Facts,
    basis: Basis,
    edit: int = 0,
    subject: str | None = None,
    confidence: float | None = None,
    detector: str = "",
    content_hash: bytes | None = None,
    said: Said = NOTHING,
    revision: str = "",
    answered_by: str = "",
    cause: str | None = None,
    decided: Decided | None = None,
    used: PolicyUsed | None = None,
    dropped: Sequence[str] = (),
    decision: str | None = None,
) -> Verdict:
    """A verdict that says this; its id is made of it.

    `value`: of its event, after decoding and mapping. `confidence`: of a `language` that the
    `detector` has told, of this version. `revision`: of all the guards that were asked;
    `answered_by`: of the one whose word it is, both empty where nobody was. `dropped`: before the
    guard was asked; what it has left out itself comes behind. `decision`: of a person, where that
    acted.
    """
    return Verdict(
        verdict_id=verdict_id(
            tenant=tenant,
            event_id=event_id,
            task="" if task is None else task.value,
            key_id=key_id,
            value=value,
            revision=revision,
            calibration=_CALIBRATION,
            detector=detector,
            policy_version="" if used is None else used.version,
            policy_serial=0 if used is None else used.serial,
            basis=basis,
            cause=cause or "",
        ),
        event_id=event_id,
        edit=edit,
        tenant=tenant,
        subject=subject,
        task=None if task is None else task.value,
        safety=said.safety,
        scores=said.scores,
        categories=said.categories,
        category_scores=said.category_scores,
        refusal=said.refusal,
        language=language,
        language_confidence=confidence,
        views=said.views,
        content_hash=None if content_hash is None else content_hash.hex(),
        facts=facts,
        action=None if decided is None else decided.action,
        meanwhile=None if decided is None else meanwhile_of(decided),
        notice=None if decided is None else notice_of(decided, language),
        basis=basis,
        cause=cause,
        guard=guard_of(answered_by) if answered_by else None,
        policy=used,
        dropped=[*dropped, *said.dropped],
        decision=decision,
    )


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
    return Guard(revision.split("@", maxsplit=1)[0], revision, _CALIBRATION)


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
