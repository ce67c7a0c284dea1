"""Tokens of the REST interface, for tools and for people on a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.people import users
from qwarden.review.people.fields import MOST_NAME
from qwarden.review.people.secret import API_TOKEN, hash_of, new_secret
from qwarden.review.person import Person
from qwarden.review.refusals import Conflict, Invalid, NotFound
from qwarden.review.store import audit, schema
from qwarden.review.store.audit import Act

_tokens = schema.tokens


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of one: not itself. `label`: what its maker calls it, once a person. Without
    `expires_at` it is good until it is revoked."""

    label: str
    made_at: float
    expires_at: float | None


async def make(
    tx: AsyncConnection,
    user_id: str,
    label: str,
    *,
    expires_at: float | None = None,
    actor: str,
    now: float,
) -> str:
    """A new one, `qw_…`, which can be read only now.

    Raises NotFound, Invalid, and Conflict where one of this person has the label.
    """
    if not 1 <= len(label) <= MOST_NAME or not label.isprintable():
        raise Invalid(f"a label has 1 to {MOST_NAME} characters that can be shown, on one line")
    if expires_at is not None and expires_at <= now:
        raise Invalid("a token ends in the future; leave its end out for one that stays good")
    if await users.get(tx, user_id) is None:
        raise NotFound(users.NOBODY)
    await tx.execute(
        delete(_tokens).where(_tokens.c.user_id == user_id, _tokens.c.expires_at <= now)
    )
    if any(each.label == label for each in await of(tx, user_id)):
        raise Conflict("there is a token with that label; revoke it first, or choose another label")
    token = API_TOKEN + new_secret()
    await tx.execute(
        _tokens.insert().values(
            token_hash=hash_of(token),
            label=label,
            user_id=user_id,
            made_at=now,
            expires_at=expires_at,
        )
    )
    await audit.write(
        tx, Act.TOKEN_MADE, actor=actor, at=now, user_id=user_id, expires_at=expires_at
    )
    return token


async def of(tx: AsyncConnection, user_id: str) -> list[Token]:
    """One's tokens, the oldest first."""
    found = await tx.execute(
        select(_tokens.c.label, _tokens.c.made_at, _tokens.c.expires_at)
        .where(_tokens.c.user_id == user_id)
        .order_by(_tokens.c.made_at)
    )
    return [Token(row.label, row.made_at, row.expires_at) for row in found]


async def find(tx: AsyncConnection, token: str, *, now: float) -> Person | None:
    """Whose token it is, as they are now, in one query."""
    found = await tx.execute(
        select(*users.AS_PERSON)
        .join(_tokens, _tokens.c.user_id == schema.users.c.user_id)
        .where(
            _tokens.c.token_hash == hash_of(token),
            or_(_tokens.c.expires_at.is_(None), _tokens.c.expires_at > now),
            schema.users.c.is_active.is_(True),
        )
    )
    row = found.mappings().one_or_none()
    return None if row is None else users.person(row)


async def revoke(tx: AsyncConnection, user_id: str, label: str, *, actor: str, now: float) -> None:
    """Ends one, at once. Raises NotFound."""
    ended = await tx.execute(
        delete(_tokens)
        .where(_tokens.c.user_id == user_id, _tokens.c.label == label)
        .returning(_tokens.c.token_hash)
    )
    if not ended.all():
        raise NotFound("this person has no token with that label")
    await audit.write(tx, Act.TOKEN_REVOKED, actor=actor, at=now, user_id=user_id)
