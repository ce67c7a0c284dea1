"""What a ruling is put beside: a share of decisions is made again by a second person who does not
know the first, and where they disagree a lead decides; golden items and samples have an answer of
their own. What was said beside what is a row of `checks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.identity import new_id
from qwarden.review.order import QUALITY, URGENT
from qwarden.review.person import Person, Role
from qwarden.review.refusals import Conflict
from qwarden.review.sampling import takes
from qwarden.review.store import appeals, asking, audit, closing
from qwarden.review.store.asking import DECIDED, can_have, deciders
from qwarden.review.store.audit import SERVICE, Act
from qwarden.review.store.schema import checks, goldens, items, ledger, rulings
from qwarden.settings import Review

_TAKEN_BACK = "What it checks was taken back."


async def after(
    tx: AsyncConnection,
    item: Row[Any],
    ruling: Row[Any],
    person: Person,
    now: float,
    limits: Review,
) -> None:
    """What follows from a ruling on an item, which is as it was before: a second look, a check, a
    lead's, or the outcome of an appeal. In the transaction of the ruling."""
    match item.kind:
        case "review":
            await _second(tx, item, ruling, person, now, limits)
        case "second":
            await _compare(tx, item, ruling, person, now, limits)
        case "golden":
            await asking.exclude(tx, item.golden_id, [person.user_id], DECIDED)
            await _check(
                tx, item, ruling, now, expected=await _right(tx, item), against=item.golden_id
            )
        case "sample":
            await _check_sample(tx, item, ruling, now, limits)
        case "appeal":
            await appeals.decided(tx, item, ruling)
    await appeals.keep_off(tx, person.user_id, [ruling.ruling_id])


async def undone(tx: AsyncConnection, ruling_id: str) -> None:
    """As if a ruling, which was just taken back, had had no consequences here. Raises `Conflict`
    where a lead has decided on one of them meanwhile."""
    ruling = (
        await tx.execute(select(rulings).where(rulings.c.ruling_id == ruling_id))
    ).one_or_none()
    if ruling is None:
        return
    at = ruling.taken_back_at or ruling.decided_at
    firsts = [ruling_id]
    if ruling.kind == "second":
        of = select(items.c.ruling_id).where(items.c.item_id == ruling.item_id)
        firsts = list((await tx.execute(of)).scalars())
        await _close(tx, firsts, ("disagreement",), at)
    elif ruling.kind == "review":
        await _close(tx, firsts, ("second", "disagreement"), at)
        seconds = select(rulings.c.ruling_id).join(items, items.c.item_id == rulings.c.item_id)
        seconds = seconds.where(items.c.ruling_id == ruling_id, items.c.kind == "second")
        await tx.execute(delete(checks).where(checks.c.ruling_id.in_(seconds)))
    elif ruling.kind == "appeal":
        await appeals.undecided(tx, ruling_id)
    await tx.execute(delete(checks).where(checks.c.ruling_id == ruling_id))


async def _second(
    tx: AsyncConnection,
    item: Row[Any],
    ruling: Row[Any],
    person: Person,
    now: float,
    limits: Review,
) -> None:
    """Has a share of decisions made again, by another one, as an item that has just come. Not where
    there is no other one, and not of what is urgent: nobody is roused for a check."""
    if person.is_tool or ruling.bulk_id is not None or item.queue == URGENT:
        return
    if item.verdict_id is None or not takes(f"second/{ruling.ruling_id}", limits.second_share):
        return
    if not any(
        each.user_id != person.user_id and can_have(each, item.tenant, item.language, item.role)
        for each in await deciders(tx)
    ):
        return
    opened = asking.row(
        "second",
        arrived_at=now,
        sla_s=item.breach_at - item.arrived_at,
        queue=item.queue,
        role=item.role,
        ruling_id=ruling.ruling_id,
        harm=item.harm,
        reach=item.reach,
        **asking.about(item._mapping),
    )
    await tx.execute(insert(items).values(opened))
    await asking.exclude(tx, opened["item_id"], [person.user_id], DECIDED)


async def _compare(
    tx: AsyncConnection,
    item: Row[Any],
    ruling: Row[Any],
    person: Person,
    now: float,
    limits: Review,
) -> None:
    """Puts the second answer beside the first one, and asks a lead where they differ."""
    of = select(rulings).where(rulings.c.ruling_id == item.ruling_id)
    first = (await tx.execute(of)).one_or_none()
    if first is None or first.taken_back_at is not None:
        return
    await _check(tx, item, ruling, now, expected=first.action, against=first.user_id)
    if ruling.action == first.action:
        return
    opened = asking.row(
        "disagreement",
        arrived_at=now,
        sla_s=limits.quality_sla_s,
        queue=QUALITY,
        role=Role.LEAD.value,
        ruling_id=first.ruling_id,
        harm=item.harm,
        reach=item.reach,
        **asking.about(item._mapping),
    )
    await tx.execute(insert(items).values(opened))
    both = {first.user_id, person.user_id}
    leads = [
        each.user_id
        for each in await deciders(tx)
        if can_have(each, item.tenant, item.language, Role.LEAD)
    ]
    # A team whose only lead is one of the two has nobody else: better one of them than nobody.
    if set(leads) - both:
        await asking.exclude(tx, opened["item_id"], sorted(both), DECIDED)


async def _check_sample(
    tx: AsyncConnection, item: Row[Any], ruling: Row[Any], now: float, limits: Review
) -> None:
    of = select(ledger.c.action, ledger.c.sample_rate).where(ledger.c.verdict_id == item.verdict_id)
    automatic = (await tx.execute(of)).one_or_none()
    if automatic is not None:
        # A share of 0 has taken this one before somebody set it: at least it was not sampled twice.
        rate = (automatic.sample_rate or 1.0) * (limits.sample_share or 1.0)
        await _check(tx, item, ruling, now, expected=automatic.action, rate=rate)


async def _check(
    tx: AsyncConnection,
    item: Row[Any],
    ruling: Row[Any],
    now: float,
    *,
    expected: str,
    against: str | None = None,
    rate: float | None = None,
) -> None:
    check_id = new_id(now)
    await tx.execute(
        insert(checks).values(
            check_id=check_id,
            kind=item.kind,
            ruling_id=ruling.ruling_id,
            tenant=item.tenant,
            user_id=ruling.user_id,
            against=against,
            language=item.language,
            category=item.category,
            said=ruling.action,
            expected=expected,
            rate=rate,
            at=now,
        )
    )
    await audit.write(
        tx,
        Act.CHECKED,
        actor=SERVICE,
        at=now,
        tenant=item.tenant,
        item_id=item.item_id,
        kind=item.kind,
        ruling_id=ruling.ruling_id,
        said=ruling.action,
        expected=expected,
    )


async def _close(tx: AsyncConnection, of: Sequence[str], kinds: Sequence[str], at: float) -> None:
    """Closes what was opened on these rulings, also while somebody holds it."""
    opened = (
        await tx.execute(
            select(items)
            .where(items.c.ruling_id.in_(of), items.c.kind.in_(kinds))
            .order_by(items.c.item_id)
            .with_for_update()
        )
    ).all()
    if any(each.kind == "disagreement" and each.state == "decided" for each in opened):
        raise Conflict("a lead has decided on it meanwhile, so it cannot be taken back any more")
    await closing.end(tx, [(each, _TAKEN_BACK) for each in opened if each.state == "open"], at)


async def _right(tx: AsyncConnection, item: Row[Any]) -> str:
    of = select(goldens.c.action).where(goldens.c.golden_id == item.golden_id)
    return str((await tx.execute(of)).scalar_one())
