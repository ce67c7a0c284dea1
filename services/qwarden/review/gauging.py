"""How the queues stand, as figures for operators. Each process looks at the same database."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden import telemetry
from qwarden.review.order import APPEALS, QUALITY, URGENT
from qwarden.review.store import asking, outbox, queues
from qwarden.review.store.database import Database
from qwarden.review.store.schema import audit, items
from qwarden.review.store.scope import is_open

_QUEUES = 100
"""Queues with a label of their own: policies name them, some dozens; the rest are `other`."""


def gauges(database: Database, now: Callable[[], float]) -> Callable[[], Awaitable[None]]:
    """A round that looks once. While none succeeds there are no figures: those of before would say
    that all is as it was."""
    label = telemetry.TenantLabels(frozenset({URGENT, APPEALS, QUALITY}), _QUEUES)
    known: set[str] = set()
    _forget()

    async def look() -> None:
        try:
            await tell()
        except Exception:
            _forget()
            raise

    async def tell() -> None:
        at = now()
        async with database.reading() as tx:
            await _queues(tx, at, label, known)
            unserved = await queues.unserved(tx)
            stranded = await asking.stranded(tx)
            oldest = await outbox.oldest(tx)
            unsealed = select(func.count()).where(audit.c.position.is_(None))
            telemetry.REVIEW_UNSEALED.set((await tx.execute(unsealed)).scalar_one())
        telemetry.REVIEW_UNSERVED.labels("language").set(sum(each.open for each in unserved))
        for kind, count in stranded.items():
            telemetry.REVIEW_UNSERVED.labels(kind).set(count)
        telemetry.REVIEW_OUTBOX_SECONDS.set(0 if oldest is None else max(0.0, at - oldest))

    return look


def _forget() -> None:
    for gauge in (
        telemetry.REVIEW_ITEMS,
        telemetry.REVIEW_OVERDUE_SECONDS,
        telemetry.REVIEW_UNSERVED,
    ):
        gauge.clear()
    for each in (telemetry.REVIEW_UNSEALED, telemetry.REVIEW_OUTBOX_SECONDS):
        each.set(math.nan)  # it has no label, and without one a series cannot be removed


async def _queues(
    tx: AsyncConnection, at: float, label: telemetry.TenantLabels, known: set[str]
) -> None:
    wanted = (
        select(
            items.c.queue,
            func.count().label("open"),
            func.count(case((items.c.leased_until > at, 1))).label("held"),
            func.count(items.c.breached_at).label("breached"),
            func.min(items.c.breach_at).label("breach_at"),
        )
        .where(is_open)
        .group_by(items.c.queue)
    )
    found: dict[str, list[float]] = {
        each: [0, 0, 0, 0] for each in known | {URGENT, APPEALS, QUALITY}
    }
    for row in await tx.execute(wanted):
        sums = found.setdefault(label(row.queue), [0, 0, 0, 0])
        sums[0] += row.open
        sums[1] += row.held
        sums[2] += row.breached
        sums[3] = max(sums[3], at - row.breach_at)
    known |= found.keys()
    for queue, (open_, held, breached, overdue) in found.items():
        telemetry.REVIEW_ITEMS.labels(queue, "open").set(open_)
        telemetry.REVIEW_ITEMS.labels(queue, "held").set(held)
        telemetry.REVIEW_ITEMS.labels(queue, "breached").set(breached)
        telemetry.REVIEW_OVERDUE_SECONDS.labels(queue).set(overdue)
