"""People and tools, as the database knows them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from random import SystemRandom
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.identity import new_id
from qwarden.review.people import pseudonym
from qwarden.review.people.claims import Said
from qwarden.review.people.fields import (
    MOST_NAME,
    Preferences,
    languages_of,
    name_of,
    roles_of,
    tenants_of,
)
from qwarden.review.person import Person, Role
from qwarden.review.refusals import Conflict, Forbidden, NotFound
from qwarden.review.store import audit, schema
from qwarden.review.store.audit import Act
from qwarden.review.store.conflict import insert

_users = schema.users.c
AS_PERSON = (
    _users.user_id,
    _users.name,
    _users.pseudonym,
    _users.roles,
    _users.tenants,
    _users.languages,
    _users.is_tool,
)
"""The columns that `person` reads."""
NOBODY = "there is nobody with that id; GET /v1/people lists who there is"
_random = SystemRandom()


@dataclass(frozen=True, slots=True)
class User:
    """One as those see them who say who may do what. `issuer`: who signs them in; None where we do.
    `made_at`: seconds since 1970."""

    person: Person
    issuer: str | None
    is_active: bool
    made_at: float


def person(row: RowMapping) -> Person:
    """The person of a row with `AS_PERSON`."""
    return Person(
        user_id=row["user_id"],
        name=row["name"],
        pseudonym=row["pseudonym"],
        roles=frozenset(Role(role) for role in json.loads(row["roles"])),
        tenants=frozenset(json.loads(row["tenants"])),
        languages=frozenset(json.loads(row["languages"])),
        is_tool=row["is_tool"],
    )


async def get(tx: AsyncConnection, user_id: str) -> Person | None:
    """One who is active."""
    found = await tx.execute(
        select(*AS_PERSON).where(_users.user_id == user_id, _users.is_active.is_(True))
    )
    row = found.mappings().one_or_none()
    return None if row is None else person(row)


async def locked(tx: AsyncConnection, user_id: str) -> Person:
    """One who is active, as they are until the transaction ends. Raises NotFound."""
    found = await tx.execute(
        select(*AS_PERSON)
        .where(_users.user_id == user_id, _users.is_active.is_(True))
        .with_for_update()
    )
    row = found.mappings().one_or_none()
    if row is None:
        raise NotFound(NOBODY)
    return person(row)


async def active(tx: AsyncConnection, user_ids: Collection[str]) -> dict[str, Person]:
    """Those of them who are active, by user_id."""
    found = await tx.execute(
        select(*AS_PERSON).where(_users.user_id.in_(sorted(user_ids)), _users.is_active.is_(True))
    )
    return {row["user_id"]: person(row) for row in found.mappings()}


async def named(tx: AsyncConnection, name: str) -> Person | None:
    """The active one of a name."""
    found = await tx.execute(
        select(*AS_PERSON).where(_users.name == name.strip(), _users.is_active.is_(True))
    )
    row = found.mappings().one_or_none()
    return None if row is None else person(row)


async def everybody(tx: AsyncConnection) -> Sequence[User]:
    """Everybody, those who were removed too, by name."""
    columns = (*AS_PERSON, _users.issuer, _users.is_active, _users.made_at)
    found = await tx.execute(select(*columns).order_by(_users.name))
    return [
        User(person(row), row["issuer"], row["is_active"], row["made_at"])
        for row in found.mappings()
    ]


async def colleagues(tx: AsyncConnection, of: Person, tenant: str, language: str) -> list[Person]:
    """The others to whom an item of a tenant and language can be handed, by pseudonym."""
    found = await tx.execute(
        select(*AS_PERSON)
        .where(_users.is_active.is_(True), _users.is_tool.is_(False), _users.user_id != of.user_id)
        .order_by(_users.pseudonym)
    )
    each = (person(row) for row in found.mappings())
    return [one for one in each if one.decides and one.sees(tenant) and one.reads(language)]


async def add(
    tx: AsyncConnection,
    *,
    name: str,
    roles: Iterable[str],
    tenants: Iterable[str],
    languages: Iterable[str],
    is_tool: bool = False,
    actor: str,
    now: float,
) -> Person:
    """A new one, with a pseudonym. `actor`: who does it, a `user_id` or `service`.

    Raises Invalid, and Conflict where the name is somebody's, also of one who was removed: what
    they did stands under it.
    """
    new = Person(
        user_id=new_id(now),
        name=name_of(name),
        pseudonym="",
        roles=roles_of(roles),
        tenants=tenants_of(tenants),
        languages=languages_of(languages),
        is_tool=is_tool,
    )
    added = await _insert(tx, new, now)
    if added is None:
        raise Conflict("that name is taken, now or by one who was removed; choose another one")
    await _tell(tx, Act.USER_ADDED, added, actor, now)
    return added


async def change(
    tx: AsyncConnection,
    user_id: str,
    *,
    roles: Iterable[str] | None = None,
    tenants: Iterable[str] | None = None,
    languages: Iterable[str] | None = None,
    actor: str,
    now: float,
) -> Person:
    """Says anew what one may do; None stays as it is. It holds from their next request on.

    Raises Invalid, and NotFound where there is no such one, or no longer.
    """
    old = await locked(tx, user_id)
    new = replace(
        old,
        roles=old.roles if roles is None else roles_of(roles),
        tenants=old.tenants if tenants is None else tenants_of(tenants),
        languages=old.languages if languages is None else languages_of(languages),
    )
    if new != old:
        await _update(tx, new)
        await _tell(tx, Act.USER_CHANGED, new, actor, now)
    return new


async def remove(tx: AsyncConnection, user_id: str, *, actor: str, now: float) -> None:
    """Ends what one may do: sessions, tokens and links are over, and their name stays taken. What
    they hold goes back when its lease expires.

    Raises NotFound where there is no such one, or no longer.
    """
    old = await locked(tx, user_id)
    await tx.execute(update(schema.users).where(_users.user_id == user_id).values(is_active=False))
    for table in (schema.sessions, schema.tokens, schema.links):
        await tx.execute(delete(table).where(table.c.user_id == user_id))
    await audit.write(tx, Act.USER_REMOVED, actor=actor, at=now, user_id=old.user_id)


async def preferences(tx: AsyncConnection, user_id: str) -> Preferences:
    """How one wants the console. Raises NotFound."""
    found = await tx.execute(select(_users.preferences).where(_users.user_id == user_id))
    stored = found.scalar_one_or_none()
    if stored is None:
        raise NotFound(NOBODY)
    return Preferences.model_validate_json(stored)


async def prefer(tx: AsyncConnection, user_id: str, wanted: Preferences) -> None:
    """Keeps how one wants the console."""
    await tx.execute(
        update(schema.users)
        .where(_users.user_id == user_id)
        .values(preferences=wanted.model_dump_json())
    )


async def of_issuer(tx: AsyncConnection, issuer: str, said: Said) -> Person | None:
    """The one of whom an issuer says this, where we know it all already, or know what is newer."""
    found = await tx.execute(
        select(*AS_PERSON, _users.claims_at).where(
            *_is_issued(issuer, said), _users.is_active.is_(True)
        )
    )
    row = found.mappings().one_or_none()
    if row is None or row["claims_at"] < said.at:
        return None
    known = person(row)
    is_known = said.at < row["claims_at"] or _as_said(known, said) == known
    return known if is_known and known.roles else None


async def learn(tx: AsyncConnection, issuer: str, said: Said, *, now: float) -> Person | None:
    """The one of whom an issuer says this, who is added or changed where that is new. What it has
    said before its last word changes nothing: a token that is still good may have been made before
    a role was taken away.

    None where the issuer gives them no role of ours: their sessions are over then. Raises Forbidden
    where we have removed them.
    """
    found = await tx.execute(
        select(*AS_PERSON, _users.is_active, _users.claims_at)
        .where(*_is_issued(issuer, said))
        .with_for_update()
    )
    row = found.mappings().one_or_none()
    if row is None:
        return await _first_seen(tx, issuer, said, now) if said.roles else None
    if not row["is_active"]:
        raise Forbidden("you were removed here; ask an admin of the review service")
    old = person(row)
    if said.at < row["claims_at"]:
        return old if old.roles else None
    new = _as_said(old, said)
    await _update(tx, new, claims_at=said.at)
    if new != old:
        await _tell(tx, Act.USER_CHANGED, new, "service", now)
    if not new.roles:
        await tx.execute(delete(schema.sessions).where(schema.sessions.c.user_id == new.user_id))
        return None
    return new


async def _first_seen(tx: AsyncConnection, issuer: str, said: Said, now: float) -> Person | None:
    nobody = Person(new_id(now), said.name, "", frozenset(), frozenset(), frozenset(), said.is_tool)
    new = _as_said(nobody, said)
    for number in itertools.count(2):
        added = await _insert(
            tx, new, now, issuer=issuer, issued_subject=said.subject, claims_at=said.at
        )
        if added is not None:
            await _tell(tx, Act.USER_ADDED, added, "service", now)
            return added
        found = await tx.execute(select(_users.user_id).where(*_is_issued(issuer, said)))
        if found.one_or_none() is not None:  # another request was first
            return await learn(tx, issuer, said, now=now)
        ending = f" ({number})"  # the name is somebody else's
        new = replace(new, name=said.name[: MOST_NAME - len(ending)] + ending)
    raise AssertionError


def _is_issued(issuer: str, said: Said) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return _users.issuer == issuer, _users.issued_subject == said.subject


def _as_said(known: Person, said: Said) -> Person:
    return replace(
        known,
        roles=said.roles,
        tenants=known.tenants if said.tenants is None else said.tenants,
        languages=known.languages if said.languages is None else said.languages,
    )


async def _insert(tx: AsyncConnection, new: Person, now: float, **issued: Any) -> Person | None:
    """The one with a pseudonym, stored; None where the name, or what the issuer calls them, is
    somebody's."""
    while True:
        drawn = pseudonym.drawn(_random)
        added = await tx.execute(
            insert(tx, schema.users)
            .values(
                user_id=new.user_id,
                name=new.name,
                pseudonym=drawn,
                is_tool=new.is_tool,
                is_active=True,
                preferences="{}",
                made_at=now,
                **_lists(new),
                **issued,
            )
            .on_conflict_do_nothing()
            .returning(_users.user_id)
        )
        if added.one_or_none() is not None:
            return replace(new, pseudonym=drawn)
        taken = await tx.execute(select(_users.user_id).where(_users.pseudonym == drawn))
        if taken.one_or_none() is None:
            return None


async def _update(tx: AsyncConnection, new: Person, **issued: Any) -> None:
    await tx.execute(
        update(schema.users).where(_users.user_id == new.user_id).values(**_lists(new), **issued)
    )


async def _tell(tx: AsyncConnection, act: Act, who: Person, actor: str, now: float) -> None:
    await audit.write(tx, act, actor=actor, at=now, user_id=who.user_id, **_lists(who))


def _lists(of: Person) -> dict[str, str]:
    return {
        "roles": json.dumps(sorted(of.roles)),
        "tenants": json.dumps(sorted(of.tenants)),
        "languages": json.dumps(sorted(of.languages)),
    }
