"""One item: looking at it, and what is done under a lease."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from qwarden import telemetry
from qwarden.review.http import shapes
from qwarden.review.http.access import Lead, Reader, Reviewer
from qwarden.review.http.answers import Detail, MovedTo, Renewed, RevealedItem, Ruled
from qwarden.review.http.bodies import (
    Decide,
    HandOver,
    Held,
    Id,
    Move,
    NewNote,
    Skip,
    ToUrgent,
)
from qwarden.review.http.detail import detail
from qwarden.review.http.queues import check_queue
from qwarden.review.http.served import Serves, Writing
from qwarden.review.masking import shown
from qwarden.review.refusals import NotFound
from qwarden.review.store import audit, leases, rulings, showing
from qwarden.review.store.audit import Act

router = APIRouter(prefix="/v1/items", tags=["items"])

ItemId = Annotated[Id, Path()]


@router.get("/{item_id}")
async def read_item(item_id: ItemId, tx: Writing, person: Reader, served: Serves) -> Detail:
    """All that is known of an item, its content masked. That somebody saw it is logged."""
    item = await showing.item(tx, person, item_id)
    await audit.write(
        tx,
        Act.SAW,
        actor=person.user_id,
        at=served.clock(),
        tenant=item.tenant,
        item_id=item_id,
    )
    return await detail(tx, served, item)


@router.post("/{item_id}/reveal")
async def reveal(item_id: ItemId, tx: Writing, person: Reader, served: Serves) -> RevealedItem:
    """Its content, and what people wrote of it, unmasked. That somebody asked for it is logged."""
    item = await showing.item(tx, person, item_id)
    of = await showing.subject(tx, item)
    if of.content is None:
        raise NotFound("the content of this item was erased, or its time is over")
    await audit.write(
        tx,
        Act.REVEALED,
        actor=person.user_id,
        at=served.clock(),
        tenant=item.tenant,
        item_id=item_id,
    )
    appeal = None if item.appeal_id is None else await showing.appeal(tx, item.appeal_id)
    return RevealedItem(
        content=shown(of.content),
        metadata=shapes.metadata_of(of.verdict),
        statement=None if appeal is None else appeal[0].statement,
        notes=[
            shapes.note_of(each, is_masked=False)
            for each in await showing.notes_of(tx, item.item_id)
        ],
    )


@router.post("/{item_id}/renew")
async def renew(
    item_id: ItemId, held: Held, tx: Writing, person: Reviewer, served: Serves
) -> Renewed:
    """A sign of life: the lease runs anew from now."""
    until = await leases.renew(tx, person, item_id, held.lease, served.clock(), served.limits)
    return Renewed(until=until)


@router.post("/{item_id}/release", status_code=204)
async def release(
    item_id: ItemId, held: Held, tx: Writing, person: Reviewer, served: Serves
) -> Response:
    """Gives it back undecided."""
    await leases.release(tx, person, item_id, held.lease, served.clock())
    return Response(status_code=204)


@router.post("/{item_id}/handover", status_code=204)
async def hand_over(
    item_id: ItemId, body: HandOver, tx: Writing, person: Reviewer, served: Serves
) -> Response:
    """Gives it to a colleague, who holds it at once."""
    await leases.hand_over(tx, person, item_id, body.lease, body.to, served.clock(), served.limits)
    return Response(status_code=204)


@router.post("/{item_id}/skip", status_code=204)
async def skip(
    item_id: ItemId, body: Skip, tx: Writing, person: Reviewer, served: Serves
) -> Response:
    """Gives it back, not to be given it again."""
    await leases.skip(tx, person, item_id, body.lease, body.reason, served.clock())
    return Response(status_code=204)


@router.post("/{item_id}/urgent")
async def send_to_urgent(
    item_id: ItemId, body: ToUrgent, tx: Writing, person: Reviewer, served: Serves
) -> MovedTo:
    """Moves it into the urgent queue: a threat to life, suspected child abuse, or other."""
    now = served.clock()
    moved = await leases.send_to_urgent(
        tx, person, item_id, body.lease, body.why, now, served.limits
    )
    if body.note is not None:
        await showing.note(tx, person, await showing.item(tx, person, moved), body.note, now)
    return MovedTo(item_id=moved)


@router.post("/{item_id}/move")
async def move(item_id: ItemId, body: Move, tx: Writing, person: Lead, served: Serves) -> MovedTo:
    """Moves it into another queue that there is."""
    await check_queue(tx, served, body.queue)
    return MovedTo(item_id=await leases.move(tx, person, item_id, body.queue, served.clock()))


@router.post("/{item_id}/notes", status_code=204)
async def add_note(
    item_id: ItemId, body: NewNote, tx: Writing, person: Reviewer, served: Serves
) -> Response:
    """Adds a note that everybody sees who has the item."""
    item = await showing.item(tx, person, item_id)
    await showing.note(tx, person, item, body.text, served.clock())
    return Response(status_code=204)


@router.post("/{item_id}/decide")
async def decide(
    item_id: ItemId, body: Decide, tx: Writing, person: Reviewer, served: Serves
) -> Ruled:
    """Decides it, for every escalation that it stands for. It can be taken back for a moment, and
    is published after that."""
    ruled = await rulings.decide(
        tx, person, item_id, body.lease, body.said, served.clock(), served.limits
    )
    telemetry.REVIEW_DECISIONS.labels(body.action, "person").inc(ruled.is_new)
    return Ruled(
        ruling_id=ruled.ruling_id,
        take_back_until=ruled.take_back_until,
        decisions=ruled.count,
    )
