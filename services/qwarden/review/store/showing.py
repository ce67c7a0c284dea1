"""What an item is shown with: who holds it, its content, and what is known beside it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Row, exists, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.escalation import Content
from qwarden.review.identity import new_id
from qwarden.review.person import Person, Role
from qwarden.review.refusals import NotFound
from qwarden.review.store import audit, ledger
from qwarden.review.store import rulings as said
from qwarden.review.store.audit import Act
from qwarden.review.store.rulings import Past
from qwarden.review.store.schema import (
    appeals,
    decisions,
    goldens,
    items,
    notes,
    rulings,
    users,
)
from qwarden.review.store.schema import ledger as kept
from qwarden.review.store.scope import kept_from, seen_by

BLIND = frozenset({"golden", "second"})
"""Kinds of which nobody may learn what others said of the same content, nor that they are of this
kind."""

_EARLIER = 20
"""Verdicts of a subject that are shown: more than one looks through while an item waits."""
_PAST = 10
"""Decisions of equal content that are shown: the latest say how it is judged now."""

_content = msgspec.json.Decoder(Content)


@dataclass(frozen=True, slots=True)
class Subject:
    """What an item is about. `content`: None where it was erased, or its time is over; `at`: when
    the verdict came; None for a golden one."""

    verdict: Mapping[str, Any]
    content: Content | None
    at: float | None


async def item(tx: AsyncConnection, person: Person, item_id: str) -> Row[Any]:
    """An item that this one may look at. Raises NotFound, also where it is none of their business:
    one that checks what they decided themselves, or that is another one's golden item."""
    its = items.c.item_id == item_id, seen_by(person), ~kept_from(person, item_id)
    wanted = select(items).where(*its)
    if not person.has(Role.LEAD, Role.AUDITOR):
        own = exists().where(rulings.c.item_id == item_id, rulings.c.user_id == person.user_id)
        wanted = wanted.where(or_(items.c.kind != "golden", items.c.holder == person.user_id, own))
    found = (await tx.execute(wanted)).one_or_none()
    if found is None:
        raise NotFound("there is no such item among yours; it may have ended, take the next one")
    return found


async def pseudonyms(tx: AsyncConnection, user_ids: Collection[str | None]) -> dict[str, str]:
    """By user_id."""
    wanted = sorted({each for each in user_ids if each is not None})
    if not wanted:
        return {}
    of = select(users.c.user_id, users.c.pseudonym).where(users.c.user_id.in_(wanted))
    return {row.user_id: row.pseudonym for row in await tx.execute(of)}


async def user_of(tx: AsyncConnection, pseudonym: str) -> str | None:
    """The user_id of a pseudonym, or None."""
    found = await tx.execute(select(users.c.user_id).where(users.c.pseudonym == pseudonym))
    user_id: str | None = found.scalar_one_or_none()
    return user_id


async def subject(tx: AsyncConnection, of: Row[Any]) -> Subject:
    """What an item is about: the ledger's row, or a golden item's own."""
    if of.golden_id is not None:
        golden = select(goldens).where(goldens.c.golden_id == of.golden_id)
        own = (await tx.execute(golden)).one()
        return Subject(verdict_in(own), content_in(own), None)
    row = None if of.verdict_id is None else await ledger.row(tx, of.verdict_id)
    if row is None:
        return Subject({}, None, None)
    return Subject(verdict_in(row), content_in(row), row.arrived_at)


def verdict_in(row: Row[Any]) -> Mapping[str, Any]:
    """The verdict of the ledger's row."""
    verdict: Mapping[str, Any] = json.loads(row.verdict)
    return verdict


def content_in(row: Row[Any]) -> Content | None:
    """Its content, unless that was erased."""
    return None if row.content is None else _content.decode(row.content)


