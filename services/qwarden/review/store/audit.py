"""The audit log: who saw, claimed, revealed, decided what. Rows are added and never changed; ids,
hashes and words of ours only, so that erased content is in none.

A row is written in the transaction of its act. One process gives rows their place in the chain
(`seal`) a moment later: acts do not stand in line for the chain's end, and a transaction that
commits late gets a later place.
"""

from __future__ import annotations

import enum
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import RowMapping, bindparam, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.chain import START, ChainHead, Checking, Row, chained
from qwarden.review.person import Person
from qwarden.review.store.schema import audit
from qwarden.review.store.scope import of_tenants

SERVICE = "service"
"""The actor of what nobody did: a lease that ended, a breach."""

_SEALING = 7_110_913_522_118_402
"""The number of PostgreSQL's advisory lock: whoever seals takes it."""
_READ = 1000
"""Rows that are read at a time."""

Said = str | int | float | bool | None


class Act(enum.StrEnum):
    """What can have been done."""

    SIGNED_IN = "signed_in"
    SIGNED_OUT = "signed_out"
    SAW = "saw"
    REVEALED = "revealed"
    CLAIMED = "claimed"
    RELEASED = "released"
    EXPIRED = "expired"
    HANDED_OVER = "handed_over"
    SKIPPED = "skipped"
    NOTED = "noted"
    MOVED = "moved"
    SENT_TO_URGENT = "sent_to_urgent"
    DECIDED = "decided"
    TOOK_BACK = "took_back"
    DECIDED_IN_BULK = "decided_in_bulk"
    UNDID_BULK = "undid_bulk"
    BREACHED = "breached"
    CLOSED = "closed"
    OVERRIDE_ENDED = "override_ended"
    APPEALED = "appealed"
    STATED = "stated"
    CHECKED = "checked"
    GOLDEN_ADDED = "golden_added"
    GOLDEN_RETIRED = "golden_retired"
    ERASED = "erased"
    EXPORTED = "exported"
    USER_ADDED = "user_added"
    USER_CHANGED = "user_changed"
    USER_REMOVED = "user_removed"
    LINK_MADE = "link_made"
    TOKEN_MADE = "token_made"
    TOKEN_REVOKED = "token_revoked"


@dataclass(frozen=True, slots=True)
class LogRow:
    """`actor`: who did it, or `service`. `about`: ids, hashes and words of ours. `position`: its
    place in the chain; null for a moment."""

    number: int
    at: float
    actor: str
    act: str
    tenant: str
    item_id: str | None
    about: dict[str, Said]
    position: int | None


@dataclass(frozen=True, slots=True)
class Verified:
    """What a walk along the chain has found. `broken_at`: the first position that is not as it was
    sealed, or null; `head`: to keep elsewhere, null where nothing is sealed."""

    rows: int
    unsealed: int
    broken_at: int | None
    head: ChainHead | None


def entry(
    act: Act,
    *,
    actor: str,
    at: float,
    tenant: str = "",
    item_id: str | None = None,
    **about: Said,
) -> dict[str, Any]:
    """A row for `put`. `actor`: a user_id, or SERVICE; `about`: never text that people wrote."""
    return {
        "at": at,
        "actor": actor,
        "act": act.value,
        "tenant": tenant,
        "item_id": item_id,
        "about": msgspec.json.encode(about, order="sorted").decode(),
    }


async def put(tx: AsyncConnection, entries: Sequence[dict[str, Any]]) -> None:
    """Writes many rows at once."""
    if entries:
        await tx.execute(insert(audit).inline(), list(entries))


async def write(
    tx: AsyncConnection,
    act: Act,
    *,
    actor: str,
    at: float,
    tenant: str = "",
    item_id: str | None = None,
    **about: Said,
) -> None:
    """Writes one row, as `entry` makes it."""
    await put(tx, [entry(act, actor=actor, at=at, tenant=tenant, item_id=item_id, **about)])


