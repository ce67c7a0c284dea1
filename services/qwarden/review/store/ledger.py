"""The ledger: what was said of content, with the content, for as long as anybody may ask why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Double,
    Row,
    Table,
    and_,
    bindparam,
    case,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.escalation import Content
from qwarden.contracts.verdict import Action, Verdict, encode
from qwarden.review.person import primary
from qwarden.review.store import audit
from qwarden.review.store.among import in_parts
from qwarden.review.store.audit import Act
from qwarden.review.store.closing import ERASED, Ended, close
from qwarden.review.store.conflict import insert
from qwarden.review.store.schema import appeals, escalations, items, ledger, notes
from qwarden.settings import Review

DAY_S = 86_400.0

_at, _until = bindparam("at", type_=Double), bindparam("until", type_=Double)


def entry(
    verdict: Verdict,
    content: Content | None,
    arrived_at: float,
    sample_rate: float | None,
    key: bytes | None,
    limits: Review,
) -> dict[str, Any]:
    """A row of the ledger. `sample_rate`: at which allowed verdicts were kept; `key`: the event's
    record's."""
    return {
        "verdict_id": verdict.verdict_id,
        "tenant": verdict.tenant,
        "event_id": verdict.event_id,
        "edit": verdict.edit,
        "task": verdict.task or "",
        "subject": verdict.subject,
        "language": primary(verdict.language),
        "category": verdict.categories[0] if verdict.categories else "",
        "safety": verdict.safety,
        "basis": verdict.basis,
        "action": verdict.action or "",
        "rule": verdict.policy.rule if verdict.policy else "",
        "content_hash": verdict.content_hash,
        "arrived_at": arrived_at,
        "kept_until": arrived_at + limits.keep_days * DAY_S,
        "sample_rate": sample_rate if verdict.action == Action.ALLOW else None,
        "verdict": encode(verdict),
        "content": None if content is None else encode(content),
        "key": key,
    }


async def keep(tx: AsyncConnection, entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Writes what is not there; returns that. What is there stays as it is, erased content too, but
    for its arrival, which is that of the record that came first, and for the time until which it is
    kept, which is the longest that was said."""
    found = {each["verdict_id"]: each for each in entries}
    if not found:
        return []
    known = await tx.execute(
        select(ledger.c.verdict_id, ledger.c.arrived_at, ledger.c.kept_until).where(
            ledger.c.verdict_id.in_(found)
        )
    )
    there = {row.verdict_id: row for row in known}
    new = [found[verdict_id] for verdict_id in sorted(found.keys() - there.keys())]
    if new:
        added = insert(tx, ledger).on_conflict_do_nothing(index_elements=["verdict_id"])
        await tx.execute(added.inline(), new)
    changed = [
        found[each]
        for each, row in there.items()
        if found[each]["arrived_at"] < row.arrived_at or found[each]["kept_until"] > row.kept_until
    ]
    if changed:
        await tx.execute(
            update(ledger)
            .where(ledger.c.verdict_id == bindparam("of"))
            .values(
                arrived_at=case((_at < ledger.c.arrived_at, _at), else_=ledger.c.arrived_at),
                kept_until=case((_until > ledger.c.kept_until, _until), else_=ledger.c.kept_until),
            ),
            [
                {"of": each["verdict_id"], "at": each["arrived_at"], "until": each["kept_until"]}
                for each in sorted(changed, key=lambda each: str(each["verdict_id"]))
            ],
        )
    return new


async def keep_on(tx: AsyncConnection, verdict_ids: Iterable[str], until: float) -> None:
    """Keeps these until then at least: what was decided of them can be asked for as long as what is
    new."""
    for some in in_parts(sorted(set(verdict_ids))):
        of = ledger.c.verdict_id.in_(some)
        prolonged = update(ledger).where(of, ledger.c.kept_until < until)
        await tx.execute(prolonged.values(kept_until=until))


async def keys(tx: AsyncConnection, verdict_ids: Iterable[str]) -> dict[str, bytes]:
    """The keys of their events' records, of those that have one."""
    found: dict[str, bytes] = {}
    for some in in_parts(sorted(set(verdict_ids))):
        wanted = select(ledger.c.verdict_id, ledger.c.key).where(
            ledger.c.verdict_id.in_(some), ledger.c.key.is_not(None)
        )
        found |= {each.verdict_id: each.key for each in await tx.execute(wanted)}
    return found


async def row(tx: AsyncConnection, verdict_id: str) -> Row[Any] | None:
    """What was said under this id, with its content, unless that was erased."""
    return (await tx.execute(select(ledger).where(ledger.c.verdict_id == verdict_id))).one_or_none()


async def of_event(tx: AsyncConnection, tenant: str, event_id: str) -> list[Row[Any]]:
    """All that was said of an event, the latest first."""
    wanted = select(ledger).where(ledger.c.tenant == tenant, ledger.c.event_id == event_id)
    return list(await tx.execute(wanted.order_by(ledger.c.arrived_at.desc(), ledger.c.verdict_id)))


async def of_subject(tx: AsyncConnection, tenant: str, subject: str, limit: int) -> list[Row[Any]]:
    """The latest that was said of a subject's content, `limit` at most."""
    wanted = select(ledger).where(ledger.c.tenant == tenant, ledger.c.subject == subject)
    return list(await tx.execute(wanted.order_by(ledger.c.arrived_at.desc()).limit(limit)))


async def erase(tx: AsyncConnection, tenant: str, event_id: str, *, actor: str, now: float) -> int:
    """Erases an event's content for good, and the notes and appeals about it, which may quote it;
    and closes what stands open for it, which nobody could decide any more. Returns of how many
    verdicts. What was said of it, and why, stays. `actor`: a user_id, or SERVICE."""
    erased = await tx.execute(
        update(ledger)
        .where(
            ledger.c.tenant == tenant,
            ledger.c.event_id == event_id,
            ledger.c.content.is_not(None),
        )
        .values(content=None)
    )
    words = await _erase_words(tx, tenant, event_id)
    closed = await close(tx, [Ended(tenant, event_id, below=None, why=ERASED)], (), now)
    if erased.rowcount or words or closed:
        await audit.write(tx, Act.ERASED, actor=actor, at=now, tenant=tenant, event_id=event_id)
    return erased.rowcount


async def _erase_words(tx: AsyncConnection, tenant: str, event_id: str) -> int:
    """Empties what people wrote of an event; also of an item that stands for others beside it,
    whose content is equal."""

    def its(table: Table) -> ColumnElement[bool]:
        return and_(table.c.tenant == tenant, table.c.event_id == event_id)

    stated = await tx.execute(
        update(appeals).where(its(appeals), appeals.c.statement != "").values(statement="")
    )
    stands_for = select(escalations.c.item_id).where(its(escalations))
    # From the notes, which are few: there is no index to the items of a verdict.
    shows = (
        select(items.c.item_id)
        .join_from(notes, items, items.c.item_id == notes.c.item_id)
        .where(items.c.verdict_id.in_(select(ledger.c.verdict_id).where(its(ledger))))
    )
    about = or_(notes.c.item_id.in_(stands_for), notes.c.item_id.in_(shows))
    noted = await tx.execute(update(notes).where(about, notes.c.text != "").values(text=""))
    return stated.rowcount + noted.rowcount
