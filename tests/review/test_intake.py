"""Escalations, closings and evidence on both databases."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text

from escalated import (
    CONTENT,
    NOW,
    closing,
    escalation,
    evidence,
    identity,
    person,
    verdict,
    withdrawal,
)
from qwarden.contracts.escalation import Escalation, Kind
from qwarden.contracts.verdict import Action, Basis, Facts, encode
from qwarden.review.refusals import Conflict
from qwarden.review.store import leases, ledger, schema
from qwarden.review.store.among import among
from qwarden.review.store.database import Database, is_outage
from qwarden.review.store.intake import Arrived, Taken, take
from qwarden.review.store.turns import Wanted
from qwarden.settings import Review

LIMITS = Review(sample_share=0, golden_share=0)
SAME = identity("same content")
items = schema.items


async def taken(database: Database, *records: Arrived, now: float = NOW) -> Taken:
    async with database.writing() as tx:
        return await take(tx, records, now, LIMITS)


async def rows(database: Database) -> list[dict[str, Any]]:
    async with database.reading() as tx:
        found = await tx.execute(select(items).order_by(items.c.arrived_at, items.c.item_id))
        return [dict(row) for row in found.mappings()]


async def test_an_escalation_loses_what_people_need(database: Database) -> None:
    said = verdict(
        "a\0b\\0",
        tenant="t\0\\",
        subject="s\0",
        language="pt_BR",
        facts=Facts(reach=999_999),
        categories=["PII", "Unethical Acts"],
    )
    how = {"queue": "harm", "harm": 5, "sla_s": 7000, "on_breach": "block"}
    assert await taken(database, escalation(said, NOW + 1, **how)) == Taken(1, 0, 0, 1)
    (item,) = await rows(database)
    assert item.pop("item_id") != item.pop("verdict_id")
    assert item == {
        "kind": "review", "tenant": "t\0\\", "queue": "harm", "language": "pt",
        "category": "PII", "rule": "controversial", "task": "prompt", "subject": "s\0",
        "content_hash": said.content_hash, "harm": 5, "reach": 999_999, "arrived_at": NOW + 1,
        "due_at": NOW + 201, "breach_at": NOW + 7001, "on_breach": "block", "breached_at": None,
        "state": "open", "count": 1, "role": "reviewer", "holder": None, "lease": None,
        "fence": 0, "leased_until": None, "returned": 0, "urgent_why": None, "golden_id": None,
        "ruling_id": None, "appeal_id": None, "ended_at": None, "ended_why": None,
    }  # fmt: skip
    async with database.reading() as tx:
        row = await ledger.row(tx, said.verdict_id)
        assert row is not None
        assert (row.tenant, row.event_id, row.subject) == ("t\0\\", "ea\0b\\0", "s\0")
        assert (row.language, row.category, row.sample_rate) == ("pt", "PII", None)
        assert row.kept_until == NOW + 1 + 180 * 86_400
        assert row.verdict == encode(said)
        assert row.content == encode(CONTENT)
        assert [each.verdict_id for each in await ledger.of_event(tx, "t\0\\", "ea\0b\\0")] == [
            said.verdict_id
        ]
        assert await ledger.row(tx, identity("other")) is None


async def test_an_escalation_that_says_nothing_of_how_people_are_asked_is_lost(
    database: Database,
) -> None:
    said = verdict(
        1, content_hash=None, categories=None, policy=None, task=None, language="klingon"
    )
    bare = Arrived(Escalation(kind=Kind.REVIEW, verdict=said, content=None), NOW)
    odd = escalation(verdict(2), harm=99, sla_s=-5, on_breach="shout", queue="")
    assert (await taken(database, bare, odd)).opened == 2
    one, other = sorted(
        await rows(database), key=lambda row: str(row["content_hash"]), reverse=True
    )
    assert (one["queue"], one["on_breach"], one["language"]) == ("general", "raise", "und")
    assert (other["queue"], other["harm"], other["on_breach"]) == ("general", 10, "raise")
    assert other["breach_at"] > NOW


async def test_equal_content_is_asked_for_twice(database: Database) -> None:
    first = escalation(verdict(1, content_hash=SAME), NOW, harm=2, sla_s=7200)
    other = escalation(
        verdict(2, content_hash=SAME, facts=Facts(reach=50)), NOW + 10, harm=8, sla_s=60
    )
    elsewhere = [
        escalation(verdict(3, content_hash=SAME), NOW + 20, queue="harm"),
        escalation(verdict(4, content_hash=SAME, tenant="other"), NOW + 30),
    ]
    assert await taken(database, first) == Taken(1, 0, 0, 1)
    assert await taken(database, other, *elsewhere) == Taken(2, 1, 0, 3)
    assert await taken(database, first, other, *elsewhere) == Taken()
    item, *others = await rows(database)
    assert (item["count"], item["harm"], item["reach"]) == (2, 8, 50)
    assert (item["arrived_at"], item["breach_at"]) == (NOW, NOW + 70)
    assert NOW + 10 < item["due_at"] < NOW + 20
    assert item["verdict_id"] == identity("verdict", 1)
    assert [each["count"] for each in others] == [1, 1]


async def test_what_joins_a_late_item_has_no_time_of_its_own(database: Database) -> None:
    await taken(database, escalation(verdict(1, content_hash=SAME), NOW, sla_s=60))
    async with database.writing() as tx:
        await tx.execute(items.update().values(breached_at=NOW + 60))
    await taken(database, escalation(verdict(2, content_hash=SAME), NOW + 100, sla_s=60))
    (item,) = await rows(database)
    assert (item["breached_at"], item["breach_at"]) == (None, NOW + 160)
    assert item["due_at"] < NOW + 60, "what is late is put behind"


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        (closing(withdrawal(1)), "Its content was deleted."),
        (
            closing(verdict(1, verdict_id=identity("edited"), edit=1, action=Action.ALLOW)),
            "Its content was edited; the edit has a verdict of its own.",
        ),
        (
            closing(verdict(3, supersedes=identity("verdict", 1), action=Action.BLOCK)),
            "Another verdict has taken the place of its own.",
        ),
    ],
)
async def test_what_is_gone_is_decided_by_who_holds_it(
    database: Database, gone: Arrived, sentence: str
) -> None:
    async with database.writing() as tx:
        one = await person(tx, "one")
    await taken(database, escalation(verdict(1)), escalation(verdict(2)))
    (item_id,) = [
        row["item_id"]
        for row in await rows(database)
        if row["verdict_id"] == identity("verdict", 1)
    ]
    async with database.writing() as tx:
        lease = await leases.claim(tx, one, Wanted(item_id=item_id), NOW, LIMITS)
    assert lease is not None
    assert (await taken(database, gone, now=NOW + 5)).closed == 1
    async with database.writing() as tx:
        with pytest.raises(Conflict) as refused:
            await leases.check(tx, one, item_id, lease.token, NOW + 6)
    assert str(refused.value).startswith(sentence)
    async with database.reading() as tx:
        ended = (await tx.execute(select(items).where(items.c.item_id == item_id))).one()
        assert (ended.state, ended.ended_why, ended.ended_at) == ("closed", sentence, NOW + 5)
        assert (ended.holder, ended.lease, ended.leased_until) == (None, None, None)
        logged = select(schema.audit.c.act).where(schema.audit.c.item_id == item_id)
        assert list((await tx.execute(logged)).scalars()) == ["claimed", "closed"]
    assert len([row for row in await rows(database) if row["state"] == "open"]) == 1


async def test_an_item_shows_content_that_was_deleted(database: Database) -> None:
    await taken(database, *(escalation(verdict(n, content_hash=SAME), NOW + n) for n in range(3)))
    assert await taken(database, closing(withdrawal(0))) == Taken()
    (item,) = await rows(database)
    assert (item["count"], item["verdict_id"], item["subject"]) == (
        2, identity("verdict", 1), "u1",
    )  # fmt: skip
    assert (await taken(database, closing(withdrawal(1)), closing(withdrawal(2)))).closed == 1


@pytest.mark.parametrize("kind", ["second", "disagreement", "appeal", "sample"])
async def test_an_appeal_or_a_check_outlives_its_content(database: Database, kind: str) -> None:
    said = verdict(1, action=Action.BLOCK)
    await taken(database, evidence(said))
    async with database.writing() as tx:
        await tx.execute(
            insert(items).values(
                item_id=identity(kind), kind=kind, tenant="acme", queue="quality", language="en",
                category="", rule="", task="prompt", verdict_id=said.verdict_id, harm=1, reach=0,
                arrived_at=NOW, due_at=NOW, breach_at=NOW, on_breach="raise", state="open",
                count=1, role="reviewer", fence=0, returned=0, content_hash=said.content_hash,
            )
        )  # fmt: skip
        await tx.execute(
            insert(schema.appeals).values(
                appeal_id=identity("appeal"), item_id=identity(kind), tenant="acme", event_id="e1",
                task="prompt", verdict_id=said.verdict_id, statement="I disagree.", made_at=NOW,
            )
        )  # fmt: skip
    later = verdict(2, supersedes=said.verdict_id, event_id="e1", action=Action.ALLOW)
    assert (await taken(database, closing(later))).closed == 0
    edited = verdict(3, event_id="e1", edit=1, action=Action.ALLOW)
    assert (await taken(database, closing(edited))).closed == 1
    (item,) = await rows(database)
    assert (item["state"], item["ended_why"][:23]) == ("closed", "Its content was edited;")
    async with database.reading() as tx:
        outcome = (await tx.execute(select(schema.appeals.c.outcome))).scalar_one()
        assert outcome == ("closed" if kind == "appeal" else None)


@pytest.mark.parametrize("by", ["person", "breach"])
async def test_what_a_person_has_decided_is_asked_again(database: Database, by: str) -> None:
    async with database.writing() as tx:
        await tx.execute(
            insert(schema.decisions).values(
                decision_id=identity("d"), ruling_id=identity("r"), tenant="acme", event_id="e1",
                edit=0, task="prompt", verdict_id=identity("before"), by=by, value=b"{}",
            )
        )  # fmt: skip
    again = verdict(1)
    others = [
        verdict(2, event_id="e1", task="response"),
        verdict(4, event_id="e1", tenant="other"),
    ]
    edited = verdict(3, event_id="e1", edit=1)
    assert (await taken(database, escalation(again))).opened == (0 if by == "person" else 1)
    assert (await taken(database, *map(escalation, others))).opened == 2
    assert (await taken(database, escalation(edited))).opened == 1


async def test_erased_content_comes_back(database: Database) -> None:
    said = verdict(1)
    await taken(database, escalation(said), evidence(said), escalation(verdict(2)))
    async with database.writing() as tx:
        assert await ledger.erase(tx, "acme", "e1", actor="service", now=NOW + 1) == 1
        assert await ledger.erase(tx, "acme", "e1", actor="service", now=NOW + 1) == 0
    assert await taken(database, escalation(said), evidence(said, NOW - 3)) == Taken()
    async with database.reading() as tx:
        row = await ledger.row(tx, said.verdict_id)
        assert row is not None
        assert row.content is None
        assert row.verdict == encode(said)
        assert row.arrived_at == NOW - 3
        assert (await ledger.row(tx, identity("verdict", 2))).content is not None  # type: ignore[union-attr]
    states = {row["verdict_id"]: (row["state"], row["ended_why"]) for row in await rows(database)}
    assert states == {
        said.verdict_id: ("closed", "Its content was erased."),
        identity("verdict", 2): ("open", None),
    }


async def test_a_subject_has_more_history_than_was_asked_for(database: Database) -> None:
    await taken(
        database,
        *(evidence(verdict(n, subject="s", action=Action.BLOCK), NOW + n) for n in range(5)),
        evidence(verdict(9, subject="s", tenant="other", action=Action.BLOCK)),
    )
    async with database.reading() as tx:
        found = await ledger.of_subject(tx, "acme", "s", 3)
        assert [row.arrived_at for row in found] == [NOW + 4, NOW + 3, NOW + 2]


async def test_a_rate_is_kept_of_what_is_always_kept(database: Database) -> None:
    allowed = verdict(1, action=Action.ALLOW, safety="Safe", categories=[])
    degraded = verdict(2, action=Action.BLOCK, basis=Basis.DEGRADED)
    await taken(database, evidence(allowed), evidence(degraded))
    async with database.reading() as tx:
        found = await tx.execute(select(schema.ledger.c.verdict_id, schema.ledger.c.sample_rate))
        assert dict(found.all()) == {allowed.verdict_id: 0.01, degraded.verdict_id: None}


@pytest.mark.parts  # sixty records, taken twice at once
async def test_two_consumers_of_the_same_records_count_them_twice(database: Database) -> None:
    """As while partitions change hands: the one that let go may still write."""
    records = [escalation(verdict(n, content_hash=identity(n % 7)), NOW + n) for n in range(60)]
    gone = [closing(withdrawal(n), NOW + 100) for n in range(0, 60, 3)]

    async def consumer(seed: int) -> Taken:
        rng = random.Random(seed)
        sum_of = Taken()
        for batch in (records, gone):
            mine = rng.sample(batch, len(batch))
            for begin in range(0, len(mine), 9):
                while True:
                    try:
                        sum_of += await taken(database, *mine[begin : begin + 9])
                    except Exception as error:
                        if not is_outage(error):
                            raise
                        continue
                    break
        return sum_of

    sums = await asyncio.gather(*(consumer(seed) for seed in range(4)))
    async with database.reading() as tx:
        escalated = schema.escalations
        counts = await tx.execute(
            select(escalated.c.item_id, func.count())
            .where(escalated.c.is_open.is_(True))
            .group_by(escalated.c.item_id)
        )
        left = {row[0]: row[1] for row in counts}
        named = (await tx.execute(select(escalated.c.verdict_id))).scalars().all()
    still = [row for row in await rows(database) if row["state"] == "open"]
    assert len(still) == 7
    assert {row["item_id"]: row["count"] for row in still} == left
    assert sum(left.values()) == 40
    assert len(named) == len(set(named))
    assert sum(each.kept for each in sums) == 60


async def test_a_batch_reads_every_event_of_a_large_database(tmp_path: Path) -> None:
    """SQLite uses no index for a list of pairs."""
    database = Database.open(f"sqlite:///{tmp_path / 'review.db'}", 1)
    await database.migrate()
    pairs = [("acme", "e1"), ("acme", "e2"), ("other", "e1")]
    async with database.writing() as tx:
        for table in (schema.events, schema.escalations, schema.decisions, schema.ledger):
            wanted = select(table).where(among(table, pairs))
            compiled = wanted.compile(tx.sync_connection, compile_kwargs={"literal_binds": True})
            plan = (await tx.execute(text(f"EXPLAIN QUERY PLAN {compiled}"))).all()
            steps = [row[3] for row in plan]
            assert any("(tenant=? AND event_id=?)" in step for step in steps), steps
            assert not any(step.startswith("SCAN " + table.name) for step in steps), steps
    await database.close()
