"""Many items decided at once, by a lead who has looked over them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from qwarden import telemetry
from qwarden.review.http import shapes
from qwarden.review.http.access import Lead
from qwarden.review.http.answers import Previewed, Undone
from qwarden.review.http.bodies import Bulk, Id, Set
from qwarden.review.http.queues import check_queue
from qwarden.review.http.served import Reading, Serves, Writing
from qwarden.review.store import bulk, showing
from qwarden.review.store.bulk import DecidedInBulk

router = APIRouter(prefix="/v1/bulk", tags=["decisions"])


@router.post("/preview")
async def preview(body: Set, tx: Reading, person: Lead, served: Serves) -> Previewed:
    """How many open items that is, how many decisions that would be, and some of the items."""
    found = await bulk.preview(tx, person, _filter(body), served.clock(), served.limits)
    if not found.count:
        await check_queue(tx, served, body.queue)
    names = await showing.pseudonyms(tx, [each.holder for each in found.sample])
    return Previewed(
        count=found.count,
        decisions=found.decisions,
        held=found.held,
        sample=[shapes.row_of(each, names) for each in found.sample],
        preview=found.preview,
    )


@router.post("")
async def decide(body: Bulk, tx: Writing, person: Lead, served: Serves) -> DecidedInBulk:
    """Decides all of them alike; those that somebody holds are skipped."""
    done = await bulk.decide(
        tx,
        person,
        _filter(body.of),
        body.preview,
        body.said,
        served.clock(),
        served.limits,
    )
    telemetry.REVIEW_DECISIONS.labels(body.action, "bulk").inc(done.decided)
    return done


@router.post("/{bulk_id}/undo")
async def undo(bulk_id: Annotated[Id, Path()], tx: Writing, person: Lead, served: Serves) -> Undone:
    """Takes all of it back, as long as nothing of it is published."""
    taken_back, reopened = await bulk.undo(tx, person, bulk_id, served.clock())
    telemetry.REVIEW_TAKEN_BACK.inc(taken_back)
    return Undone(reopened=reopened)


def _filter(of: Set) -> bulk.Filter:
    return bulk.Filter(**of.model_dump())
