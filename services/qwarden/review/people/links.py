"""Sign-in links: whoever opens one first is signed in, once."""

from __future__ import annotations

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.people import users
from qwarden.review.people.secret import hash_of, new_secret
from qwarden.review.refusals import Invalid, NotFound, NotSignedIn
from qwarden.review.store import audit, schema
from qwarden.review.store.audit import Act
from qwarden.settings import Review

_links = schema.links


def url_of(token: str, limits: Review) -> str:
    """The link. What stands behind the # never leaves the browser: the page there sends it on by
    itself, so that no log has it and who only fetches the page spends nothing."""
    return f"{limits.public_url.rstrip('/')}/sign-in#{token}"


async def make(tx: AsyncConnection, user_id: str, *, actor: str, now: float, limits: Review) -> str:
    """The token of a new link, good for `limits.link_s` seconds. Raises NotFound, and Invalid for a
    tool, which has no browser."""
    person = await users.get(tx, user_id)
    if person is None:
        raise NotFound(users.NOBODY)
    if person.is_tool:
        raise Invalid("a tool does not sign in; make a token for it")
    await tx.execute(delete(_links).where(_links.c.expires_at <= now))
    token = new_secret()
    await tx.execute(
        _links.insert().values(
            token_hash=hash_of(token), user_id=user_id, expires_at=now + limits.link_s
        )
    )
    await audit.write(tx, Act.LINK_MADE, actor=actor, at=now, user_id=user_id)
    return token


async def spend(tx: AsyncConnection, token: str, *, now: float) -> str:
    """Whose link it was, a `user_id`; of those who come at once with one, only one gets in.

    Raises NotSignedIn for one that was used, is too old, or never was.
    """
    spent = await tx.execute(
        delete(_links)
        .where(_links.c.token_hash == hash_of(token), _links.c.expires_at > now)
        .returning(_links.c.user_id)
    )
    user_id: str | None = spent.scalar_one_or_none()
    if user_id is None:
        raise NotSignedIn("this link was used already or is too old; ask an admin for another one")
    return user_id
