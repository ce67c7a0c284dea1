"""What closes items without a decision: their content is gone, or another verdict stands for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.store import audit
from qwarden.review.store.among import among
from qwarden.review.store.audit import SERVICE, Act
from qwarden.review.store.schema import appeals, escalations, items, ledger
from qwarden.review.store.scope import is_open

DELETED = "Its content was deleted."
EDITED = "Its content was edited; the edit has a verdict of its own."
SUPERSEDED = "Another verdict has taken the place of its own."
ERASED = "Its content was erased."
DECIDED_BEFORE = "A person had decided on it before it came."
OVER = "The time for which its content is kept is over."

ENDED: dict[str, Any] = {"holder": None, "lease": None, "leased_until": None}
"""Of an item that is not open any more: nobody holds it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """An event whose content is gone. `below`: only that of lower edits; None: all of it."""

    tenant: str
    event_id: str
    below: int | None
    why: str

    def covers(self, edit: int) -> bool:
        return self.below is None or edit < self.below


async def close(
    tx: AsyncConnection, ended: Iterable[Ended], superseded: Collection[str], now: float
) -> int:
    """Takes what is gone out of its items and closes those with nothing left, also while somebody
    holds them; returns how many. `superseded`: verdicts whose place others have taken; what people
    check or users appeal against stands all the same."""
    events = {(each.tenant, each.event_id): each for each in ended}
    gone = await _gone(tx, events, superseded)
    return await _take_out(tx, gone, now) + await _close_others(tx, events, now)


async def end(tx: AsyncConnection, ending: Sequence[tuple[Row[Any], str]], now: float) -> None:
    """Closes these open items, whose rows the caller has locked, each for its reason."""
    for why in sorted({why for _, why in ending}):
        which = [item.item_id for item, its in ending if its == why]
        await tx.execute(
            update(items)
            .where(items.c.item_id.in_(which))
            .values(state="closed", ended_at=now, ended_why=why, **ENDED)
        )
    appealed = [item.item_id for item, _ in ending if item.kind == "appeal"]
    if appealed:
        await tx.execute(
            update(appeals).where(appeals.c.item_id.in_(appealed)).values(outcome="closed")
        )
    await audit.put(
        tx,
        [
            audit.entry(
                Act.CLOSED,
                actor=SERVICE,
                at=now,
                tenant=item.tenant,
                item_id=item.item_id,
                why=why,
                holder=item.holder,
            )
            for item, why in ending
        ],
    )


async def _gone(
    tx: AsyncConnection, events: dict[tuple[str, str], Ended], superseded: Collection[str]
) -> dict[str, tuple[str, str]]:
    """The open escalations that are gone: by verdict, the item's id and why."""
    mine = escalations.c
    wanted = select(mine.verdict_id, mine.item_id, mine.tenant, mine.event_id, mine.edit)
    wanted = wanted.where(mine.is_open.is_(True))
    gone: dict[str, tuple[str, str]] = {}
    if superseded:
        for row in await tx.execute(wanted.where(mine.verdict_id.in_(superseded))):
            gone[row.verdict_id] = row.item_id, SUPERSEDED
    if events:
        of_events = wanted.where(among(escalations, events))
        for row in await tx.execute(of_events):
            event = events[row.tenant, row.event_id]
            if event.covers(row.edit):
                gone[row.verdict_id] = row.item_id, event.why
    return gone


async def _take_out(tx: AsyncConnection, gone: dict[str, tuple[str, str]], now: float) -> int:
    if not gone:
        return 0
    # Whoever decides an item has its row: it is waited for before anything is taken from it.
    rows = await _locked(tx, {item_id for item_id, _ in gone.values()})
    taken = await tx.execute(
        update(escalations)
        .where(escalations.c.verdict_id.in_(gone), escalations.c.is_open.is_(True))
        .values(is_open=False)
        .returning(escalations.c.verdict_id, escalations.c.item_id)
    )
    whys: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for row in taken:
        counts[row.item_id] += 1
        whys[row.item_id] = gone[row.verdict_id][1]
    # An item may have been joined with another one while it was waited for.
    rows |= await _locked(tx, counts.keys() - rows.keys())
    ending: list[tuple[Row[Any], str]] = []
    for item_id in sorted(counts):
        item = rows[item_id]
        left = item._mapping["count"] - counts[item_id]
        if left > 0:
            await _go_on(tx, item, left, gone)
        elif item.state == "open":
            ending.append((item, whys[item_id]))
    await end(tx, ending, now)
    return len(ending)


async def _locked(tx: AsyncConnection, item_ids: Collection[str]) -> dict[str, Row[Any]]:
    if not item_ids:
        return {}
    wanted = select(items).where(items.c.item_id.in_(item_ids)).order_by(items.c.item_id)
    return {row.item_id: row for row in await tx.execute(wanted.with_for_update())}


async def _go_on(tx: AsyncConnection, item: Row[Any], count: int, gone: Collection[str]) -> None:
    """The item stands for the others; where it shows one that is gone, for the first of those."""
    shown: dict[str, Any] = {}
    if item.verdict_id in gone:
        mine = escalations.c
        left = select(mine.verdict_id, ledger.c.subject).where(
            mine.item_id == item.item_id, mine.is_open.is_(True)
        )
        left = left.outerjoin_from(escalations, ledger, ledger.c.verdict_id == mine.verdict_id)
        first = left.order_by(mine.arrived_at, mine.verdict_id).limit(1)
        row = (await tx.execute(first)).one()
        shown = {"verdict_id": row.verdict_id, "subject": row.subject}
    await tx.execute(
        update(items).where(items.c.item_id == item.item_id).values(count=count, **shown)
    )


async def _close_others(
    tx: AsyncConnection, events: dict[tuple[str, str], Ended], now: float
) -> int:
    """Closes appeals, samples, second reviews and disagreements about what is gone."""
    if not events:
        return 0
    of_events = (
        select(items, ledger.c.event_id, ledger.c.edit)
        .join_from(items, ledger, ledger.c.verdict_id == items.c.verdict_id)
        .where(
            is_open,
            items.c.kind != text("'review'"),
            among(ledger, events),
        )
        .order_by(items.c.item_id)
    )
    ending: list[tuple[Row[Any], str]] = []
    for row in await tx.execute(of_events.with_for_update(of=items)):
        event = events[row.tenant, row.event_id]
        if event.covers(row.edit):
            ending.append((row, event.why))
    await end(tx, ending, now)
    return len(ending)
