"""What is done about items that nobody has decided in time, on both databases."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from escalated import NOW, escalation, identity, open_item, person, put_items, verdict
from qwarden.contracts.decision import decode_decision
from qwarden.review.person import Role
from qwarden.review.store import breaches, leases, schema
from qwarden.review.store.database import Database
from qwarden.review.store.intake import take
from qwarden.review.store.leases import Wanted
from qwarden.settings import Review

LIMITS = Review(sample_share=0, golden_share=0, second_share=0)
SAME = identity("same")
items = schema.items


async def swept(database: Database, at: float, *, frozen: bool = False) -> int:
    async with database.writing() as tx:
        return await breaches.sweep(tx, at, LIMITS, lambda tenant: frozen)


async def rows(database: Database) -> list[Any]:
    async with database.reading() as tx:
        return list(await tx.execute(select(items).order_by(items.c.item_id)))


async def decided(database: Database) -> list[tuple[str, str, str]]:
    async with database.reading() as tx:
        values = (await tx.execute(select(schema.decisions.c.value))).scalars().all()
    made = [decode_decision(value) for value in values]
    return sorted((each.verdict_id, each.action, each.by.value) for each in made)


async def asked(database: Database, **how: Any) -> None:
    """Two escalations of one content, with an hour."""
    async with database.writing() as tx:
        await take(
            tx,
            [escalation(verdict(n, content_hash=SAME), NOW, sla_s=3600, **how) for n in range(2)],
            NOW,
            LIMITS,
        )


async def test_a_late_item_waits_where_it_was(database: Database) -> None:
    await asked(database, on_breach="raise")
    assert await swept(database, NOW + 3599) == 0
    assert await swept(database, NOW + 3600) == 1
    assert await swept(database, NOW + 3600) == 0
    (item,) = await rows(database)
    assert (item.state, item.queue, item.breached_at) == ("open", "urgent", NOW + 3600)
    assert item.breach_at == NOW + 3600 + LIMITS.urgent_sla_s
    assert item.due_at < NOW + 3600
    assert await decided(database) == []
    async with database.reading() as tx:
        (row,) = await tx.execute(select(schema.audit).where(schema.audit.c.act == "breached"))
        assert (row.actor, row.item_id, row.tenant) == ("service", item.item_id, "acme")
        assert msgspec.json.decode(row.about) == {"done": "raise"}


@pytest.mark.parametrize("action", ["allow", "block"])
async def test_a_late_item_is_closed_by_what_its_policy_says(
    database: Database, action: str
) -> None:
    await asked(database, on_breach=action)
    async with database.writing() as tx:
        one = await person(tx, "one")
        lease = await leases.claim(tx, one, Wanted(), NOW + 3590, LIMITS)
    assert lease is not None
    assert await swept(database, NOW + 3600) == 1
    assert await swept(database, NOW + 3601) == 0
    (item,) = await rows(database)
    assert (item.state, item.queue, item.breached_at) == ("open", "general", NOW + 3600)
    assert item.holder == one.user_id, "a breach takes an item from its holder"
    both = [identity("verdict", n) for n in range(2)]
    assert await decided(database) == sorted((each, action, "breach") for each in both)


async def test_a_freeze_that_came_later_lets_a_breach_block(database: Database) -> None:
    await asked(database, on_breach="block")
    assert await swept(database, NOW + 3600, frozen=True) == 1
    (item,) = await rows(database)
    assert (item.state, item.queue) == ("open", "urgent")
    assert await decided(database) == []


async def test_a_freeze_lets_nothing_be_allowed_in_time(database: Database) -> None:
    await asked(database, on_breach="allow")
    assert await swept(database, NOW + 3600, frozen=True) == 1
    assert len(await decided(database)) == 2


async def test_what_joins_a_late_item_gets_no_decision_when_its_time_is_over(
    database: Database,
) -> None:
    await asked(database, on_breach="block")
    await swept(database, NOW + 3600)
    async with database.writing() as tx:
        late = escalation(verdict(9, content_hash=SAME), NOW + 4000, sla_s=60, on_breach="block")
        await take(tx, [late], NOW + 4000, LIMITS)
    assert await swept(database, NOW + 4059) == 0
    assert await swept(database, NOW + 4060) == 1
    made = await decided(database)
    assert sorted(made) == sorted((identity("verdict", n), "block", "breach") for n in (0, 1, 9))


async def test_a_check_of_quality_pushes_aside_what_cannot_wait(database: Database) -> None:
    async with database.writing() as tx:
        for number, kind in enumerate(("second", "disagreement", "sample", "appeal")):
            await put_items(tx, [open_item(number, kind=kind, content_hash=None)])
    assert await swept(database, NOW + 10**6) == 4
    assert {row.kind: row.queue for row in await rows(database)} == {
        "second": "general",
        "disagreement": "general",
        "sample": "general",
        "appeal": "urgent",
    }
    assert all(row.breached_at == NOW + 10**6 for row in await rows(database))


async def test_an_item_is_raised_beside_an_urgent_one_of_equal_content(database: Database) -> None:
    async with database.writing() as tx:
        await put_items(
            tx,
            [
                open_item(1, content_hash=SAME, count=2),
                open_item(2, content_hash=SAME, queue="urgent", count=3),
            ],
        )
        lead = await person(tx, "lead", Role.LEAD)
    assert await swept(database, NOW + 3601) == 1
    first, second = await rows(database)
    assert {first.state, second.state} == {"closed", "open"}
    assert first.ended_why == "It was joined with another item of equal content."
    assert (second.queue, second._mapping["count"]) == ("urgent", 5)
    async with database.writing() as tx:
        lease = await leases.claim(tx, lead, Wanted(queue="urgent"), NOW + 3601, LIMITS)
    assert lease is not None
    assert lease.item_id == second.item_id


async def test_more_items_are_late_than_one_sweep_takes(database: Database) -> None:
    async with database.writing() as tx:
        await put_items(tx, [open_item(n) for n in range(breaches._AT_ONCE + 20)])
    assert await swept(database, NOW + 10**6) == breaches._AT_ONCE
    assert await swept(database, NOW + 10**6) == 20
    assert await swept(database, NOW + 10**6) == 0
