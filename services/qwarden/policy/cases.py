"""A policy's own tests: what it supposes, run through the policy as content is."""

from __future__ import annotations

from qwarden.guard.answer import Safety, Triple
from qwarden.policy.checks import Finding
from qwarden.policy.file import CaseFile, Expected, Given, PolicyFile
from qwarden.policy.places import Places
from qwarden.policy.policy import Decided, Policy
from qwarden.policy.reading import Circumstances, reading_of

_SURE = 0.98
"""The probability of a case's safety where it gives none: what a guard says that has no doubt."""


def findings(file: PolicyFile, places: Places) -> list[Finding]:
    """A finding for each case that does not come out as it expects."""
    policy = Policy(file)
    found = []
    for index, case in enumerate(file.cases):
        reason = _failure(policy, case)
        if reason is not None:
            found.append(
                Finding(
                    places.sentence(
                        ("cases", str(index), "expect"), f"the case {case.name!r} fails: {reason}"
                    )
                )
            )
    return found


def _failure(policy: Policy, case: CaseFile) -> str | None:
    decided = _decided(policy, case.given)
    got = Expected(action="hold")
    if decided is not None:
        handling = decided.handling
        got = Expected(
            action=decided.action,
            rule=decided.rule,
            queue=handling.queue if handling else None,
            meanwhile=handling.meanwhile if handling else None,
        )
    wanted = case.expect
    wrong = [
        f"{name} is {getattr(got, name)!s} and {getattr(wanted, name)!s} was expected"
        for name in Expected.model_fields
        if name in wanted.model_fields_set and getattr(wanted, name) != getattr(got, name)
    ]
    if not wrong:
        return None
    by = f" (by rule {got.rule!r})" if got.rule else ""
    return "; ".join(wrong) + by + "; mend the rules, or what the case expects"


def _decided(policy: Policy, given: Given) -> Decided | None:
    about = Circumstances(
        tenant=given.tenant,
        task=str(given.task),
        language=given.language,
        origin=given.origin,
        reach=given.reach,
        metadata=given.metadata,
    )
    if given.instead == "outage":
        return policy.in_outage(about)
    if given.instead == "unjudged":
        return policy.unjudged(about)
    if given.instead == "expired":
        return policy.expired(about)
    assert given.safety is not None
    return policy.decide(
        reading_of(about, given.safety, _scores(given), given.category, given.refusal)
    )


def _scores(given: Given) -> Triple:
    if given.score is not None:
        return given.score["safe"], given.score["controversial"], given.score["unsafe"]
    rest = round((1 - _SURE) / 2, 3)
    safe, controversial, unsafe = (_SURE if given.safety is word else rest for word in Safety)
    return safe, controversial, unsafe
