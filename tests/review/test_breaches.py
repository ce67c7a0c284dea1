"""What is done about items that nobody has decided in time, on both databases."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest
from sqlalchemy import delete, event, select
from sqlalchemy.ext.asyncio import AsyncEngine

from escalated import NOW, escalation, identity, open_item, person, put_items, verdict
from qwarden.contracts.decision import decode_decision
from qwarden.review.person import Role
from qwarden.review.store import breaches, leases, schema
from qwarden.review.store.database import Database
from qwarden.review.store.intake import take
from qwarden.review.store.turns import Wanted
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


@pytest.mark.parts  # a hundred decisions and more
async def test_more_items_are_late_than_one_sweep_takes(database: Database) -> None:
    async with database.writing() as tx:
        await put_items(tx, [open_item(n) for n in range(breaches._AT_ONCE + 20)])
    assert await swept(database, NOW + 10**6) == breaches._AT_ONCE
    assert await swept(database, NOW + 10**6) == 20
    assert await swept(database, NOW + 10**6) == 0


@pytest.mark.parametrize("first", [0, 1])
async def test_equal_content_is_decided_against_its_own_policy(
    database: Database, first: int
) -> None:
    asked = [
        escalation(verdict("a", content_hash=SAME), NOW, sla_s=3600, on_breach="allow"),
        escalation(verdict("b", content_hash=SAME), NOW + 3599, sla_s=7200, on_breach="block"),
    ]
    async with database.writing() as tx:
        for each in (asked[first], asked[1 - first]):
            await take(tx, [each], NOW, LIMITS)
    assert await swept(database, NOW + 3600) == 1
    (item,) = await rows(database)
    assert (item.queue, item.on_breach) == ("urgent", "raise")
    assert await decided(database) == []


async def test_what_came_together_is_decided_against_its_own_policy(database: Database) -> None:
    async with database.writing() as tx:
        both = [
            escalation(verdict(how, content_hash=SAME), NOW, on_breach=how)
            for how in ("allow", "block")
        ]
        await take(tx, both, NOW, LIMITS)
    (item,) = await rows(database)
    assert item.on_breach == "raise"


async def test_what_is_urgent_is_allowed_by_what_it_is_joined_with(database: Database) -> None:
    async with database.writing() as tx:
        one = await person(tx, "one")
        there = escalation(
            verdict("a", content_hash=SAME), NOW, queue="urgent", on_breach="allow", sla_s=3600
        )
        sent = escalation(verdict("b", content_hash=SAME), NOW, queue="harm", on_breach="allow")
        await take(tx, [there, sent], NOW, LIMITS)
    which = next(row.item_id for row in await rows(database) if row.queue == "harm")
    async with database.writing() as tx:
        why = "threat_to_life"
        await leases.send_to_urgent(tx, one, which, None, why, NOW + 1, LIMITS)
    assert await swept(database, NOW + 4000) == 1
    assert await decided(database) == []


@pytest.mark.parametrize("late", ["a", "b"])
async def test_what_is_joined_with_a_late_item_is_never_late(database: Database, late: str) -> None:
    other = {"a": "b", "b": "a"}[late]
    async with database.writing() as tx:
        lead = await person(tx, "lead", Role.LEAD)
        how = {"on_breach": "block", "content_hash": SAME}
        await put_items(
            tx,
            [
                open_item(1, queue=late, breach_at=NOW + 10, breached_at=NOW + 11, **how),
                open_item(2, queue=other, breach_at=NOW + 1000, breached_at=None, **how),
            ],
        )
        moved = next(n for n, queue in ((1, late), (2, other)) if queue == "b")
        joined = await leases.move(tx, lead, f"{moved:032x}", "a", NOW + 30)
    (item,) = [row for row in await rows(database) if row.state == "open"]
    assert (item.item_id, item.breach_at, item.breached_at) == (joined, NOW + 1000, None)
    assert await swept(database, NOW + 1000) == 1


async def test_what_is_raised_is_allowed_by_an_urgent_one_that_is_late_too(
    database: Database,
) -> None:
    async with database.writing() as tx:
        first = escalation(verdict("a", content_hash=SAME), NOW, on_breach="raise")
        there = escalation(
            verdict("b", content_hash=SAME), NOW + 1, queue="urgent", on_breach="allow"
        )
        await take(tx, [first, there], NOW, LIMITS)
    await swept(database, NOW + 4000)
    assert await decided(database) == []
    (item,) = [row for row in await rows(database) if row.state == "open"]
    assert (item.queue, item._mapping["count"], item.breached_at) == ("urgent", 2, NOW + 4000)


async def test_what_is_sent_to_urgent_after_its_time_is_never_late(database: Database) -> None:
    await asked(database, on_breach="allow")
    assert await swept(database, NOW + 3600) == 1
    async with database.writing() as tx:
        one = await person(tx, "one")
        (item,) = list(await tx.execute(select(items)))
        at = NOW + 4000
        await leases.send_to_urgent(tx, one, item.item_id, None, "other", at, LIMITS)
    assert await swept(database, at + LIMITS.urgent_sla_s - 1) == 0
    assert await swept(database, at + LIMITS.urgent_sla_s) == 1


async def test_two_late_items_that_are_joined_are_late_anew(database: Database) -> None:
    async with database.writing() as tx:
        lead = await person(tx, "lead", Role.LEAD)
        for number, queue in ((1, "a"), (2, "b")):
            late = open_item(number, queue=queue, content_hash=SAME, breached_at=NOW + 4000)
            await put_items(tx, [late])
        await leases.move(tx, lead, f"{2:032x}", "a", NOW + 4001)
    assert await swept(database, NOW + 10**6) == 0


async def test_one_breach_that_fails_stops_the_others(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "qwarden.review")
    async with database.writing() as tx:
        asked = [
            escalation(verdict(n), NOW + n, sla_s=3600, on_breach="block", queue=f"q{n}")
            for n in range(3)
        ]
        await take(tx, asked, NOW, LIMITS)
        lost = identity("verdict", 0)
        await tx.execute(delete(schema.ledger).where(schema.ledger.c.verdict_id == lost))
    assert await swept(database, NOW + 4000) == 3
    assert await swept(database, NOW + 4000) == 0, "it is tried again and again"
    assert [each[0] for each in await decided(database)] == sorted(
        identity("verdict", n) for n in (1, 2)
    )
    failed, *others = sorted(await rows(database), key=lambda row: str(row.subject))
    assert (failed.queue, failed.breached_at) == ("urgent", NOW + 4000), "nobody looks at it"
    assert [row.queue for row in others] == ["q1", "q2"]
    (told,) = caplog.records
    assert failed.item_id in told.getMessage()


async def test_a_breach_asks_for_each_verdict_by_itself(database: Database) -> None:
    counts = []
    for round_, many in enumerate((3, 60)):
        async with database.writing() as tx:
            same = identity("wave", round_)
            wave = [
                escalation(verdict((round_, n), content_hash=same), NOW, on_breach="block")
                for n in range(many)
            ]
            await take(tx, wave, NOW, LIMITS)
        asked = 0

        def count(*about: Any) -> None:
            nonlocal asked
            asked += 1

        engine: AsyncEngine = database._engine
        event.listen(engine.sync_engine, "before_cursor_execute", count)
        assert await swept(database, NOW + 3600) == 1
        event.remove(engine.sync_engine, "before_cursor_execute", count)
        counts.append(asked)
    assert counts[0] == counts[1]
    assert len(await decided(database)) == 63
