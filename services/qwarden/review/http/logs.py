"""The audit log: reading it, proving that nobody changed it, and taking it away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from qwarden.review.chain import Head
from qwarden.review.http.access import Auditor
from qwarden.review.http.bodies import Id, Key
from qwarden.review.http.served import Reading, Served, Serves, served_of
from qwarden.review.person import EVERY
from qwarden.review.refusals import Forbidden, Invalid
from qwarden.review.store import audit, showing
from qwarden.review.store.audit import Act

router = APIRouter(prefix="/v1/audit", tags=["audit"])


class LogRow(BaseModel):
    """`actor`: a pseudonym, or `service`. `about`: ids, hashes and words of ours."""

    number: int
    at: float
    actor: str
    act: str
    tenant: str
    item_id: str | None
    about: dict[str, str | int | float | bool | None]
    position: int | None
    """Its place in the chain; null for a moment."""


class Log(BaseModel):
    rows: list[LogRow]
    next: int | None


class ChainHead(BaseModel):
    position: int
    chained: str


class Verified(BaseModel):
    rows: int
    unsealed: int
    broken_at: int | None
    """The first position that is not as it was sealed."""
    head: ChainHead | None
    """To keep elsewhere: given next time it finds out where the last rows are gone."""


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
        rows=[
            LogRow(
                number=each.number,
                at=each.at,
                actor=names.get(each.actor, each.actor),
                act=each.act,
                tenant=each.tenant,
                item_id=each.item_id,
                about=each.about,
                position=each.position,
            )
            for each in rows
        ],
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
    known = None if position is None or chained is None else Head(position, chained)
    found = await audit.verify(tx, known)
    return Verified(
        rows=found.rows,
        unsealed=found.unsealed,
        broken_at=found.broken_at,
        head=(
            None
            if found.head is None
            else ChainHead(position=found.head.position, chained=found.head.chained)
        ),
    )


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
