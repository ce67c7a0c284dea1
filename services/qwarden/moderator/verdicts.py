"""From a case and what the guard said to its verdicts, one a task. Pure: the same in, the same
out.

Where a person has decided of equal content, that is done (basis `human`), whatever the policy, a
quota and a freeze say, and also where nothing was judged: the guard is away, refuses it or cannot
say, or it came too late. What the guard did say stands in the verdict beside it. Invariants, each
held by `tests/property/test_overrides.py`:
- A verdict's action is its override's where it has one, and is never made by an override of another
  tenant or content.
- Its policy's version is of that override alone: with another, or without, it has another id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.contracts.verdict import Basis, Facts, Verdict
from qwarden.guard.answer import Answer, Assessment, Failure, Unanswered
from qwarden.moderator.case import Case, Question
from qwarden.outcomes.said import (
    NOTHING,
    Said,
    facts_of,
    policy_used,
    reading_of,
    said_of,
    verdict_saying,
)
from qwarden.policy.policy import Decided, version_under

Verdicts = tuple[Verdict, ...]
Brake = Callable[[Decided, Basis], Decided]
"""What is done of what a policy decided on this basis: the same, or what a quota leaves of it."""

_POISON = frozenset({Failure.REFUSED, Failure.CRASHED})
"""What no waiting and no policy mends, and only a person's decision answers. The other failures are
degraded verdicts."""


def withdrawn(case: Case, key_id: str) -> Verdicts:
    """The content was deleted: one verdict of all tasks, final, neither judged nor acted on."""
    return (_verdict(case, None, key_id, basis=Basis.WITHDRAWN),)


def expired(case: Case, key_id: str, brake: Brake | None = None) -> Verdicts:
    """The deadline passed before the content was judged."""
    assert case.policy is not None
    return tuple(
        _verdict(
            case,
            question,
            key_id,
            basis=Basis.EXPIRED,
            cause="deadline",
            decided=case.policy.expired(case.about(question)),
            brake=brake,
        )
        for question in case.questions
    )


def in_outage(case: Case, key_id: str, brake: Brake | None = None) -> Verdicts | None:
    """What people and the policy say while the guard is away; None where any of it waits for the
    guard."""
    if case.policy is None:
        return None
    answers: list[tuple[Question, Decided | None]] = []
    for question in case.questions:
        decided = case.policy.in_outage(case.about(question))
        if decided is None and case.override_of(question) is None:
            return None
        answers.append((question, decided))
    return tuple(
        _verdict(
            case,
            question,
            key_id,
            basis=Basis.DEGRADED,
            cause="outage",
            decided=decided,
            brake=brake,
        )
        for question, decided in answers
    )


def judged(
    case: Case, answers: Sequence[Answer], key_id: str, brake: Brake | None = None
) -> Verdicts:
    """What the guard said to each question, and what the policy does about it.

    Raises `Refused` where any of them can never be answered, and no person has: then the record is
    a dead letter and nothing is said of its other task, so that no record has outcomes of two
    kinds.
    """
    return tuple(
        [
            _judged(case, question, answer, key_id, brake)
            for question, answer in zip(case.questions, answers, strict=True)
        ]
    )


def basis_of(verdicts: Verdicts) -> Basis:
    """The basis of a record's verdicts together: `degraded` where any of them is."""
    for verdict in verdicts:
        if verdict.basis is Basis.DEGRADED:
            return verdict.basis
    return verdicts[0].basis


def _judged(
    case: Case, question: Question, answer: Answer, key_id: str, brake: Brake | None
) -> Verdict:
    assert case.policy is not None
    about = case.about(question)
    if isinstance(answer, Assessment):
        return _verdict(
            case,
            question,
            key_id,
            basis=Basis.GUARD,
            decided=case.policy.decide(reading_of(about, answer)),
            brake=brake,
            said=said_of(answer, answer.safety),
            revision=answer.revision,
        )
    if answer.failure in _POISON and case.override_of(question) is None:
        raise _refused(case, question, answer)
    return _verdict(
        case,
        question,
        key_id,
        basis=Basis.DEGRADED,
        cause=answer.failure.value,
        decided=case.policy.unjudged(about),
        brake=brake,
        revision=answer.revision,
    )


def _refused(case: Case, question: Question, answer: Unanswered) -> Refused:
    crashed = answer.failure is Failure.CRASHED
    if crashed:
        reason = (
            f"the {question.task} alone ended the guard twice ({answer.reason}); mend the guard, "
            "then publish the event again"
        )
    else:
        reason = f"the guard refuses the {question.task}: {answer.reason}"
    return Refused(
        ErrorClass.CRASHED if crashed else ErrorClass.GUARD_REFUSED,
        reason,
        event_id=case.event.event_id,
        tenant=case.event.tenant,
        attempts=2 if crashed else 1,
    )


def _verdict(
    case: Case,
    question: Question | None,
    key_id: str,
    *,
    basis: Basis,
    cause: str | None = None,
    decided: Decided | None = None,
    brake: Brake | None = None,
    said: Said = NOTHING,
    revision: str = "",
) -> Verdict:
    event = case.event
    policy = case.policy
    override = case.override_of(question) if question else None
    if policy is not None and override is not None:
        decided = policy.by_person(override.action, override.ground, override.clause)
        basis = Basis.HUMAN
    elif decided is not None and brake is not None:
        done = brake(decided, basis)
        if done is not decided:
            decided, basis = done, Basis.QUOTA
    used = policy_used(policy, decided) if policy and decided else None
    if used is not None and override is not None:
        version = version_under(used.version, override.action, override.decision_id)
        used = msgspec.structs.replace(used, version=version)
    return verdict_saying(
        tenant=event.tenant,
        event_id=event.event_id,
        edit=event.edit,
        subject=event.subject,
        task=question.task if question else None,
        key_id=key_id,
        value=case.value,
        language=question.language.tag if question else event.language,
        confidence=question.language.confidence if question else None,
        detector=question.detector if question else "",
        content_hash=question.content_hash if question else None,
        facts=facts_of(case.about(question)) if question else Facts(event.origin, event.reach),
        said=said,
        revision=revision,
        answered_by=revision,
        basis=basis,
        cause=cause,
        decided=decided,
        used=used,
        dropped=case.dropped,
        decision=override.decision_id if override else None,
    )