async def earlier(tx: AsyncConnection, of: Row[Any]) -> list[tuple[Row[Any], str | None]]:
    """The subject's latest verdicts on other content, each with the action that people decided."""
    if of.subject is None:
        return []
    wanted = select(kept).where(kept.c.tenant == of.tenant, kept.c.subject == of.subject)
    if of.content_hash is not None:
        wanted = wanted.where(
            or_(kept.c.content_hash.is_(None), kept.c.content_hash != of.content_hash)
        )
    if of.verdict_id is not None:
        wanted = wanted.where(kept.c.verdict_id != of.verdict_id)
    rows = (await tx.execute(wanted.order_by(kept.c.arrived_at.desc()).limit(_EARLIER))).all()
    stands = await decided(tx, rows)
    return [(row, stands.get((row.tenant, row.event_id, row.task))) for row in rows]


async def decided(tx: AsyncConnection, rows: Sequence[Row[Any]]) -> dict[tuple[str, str, str], str]:
    """What stands of what people decided of these verdicts, by tenant, event and task."""
    if not rows:
        return {}
    of = {(row.tenant, row.event_id, row.task) for row in rows}
    later = decisions.alias("later")
    wanted = (
        select(decisions.c.tenant, decisions.c.event_id, decisions.c.task, rulings.c.action)
        .join(rulings, rulings.c.ruling_id == decisions.c.ruling_id)
        .where(
            tuple_(decisions.c.tenant, decisions.c.event_id, decisions.c.task).in_(sorted(of)),
            ~exists().where(later.c.supersedes == decisions.c.decision_id),
        )
        .order_by(decisions.c.edit)
    )
    return {(row.tenant, row.event_id, row.task): row.action for row in await tx.execute(wanted)}


async def past(tx: AsyncConnection, of: Row[Any]) -> list[Past]:
    """What was decided of equal content, the latest first; nothing for who must not know."""
    if of.content_hash is None or of.kind in BLIND:
        return []
    return await said.of_content(tx, of.tenant, of.content_hash, _PAST)


async def notes_of(tx: AsyncConnection, item_id: str) -> list[Row[Any]]:
    """The oldest first, with `pseudonym`."""
    wanted = (
        select(notes.c.at, notes.c.text, users.c.pseudonym)
        .outerjoin(users, users.c.user_id == notes.c.user_id)
        .where(notes.c.item_id == item_id)
        .order_by(notes.c.at)
    )
    return list(await tx.execute(wanted))


async def note(tx: AsyncConnection, person: Person, of: Row[Any], text: str, now: float) -> None:
    """Adds one to an item."""
    await tx.execute(
        notes.insert().values(
            note_id=new_id(now), item_id=of.item_id, user_id=person.user_id, at=now, text=text
        )
    )
    await audit.write(
        tx, Act.NOTED, actor=person.user_id, at=now, tenant=of.tenant, item_id=of.item_id
    )


async def appeal(tx: AsyncConnection, appeal_id: str) -> tuple[Row[Any], Row[Any] | None]:
    """An appeal, and the ruling that it is against; None for an automatic verdict."""
    made = (await tx.execute(select(appeals).where(appeals.c.appeal_id == appeal_id))).one()
    if made.decision_id is None:
        return made, None
    wanted = (
        select(rulings)
        .join(decisions, decisions.c.ruling_id == rulings.c.ruling_id)
        .where(decisions.c.decision_id == made.decision_id)
    )
    return made, (await tx.execute(wanted)).one_or_none()


async def is_queue(tx: AsyncConnection, queue: str) -> bool:
    """Whether any item that is kept is in it."""
    found = await tx.execute(select(items.c.item_id).where(items.c.queue == queue).limit(1))
    return found.first() is not None


async def held_by(tx: AsyncConnection, person: Person) -> list[Row[Any]]:
    """The items that this one has leased, also where the lease has ended meanwhile; those first
    whose lease ends first."""
    wanted = select(items).where(items.c.holder == person.user_id, items.c.state == "open")
    return list(await tx.execute(wanted.order_by(items.c.leased_until)))
