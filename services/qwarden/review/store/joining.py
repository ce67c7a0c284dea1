"""Where an open item lies. Those of one tenant and queue with equal content are one: one that comes
to where another one lies is joined with it, and so is one that is opened again."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Row, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.store.closing import end
from qwarden.review.store.schema import escalations, items, notes
from qwarden.review.store.scope import is_open

JOINED = "It was joined with another item of equal content."


def on_breach_of(ways: Collection[str]) -> str:
    """What is done when the time of one item is over whose escalations say these, each `raise`,
    `allow` or `block`. Where they differ people look: nothing is decided against its own policy."""
    return next(iter(ways)) if len(set(ways)) == 1 else "raise"


async def put(tx: AsyncConnection, item: Row[Any], now: float, **changes: Any) -> str:
    """Changes an item, whose row the caller has locked, so that it is open where `changes` say or
    where it lies; returns its id, or that of the open item of equal content which lies there, which
    it is joined with: who holds that one goes on, and who holds this one does not."""
    other = await _twin(tx, item, changes)
    if other is None:
        changed = update(items).where(items.c.item_id == item.item_id)
        try:
            async with tx.begin_nested():
                await tx.execute(changed.values(state="open", **changes))
            return str(item.item_id)
        except IntegrityError:
            other = await _twin(tx, item, changes)  # it was opened there meanwhile
            if other is None:
                raise
    await _join(tx, item, other, now, changes)
    return str(other.item_id)


async def _twin(tx: AsyncConnection, item: Row[Any], changes: dict[str, Any]) -> Row[Any] | None:
    if item.kind != "review" or item.content_hash is None:
        return None
    wanted = select(items).where(
        items.c.tenant == item.tenant,
        items.c.queue == changes.get("queue", item.queue),
        items.c.content_hash == item.content_hash,
        items.c.kind == text("'review'"),
        items.c.item_id != item.item_id,
        is_open,
    )
    return (await tx.execute(wanted.with_for_update())).one_or_none()


async def _join(
    tx: AsyncConnection, item: Row[Any], other: Row[Any], now: float, changes: dict[str, Any]
) -> None:
    """Everything of `item`, as changed, becomes the other's, and it is closed."""
    its = {**item._mapping, **changes}
    both = other._mapping, its
    # What was late has had its say; the time of what still waits is its own.
    waiting = [each["breach_at"] for each in both if each["breached_at"] is None]
    await tx.execute(
        update(items)
        .where(items.c.item_id == other.item_id)
        .values(
            count=other._mapping["count"] + its["count"],
            harm=max(other.harm, its["harm"]),
            reach=max(other.reach, its["reach"]),
            arrived_at=min(other.arrived_at, its["arrived_at"]),
            due_at=min(other.due_at, its["due_at"]),
            breach_at=min(waiting or [each["breach_at"] for each in both]),
            breached_at=None if waiting else max(each["breached_at"] for each in both),
            on_breach=on_breach_of([each["on_breach"] for each in both]),
            urgent_why=other.urgent_why or its["urgent_why"],
        )
    )
    for table in (escalations, notes):
        await tx.execute(
            update(table).where(table.c.item_id == item.item_id).values(item_id=other.item_id)
        )
    await end(tx, [(item, JOINED)], now)
