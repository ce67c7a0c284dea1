"""Who asks, and how they want to work."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel

from qwarden.guard.taxonomy import CATEGORIES
from qwarden.review import ruling
from qwarden.review.http.access import Reviewer, Someone
from qwarden.review.http.answers import Colleague, Colleagues
from qwarden.review.http.auth import Caller, caller_of
from qwarden.review.http.bodies import Id
from qwarden.review.http.served import Reading, Serves, Writing
from qwarden.review.people import users
from qwarden.review.people.fields import Preferences
from qwarden.review.person import EVERY
from qwarden.review.store import asking, showing

router = APIRouter(prefix="/v1", tags=["me"])


class Limits(BaseModel):
    lease_s: float
    take_back_s: float
    bulk_items: int
    override_days: int


class Me(BaseModel):
    user_id: str
    name: str
    pseudonym: str
    roles: list[str]
    tenants: list[str]
    languages: list[str]
    csrf: str | None
    """To be sent as X-CSRF-Token; null where a token signs in."""
    preferences: Preferences
    sign_in: Literal["links", "oidc"]
    limits: Limits
    reasons: dict[str, list[str]]
    """Codes that are offered for each action; own words are as good."""
    categories: list[str]


@router.get("/me")
async def read_me(tx: Reading, caller: Annotated[Caller, Depends(caller_of)], served: Serves) -> Me:
    person = caller.person
    limits = served.limits
    return Me(
        user_id=person.user_id,
        name=person.name,
        pseudonym=person.pseudonym,
        roles=sorted(person.roles),
        tenants=sorted(person.tenants),
        languages=sorted(person.languages),
        csrf=caller.csrf,
        preferences=await users.preferences(tx, person.user_id),
        sign_in="links" if served.settings.oidc is None else "oidc",
        limits=Limits(
            lease_s=limits.lease_s,
            take_back_s=limits.take_back_s,
            bulk_items=limits.bulk_items,
            override_days=limits.override_days,
        ),
        reasons={action: list(codes) for action, codes in ruling.REASONS.items()},
        categories=list(CATEGORIES),
    )


@router.put("/me/preferences", status_code=204)
async def write_preferences(body: Preferences, tx: Writing, person: Someone) -> Response:
    await users.prefer(tx, person.user_id, body)
    return Response(status_code=204)


@router.get("/colleagues")
async def read_colleagues(tx: Reading, person: Reviewer, item_id: Id | None = None) -> Colleagues:
    """Those to whom this item can be handed; without one, all who decide of the same tenants."""
    if item_id is None:
        found = [
            each
            for each in await asking.deciders(tx)
            if each != person and (EVERY in person.tenants or any(map(each.sees, person.tenants)))
        ]
    else:
        item = await showing.item(tx, person, item_id)
        found = await users.colleagues(tx, person, item.tenant, item.language)
    return Colleagues(
        colleagues=[Colleague(user_id=each.user_id, pseudonym=each.pseudonym) for each in found]
    )
