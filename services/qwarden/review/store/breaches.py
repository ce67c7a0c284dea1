"""What happens to items that nobody has decided within their time. They stay open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.store import audit, joining, rulings
from qwarden.review.store.asking import URGENT
from qwarden.review.store.audit import SERVICE, Act
from qwarden.review.store.schema import items
from qwarden.review.store.scope import is_open
from qwarden.settings import Review

_AT_ONCE = 100
"""Each is a decision on every escalation of an item: some milliseconds."""

_FOR_QUALITY = frozenset({"golden", "second", "disagreement", "sample"})
"""No user waits for these: they never push aside what cannot wait."""


async def sweep(
    tx: AsyncConnection, now: float, limits: Review, is_frozen: Callable[[str], bool]
) -> int:
    """Does what the policies say of items whose time is over, once; returns of how many, and 0
    where there are no more. `is_frozen`: whether nothing automatic may block a tenant's content
    now: then people look instead."""
    over = (
        select(items)
        .where(is_open, items.c.breached_at.is_(None), items.c.breach_at <= now)
        .order_by(items.c.breach_at)
        .limit(_AT_ONCE)
    )
    # Whoever has such a row locked may be deciding it; if not, it is here again in a second.
    rows = list(await tx.execute(over.with_for_update(skip_locked=True)))
    for row in rows:
        done = _done(row, is_frozen)
        await audit.write(
            tx,
            Act.BREACHED,
            actor=SERVICE,
            at=now,
            tenant=row.tenant,
            item_id=row.item_id,
            done=done,
        )
        if done == "raise":
            await joining.put(
                tx,
                row,
                now,
                queue=URGENT,
                breached_at=now,
                breach_at=now + limits.urgent_sla_s,
            )
            continue
        if done is not None:
            await rulings.breach(tx, row, now, limits)
        await tx.execute(
            update(items).where(items.c.item_id == row.item_id).values(breached_at=now)
        )
    return len(rows)


def _done(item: Row[Any], is_frozen: Callable[[str], bool]) -> str | None:
    """What is done: raise, allow or block; None where being late is all that it is."""
    if item.kind in _FOR_QUALITY:
        return None
    if item.kind != "review" or (item.on_breach == "block" and is_frozen(item.tenant)):
        return "raise"
    return str(item.on_breach)
