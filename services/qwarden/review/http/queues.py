"""What waits, and taking the next of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden import telemetry
from qwarden.review.http import shapes
from qwarden.review.http.access import Reader, Reviewer
from qwarden.review.http.answers import Claimed, Held, Lease, Page, Queues
from qwarden.review.http.bodies import (
    Category,
    Claim,
    Key,
    Language,
    Queue,
    Rule,
    State,
    Subject,
    Tenant,
)
from qwarden.review.http.detail import detail
from qwarden.review.http.served import Reading, Served, Serves, Writing
from qwarden.review.order import APPEALS, QUALITY, URGENT
from qwarden.review.refusals import Invalid
from qwarden.review.store import leases, queues, showing
from qwarden.review.store.turns import Wanted

router = APIRouter(prefix="/v1", tags=["queue"])

_PAGE = 50
_MOST = 200
"""Items a page: some screens of the console's list, and the most that one request reads."""


@router.get("/queues")
async def read_queues(tx: Reading, person: Reader, served: Serves) -> Queues:
    """Every queue with anything open in it, of what this person may see."""
    now = served.clock()
    return Queues(queues=await queues.overview(tx, person, now), now=now)


@router.get("/items")
async def read_items(
    tx: Reading,
    person: Reader,
    served: Serves,
    queue: Queue | None = None,
    tenant: Tenant | None = None,
    language: Language | None = None,
    category: Category | None = None,
    rule: Rule | None = None,
    subject: Subject | None = None,
    state: State = "open",
    after: Key | None = None,
    limit: Annotated[int, Query(ge=1, le=_MOST)] = _PAGE,
) -> Page:
    """Items in the order in which they are due."""
    found = await queues.page(
        tx,
        person,
        queues.Filter(
            queue=queue,
            tenant=tenant,
            language=language,
            category=category,
            rule=rule,
            subject=subject,
            state=state,
        ),
        after,
        limit,
    )
    if not found.items:
        await check_queue(tx, served, queue)
    names = await showing.pseudonyms(tx, [each.holder for each in found.items])
    return Page(items=[shapes.row_of(each, names) for each in found.items], next=found.next)


@router.post("/claims", responses={204: {"description": "There is nothing to do."}})
async def claim(wanted: Claim, tx: Writing, person: Reviewer, served: Serves) -> Claimed:
    """Leases the next item that is wanted, or that very one, to this person."""
    lease = await leases.claim(
        tx, person, Wanted(**wanted.model_dump()), served.clock(), served.limits
    )
    if lease is None:
        await check_queue(tx, served, wanted.queue)
        return Response(status_code=204)  # type: ignore[return-value]  # FastAPI sends it as it is
    telemetry.REVIEW_CLAIMS.inc()
    item = await showing.item(tx, person, lease.item_id)
    return Claimed(
        item=await detail(tx, served, item),
        lease=Lease(token=lease.token, fence=lease.fence, until=lease.until),
    )


@router.get("/leases")
async def read_leases(tx: Reading, person: Reviewer) -> Held:
    """What this person holds: a page that was loaded again goes on with it."""
    rows = await showing.held_by(tx, person)
    return Held.model_validate(
        {
            "leases": [
                {
                    "item_id": each.item_id,
                    "token": each.lease,
                    "fence": each.fence,
                    "until": each.leased_until,
                }
                for each in rows
            ]
        }
    )


async def check_queue(tx: AsyncConnection, served: Served, queue: str | None) -> None:
    """Raises Invalid for a queue that is none of ours, that no policy in force names, and that no
    item has ever been in: one that was worked off is a queue all the same. For where nothing of it
    was found, since it may look at every item."""
    if queue is None or queue in (URGENT, APPEALS, QUALITY):
        return
    if queue in shapes.queues_of(served.tenants()) or await showing.is_queue(tx, queue):
        return
    raise Invalid("there is no queue of that name; GET /v1/queues lists those with open items")
