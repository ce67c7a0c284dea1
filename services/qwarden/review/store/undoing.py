"""Taking rulings back as long as nobody has heard of them: as if they had not been said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Row, delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.decision import By
from qwarden.review.refusals import Conflict
from qwarden.review.store import closing, decisions, joining, outbox, overrides
from qwarden.review.store.among import in_parts
from qwarden.review.store.decisions import Chain
from qwarden.review.store.schema import decisions as decided
from qwarden.review.store.schema import items, rulings
from qwarden.review.store.schema import outbox as waiting

_TOO_LATE = (
    "It is on its way to those who act on it and cannot be taken back any more; decide anew, which "
    "supersedes it."
)
_RESTED_ON = (
    "A later decision on the same content rests on it: take that one back first, or decide anew, "
    "which supersedes it."
)


async def undo(tx: AsyncConnection, taken_back: Sequence[Row[Any]], now: float) -> dict[str, str]:
    """Takes rulings back, which the caller has locked, as if they had not been said. Returns which
    of their items are open again, and the id of what each is part of now: what came of equal
    content since is one with it.

    Raises `Conflict` where something of them is on its way already, or a later ruling rests on one.
    """
    ids = [each.ruling_id for each in taken_back]
    if any(now >= each.publish_at for each in taken_back):
        raise Conflict(_TOO_LATE)
    made = await _made_of(tx, ids)
    chains = [(row.tenant, row.event_id, row.task) for row in made]
    await decisions.lock_events(tx, chains)
    ended = await _locked_items(tx, [each.item_id for each in taken_back if each.item_id])
    await decisions.locked_chains(tx, chains)
    await _check_nothing_follows(tx, {row.decision_id for row in made})
    await _restore_overrides(tx, taken_back)
    put = len(made) + sum(bool(each.overrides or each.replaced) for each in taken_back)
    if await outbox.withdraw(tx, ids) != put:
        raise Conflict(_TOO_LATE)
    for some in in_parts(ids):
        await tx.execute(delete(decided).where(decided.c.ruling_id.in_(some)))
        await tx.execute(
            update(rulings).where(rulings.c.ruling_id.in_(some)).values(taken_back_at=now)
        )
    verdicts: dict[str, list[str]] = {}
    for row in made:
        verdicts.setdefault(row.item_id, []).append(row.verdict_id)
    opened = await _reopen(tx, ended, verdicts, now)
    await _open_set_aside(tx, chains, now)
    return opened


async def _made_of(tx: AsyncConnection, ruling_ids: Sequence[str]) -> list[Row[Any]]:
    """The decisions of rulings, each with its item."""
    found: list[Row[Any]] = []
    for some in in_parts(ruling_ids):
        wanted = select(decided, rulings.c.item_id).join_from(
            decided, rulings, rulings.c.ruling_id == decided.c.ruling_id
        )
        found += await tx.execute(wanted.where(decided.c.ruling_id.in_(some)))
    return found


async def _check_nothing_follows(tx: AsyncConnection, decision_ids: set[str]) -> None:
    for some in in_parts(sorted(decision_ids)):
        wanted = select(decided.c.decision_id).where(decided.c.supersedes.in_(some))
        if set((await tx.execute(wanted)).scalars()) - decision_ids:
            raise Conflict(_RESTED_ON)


async def _restore_overrides(tx: AsyncConnection, taken_back: Sequence[Row[Any]]) -> None:
    """Puts back what these rulings have changed of their contents' overrides."""
    changing = [each for each in taken_back if each.replaced or each.overrides]
    if not changing:
        return
    found = await overrides.locked_of(tx, changing)
    await _check_nobody_agrees(tx, changing, [each.ruling_id for each in taken_back])
    stand = dict(found)
    # The latest first: each one finds what it has left.
    for ruling in sorted(changing, key=lambda each: str(each.ruling_id), reverse=True):
        content = ruling.tenant, ruling.content_hash
        left = stand.pop(content, None)
        if (left.ruling_id if left else None) != (ruling.ruling_id if ruling.overrides else None):
            raise Conflict(_RESTED_ON)
        before = overrides.unpacked(ruling.replaced)
        if before is not None:
            stand[content] = before
    await overrides.restore(tx, found.values(), list(stand.values()))


