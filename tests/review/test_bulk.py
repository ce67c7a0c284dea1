"""Many items at once: what was looked at and nothing else, and all of it undone as one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select, update

from at_work import ALLOW, BLOCK, Work
from escalated import NOW, identity, verdict
from qwarden.review.refusals import Conflict, Forbidden, Invalid, NotFound
from qwarden.review.ruling import Said
from qwarden.review.store import bulk, overrides
from qwarden.review.store.audit import Act
from qwarden.review.store.bulk import Filter
from qwarden.review.store.database import Database
from qwarden.review.store.schema import audit, items, rulings

ALL = Filter(queue="general")


@pytest.fixture
async def work(database: Database) -> Work:
    begun = await Work.begin(database)
    await begun.comes(*(verdict(n) for n in range(5)))
    await begun.comes(verdict(9), queue="another")
    return begun


async def previews(work: Work, which: Filter = ALL) -> bulk.Preview:
    async with work.database.reading() as tx:
        return await bulk.preview(tx, work.lead, which, work.now, work.limits)


async def decides(
    work: Work, preview: str, said: Said = ALLOW, which: Filter = ALL
) -> bulk.DecidedInBulk:
    async with work.database.writing() as tx:
        return await bulk.decide(tx, work.lead, which, preview, said, work.now, work.limits)


async def states(work: Work) -> dict[str, int]:
    async with work.database.reading() as tx:
        found = (await tx.execute(select(items.c.state))).scalars().all()
    return {state: found.count(state) for state in set(found)}


async def test_what_somebody_holds_is_skipped_and_counted(work: Work) -> None:
    lease = await work.claims(work.ann)
    seen = await previews(work)
    assert (seen.count, seen.held, len(seen.sample)) == (5, 1, 5)
    done = await decides(work, seen.preview, BLOCK)
    assert (done.decided, done.skipped, done.take_back_until) == (4, 1, NOW + 30)
    assert {each.action for each in await work.decisions()} == {"block"}
    assert await states(work) == {"decided": 4, "open": 2}
    assert (await work.decides(work.ann, lease, ALLOW)).decisions
    async with work.database.reading() as tx:
        acts = (await tx.execute(select(audit.c.act))).scalars().all()
    assert acts.count(Act.DECIDED_IN_BULK) == 4


async def test_what_changed_since_the_preview_is_not_decided(work: Work) -> None:
    seen = await previews(work)
    await work.next_one(work.ann, ALLOW)
    with pytest.raises(Conflict, match="of 5 decisions, and now it would be 4"):
        await decides(work, seen.preview)
    seen = await previews(work)
    with pytest.raises(Conflict):
        await decides(work, seen.preview, which=replace(ALL, tenant="acme"))
    work.now += 1
    await work.comes(verdict(20))  # and what came since is no part of it
    assert (await decides(work, seen.preview)).decided == 4
    assert await states(work) == {"decided": 5, "open": 2}


async def test_a_bulk_that_cannot_be_meant_decides_nothing(work: Work) -> None:
    seen = await previews(work)
    for bad in ("", "1-2", "x-1-y", f"0x1p+9999-5-{seen.preview[-32:]}"):
        with pytest.raises(Invalid, match="no preview"):
            await decides(work, bad)
    with pytest.raises(Invalid, match="reason"):
        await decides(work, seen.preview, replace(ALLOW, reason=""))
    with pytest.raises(Invalid, match="in common"):
        await previews(work, Filter())
    with pytest.raises(Forbidden):
        async with work.database.reading() as tx:
            await bulk.preview(tx, work.ann, ALL, work.now, work.limits)
    work.limits = work.limits.model_copy(update={"bulk_items": 4})
    with pytest.raises(Invalid, match="would be 5 decisions, and at most 4"):
        await decides(work, seen.preview)
    assert await work.waiting() == []


async def test_a_lead_decides_nothing_of_another_tenant(work: Work) -> None:
    work.lead = replace(work.lead, tenants=frozenset({"other"}))
    assert (await previews(work)).count == 0
    with pytest.raises(Conflict, match="None of the 0"):
        await decides(work, (await previews(work)).preview)


async def test_appeals_and_checks_are_never_decided_in_bulk(work: Work) -> None:
    async with work.database.writing() as tx:
        for n, kind in enumerate(("second", "golden", "appeal", "sample", "disagreement")):
            of = items.c.verdict_id == verdict(n).verdict_id
            await tx.execute(update(items).where(of).values(kind=kind))
    assert (await previews(work)).count == 0


async def test_a_bulk_is_undone_as_one(work: Work) -> None:
    """Also where two of its items are of equal content, whose overrides replaced each other."""
    content = identity("content", "same")
    await work.comes(verdict(30, content_hash=content), queue="one")
    await work.comes(verdict(31, content_hash=content), queue="two")
    either = Filter(content_hash=content)
    async with work.database.reading() as tx:
        assert await overrides.standing(tx, "acme", content) is None
    seen = await previews(work, either)
    done = await decides(work, seen.preview, replace(BLOCK, override=True), either)
    assert (done.decided, len(await work.overrides())) == (2, 2)
    work.now += 29
    async with work.database.writing() as tx:
        with pytest.raises(NotFound):
            await bulk.undo(tx, work.ann, done.bulk_id, work.now)
        assert await bulk.undo(tx, work.lead, done.bulk_id, work.now) == (2, 2)
    async with work.database.reading() as tx:
        assert await overrides.standing(tx, "acme", content) is None
        acts = (await tx.execute(select(audit.c.act))).scalars().all()
        again = (await tx.execute(select(items.c.state, items.c.holder))).all()
    assert acts.count(Act.UNDID_BULK) == 2
    assert {tuple(row) for row in again} == {("open", None)}
    assert await work.waiting() == []
    with pytest.raises(NotFound):
        async with work.database.writing() as tx:
            await bulk.undo(tx, work.lead, done.bulk_id, work.now)


async def test_a_bulk_is_not_undone_in_part(work: Work) -> None:
    done = await decides(work, (await previews(work)).preview)
    async with work.database.reading() as tx:
        mine = select(rulings.c.ruling_id).where(rulings.c.bulk_id == done.bulk_id)
        some = (await tx.execute(mine.limit(2))).scalars().all()
    await work.takes_back(work.lead, some[0])
    # One of them is superseded meanwhile: then all others stay, too.
    async with work.database.reading() as tx:
        about = (await tx.execute(select(rulings).where(rulings.c.ruling_id == some[1]))).one()
        of = (await tx.execute(select(items).where(items.c.item_id == about.item_id))).one()
    await work.comes(
        verdict(of.subject[1:], verdict_id=identity("edited"), edit=1), queue="another"
    )
    async with work.database.reading() as tx:
        edited = (
            await tx.execute(
                select(items.c.item_id).where(items.c.verdict_id == identity("edited"))
            )
        ).scalar_one()
    await work.decides(work.ann, await work.claims(work.ann, edited), BLOCK)
    with pytest.raises(Conflict, match="later decision"):
        async with work.database.writing() as tx:
            await bulk.undo(tx, work.lead, done.bulk_id, work.now)
    assert len(await work.decisions()) == 5


async def test_a_lead_decides_more_than_was_looked_at_and_allowed(work: Work) -> None:
    """An item stands for as many escalations as have its content."""
    content = identity("content", "same")
    same = Filter(content_hash=content)
    work.limits = work.limits.model_copy(update={"bulk_items": 4})
    await work.comes(*(verdict(n, content_hash=content) for n in (20, 21, 22)))
    seen = await previews(work, same)
    assert (seen.count, seen.decisions) == (1, 3)
    await work.comes(verdict(23, content_hash=content))
    with pytest.raises(Conflict, match="of 3 decisions, and now it would be 4"):
        await decides(work, seen.preview, which=same)
    seen = await previews(work, same)
    await work.comes(verdict(24, content_hash=content))
    with pytest.raises(Invalid, match="would be 5 decisions, and at most 4"):
        await decides(work, seen.preview, which=same)
    with pytest.raises(Invalid, match="would be 5 decisions, and at most 4"):
        await previews(work, same)
    work.limits = work.limits.model_copy(update={"bulk_items": 5})
    assert (await decides(work, (await previews(work, same)).preview, which=same)).decided == 1
    assert len(await work.decisions()) == 5


@pytest.mark.parts  # a thousand items
async def test_a_thousand_items_are_decided_and_undone_while_a_lead_waits(work: Work) -> None:
    await work.comes(*(verdict(f"many {n}") for n in range(1000)), queue="flood")
    flood = Filter(queue="flood")
    seen = await previews(work, flood)
    done = await decides(work, seen.preview, replace(BLOCK, override=True), flood)
    assert (done.decided, len(await work.waiting())) == (1000, 2000)
    async with work.database.writing() as tx:
        assert await bulk.undo(tx, work.lead, done.bulk_id, work.now) == (1000, 1000)
    assert await work.waiting() == []
