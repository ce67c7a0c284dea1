"""How the queues stand, and what is in them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Row, case, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.person import UNDETERMINED, Person
from qwarden.review.refusals import Invalid
from qwarden.review.store.asking import deciders
from qwarden.review.store.schema import is_free, items
from qwarden.review.store.scope import is_open, listed_to


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue with anything open, of what this person may see: how many items, by `languages` and
    `categories` too; how many of them are `held`, and how many `breached` their time."""

    queue: str
    open: int
    held: int
    breached: int
    oldest_arrived_at: float
    next_breach_at: float
    languages: dict[str, int]
    categories: dict[str, int]


@dataclass(frozen=True, slots=True)
class Filter:
    """Items of which all that is given is true."""

    queue: str | None = None
    tenant: str | None = None
    language: str | None = None
    category: str | None = None
    rule: str | None = None
    subject: str | None = None
    state: Literal["open", "decided", "closed"] = "open"


@dataclass(frozen=True, slots=True)
class Page:
    """`next`: what `after` is for the next page; None at the end."""

    items: Sequence[Row[Any]]
    next: str | None


@dataclass(frozen=True, slots=True)
class Unserved:
    """Open items that nobody who works here can be given, for their language."""

    tenant: str
    language: str
    open: int


async def overview(tx: AsyncConnection, person: Person, now: float) -> list[QueueRow]:
    """How each queue stands, of what this person is shown, by name."""
    is_held = items.c.leased_until > now
    wanted = (
        select(
            items.c.queue,
            items.c.language,
            items.c.category,
            func.count().label("open"),
            func.count(case((is_held, 1))).label("held"),
            func.count(items.c.breached_at).label("breached"),
            func.min(items.c.arrived_at).label("oldest_arrived_at"),
            func.min(items.c.breach_at).label("next_breach_at"),
        )
        .where(is_open, listed_to(person))
        .group_by(items.c.queue, items.c.language, items.c.category)
    )
    queues: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    for row in await tx.execute(wanted):
        queues[row.queue].append(row)
    return [_row(queue, queues[queue]) for queue in sorted(queues)]


async def page(
    tx: AsyncConnection, person: Person, of: Filter, after: str | None, limit: int
) -> Page:
    """The first `limit` items behind `after`, of what this person is shown: open ones as they are
    due, others the latest first. Raises Invalid for an `after` that no page has given."""
    conditions = [
        listed_to(person),
        *(
            items.c[name] == value
            for name in ("queue", "tenant", "language", "category", "rule", "subject")
            if (value := getattr(of, name)) is not None
        ),
    ]
    begin = None if after is None else _place(after)
    if of.state == "open":
        rows = await _open(tx, conditions, begin, limit)
    else:
        is_ended = items.c.state == of.state, items.c.ended_at.is_not(None)
        rows = await _ended(tx, [*is_ended, *conditions], begin, limit)
    if len(rows) < limit:
        return Page(rows, None)
    last = rows[-1]
    at = last.due_at if of.state == "open" else last.ended_at
    return Page(rows, f"{at!r}-{last.item_id}")


async def unserved(tx: AsyncConnection) -> list[Unserved]:
    """The tenants and languages with open items that no reviewer or lead has."""
    people = await deciders(tx)
    counts = (
        select(items.c.tenant, items.c.language, func.count().label("open"))
        .where(is_open, items.c.language != UNDETERMINED)
        .group_by(items.c.tenant, items.c.language)
        .order_by(items.c.tenant, items.c.language)
    )
    return [
        Unserved(row.tenant, row.language, row.open)
        for row in await tx.execute(counts)
        if not any(each.sees(row.tenant) and each.reads(row.language) for each in people)
    ]


def _row(queue: str, rows: Collection[Row[Any]]) -> QueueRow:
    languages: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    for row in rows:
        languages[row.language] += row.open
        categories[row.category] += row.open
    return QueueRow(
        queue=queue,
        open=sum(row.open for row in rows),
        held=sum(row.held for row in rows),
        breached=sum(row.breached for row in rows),
        oldest_arrived_at=min(row.oldest_arrived_at for row in rows),
        next_breach_at=min(row.next_breach_at for row in rows),
        languages=dict(sorted(languages.items())),
        categories=dict(sorted(categories.items())),
    )


async def _open(
    tx: AsyncConnection,
    conditions: Sequence[ColumnElement[bool]],
    begin: tuple[float, str] | None,
    limit: int,
) -> list[Row[Any]]:
    """Free ones come from an index in due order; held ones are few. Together in one question they
    would be sorted, all of them."""
    order = items.c.due_at, items.c.item_id
    found: list[Row[Any]] = []
    for kind in (is_free, is_open & items.c.holder.is_not(None)):
        wanted = select(items).where(kind, *conditions).order_by(*order).limit(limit)
        if begin is not None:
            wanted = wanted.where(items.c.due_at >= begin[0], tuple_(*order) > begin)
        found += await tx.execute(wanted)
    return sorted(found, key=lambda row: (row.due_at, row.item_id))[:limit]


async def _ended(
    tx: AsyncConnection,
    conditions: Sequence[ColumnElement[bool]],
    begin: tuple[float, str] | None,
    limit: int,
) -> list[Row[Any]]:
    order = items.c.ended_at, items.c.item_id
    wanted = select(items).where(*conditions).limit(limit)
    if begin is not None:
        wanted = wanted.where(items.c.ended_at <= begin[0], tuple_(*order) < begin)
    return list(await tx.execute(wanted.order_by(*(column.desc() for column in order))))


def _place(after: str) -> tuple[float, str]:
    at, _, item_id = after.rpartition("-")
    try:
        return float(at), item_id
    except ValueError:
        raise Invalid("No page ended there; leave `after` out, or take it from a page.") from None
