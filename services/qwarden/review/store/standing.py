"""What stands of an event: of each task the verdict that was kept, and the last decision on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.decision import Decision, decode_decision
from qwarden.contracts.standing import standing
from qwarden.contracts.verdict import Verdict, decode_verdict
from qwarden.review.refusals import Invalid, NotFound
from qwarden.review.store.schema import decisions, events, ledger, rulings, superseded


@dataclass(frozen=True, slots=True)
class Stands:
    """`row`: the ledger's. `decision`: the last one over the verdict that is published, or None."""

    row: Row[Any]
    verdict: Verdict
    decision: Decision | None


async def of_event(
    tx: AsyncConnection, tenant: str, event_id: str, task: str | None, now: float
) -> Stands:
    """What stands of an event, or of this task of it.

    Raises `NotFound` where nothing is kept of it, and `Invalid` where several tasks are and none
    is named.
    """
    rows = (
        await tx.execute(
            select(ledger).where(ledger.c.tenant == tenant, ledger.c.event_id == event_id)
        )
    ).all()
    kept = await _left(tx, tenant, event_id, rows)
    found = [each for each in kept if task is None or each.row.task == task]
    if not found:
        raise NotFound(
            "no verdict of such an event is kept: it was allowed, its content was deleted or "
            "edited, or its time is over; check tenant, event_id and task"
        )
    if len(found) > 1:
        raise Invalid(
            "the event has verdicts of several tasks; name one: "
            + ", ".join(sorted(each.row.task for each in found))
        )
    return await _decided(tx, found[0], now)


async def of_verdict(tx: AsyncConnection, tenant: str, verdict_id: str, now: float) -> Stands:
    """What stands of the event and task that a verdict of a tenant is about. Raises `NotFound`
    where it is not kept, or is none that stands any more."""
    row = (
        await tx.execute(
            select(ledger.c.tenant, ledger.c.event_id, ledger.c.task).where(
                ledger.c.verdict_id == verdict_id, ledger.c.tenant == tenant
            )
        )
    ).one_or_none()
    if row is None:
        raise NotFound("no such verdict is kept; it was allowed, or its time is over")
    found = await of_event(tx, row.tenant, row.event_id, row.task, now)
    if found.row.verdict_id != verdict_id:
        raise NotFound("another verdict has taken the place of this one; name the event instead")
    return found


async def verdict(tx: AsyncConnection, verdict_id: str) -> Verdict:
    """A verdict that is kept."""
    of = select(ledger.c.verdict).where(ledger.c.verdict_id == verdict_id)
    return decode_verdict((await tx.execute(of)).scalar_one())


async def _left(
    tx: AsyncConnection, tenant: str, event_id: str, rows: Sequence[Row[Any]]
) -> list[Stands]:
    """Of these verdicts those that stand. One that took another's place may not be kept itself,
    since it allows; that it did so is."""
    if not rows:
        return []
    event = (
        await tx.execute(
            select(events.c.edit, events.c.withdrawn).where(
                events.c.tenant == tenant, events.c.event_id == event_id
            )
        )
    ).one_or_none()
    if event is not None and event.withdrawn:
        return []
    by_id = {each.verdict_id: each for each in rows}
    gone = set(
        (
            await tx.execute(
                select(superseded.c.verdict_id).where(superseded.c.verdict_id.in_(by_id))
            )
        ).scalars()
    )
    edit = 0 if event is None else event.edit
    left = [each for each in rows if each.verdict_id not in gone and each.edit >= edit]
    order = sorted(left, key=lambda each: (each.arrived_at, each.verdict_id))
    said = [(at, decode_verdict(each.verdict)) for at, each in enumerate(order)]
    return [Stands(by_id[each.verdict_id], each, None) for each in standing(said).values()]


async def _decided(tx: AsyncConnection, of: Stands, now: float) -> Stands:
    mine = decisions.c
    said = (
        await tx.execute(
            select(mine.decision_id, mine.supersedes, mine.value)
            .join(rulings, rulings.c.ruling_id == mine.ruling_id)
            .where(
                mine.tenant == of.row.tenant,
                mine.event_id == of.row.event_id,
                mine.task == of.row.task,
                mine.edit == of.row.edit,
                rulings.c.publish_at <= now,
            )
            .order_by(mine.decision_id)
        )
    ).all()
    taken = {each.supersedes for each in said}
    last = [each for each in said if each.decision_id not in taken]
    if not last:
        return of
    return Stands(of.row, of.verdict, decode_decision(last[-1].value))
