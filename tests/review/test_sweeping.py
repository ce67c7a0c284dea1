"""What one process does for all: nothing before it may, and no more than once."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

import escalated
from qwarden import settings as settings_module
from qwarden.policy.tenants import Freezes
from qwarden.review import sweeping
from qwarden.review.store import audit, intake, leases, overrides
from qwarden.review.store.audit import Act
from qwarden.review.store.database import Database
from qwarden.review.store.schema import audit as log
from qwarden.review.store.schema import items, outbox, superseded
from qwarden.review.sweeping import Duty, seals, sweeps
from reviewing import settings_of

LIMITS = settings_module.load(settings_of("127.0.0.1:1", "sqlite:///none")).review
LATE = escalated.NOW + 7200.0


def duty(database: Database, name: str, holder: str = "1" * 32) -> Duty:
    return Duty(database, name, holder, lambda: LATE)


async def queued(database: Database) -> tuple[str, int]:
    """In which queue the one item is, and how many messages wait to be published."""
    async with database.reading() as tx:
        queue = (await tx.execute(select(items.c.queue))).scalar_one()
        waiting = (await tx.execute(select(func.count()).select_from(outbox))).scalar_one()
    return queue, waiting


@pytest.mark.parametrize(
    ("freezes", "queue", "published"),
    [
        (None, "general", 0),
        (Freezes(), "general", 1),
        (Freezes({"other": (3, True), "acme": (4, False)}), "general", 1),
        (Freezes({"acme": (3, True)}), "urgent", 0),
        (Freezes(everybody=(3, True)), "urgent", 0),
    ],
    ids=["not known yet", "none", "of another tenant", "of this tenant", "of everybody"],
)
async def test_a_breach_blocks_where_nothing_automatic_may(
    database: Database, freezes: Freezes | None, queue: str, published: int
) -> None:
    async with database.writing() as tx:
        arrived = escalated.escalation(escalated.verdict(1), on_breach="block")
        await intake.take(tx, [arrived], escalated.NOW, LIMITS)
    sweep = sweeps(duty(database, "sweep"), LIMITS, lambda: freezes)
    for _ in range(2):
        await sweep()
        assert await queued(database) == (queue, published)


async def test_two_processes_seal_one_log(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "_ROWS", 10)
    async with database.writing() as tx:
        for number in range(35):
            await audit.write(tx, Act.SAW, actor="a", at=escalated.NOW + number)
    rounds = [seals(duty(database, "seal", holder * 32))() for holder in "12"]
    await asyncio.gather(*rounds)
    async with database.reading() as tx:
        verified = await audit.verify(tx)
        unplaced = select(func.count()).where(log.c.position.is_(None))
        assert (await tx.execute(unplaced)).scalar_one() == 0
    assert (verified.rows, verified.broken_at) == (35, None)


async def test_one_step_that_fails_stops_the_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(tx: AsyncConnection, *about: object) -> int:
        await tx.execute(insert(outbox).values(topic=None))  # which no row may have
        return 1

    for module, step in ((leases, "expire"), (overrides, "end_due")):
        monkeypatch.setattr(module, step, fail)
    async with database.writing() as tx:
        arrived = escalated.escalation(escalated.verdict(1), on_breach="block")
        await intake.take(tx, [arrived], escalated.NOW, LIMITS)
        old = {"verdict_id": "1" * 32, "kept_until": escalated.NOW}
        await tx.execute(insert(superseded).values(old))
    with pytest.raises(IntegrityError):
        await sweeps(duty(database, "sweep"), LIMITS, Freezes)()
    assert await queued(database) == ("general", 1)
    async with database.reading() as tx:
        assert (await tx.execute(select(superseded))).all() == []
