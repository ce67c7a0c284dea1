"""The reasons for a restriction, from the verdict and the last decision, and as a user reads them.
Pure.

Our own sentences stand in `statements/`, one file for each language; the policy's text and the
redress are the platform's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from qwarden.contracts.decision import By, Decision
from qwarden.contracts.statement import (
    Automation,
    DecidedBy,
    Ground,
    PromptedBy,
    Restriction,
    StatedFacts,
    Statement,
    What,
)
from qwarden.contracts.verdict import Action, Basis, Verdict
from qwarden.review.refusals import NotFound

LANGUAGES: tuple[str, ...] = ("en", "de")
"""Those that our sentences exist in; every other reader gets the first."""


_PROMPTED_BY = {
    "user_report": PromptedBy.USER_REPORT,
    "authority": PromptedBy.AUTHORITY,
    "appeal": PromptedBy.APPEAL,
}
"""By an event's origin."""


def statement_of(
    verdict: Verdict,
    decision: Decision | None,
    *,
    judged_at: datetime,
    redress: str,
    explanation: str | None = None,
    earlier: Iterable[Decision] = (),
) -> Statement:
    """The reasons for what a verdict, or the last decision over it, does to content.

    `earlier`: those that the decision superseded, the latest first. `explanation`: what the policy
    says of the decision's clause, in the user's language; the verdict's own is taken where that has
    the same clause. Raises `NotFound` where nothing is restricted.
    """
    what = _what(verdict, decision)
    by_person = decision is not None and decision.by is By.PERSON
    prompted_by = _PROMPTED_BY.get(verdict.facts.origin, PromptedBy.OWN_INITIATIVE)
    named = decision.categories if decision is not None and by_person else verdict.categories
    return Statement(
        tenant=verdict.tenant,
        event_id=verdict.event_id,
        edit=verdict.edit,
        task=verdict.task,
        verdict_id=verdict.verdict_id,
        decision_id=decision.decision_id if decision is not None else verdict.decision,
        decided_at=decision.decided_at if decision is not None else judged_at,
        restriction=Restriction(
            what=what,
            since=_since(verdict, decision, earlier, judged_at),
            until="decided_by_person" if what is What.WITHHELD else "decided_otherwise",
        ),
        facts=StatedFacts(
            prompted_by=prompted_by,
            safety=verdict.safety,
            categories=list(named or []),
            cause=verdict.cause,
            reason=decision.reason if decision is not None and by_person else None,
        ),
        automation=Automation(
            detected=prompted_by is PromptedBy.OWN_INITIATIVE,
            assessed=verdict.safety is not None,
            decided=not by_person,
            decided_by=_decided_by(verdict, decision),
            guard=verdict.guard.model if verdict.guard is not None else None,
        ),
        ground=_ground(verdict, decision, explanation),
        redress=redress,
    )


def text_of(statement: Statement, language: str | None) -> str:
    """A statement as its user reads it, in paragraphs: our sentences in `language`, a tag, where
    they exist in it, else in English; the policy's and the redress as they are."""
    said = sentences(language)
    facts, automation, restriction = statement.facts, statement.automation, statement.restriction
    found = (
        said["found"].format(categories=_listed(facts.categories, said))
        if facts.categories
        else said["not_assessed" if facts.safety is None else "found_nothing_named"]
    )
    paragraphs = [
        said["about"].format(event_id=statement.event_id),
        f"{said['what'][restriction.what]} "
        + said["since"].format(date=restriction.since.date().isoformat())
        + f" {said['until'][restriction.until]}",
        f"{said['prompted_by'][facts.prompted_by]} {found}",
        f"{said['assessed'][str(automation.assessed).lower()]} "
        f"{said['decided_by'][automation.decided_by]}",
        _ground_text(statement.ground, said),
        statement.redress,
    ]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def sentences(language: str | None) -> Mapping[str, Any]:
    """Our own sentences in a language, a tag, or in English."""
    primary = (language or "").partition("-")[0].lower()
    return _file(primary if primary in LANGUAGES else LANGUAGES[0])


@cache
def _file(language: str) -> Mapping[str, Any]:
    file = resources.files("qwarden.review") / "statements" / f"{language}.json"
    found: Mapping[str, Any] = msgspec.json.decode(file.read_bytes())
    return found


def _what(verdict: Verdict, decision: Decision | None) -> What:
    """What acts on the content; raises `NotFound` where that is no restriction."""
    if verdict.basis is Basis.WITHDRAWN:
        raise NotFound("the content was withdrawn, so nothing of it is restricted any more")
    if decision is None:
        what = _by_verdict(verdict)
        if what is None:
            raise NotFound(
                "the content is not restricted, so there are no reasons to state; a statement is "
                "there for what is blocked, shown with a notice, or hidden until a person decides"
            )
        return what
    what = _by_decision(decision)
    if what is None:
        raise NotFound(
            "the content is not restricted any more: the last decision allows it, so there are no "
            "reasons to state"
        )
    return what


def _since(
    verdict: Verdict, decision: Decision | None, earlier: Iterable[Decision], judged_at: datetime
) -> datetime:
    """When what acts now began: whoever confirms it only says it again."""
    if decision is None:
        return judged_at
    since = decision.decided_at
    for each in earlier:
        if each.action != decision.action:
            return since
        since = each.decided_at
    before = _by_verdict(verdict)
    what = What.DISABLED if before is What.WITHHELD else before
    return min(since, judged_at) if what is _by_decision(decision) else since


def _by_decision(decision: Decision) -> What | None:
    if decision.action == Action.ALLOW:
        return None
    return What.LABELLED if decision.action == Action.DISCLAIM else What.DISABLED


def _by_verdict(verdict: Verdict) -> What | None:
    if verdict.action is Action.BLOCK:
        return What.DISABLED
    if verdict.action is Action.DISCLAIM:
        return What.LABELLED
    if verdict.action is Action.REVIEW and verdict.meanwhile == "hide":
        return What.WITHHELD
    return None


def _decided_by(verdict: Verdict, decision: Decision | None) -> DecidedBy:
    if decision is not None:
        return DecidedBy.DEADLINE if decision.by is By.BREACH else DecidedBy.PERSON
    if verdict.basis is Basis.HUMAN:
        return DecidedBy.PERSON_ON_EQUAL_CONTENT
    return DecidedBy.AUTOMATION


def _ground(verdict: Verdict, decision: Decision | None, explanation: str | None) -> Ground | None:
    notice = verdict.notice
    if decision is None or decision.ground is None or decision.clause is None:
        if notice is None:
            return None
        return Ground(kind=notice.ground, clause=notice.clause, explanation=notice.text)
    if notice is not None and (notice.ground, notice.clause) == (decision.ground, decision.clause):
        explanation = notice.text or explanation
    return Ground(kind=decision.ground, clause=decision.clause, explanation=explanation)


def _ground_text(ground: Ground | None, said: Mapping[str, Any]) -> str:
    if ground is None:
        return ""
    named: str = said["ground"][ground.kind].format(clause=ground.clause)
    return named if ground.explanation is None else f"{named} {ground.explanation}"


def _listed(categories: list[str], said: Mapping[str, Any]) -> str:
    """Names of categories in a language; one that this release does not know stays as it is."""
    return ", ".join(said["categories"].get(name, name) for name in categories)
