"""What is to be published: written in the transaction of what it follows from, sent by one process
in the order of its numbers, deleted when it is acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import ColumnElement, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.headers import Header
from qwarden.review.store.schema import outbox


@dataclass(frozen=True, slots=True)
class Message:
    """A record for a topic. A null `value` withdraws."""

    topic: str
    key: bytes
    value: bytes | None
    headers: list[Header]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message with its number in the outbox."""

    number: int
    message: Message


async def put(
    tx: AsyncConnection, messages: Sequence[tuple[str | None, Message]], *, publish_at: float
) -> None:
    """Messages to be published in this order, not before `publish_at`, each with the ruling that
    it follows from.

    Those of one event or content must be put by transactions that wait for each other, and none
    with an earlier time than one before it: then they are published in the order in which they were
    put.
    """
    if messages:
        await tx.execute(
            insert(outbox).inline(),
            [
                {
                    "ruling_id": ruling_id,
                    "publish_at": publish_at,
                    "is_taken": False,
                    "topic": message.topic,
                    "key": message.key,
                    "value": message.value,
                    "headers": msgspec.json.encode(
                        [(name, data.decode()) for name, data in message.headers]
                    ),
                }
                for ruling_id, message in messages
            ],
        )


async def is_due(tx: AsyncConnection, now: float) -> bool:
    """Whether anything is to be published now."""
    found = await tx.execute(select(outbox.c.number).where(_due(now)).limit(1))
    return found.first() is not None


async def take(tx: AsyncConnection, now: float, limit: int) -> list[Waiting]:
    """Marks up to `limit` due messages, the first ones first, and returns them: from then on they
    cannot be taken back. Those that were marked before and are still here come again."""
    found = await tx.execute(
        select(outbox).where(_due(now)).order_by(outbox.c.number).limit(limit).with_for_update()
    )
    waiting = [
        Waiting(
            row.number,
            Message(
                row.topic,
                row.key,
                row.value,
                [
                    (name, data.encode())
                    for name, data in msgspec.json.decode(row.headers, type=list[tuple[str, str]])
                ],
            ),
        )
        for row in found
    ]
    if waiting:
        await tx.execute(update(outbox).where(_among(waiting)).values(is_taken=True))
    return waiting


async def done(tx: AsyncConnection, published: Sequence[Waiting]) -> None:
    """Forgets what is acknowledged."""
    await tx.execute(delete(outbox).where(_among(published)))


async def withdraw(tx: AsyncConnection, ruling_ids: Sequence[str]) -> int | None:
    """Deletes the messages of rulings that are here, and returns how many those were; None where
    one of them is on its way, and then nothing is deleted."""
    of_them = outbox.c.ruling_id.in_(ruling_ids)
    found = await tx.execute(
        select(outbox.c.is_taken).where(of_them).order_by(outbox.c.number).with_for_update()
    )
    taken = found.scalars().all()
    if any(taken):
        return None
    await tx.execute(delete(outbox).where(of_them))
    return len(taken)


async def oldest(tx: AsyncConnection) -> float | None:
    """Since when the message that waits longest could have been published, or None; in seconds
    since 1970, in the future where none is due."""
    found: float | None = (await tx.execute(select(func.min(outbox.c.publish_at)))).scalar_one()
    return found


def _due(now: float) -> ColumnElement[bool]:
    return or_(outbox.c.is_taken, outbox.c.publish_at <= now)


def _among(waiting: Sequence[Waiting]) -> ColumnElement[bool]:
    return outbox.c.number.in_([each.number for each in waiting])
