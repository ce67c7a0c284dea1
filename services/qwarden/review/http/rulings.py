"""What one has decided, and taking it back."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from qwarden import telemetry
from qwarden.review.http.access import Reviewer
from qwarden.review.http.answers import Lease, TakenBack
from qwarden.review.http.bodies import Id
from qwarden.review.http.detail import detail
from qwarden.review.http.served import Reading, Serves, Writing
from qwarden.review.store import rulings, showing
from qwarden.review.store.rulings import RulingRow

router = APIRouter(prefix="/v1/rulings", tags=["decisions"])


@router.get("")
async def read_rulings(
    tx: Reading,
    person: Reviewer,
    served: Serves,
    limit: Annotated[int, Query(ge=1, le=200)] = 20,
) -> list[RulingRow]:
    """This person's latest decisions, the latest first."""
    return await rulings.mine(tx, person, served.clock(), limit)


@router.post("/{ruling_id}/take-back")
async def take_back(
    ruling_id: Annotated[Id, Path()], tx: Writing, person: Reviewer, served: Serves
) -> TakenBack:
    """Undoes a decision that is not published yet; its item is this person's again."""
    lease = await rulings.take_back(tx, person, ruling_id, served.clock(), served.limits)
    telemetry.REVIEW_TAKEN_BACK.inc()
    if lease is None:
        return TakenBack(item=None, lease=None)
    item = await showing.item(tx, person, lease.item_id)
    return TakenBack(
        item=await detail(tx, served, item),
        lease=Lease(token=lease.token, fence=lease.fence, until=lease.until),
    )