async def read(
    tx: AsyncConnection,
    person: Person,
    *,
    limit: int,
    after: int | None = None,
    actor: str | None = None,
    item_id: str | None = None,
    act: Act | None = None,
) -> list[LogRow]:
    """The newest rows first, of this person's tenants. `after`: the number of the last row of the
    page before."""
    wanted = select(audit).where(of_tenants(person, audit.c.tenant))
    wanted = wanted.order_by(audit.c.number.desc()).limit(limit)
    if after is not None:
        wanted = wanted.where(audit.c.number < after)
    if actor is not None:
        wanted = wanted.where(audit.c.actor == actor)
    if item_id is not None:
        wanted = wanted.where(audit.c.item_id == item_id)
    if act is not None:
        wanted = wanted.where(audit.c.act == act.value)
    return [
        LogRow(
            number=row["number"],
            at=row["at"],
            actor=row["actor"],
            act=row["act"],
            tenant=row["tenant"],
            item_id=row["item_id"],
            about=json.loads(row["about"]),
            position=row["position"],
        )
        for row in (await tx.execute(wanted)).mappings()
    ]


async def seal(tx: AsyncConnection, limit: int) -> int:
    """Gives `limit` rows that have none their place in the chain; returns how many got one.

    Another one that seals waits until this transaction ends: a duty saves that, and a process that
    has lost it without knowing breaks nothing.
    """
    if tx.dialect.name == "postgresql":  # SQLite has one writer in any case
        await tx.execute(text(f"SELECT pg_advisory_xact_lock({_SEALING})"))
    last = select(audit.c.position, audit.c.chained).where(audit.c.position.is_not(None))
    head = (await tx.execute(last.order_by(audit.c.position.desc()).limit(1))).one_or_none()
    position, previous = (-1, START) if head is None else (head.position, head.chained)
    unsealed = select(audit).where(audit.c.position.is_(None)).order_by(audit.c.number)
    places: list[dict[str, Any]] = []
    for row in (await tx.execute(unsealed.limit(limit))).mappings():
        position += 1
        previous = chained(previous, _placed(row, position))
        places.append({"at_number": row["number"], "place": position, "hash": previous})
    if places:
        await tx.execute(
            update(audit)
            .where(audit.c.number == bindparam("at_number"))
            .values(position=bindparam("place"), chained=bindparam("hash")),
            places,
        )
    return len(places)


async def verify(tx: AsyncConnection, known: ChainHead | None = None) -> Verified:
    """Walks along the whole chain. `known`: a head of an earlier time, which finds out where the
    last rows are gone."""
    checking = Checking(known)
    async for rows in _sealed(tx):
        checking.take((_placed(row, row["position"]), row["chained"]) for row in rows)
    checking.end()
    unsealed = select(func.count()).where(audit.c.position.is_(None))
    return Verified(
        rows=checking.rows,
        unsealed=(await tx.execute(unsealed)).scalar_one(),
        broken_at=checking.broken_at,
        head=checking.head if checking.rows else None,
    )


async def export(tx: AsyncConnection) -> AsyncIterator[dict[str, Any]]:
    """The sealed rows in their order, each with the fields that its hash covers, and `chained`."""
    async for rows in _sealed(tx):
        for row in rows:
            placed = _placed(row, row["position"])
            yield {**msgspec.structs.asdict(placed), "chained": row["chained"]}


async def _sealed(tx: AsyncConnection) -> AsyncIterator[Sequence[RowMapping]]:
    after = -1
    while True:
        next_ones = select(audit).where(audit.c.position > after)
        found = await tx.execute(next_ones.order_by(audit.c.position).limit(_READ))
        rows = found.mappings().all()
        if not rows:
            return
        yield rows
        after = rows[-1]["position"]


def _placed(row: RowMapping, position: int) -> Row:
    return Row(
        number=row["number"],
        at=row["at"],
        actor=row["actor"],
        act=row["act"],
        tenant=row["tenant"],
        item_id=row["item_id"],
        about=row["about"],
        position=position,
    )
