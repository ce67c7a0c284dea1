"""Items that no escalation asked for: what checks people, samples, appeals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, RowMapping, delete, exists, select, text, true
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.identity import new_id
from qwarden.review.order import APPEALS, QUALITY, URGENT, due_of
from qwarden.review.people import users
from qwarden.review.person import Person, Role
from qwarden.review.store.conflict import insert
from qwarden.review.store.schema import exclusions, items
from qwarden.review.store.scope import SKIPPED, is_open, seen_by

DECIDED = "decided"
"""Why somebody may not have what checks their own decision, or is an appeal against it."""

_AT_ONCE = 1000
"""Items that are looked through for one that nobody can take."""


_ABOUT = (
    "tenant", "language", "category", "rule", "task", "subject", "content_hash", "verdict_id",
)  # fmt: skip


def about(of: Mapping[str, Any] | RowMapping) -> dict[str, Any]:
    """What an item says of a verdict: of this row of the ledger, or as this other item says it."""
    return {name: of[name] for name in _ABOUT}


def row(
    kind: str, *, arrived_at: float, sla_s: float, harm: int, reach: int, **fields: Any
) -> dict[str, Any]:
    """An open item of a kind that nobody holds. `fields`: tenant, queue, language, category, rule,
    task (`about`), and what else it has. When its time is over it waits on, for people alone."""
    return {
        "item_id": new_id(arrived_at),
        "kind": kind,
        "subject": None,
        "content_hash": None,
        "verdict_id": None,
        "harm": harm,
        "reach": reach,
        "arrived_at": arrived_at,
        "due_at": due_of(arrived_at, sla_s, harm, reach),
        "breach_at": arrived_at + sla_s,
        "on_breach": "raise",
        "state": "open",
        "count": 1,
        "role": Role.REVIEWER.value,
        "fence": 0,
        "returned": 0,
        **fields,
    }


async def exclude(tx: AsyncConnection, item_id: str, user_ids: Sequence[str], why: str) -> None:
    """Keeps an item from these people."""
    if user_ids:
        new = insert(tx, exclusions).on_conflict_do_nothing()
        await tx.execute(
            new.inline(),
            [{"item_id": item_id, "user_id": each, "why": why} for each in sorted(set(user_ids))],
        )


async def offer_again(tx: AsyncConnection, item_id: str) -> None:
    """Gives an item to those too who have skipped it: it matters more now than it did then."""
    skips = exclusions.c.item_id == item_id, exclusions.c.why == SKIPPED
    await tx.execute(delete(exclusions).where(*skips))


async def deciders(tx: AsyncConnection) -> list[Person]:
    """All people, no tools, who can be given items."""
    return [
        each.person
        for each in await users.everybody(tx)
        if each.is_active and not each.person.is_tool and each.person.decides
    ]


def can_have(person: Person, tenant: str, language: str, role: str) -> bool:
    """Whether an item of these may be given to this one."""
    if role == Role.LEAD and not person.has(Role.LEAD):
        return False
    return person.sees(tenant) and person.reads(language)


async def stranded(tx: AsyncConnection, person: Person | None = None) -> dict[str, int]:
    """How many open items nobody is given, by kind: appeals and disagreements of which everybody
    who could have them is excluded, or that nobody could have; and reviews that everybody who
    could have them has skipped. `person`: whose tenants alone count."""
    asked = ("appeal", "disagreement")
    # The queues where they are, or are raised to: an index leads there.
    in_queues = items.c.queue.in_((APPEALS, QUALITY, URGENT)), items.c.kind.in_(asked)
    skipped = exists().where(
        exclusions.c.item_id == items.c.item_id, exclusions.c.why == text(f"'{SKIPPED}'")
    )
    its = true() if person is None else seen_by(person)
    waiting = [
        *await _waiting(tx, its, *in_queues),
        *await _waiting(tx, its, items.c.kind == text("'review'"), skipped),
    ]
    counts = dict.fromkeys((*asked, "review"), 0)
    if not waiting:
        return counts
    kept_off: dict[str, set[str]] = {}
    of = exclusions.c.item_id.in_([each.item_id for each in waiting])
    for each in await tx.execute(select(exclusions.c.item_id, exclusions.c.user_id).where(of)):
        kept_off.setdefault(each.item_id, set()).add(each.user_id)
    people = await deciders(tx)
    for item in waiting:
        excluded = kept_off.get(item.item_id, ())
        if not any(
            person.user_id not in excluded
            and can_have(person, item.tenant, item.language, item.role)
            for person in people
        ):
            counts[item.kind] += 1
    return counts


async def _waiting(tx: AsyncConnection, *conditions: ColumnElement[bool]) -> list[Row[Any]]:
    wanted = (
        select(items.c.item_id, items.c.kind, items.c.tenant, items.c.language, items.c.role)
        .where(is_open, *conditions)
        .order_by(items.c.item_id)
        .limit(_AT_ONCE)
    )
    return list(await tx.execute(wanted))
