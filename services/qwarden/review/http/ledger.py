"""What was said of content, for who has to answer for it, and erasing it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel
from sqlalchemy import Row as StoredRow
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.http import shapes
from qwarden.review.http.access import Admin, Answerable
from qwarden.review.http.answers import Revealed
from qwarden.review.http.bodies import EventId, Id, Subject, Tenant
from qwarden.review.http.served import Serves, Writing
from qwarden.review.masking import Content, masked, shown
from qwarden.review.person import Person
from qwarden.review.refusals import Invalid, NotFound
from qwarden.review.store import audit, ledger, showing
from qwarden.review.store.audit import Act

router = APIRouter(prefix="/v1", tags=["ledger"])

_MOST = 100
"""Rows of one answer, each with its whole content."""


class LedgerRow(BaseModel):
    """A verdict with its content, masked; null where that was erased."""

    verdict_id: str
    tenant: str
    event_id: str
    edit: int
    task: str
    subject: str | None
    language: str
    category: str
    safety: str | None
    basis: str
    action: str
    rule: str
    content_hash: str | None
    arrived_at: float
    kept_until: float
    verdict: dict[str, Any]
    content: Content | None
    decision: str | None
    """What stands of what people decided of it."""


class Ledger(BaseModel):
    rows: list[LedgerRow]


class Erased(BaseModel):
    verdicts: int


@router.get("/ledger")
async def read_ledger(
    tx: Writing,
    person: Answerable,
    served: Serves,
    tenant: Tenant | None = None,
    event_id: EventId | None = None,
    verdict_id: Id | None = None,
    subject: Subject | None = None,
) -> Ledger:
    """Of one event, verdict or subject. That somebody has seen them is logged."""
    rows = await _found(tx, person, tenant, event_id, verdict_id, subject)
    await audit.put(
        tx,
        [
            audit.entry(
                Act.SAW,
                actor=person.user_id,
                at=served.clock(),
                tenant=each.tenant,
                verdict_id=each.verdict_id,
            )
            for each in rows
        ],
    )
    said = await showing.decided(tx, rows)
    return Ledger(rows=[_row(each, said) for each in rows])


@router.post("/ledger/{verdict_id}/reveal")
async def reveal(
    verdict_id: Annotated[Id, Path()], tx: Writing, person: Answerable, served: Serves
) -> Revealed:
    """The content of one, unmasked. That somebody asked for it is logged."""
    row = await ledger.row(tx, verdict_id)
    if row is None or not person.sees(row.tenant):
        raise NotFound("the ledger has no such verdict among your tenants'")
    stored = showing.content_in(row)
    if stored is None:
        raise NotFound("the content of this verdict was erased")
    await audit.write(
        tx,
        Act.REVEALED,
        actor=person.user_id,
        at=served.clock(),
        tenant=row.tenant,
        verdict_id=verdict_id,
    )
    return Revealed(
        content=shown(stored),
        metadata=shapes.metadata_of(showing.verdict_in(row)),
    )


@router.delete("/contents")
async def erase(
    tenant: Tenant, event_id: EventId, tx: Writing, person: Admin, served: Serves
) -> Erased:
    """Erases an event's content for good, and closes what is open for it."""
    if not person.sees(tenant) or not await ledger.of_event(tx, tenant, event_id):
        raise NotFound("the ledger has no such event among your tenants'")
    return Erased(
        verdicts=await ledger.erase(tx, tenant, event_id, actor=person.user_id, now=served.clock())
    )


async def _found(
    tx: AsyncConnection,
    person: Person,
    tenant: str | None,
    event_id: str | None,
    verdict_id: str | None,
    subject: str | None,
) -> list[StoredRow[Any]]:
    if verdict_id is not None:
        row = await ledger.row(tx, verdict_id)
        return [] if row is None or not person.sees(row.tenant) else [row]
    if tenant is None or (event_id is None and subject is None):
        raise Invalid("name a verdict_id, or a tenant and an event_id or a subject")
    if not person.sees(tenant):
        return []
    if event_id is not None:
        return (await ledger.of_event(tx, tenant, event_id))[:_MOST]
    assert subject is not None
    return await ledger.of_subject(tx, tenant, subject, _MOST)


def _row(row: StoredRow[Any], said: dict[tuple[str, str, str], str]) -> LedgerRow:
    stored = showing.content_in(row)
    columns = {name: getattr(row, name) for name in LedgerRow.model_fields if name in row._fields}
    return LedgerRow(
        **{
            **columns,
            "verdict": shapes.verdict_of(showing.verdict_in(row)),
            "content": None if stored is None else masked(stored),
            "decision": said.get((row.tenant, row.event_id, row.task)),
        }
    )
