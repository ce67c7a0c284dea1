"""One item with all that a person needs to decide, read in one transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row as StoredRow
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.http import shapes
from qwarden.review.http.answers import Detail, Holding
from qwarden.review.http.served import Served
from qwarden.review.masking import masked
from qwarden.review.store import quality, showing


async def detail(tx: AsyncConnection, served: Served, item: StoredRow[Any]) -> Detail:
    """An item, masked, and what people wrote of its content as well; where that is gone, they
    wrote of nothing that could be revealed."""
    of = await showing.subject(tx, item)
    is_masked = of.content is not None
    names = await showing.pseudonyms(tx, [item.holder])
    row = shapes.row_of(item, names)
    appeal = None
    if item.appeal_id is not None:
        made, ruling = await showing.appeal(tx, item.appeal_id)
        appeal = shapes.appeal_of(made, ruling, of.verdict, of.at, is_masked=is_masked)
    accuracy = await quality.accuracy(tx, item.tenant, of.verdict.get("categories") or [])
    return Detail(
        **row.model_dump(),
        verdict=shapes.verdict_of(of.verdict),
        accuracy=accuracy,
        content=None if of.content is None else masked(of.content),
        why=shapes.why_of(of.verdict, item.rule),
        clauses=shapes.clauses_of(served.tenants(), item.tenant, item.language),
        subject_history=[
            shapes.earlier_of(each, decision) for each, decision in await showing.earlier(tx, item)
        ],
        past_decisions=await showing.past(tx, item),
        notes=[
            shapes.note_of(each, is_masked=is_masked)
            for each in await showing.notes_of(tx, item.item_id)
        ],
        appeal=appeal,
        lease=(
            None
            if row.holder is None or row.leased_until is None
            else Holding(holder=row.holder, until=row.leased_until)
        ),
    )
