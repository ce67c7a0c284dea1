"""Who is signed in, in which browser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.people import users
from qwarden.review.people.secret import hash_of, new_secret
from qwarden.review.person import Person
from qwarden.review.store import audit, schema
from qwarden.review.store.audit import Act

_sessions = schema.sessions


@dataclass(frozen=True, slots=True)
class Begun:
    """`token`: the cookie's. `expires_at`: seconds since 1970."""

    token: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class Session:
    """`csrf`: what the page, which no other page can read, sends along with what changes things."""

    person: Person
    csrf: str
    expires_at: float


async def begin(
    tx: AsyncConnection, user_id: str, *, by: Literal["link", "oidc"], lasts_s: float, now: float
) -> Begun:
    """Signs one in for `lasts_s` seconds."""
    await tx.execute(
        delete(_sessions).where(_sessions.c.user_id == user_id, _sessions.c.expires_at <= now)
    )
    begun = Begun(new_secret(), now + lasts_s)
    await tx.execute(
        _sessions.insert().values(
            token_hash=hash_of(begun.token),
            user_id=user_id,
            csrf=new_secret(),
            began_at=now,
            expires_at=begun.expires_at,
        )
    )
    await audit.write(tx, Act.SIGNED_IN, actor=user_id, at=now, by=by)
    return begun


async def find(tx: AsyncConnection, token: str, *, now: float) -> Session | None:
    """The session of a cookie, with the person as they are now, in one query."""
    found = await tx.execute(
        select(*users.AS_PERSON, _sessions.c.csrf, _sessions.c.expires_at)
        .join(schema.users, schema.users.c.user_id == _sessions.c.user_id)
        .where(
            _sessions.c.token_hash == hash_of(token),
            _sessions.c.expires_at > now,
            schema.users.c.is_active.is_(True),
        )
    )
    row = found.mappings().one_or_none()
    if row is None:
        return None
    return Session(users.person(row), row["csrf"], row["expires_at"])


async def end(tx: AsyncConnection, token: str, *, now: float) -> None:
    """Signs one out of one browser."""
    ended = await tx.execute(
        delete(_sessions)
        .where(_sessions.c.token_hash == hash_of(token))
        .returning(_sessions.c.user_id)
    )
    user_id = ended.scalar_one_or_none()
    if user_id is not None:
        await audit.write(tx, Act.SIGNED_OUT, actor=user_id, at=now)
