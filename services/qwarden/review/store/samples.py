"""A sample of what was decided without people, for people: how often it is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.decision import ACTIONS
from qwarden.contracts.verdict import Basis
from qwarden.review.order import QUALITY
from qwarden.review.sampling import takes
from qwarden.review.store.asking import about, row
from qwarden.review.store.conflict import insert
from qwarden.review.store.schema import items
from qwarden.review.store.scope import is_open
from qwarden.settings import Review

_HARM = 1
"""What users wait for is always before it."""


async def consider(
    tx: AsyncConnection, rows: Sequence[Mapping[str, Any]], now: float, limits: Review
) -> int:
    """Opens an item for each of these new rows of the ledger that the sample takes, as long as not
    too many wait; returns for how many.

    What the guard judged and the policy allowed, labelled or blocked is sampled. Which verdict is
    taken its id decides, so that it is the same one when it comes again; its item has its id.
    """
    taken = [
        each
        for each in rows
        if each["basis"] == Basis.GUARD
        and each["action"] in ACTIONS
        and each["content"] is not None
        and takes(f"sample/{each['verdict_id']}", limits.sample_share)
    ]
    if not taken:
        return 0
    waiting = select(func.count()).where(
        is_open, items.c.queue == QUALITY, items.c.kind == text("'sample'")
    )
    room = limits.samples_open - (await tx.execute(waiting)).scalar_one()
    opened = [
        row(
            "sample",
            arrived_at=now,
            sla_s=limits.quality_sla_s,
            harm=_HARM,
            reach=0,
            queue=QUALITY,
            **about(each),
        )
        | {"item_id": each["verdict_id"]}
        for each in taken[: max(0, room)]
    ]
    if opened:
        await tx.execute(insert(tx, items).on_conflict_do_nothing().inline(), opened)
    return len(opened)
