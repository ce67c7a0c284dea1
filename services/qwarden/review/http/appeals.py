"""Appeals of users, and the statements of reasons that they get."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query

from qwarden.guard.conversation import Task
from qwarden.review.http.access import Answerable, Reviewer
from qwarden.review.http.answers import AppealMade, Appeals, Statement
from qwarden.review.http.bodies import Appeal, EventId, Tenant
from qwarden.review.http.served import Reading, Serves, Writing
from qwarden.review.masking import masked_text
from qwarden.review.refusals import Invalid
from qwarden.review.statement import text_of
from qwarden.review.store import appeals, statements

router = APIRouter(prefix="/v1", tags=["appeals"])


@router.post("/appeals")
async def open_appeal(body: Appeal, tx: Writing, person: Reviewer, served: Serves) -> AppealMade:
    """Has a person who had no part in it look again at what stands; an appeal that is open already
    is that one."""
    if (body.event_id is None) == (body.verdict_id is None):
        raise Invalid("name what it is against: an event_id, or a verdict_id")
    opened = await appeals.open_appeal(
        tx,
        person,
        tenant=body.tenant,
        statement=body.statement,
        event_id=body.event_id,
        verdict_id=body.verdict_id,
        task=body.task,
        now=served.clock(),
        limits=served.limits,
    )
    return AppealMade(appeal_id=opened.appeal_id, item_id=opened.item_id)


@router.get("/appeals")
async def read_appeals(
    tenant: Tenant, event_id: EventId, tx: Reading, person: Answerable
) -> Appeals:
    """Those about an event, the latest first. What users say is masked, as the content is: it may
    quote it, and is revealed with the appeal's item."""
    found = await appeals.of_event(tx, person, tenant, event_id)
    return Appeals(appeals=[replace(each, statement=masked_text(each.statement)) for each in found])


@router.get("/statements")
async def read_statement(
    tenant: Tenant,
    event_id: EventId,
    tx: Writing,
    person: Answerable,
    served: Serves,
    task: Task | None = None,
    language: Annotated[str | None, Query(max_length=35)] = None,
) -> Statement:
    """Why an event's content is restricted, with the fields of DSA Art. 17(3): as data, and as text
    for its user, in `language` or the content's. That it was made is logged."""
    stated, of_content = await statements.state(
        tx,
        person,
        tenant,
        event_id,
        task=task,
        tenants=served.tenants(),
        redress=served.limits.redress,
        now=served.clock(),
    )
    return Statement(
        statement=msgspec.to_builtins(stated), text=text_of(stated, language or of_content)
    )
