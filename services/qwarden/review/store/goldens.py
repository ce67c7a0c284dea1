"""Golden items that are in use: added as files, counted, retired. `unseen` gives them to people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.verdict import encode
from qwarden.review.golden import Line, Shown, category_of, content_of, line_of, shown_of
from qwarden.review.identity import new_id
from qwarden.review.person import Person, primary
from qwarden.review.refusals import Invalid, NotFound
from qwarden.review.store import audit, closing
from qwarden.review.store.audit import Act
from qwarden.review.store.schema import checks, goldens, items
from qwarden.review.store.scope import is_open

_ERRORS = 20
"""Lines of a file that a refusal names: whoever made it sees what they all have wrong."""
_RETIRED = "The item was taken out of use."


@dataclass(frozen=True, slots=True)
class Golden:
    """One in use. `given`: how often it was decided; `right`: how often as it says. One that most
    get wrong is wrong itself."""

    golden_id: str
    tenant: str
    queue: str
    language: str
    category: str
    task: str
    action: str
    note: str | None
    added_by: str
    added_at: float
    given: int
    right: int


async def add(
    tx: AsyncConnection,
    lines: Sequence[bytes],
    *,
    actor: str,
    now: float,
    person: Person | None = None,
) -> list[str]:
    """Adds golden items, `Line`s in JSON, and returns the ids of those that were not there; blank
    lines are none. `actor`: a user_id, or whoever runs a command; `person`: whose tenants alone
    they may be of.

    Raises `Invalid` with a sentence for each bad line, by its number from 1; nothing is added then.
    """
    read: list[tuple[int, Line]] = []
    errors: list[str] = []
    for number, data in enumerate(lines, 1):
        if data.strip():
            try:
                line = line_of(data)
            except Invalid as error:
                errors.append(f"line {number}: {error}")
                continue
            if person is not None and not person.sees(line.tenant):
                errors.append(f"line {number}: tenant: it is none of yours")
            read.append((number, line))
    if not read and not errors:
        raise Invalid("there are no golden items in it; write one a line, as JSON")
    known = await _in_use(tx, {line.tenant for _, line in read})
    new: dict[tuple[str, str, bytes], Line] = {}
    for number, line in read:
        place = (line.tenant, line.queue, encode(content_of(line)))
        twin = new[place].action if place in new else known.get(place)
        if twin is None:
            new[place] = line
        elif twin != line.action:
            errors.append(
                f"line {number}: the same content is there with the action {twin}; remove one, or "
                "retire the other"
            )
    if errors:
        more = len(errors) - _ERRORS
        left = [f"and {more} more lines"] if more > 0 else []
        raise Invalid("\n".join(errors[:_ERRORS] + left))
    rows = [_row(line, actor, now) for line in new.values()]
    if rows:
        await tx.execute(insert(goldens).inline(), rows)
        await audit.put(
            tx,
            [
                audit.entry(
                    Act.GOLDEN_ADDED,
                    actor=actor,
                    at=now,
                    tenant=row["tenant"],
                    golden_id=row["golden_id"],
                )
                for row in rows
            ],
        )
    return [row["golden_id"] for row in rows]


async def retire(tx: AsyncConnection, golden_id: str, *, actor: str, now: float) -> None:
    """Takes one out of use; what was decided of it stays counted. Raises `NotFound`."""
    retired = await tx.execute(
        update(goldens)
        .where(goldens.c.golden_id == golden_id, goldens.c.retired_at.is_(None))
        .values(retired_at=now)
        .returning(goldens.c.tenant)
    )
    tenant = retired.scalar_one_or_none()
    if tenant is None:
        raise NotFound("no golden item in use has this id; list those that are")
    given = select(items).where(items.c.golden_id == golden_id, is_open).with_for_update()
    rows = (await tx.execute(given)).all()
    await closing.end(tx, [(row, _RETIRED) for row in rows], now)
    await audit.write(
        tx, Act.GOLDEN_RETIRED, actor=actor, at=now, tenant=tenant, golden_id=golden_id
    )


async def in_use(tx: AsyncConnection, person: Person | None = None) -> list[Golden]:
    """Those in use, of this person's tenants or of all, the latest first; without content."""
    counted = (
        select(
            checks.c.against,
            func.count().label("given"),
            func.count().filter(checks.c.said == checks.c.expected).label("right"),
        )
        .where(checks.c.kind == "golden")
        .group_by(checks.c.against)
        .subquery()
    )
    wanted = (
        select(goldens, counted.c.given, counted.c.right)
        .outerjoin(counted, counted.c.against == goldens.c.golden_id)
        .where(goldens.c.retired_at.is_(None))
        .order_by(goldens.c.added_at.desc(), goldens.c.golden_id)
    )
    return [
        Golden(
            golden_id=row.golden_id,
            tenant=row.tenant,
            queue=row.queue,
            language=row.language,
            category=row.category,
            task=row.task,
            action=row.action,
            note=msgspec.json.decode(row.verdict, type=Shown).note,
            added_by=row.added_by,
            added_at=row.added_at,
            given=row.given or 0,
            right=row.right or 0,
        )
        for row in await tx.execute(wanted)
        if person is None or person.sees(row.tenant)
    ]


def _row(line: Line, actor: str, now: float) -> dict[str, Any]:
    golden_id = new_id(now)
    shown = shown_of(line, golden_id)
    return {
        "golden_id": golden_id,
        "tenant": line.tenant,
        "queue": line.queue,
        "language": primary(shown.language),
        "category": category_of(line),
        "task": shown.task,
        "action": line.action,
        "verdict": encode(shown),
        "content": encode(content_of(line)),
        "added_by": actor,
        "added_at": now,
    }


async def _in_use(tx: AsyncConnection, tenants: set[str]) -> dict[tuple[str, str, bytes], str]:
    """The right answers that are known of content."""
    found = await tx.execute(
        select(goldens.c.tenant, goldens.c.queue, goldens.c.content, goldens.c.action).where(
            goldens.c.retired_at.is_(None), goldens.c.tenant.in_(tenants)
        )
    )
    return {(row.tenant, row.queue, row.content): row.action for row in found}
