"""From a case and what the guard said to the verdict. Pure: the same in, the same out."""

from __future__ import annotations

from typing import NamedTuple

from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.contracts.verdict import (
    Basis,
    CategoryScore,
    Facts,
    Guard,
    PolicyUsed,
    Scores,
    Verdict,
    verdict_id,
)
from qwarden.guard.answer import Answer, Assessment, Failure, Safety, Unanswered
from qwarden.moderator.case import Case
from qwarden.policy.policy import Decided

_CALIBRATION = "none"
_POLICY_SERIAL = 0
"""No policy has come into force by `moderation.control` yet: policies are read from files."""


def withdrawn(case: Case, key_id: str) -> Verdict:
    """The content was deleted: final, and neither judged nor acted on."""
    return _verdict(case, key_id, basis=Basis.WITHDRAWN)


def expired(case: Case, key_id: str) -> Verdict:
    """The deadline passed before the content was judged."""
    assert case.policy is not None
    return _verdict(
        case, key_id, basis=Basis.EXPIRED, cause="deadline", decided=case.policy.expired()
    )


def judged(case: Case, answer: Answer, key_id: str) -> Verdict:
    """What the guard said, and what the policy does about it.

    Raises `Refused` for a row that the guard refuses: it never can be judged.
    """
    assert case.policy is not None
    if isinstance(answer, Assessment):
        safety = answer.safety
        return _verdict(
            case,
            key_id,
            basis=Basis.GUARD,
            decided=case.policy.decide(safety, answer),
            assessment=answer,
            revision=answer.revision,
        )
    if answer.failure is Failure.REFUSED:
        raise _refused(case, answer)
    return _verdict(
        case,
        key_id,
        basis=Basis.DEGRADED,
        cause=answer.failure.value,
        decided=case.policy.unjudged(),
        revision=answer.revision,
    )


def _refused(case: Case, answer: Unanswered) -> Refused:
    return Refused(
        ErrorClass.GUARD_REFUSED,
        f"the guard refuses this conversation: {answer.reason}",
        event_id=case.event.event_id,
        tenant=case.event.tenant,
    )


def _verdict(
    case: Case,
    key_id: str,
    *,
    basis: Basis,
    cause: str | None = None,
    decided: Decided | None = None,
    assessment: Assessment | None = None,
    revision: str = "",
) -> Verdict:
    event = case.event
    policy = case.policy
    task = case.conversation.task.value if case.conversation else None
    said = _said(assessment)
    return Verdict(
        verdict_id=verdict_id(
            tenant=event.tenant,
            event_id=event.event_id,
            task=task or "",
            key_id=key_id,
            value=case.source.value or b"",
            revision=revision,
            calibration=_CALIBRATION,
            policy_version=policy.version if policy else "",
            policy_serial=_POLICY_SERIAL,
            basis=basis,
            cause=cause or "",
        ),
        event_id=event.event_id,
        edit=event.edit,
        tenant=event.tenant,
        subject=event.subject,
        task=task,
        language=event.language,
        content_hash=case.content_hash.hex() if case.conversation else None,
        facts=Facts(origin=event.origin, reach=event.reach),
        action=decided.action if decided else None,
        basis=basis,
        cause=cause,
        guard=_guard(revision) if revision else None,
        policy=(
            PolicyUsed(policy.name, policy.version, _POLICY_SERIAL, decided.rule)
            if policy and decided
            else None
        ),
        dropped=_dropped(case, assessment),
        safety=said.safety,
        scores=said.scores,
        categories=said.categories,
        category_scores=said.category_scores,
        refusal=said.refusal,
    )


class _Said(NamedTuple):
    """What an assessment gives a verdict; all null where there is none."""

    safety: str | None = None
    scores: Scores | None = None
    categories: list[str] | None = None
    category_scores: list[CategoryScore] | None = None
    refusal: bool | None = None


def _said(assessment: Assessment | None) -> _Said:
    if assessment is None:
        return _Said()
    safety = assessment.safety
    decoded = assessment.categories
    return _Said(
        safety=safety.value,
        scores=Scores(*(round(score, 3) for score in assessment.scores)),
        # The guard's own word for Safe is `None`, also where the floor had categories decoded.
        categories=[] if safety is Safety.SAFE else [name for name, _ in decoded],
        category_scores=[CategoryScore(name, round(score, 3)) for name, score in decoded] or None,
        refusal=assessment.refusal,
    )


def _dropped(case: Case, assessment: Assessment | None) -> list[str]:
    dropped = list(case.dropped)
    if assessment is not None and assessment.dropped_turns:
        dropped.append(f"oldest:{assessment.dropped_turns}")
    return dropped


def _guard(revision: str) -> Guard:
    return Guard(revision.split("@", maxsplit=1)[0], revision, _CALIBRATION)
