"""What one process of the service does for all of them, for as long as it says that it lives."""

from __future__ import annotations

from sqlalchemy import delete, or_
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.store.conflict import insert
from qwarden.review.store.schema import duties


async def hold(tx: AsyncConnection, name: str, holder: str, now: float, for_s: float) -> bool:
    """Takes a duty that nobody holds or whose holder is late, or renews one's own, for `for_s`
    seconds from `now`. Whether this holder has it.

    Until this transaction ends nobody else gets it, however late that is.
    """
    wanted = insert(tx, duties).values(name=name, holder=holder, until=now + for_s)
    taken = wanted.on_conflict_do_update(
        index_elements=[duties.c.name],
        set_={"holder": wanted.excluded.holder, "until": wanted.excluded.until},
        where=or_(duties.c.holder == holder, duties.c.until <= now),
    ).returning(duties.c.name)
    return (await tx.execute(taken)).one_or_none() is not None


async def release(tx: AsyncConnection, holder: str) -> None:
    """Gives up all duties of this holder: whoever asks next has them, and waits for nothing."""
    await tx.execute(delete(duties).where(duties.c.holder == holder))
