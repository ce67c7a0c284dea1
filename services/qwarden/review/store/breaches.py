"""What happens to items that nobody has decided within their time. They stay open."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.decision import By
from qwarden.contracts.verdict import decode_verdict
from qwarden.review.failing import where
from qwarden.review.identity import new_id
from qwarden.review.order import URGENT
from qwarden.review.ruling import NO_DECISION_IN_TIME, Said
from qwarden.review.store import asking, audit, decisions, effects, joining
from qwarden.review.store.among import in_parts
from qwarden.review.store.audit import SERVICE, Act
from qwarden.review.store.database import is_outage
from qwarden.review.store.decisions import Target
from qwarden.review.store.effects import Ruler
from qwarden.review.store.rulings import Ruled, ruled
from qwarden.review.store.schema import items, ledger
from qwarden.review.store.scope import is_open
from qwarden.settings import Review

_log = logging.getLogger(__name__)

_AT_ONCE = 100
"""Each is a decision on every escalation of an item: some milliseconds."""

_FOR_QUALITY = frozenset({"golden", "second", "disagreement", "sample"})
"""No user waits for these: they never push aside what cannot wait."""


async def sweep(
    tx: AsyncConnection, now: float, limits: Review, is_frozen: Callable[[str], bool]
) -> int:
    """Does what the policies say of items whose time is over, once; returns of how many, and 0
    where there are no more. One that fails stops no other. `is_frozen`: whether nothing automatic
    may block a tenant's content now: then people look instead."""
    over = (
        select(items.c.item_id)
        .where(is_open, items.c.breached_at.is_(None), items.c.breach_at <= now)
        .order_by(items.c.breach_at)
        .limit(_AT_ONCE)
    )
    # Whoever has such a row locked may be deciding it; if not, it is here again in a second.
    late = (await tx.execute(over.with_for_update(skip_locked=True))).scalars().all()
    done = 0
    for item_id in late:
        # Only now: one before it may have been joined with it, and then another way is its own.
        row = (await tx.execute(select(items).where(items.c.item_id == item_id))).one()
        what = _done(row, is_frozen)
        # What cannot be decided is for people: nothing else would ever come of it.
        ways = (what, "raise") if what in ("allow", "block") else (what,)
        for way in ways:
            if await _tried(tx, row, way, now, limits):
                done += 1
                break
    return done


async def decide(tx: AsyncConnection, item: Row[Any], now: float, limits: Review) -> Ruled | None:
    """Decides what the policy says where nobody has in time (`on_breach`: allow or block), at once;
    the item, of kind `review`, stays open. None where a person has decided all of it, or a breach
    has before."""
    targets = (await decisions.of_items(tx, [item]))[item.item_id]
    if not targets:
        return None
    said = await _as_the_policy_says(tx, targets, item.on_breach)
    told = [(target, said[target.verdict_id]) for target in targets]
    case = effects.case_of(item, told, told[0][1], new_id(now))
    settled = await effects.settle(tx, [case], Ruler(By.BREACH), now, limits)
    return ruled(case, settled) if case.ruling_id in settled.made else None


async def _tried(
    tx: AsyncConnection, item: Row[Any], what: str | None, now: float, limits: Review
) -> bool:
    """Whether that could be done; if not, nothing of it is, and the others go on."""
    try:
        async with tx.begin_nested():
            await _do(tx, item, what, now, limits)
    except Exception as error:
        if is_outage(error):
            raise
        _log.error("the breach of item %s fails (%s): %s", item.item_id, what, where(error))
        return False
    return True


async def _do(
    tx: AsyncConnection, item: Row[Any], what: str | None, now: float, limits: Review
) -> None:
    await audit.write(
        tx,
        Act.BREACHED,
        actor=SERVICE,
        at=now,
        tenant=item.tenant,
        item_id=item.item_id,
        done=what,
    )
    if what == "raise":
        urgent_until = now + limits.urgent_sla_s
        lies = await joining.put(
            tx, item, now, queue=URGENT, breached_at=now, breach_at=urgent_until
        )
        await asking.offer_again(tx, lies)
        return
    if what is not None:
        await decide(tx, item, now, limits)
    await tx.execute(update(items).where(items.c.item_id == item.item_id).values(breached_at=now))


def _done(item: Row[Any], is_frozen: Callable[[str], bool]) -> str | None:
    """What is done: raise, allow or block; None where being late is all that it is."""
    if item.kind in _FOR_QUALITY:
        return None
    if item.kind != "review" or (item.on_breach == "block" and is_frozen(item.tenant)):
        return "raise"
    return str(item.on_breach)


async def _as_the_policy_says(
    tx: AsyncConnection, targets: Sequence[Target], action: str
) -> dict[str, Said]:
    """What a breach says of each of these verdicts that the ledger has: ground and clause are those
    of its rule."""
    ids = [target.verdict_id for target in targets]
    if action == "allow":
        return dict.fromkeys(ids, Said(action, reason=NO_DECISION_IN_TIME))
    said: dict[str, Said] = {}
    for some in in_parts(ids):
        wanted = select(ledger.c.verdict_id, ledger.c.verdict).where(ledger.c.verdict_id.in_(some))
        for row in await tx.execute(wanted):
            verdict = decode_verdict(row.verdict)
            said[row.verdict_id] = Said(
                action,
                tuple(verdict.categories or ()),
                NO_DECISION_IN_TIME,
                verdict.notice.ground if verdict.notice else None,
                verdict.notice.clause if verdict.notice else None,
            )
    return said
