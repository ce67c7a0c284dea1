"""Statements of reasons, from what the ledger keeps and what was decided of it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.decision import Decision
from qwarden.contracts.statement import Statement
from qwarden.contracts.verdict import Action, Verdict
from qwarden.policy.policy import Policy
from qwarden.policy.tenants import Tenants
from qwarden.review.person import Person
from qwarden.review.refusals import NotFound
from qwarden.review.statement import statement_of
from qwarden.review.store import audit, rulings, standing
from qwarden.review.store.audit import Act


async def state(
    tx: AsyncConnection,
    person: Person,
    tenant: str,
    event_id: str,
    *,
    task: str | None = None,
    tenants: Tenants,
    redress: str,
    now: float,
) -> tuple[Statement, str | None]:
    """The reasons for the restriction of an event's task, by what is published, and the language of
    its verdict. `tenants`: whose policies explain the clause that a person named.

    Raises `NotFound` where nothing is kept or restricted, or it is another one's tenant, and
    `Invalid` where several tasks are kept and none is named.
    """
    if not person.sees(tenant):
        raise NotFound("there is no such event among yours; check tenant and event_id")
    stands = await standing.of_event(tx, tenant, event_id, task, now)
    stated = statement_of(
        stands.verdict,
        stands.decision,
        judged_at=datetime.fromtimestamp(stands.row.arrived_at, UTC),
        redress=redress,
        explanation=_explanation(tenants, stands.verdict, stands.decision),
        earlier=[] if stands.decision is None else await _superseded(tx, stands.decision),
    )
    await audit.write(
        tx,
        Act.STATED,
        actor=person.user_id,
        at=now,
        tenant=tenant,
        verdict_id=stated.verdict_id,
        decision_id=stated.decision_id,
    )
    return stated, stands.verdict.language


async def _superseded(tx: AsyncConnection, last: Decision) -> list[Decision]:
    """The decisions before it in its chain, the latest first."""
    chain = await rulings.chain(tx, last.tenant, last.event_id, last.task)
    by_id = {each.decision_id: each for each in chain}
    found: list[Decision] = []
    while (before := by_id.get((found[-1] if found else last).supersedes or "")) is not None:
        found.append(before)
    return found


def _explanation(tenants: Tenants, verdict: Verdict, decision: Decision | None) -> str | None:
    """What the tenant's policies say of a decision's clause, rather the verdict's own."""
    if decision is None:
        return None
    own = verdict.policy.name if verdict.policy is not None else ""
    for policy in sorted(_policies(tenants, verdict.tenant), key=lambda each: each.name != own):
        told = policy.by_person(Action(decision.action), decision.ground, decision.clause).reason
        text = told.text(verdict.language) if told is not None else None
        if text is not None:
            return text
    return None


def _policies(tenants: Tenants, tenant: str) -> Iterable[Policy]:
    known = tenants.known.get(tenant)
    return (tenants.default,) if known is None else known.policies.values()
