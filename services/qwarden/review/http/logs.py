"""The audit log: reading it, proving that nobody changed it, and taking it away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from qwarden.review.chain import ChainHead
from qwarden.review.http.access import Auditor
from qwarden.review.http.bodies import Id, Key
from qwarden.review.http.served import Reading, Served, Serves, served_of
from qwarden.review.person import EVERY
from qwarden.review.refusals import Forbidden, Invalid
from qwarden.review.store import audit, showing
from qwarden.review.store.audit import Act, LogRow, Verified

router = APIRouter(prefix="/v1/audit", tags=["audit"])


class Log(BaseModel):
    rows: list[LogRow]
    next: int | None


@router.get("")
async def read_log(
    tx: Reading,
    person: Auditor,
    actor: Key | None = None,
    item_id: Id | None = None,
    act: Act | None = None,
    after: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Log:
    """The newest first. `actor`: a user_id or a pseudonym."""
    if actor is not None:
        actor = await showing.user_of(tx, actor) or actor
    rows = await audit.read(
        tx, person, limit=limit, after=after, actor=actor, item_id=item_id, act=act
    )
    names = await showing.pseudonyms(tx, [each.actor for each in rows])
    return Log(
        rows=[replace(each, actor=names.get(each.actor, each.actor)) for each in rows],
        next=rows[-1].number if len(rows) == limit else None,
    )


@router.get("/verify")
async def verify(
    tx: Reading,
    person: Auditor,
    position: Annotated[int | None, Query(ge=0)] = None,
    chained: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")] = None,
) -> Verified:
    """Walks along the whole chain. `position` and `chained`: a head that was kept."""
    if (position is None) != (chained is None):
        raise Invalid("position and chained go together: name both of a head that was kept")
    known = None if position is None or chained is None else ChainHead(position, chained)
    return await audit.verify(tx, known)


@router.get("/export")
async def export(request: Request, person: Auditor, served: Serves) -> StreamingResponse:
    """All sealed rows, one JSON object a line, with what their hashes are made of."""
    if EVERY not in person.tenants:
        raise Forbidden("the whole log is of every tenant; it takes an auditor of all of them")
    async with served.database.writing() as tx:
        await audit.write(tx, Act.EXPORTED, actor=person.user_id, at=served.clock())
    return StreamingResponse(
        _lines(served_of(request)),
        media_type="application/x-ndjson",
        headers={"Content-Disposition": 'attachment; filename="audit.ndjson"'},
    )


async def _lines(served: Served) -> AsyncIterator[bytes]:
    async with served.database.reading() as tx:
        async for row in audit.export(tx):
            yield msgspec.json.encode(row) + b"\n"