async def _check_nobody_agrees(
    tx: AsyncConnection, changing: Sequence[Row[Any]], with_them: Sequence[str]
) -> None:
    """Raises `Conflict` where a person has ruled on the same content since: that may agree with
    what these have set, and not with what would stand again. The outbox knows the order, whatever
    the clocks say; nothing later leaves it before these do."""
    own = select(func.min(waiting.c.number)).where(waiting.c.ruling_id.in_(with_them))
    first = (await tx.execute(own)).scalar_one()
    contents: dict[str, set[str]] = {}
    for ruling in changing:
        contents.setdefault(ruling.tenant, set()).add(ruling.content_hash)
    later = (
        select(rulings.c.ruling_id)
        .join_from(rulings, waiting, waiting.c.ruling_id == rulings.c.ruling_id)
        .where(
            rulings.c.by == By.PERSON.value,
            rulings.c.ruling_id.not_in(with_them),
            waiting.c.number > first,
        )
        .limit(1)
    )
    for tenant, hashes in contents.items():
        for some in in_parts(sorted(hashes)):
            same = rulings.c.tenant == tenant, rulings.c.content_hash.in_(some)
            if (await tx.execute(later.where(*same))).first() is not None:
                raise Conflict(_RESTED_ON)


async def _locked_items(tx: AsyncConnection, item_ids: Sequence[str]) -> list[Row[Any]]:
    found: list[Row[Any]] = []
    for some in in_parts(sorted(item_ids)):
        wanted = select(items).where(items.c.item_id.in_(some), items.c.state == "decided")
        found += await tx.execute(wanted.order_by(items.c.item_id).with_for_update())
    return found


async def _reopen(
    tx: AsyncConnection, ended: Sequence[Row[Any]], verdicts: dict[str, list[str]], now: float
) -> dict[str, str]:
    """Opens items with those of their verdicts whose content is still there, if any; returns the id
    of what each is part of now. `verdicts`: what was decided, by item."""
    about = {item.item_id: _about(item, verdicts) for item in ended}
    reviews = [item.item_id for item in ended if item.kind == "review"]
    asked = [each for item_id in reviews for each in about[item_id]]
    # What people check or users appeal against stands all the same.
    gone = dict.fromkeys(await decisions.replaced(tx, asked), closing.SUPERSEDED)
    gone |= await decisions.gone(tx, [each for some in about.values() for each in some])
    opened: dict[str, str] = {}
    whole: list[Row[Any]] = []
    for item in ended:
        left = [each for each in about[item.item_id] if each not in gone]
        if about[item.item_id] and not left:
            why = gone[about[item.item_id][0]]
            closed = update(items).where(items.c.item_id == item.item_id)
            await tx.execute(closed.values(state="closed", ended_why=why))
        elif item.kind != "review" or len(left) == item._mapping["count"]:
            whole.append(item)
        else:
            shown = item.verdict_id if item.verdict_id in left else left[0]
            opened[item.item_id] = await joining.put(
                tx, item, now, ended_at=None, count=len(left), verdict_id=shown
            )
    await decisions.reopen(tx, [each for each in asked if each not in gone])
    return opened | await _open_whole(tx, whole, now)


async def _open_set_aside(tx: AsyncConnection, chains: Iterable[Chain], now: float) -> None:
    """Opens what came while these decisions stood."""
    aside = await decisions.set_aside(tx, chains)
    ids = [item.verdict_id for item in aside]
    gone = (await decisions.gone(tx, ids)).keys() | await decisions.replaced(tx, ids)
    left = [item for item in aside if item.verdict_id not in gone]
    await decisions.reopen(tx, [item.verdict_id for item in left])
    for item in left:
        await joining.put(tx, item, now, ended_at=None, ended_why=None)


def _about(item: Row[Any], verdicts: dict[str, list[str]]) -> list[str]:
    if item.kind == "review":
        return verdicts.get(item.item_id, [])
    return [] if item.verdict_id is None else [item.verdict_id]


async def _open_whole(tx: AsyncConnection, whole: Sequence[Row[Any]], now: float) -> dict[str, str]:
    """Opens items as they were; all at once, where nothing of equal content has come since."""
    ids = [item.item_id for item in whole]
    try:
        async with tx.begin_nested():
            for some in in_parts(ids):
                opened = update(items).where(items.c.item_id.in_(some))
                await tx.execute(opened.values(state="open", ended_at=None))
        return {item_id: item_id for item_id in ids}
    except IntegrityError:
        return {item.item_id: await joining.put(tx, item, now, ended_at=None) for item in whole}
