"""Golden items: what reviewers are measured by, unseen. For leads."""

from __future__ import annotations

import codecs
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel

from qwarden.review.http.access import Lead
from qwarden.review.http.bodies import Id
from qwarden.review.http.served import Reading, Serves, Writing
from qwarden.review.refusals import NotFound
from qwarden.review.store import goldens, showing
from qwarden.review.store.goldens import Golden

router = APIRouter(prefix="/v1/goldens", tags=["quality"])


class Goldens(BaseModel):
    goldens: list[Golden]


class Added(BaseModel):
    """Of those that were not there before."""

    golden_ids: list[str]


@router.get("")
async def read_goldens(tx: Reading, person: Lead) -> Goldens:
    """Those in use, without their content."""
    rows = await goldens.in_use(tx, person)
    names = await showing.pseudonyms(tx, [each.added_by for each in rows])
    return Goldens(
        goldens=[replace(each, added_by=names.get(each.added_by, each.added_by)) for each in rows]
    )


@router.post(
    "",
    status_code=201,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        }
    },
)
async def add(request: Request, tx: Writing, person: Lead, served: Serves) -> Added:
    """Adds a file of them, one JSON object a line: all of it, or nothing where a line is wrong."""
    lines = (await request.body()).removeprefix(codecs.BOM_UTF8).split(b"\n")
    return Added(
        golden_ids=await goldens.add(
            tx, lines, actor=person.user_id, now=served.clock(), person=person
        )
    )


@router.delete("/{golden_id}", status_code=204)
async def retire(
    golden_id: Annotated[Id, Path()], tx: Writing, person: Lead, served: Serves
) -> Response:
    """Takes one out of use; what was decided of it stays counted."""
    if all(each.golden_id != golden_id for each in await goldens.in_use(tx, person)):
        raise NotFound("no golden item in use among your tenants' has this id")
    await goldens.retire(tx, golden_id, actor=person.user_id, now=served.clock())
    return Response(status_code=204)
