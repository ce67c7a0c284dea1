"""Accounts: who may do what. For admins."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from qwarden.review.http.access import Admin
from qwarden.review.http.bodies import Body, Id
from qwarden.review.http.served import Reading, Serves, Writing
from qwarden.review.people import links, tokens, users
from qwarden.review.people.tokens import Token
from qwarden.review.people.users import User
from qwarden.review.person import EVERY, Person
from qwarden.review.refusals import Forbidden, NotFound

router = APIRouter(prefix="/v1/people", tags=["people"])

UserId = Annotated[Id, Path()]
Words = Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=1000)]
"""Roles, tenants, languages: bounded so that an account stays a row of some kilobytes."""
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Account(BaseModel):
    user_id: str
    name: str
    pseudonym: str
    roles: list[str]
    tenants: list[str]
    languages: list[str]
    is_tool: bool
    is_active: bool
    issuer: str | None
    """Who signs them in; null where we do."""
    made_at: float


class Accounts(BaseModel):
    people: list[Account]


class NewAccount(Body):
    name: Name
    roles: Words
    tenants: Words = Field(default=[EVERY])
    languages: Words = Field(default=[EVERY])
    is_tool: bool = False


class Change(Body):
    """What is left out stays as it is."""

    roles: Words | None = None
    tenants: Words | None = None
    languages: Words | None = None


class Link(BaseModel):
    """To be sent to that person alone: who opens it first is signed in."""

    url: str
    expires_at: float


class NewToken(Body):
    label: Name
    expires_at: Annotated[float, Field(allow_inf_nan=False)] | None = None


class Tokens(BaseModel):
    tokens: list[Token]


class MadeToken(BaseModel):
    """It can be read only now."""

    token: str


@router.get("")
async def read_people(tx: Reading, person: Admin) -> Accounts:
    """Everybody who has no tenant but one's own, those who were removed too."""
    return Accounts(
        people=[
            _account(each)
            for each in await users.everybody(tx)
            if person.covers(each.person.tenants)
        ]
    )


@router.post("", status_code=201)
async def add(body: NewAccount, tx: Writing, person: Admin, served: Serves) -> Account:
    _give(person, body.tenants)
    now = served.clock()
    added = await users.add(
        tx,
        name=body.name,
        roles=body.roles,
        tenants=body.tenants,
        languages=body.languages,
        is_tool=body.is_tool,
        actor=person.user_id,
        now=now,
    )
    return _account(User(added, issuer=None, is_active=True, made_at=now))


@router.patch("/{user_id}", status_code=204)
async def change(
    user_id: UserId, body: Change, tx: Writing, person: Admin, served: Serves
) -> Response:
    """Acts on their next request."""
    _govern(person, await users.locked(tx, user_id))
    _give(person, body.tenants or ())
    await users.change(
        tx,
        user_id,
        roles=body.roles,
        tenants=body.tenants,
        languages=body.languages,
        actor=person.user_id,
        now=served.clock(),
    )
    return Response(status_code=204)


@router.delete("/{user_id}", status_code=204)
async def remove(user_id: UserId, tx: Writing, person: Admin, served: Serves) -> Response:
    """Ends their sessions, links and tokens; what they did stays."""
    _govern(person, await users.locked(tx, user_id))
    await users.remove(tx, user_id, actor=person.user_id, now=served.clock())
    return Response(status_code=204)


@router.post("/{user_id}/links")
async def make_link(user_id: UserId, tx: Writing, person: Admin, served: Serves) -> Link:
    _govern(person, await users.locked(tx, user_id))
    now = served.clock()
    token = await links.make(tx, user_id, actor=person.user_id, now=now, limits=served.limits)
    return Link(url=links.url_of(token, served.limits), expires_at=now + served.limits.link_s)


@router.get("/{user_id}/tokens")
async def read_tokens(user_id: UserId, tx: Reading, person: Admin) -> Tokens:
    _govern(person, await users.get(tx, user_id))
    return Tokens(tokens=await tokens.of(tx, user_id))


@router.post("/{user_id}/tokens", status_code=201)
async def make_token(
    user_id: UserId, body: NewToken, tx: Writing, person: Admin, served: Serves
) -> MadeToken:
    _govern(person, await users.locked(tx, user_id))
    return MadeToken(
        token=await tokens.make(
            tx,
            user_id,
            body.label,
            expires_at=body.expires_at,
            actor=person.user_id,
            now=served.clock(),
        )
    )


@router.delete("/{user_id}/tokens", status_code=204)
async def revoke_token(
    user_id: UserId,
    label: Annotated[str, Query(min_length=1, max_length=200)],
    tx: Writing,
    person: Admin,
    served: Serves,
) -> Response:
    _govern(person, await users.locked(tx, user_id))
    await tokens.revoke(tx, user_id, label, actor=person.user_id, now=served.clock())
    return Response(status_code=204)


def _govern(admin: Person, other: Person | None) -> None:
    """Raises NotFound where this is none of this admin's people: one who has a tenant that the
    admin has not, and who could be used to get at it."""
    if other is None or not admin.covers(other.tenants):
        raise NotFound(users.NOBODY)


def _give(admin: Person, tenants: Collection[str]) -> None:
    """Raises Forbidden where these are not all this admin's own."""
    if not admin.covers(tenants):
        raise Forbidden(
            f"name tenants that you have yourself; for others, and for {EVERY}, ask an admin of "
            "all of them"
        )


def _account(user: User) -> Account:
    of: Person = user.person
    return Account(
        user_id=of.user_id,
        name=of.name,
        pseudonym=of.pseudonym,
        roles=sorted(of.roles),
        tenants=sorted(of.tenants),
        languages=sorted(of.languages),
        is_tool=of.is_tool,
        is_active=user.is_active,
        issuer=user.issuer,
        made_at=user.made_at,
    )
