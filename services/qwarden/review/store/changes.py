"""What has changed since somebody looked, cheaply: each act has a row in the audit log, and each
new item an id that begins with the time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.store.schema import audit, items, rulings, users
from qwarden.review.store.scope import is_open


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the log and the items go."""

    number: int
    item_id: str


async def mark(tx: AsyncConnection) -> Mark:
    """How far they go now: the ends of two indexes."""
    found = select(
        select(func.max(audit.c.number)).scalar_subquery().label("number"),
        select(func.max(items.c.item_id)).scalar_subquery().label("item_id"),
    )
    row = (await tx.execute(found)).one()
    return Mark(row.number or 0, row.item_id or "")


async def acts(tx: AsyncConnection, after: int) -> dict[int, str]:
    """The items that acts behind a number are about, by the number of the act. A transaction that
    commits late may put one below others that were seen before."""
    wanted = select(audit.c.number, audit.c.item_id).where(
        audit.c.number > after, audit.c.item_id.is_not(None)
    )
    return {row.number: row.item_id for row in await tx.execute(wanted)}


async def of_one(tx: AsyncConnection, touched: Sequence[Row[Any]]) -> dict[str, set[str]]:
    """Who alone may hear of an item: of golden ones, by id, whoever has it or has decided it, as
    their lists show it (`scope.listed_to`)."""
    own = {row.item_id: {row.holder} for row in touched if row.kind == "golden"}
    if own:
        wanted = select(rulings.c.item_id, rulings.c.user_id).where(rulings.c.item_id.in_(own))
        for row in await tx.execute(wanted):
            own[row.item_id].add(row.user_id)
    return own


async def with_golden(tx: AsyncConnection) -> set[str]:
    """Those who hold golden items: these count in their own lists alone."""
    holds = select(items.c.holder).where(is_open, items.c.golden_id.is_not(None))
    return {each for each in (await tx.execute(holds)).scalars() if each is not None}


async def rows(tx: AsyncConnection, item_ids: Collection[str]) -> list[Row[Any]]:
    """Items as they are now, with `pseudonym` of their holders."""
    wanted = (
        select(items, users.c.pseudonym)
        .outerjoin(users, users.c.user_id == items.c.holder)
        .where(items.c.item_id.in_(sorted(item_ids)))
    )
    return list(await tx.execute(wanted))
