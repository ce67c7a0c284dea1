"""What is kept as long as people may appeal, and not longer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import Boolean, Double, Integer, LargeBinary, Table, func, insert, select

from qwarden.review.store import schema
from qwarden.review.store.database import Database
from qwarden.review.store.retention import sweep
from qwarden.settings import Review

_LIMITS = Review(keep_days=180)
_NOW = 1_800_000_000.0
_OLD = _NOW - 181 * 86_400
_YOUNG = _NOW - 179 * 86_400


def _row(table: Table, **said: Any) -> dict[str, Any]:
    """A row with what a test says, and anything where a value is needed."""
    blank: dict[type, Any] = {Boolean: False, Double: _YOUNG, Integer: 0, LargeBinary: b"{}"}
    needed = (c for c in table.columns if not c.nullable and c.autoincrement is not True)
    values = {
        column.name: next((v for kind, v in blank.items() if isinstance(column.type, kind)), "-")
        for column in needed
    }
    return {**values, **said}


async def _put(database: Database, table: Table, **said: Any) -> None:
    async with database.writing() as tx:
        await tx.execute(insert(table), [_row(table, **said)])


async def _swept(database: Database, limit: int = 100) -> int:
    async with database.writing() as tx:
        return await sweep(tx, _NOW, _LIMITS, limit)


async def _counts(database: Database) -> dict[str, int]:
    async with database.reading() as tx:
        return {
            table.name: count
            for table in schema.metadata.tables.values()
            if (count := (await tx.execute(select(func.count()).select_from(table))).scalar_one())
        }


async def _item(database: Database, name: str, **said: Any) -> None:
    """An item, its escalation with the ledger's row, and what people have said of it."""
    ended_at = said.get("ended_at")
    until = (_OLD if ended_at is None else ended_at) + _LIMITS.keep_days * 86_400
    state = "open" if ended_at is None else "decided"
    await _put(database, schema.ledger, verdict_id=f"v{name}", kept_until=until)
    await _put(database, schema.items, item_id=name, verdict_id=f"v{name}", state=state, **said)
    is_open = ended_at is None
    for verdict_id in (f"v{name}", f"w{name}"):
        await _put(
            database, schema.escalations, verdict_id=verdict_id, item_id=name, is_open=is_open
        )
    await _put(database, schema.exclusions, item_id=name, user_id="u")
    await _put(database, schema.notes, note_id=f"n{name}", item_id=name)
    if ended_at is not None:
        await _ruling(database, name, decided_at=ended_at, item_id=name)


async def _ruling(database: Database, name: str, **said: Any) -> None:
    await _put(database, schema.rulings, ruling_id=f"r{name}", **said)
    await _put(database, schema.decisions, decision_id=f"d{name}", ruling_id=f"r{name}")


async def test_what_is_past_its_time_goes_with_all_that_hangs_on_it(database: Database) -> None:
    await _item(database, "old", ended_at=_OLD)
    await _item(database, "young", ended_at=_YOUNG)
    await _ruling(database, "tool", decided_at=_OLD)
    await _put(database, schema.appeals, appeal_id="a", item_id="old", outcome="upheld")
    for name, until in (("old", _NOW - 1), ("young", _NOW + 1)):
        await _put(database, schema.events, tenant="t", event_id=name, kept_until=until)
        await _put(database, schema.superseded, verdict_id=name, kept_until=until)
        await _put(database, schema.links, token_hash=name, expires_at=until)
        await _put(database, schema.sessions, token_hash=name, expires_at=until)
    for name, at in (("old", _OLD), ("young", _YOUNG)):
        await _put(database, schema.checks, check_id=name, at=at)
        await _put(database, schema.goldens, golden_id=name, retired_at=at)
    await _put(database, schema.goldens, golden_id="in use")
    await _put(database, schema.audit, at=_OLD)

    assert await _swept(database) == 10
    assert await _swept(database) == 0
    assert await _counts(database) == {
        "ledger": 1,
        "items": 1,
        "escalations": 2,
        "exclusions": 1,
        "notes": 1,
        "rulings": 1,
        "decisions": 1,
        "events": 1,
        "superseded": 1,
        "links": 1,
        "sessions": 1,
        "checks": 1,
        "goldens": 2,
        "audit": 1,
        "compatibility": 1,
    }
    async with database.reading() as tx:
        for column in (schema.items.c.item_id, schema.events.c.event_id, schema.checks.c.check_id):
            assert (await tx.execute(select(column))).scalars().all() == ["young"]


@pytest.fixture
async def waiting(database: Database) -> AsyncIterator[Database]:
    """An old item that nobody has decided."""
    await _item(database, "waiting")
    yield database


async def test_content_that_somebody_still_waits_to_see_decided_stays(waiting: Database) -> None:
    before = await _counts(waiting)
    assert await _swept(waiting) == 0
    assert await _counts(waiting) == before


async def test_content_of_an_item_that_stands_for_several_stays_for_each(
    waiting: Database,
) -> None:
    await _put(waiting, schema.ledger, verdict_id="wwaiting", kept_until=_NOW - 1)
    assert await _swept(waiting) == 0


async def test_what_an_open_appeal_is_against_stays_until_it_is_decided(
    database: Database,
) -> None:
    await _item(database, "old", ended_at=_OLD)
    await _put(database, schema.items, item_id="on appeal", verdict_id="vold", state="open")
    await _put(database, schema.appeals, appeal_id="a", item_id="on appeal", decision_id="dold")
    await _swept(database)
    counts = await _counts(database)
    assert (counts["ledger"], counts["rulings"], counts["decisions"]) == (1, 1, 1)
    async with database.writing() as tx:
        await tx.execute(schema.appeals.update().values(outcome="upheld"))
        await tx.execute(schema.items.update().values(state="decided", ended_at=_NOW))
    await _swept(database)
    counts = await _counts(database)
    assert not {"ledger", "rulings", "decisions"} & counts.keys()
    assert counts["appeals"] == 1


async def test_a_ruling_that_is_checked_or_overrides_stays(database: Database) -> None:
    await _ruling(database, "checked", decided_at=_OLD)
    await _put(database, schema.items, item_id="second", ruling_id="rchecked", state="open")
    await _ruling(database, "overrides", decided_at=_OLD)
    await _put(database, schema.overrides, ruling_id="roverrides", until=_NOW + 1)
    await _put(database, schema.goldens, golden_id="asked", retired_at=_OLD)
    await _put(database, schema.items, item_id="golden", golden_id="asked", state="open")
    assert await _swept(database) == 0


async def test_a_large_backlog_goes_in_small_transactions_the_oldest_first(
    database: Database,
) -> None:
    for n in range(7):
        await _put(database, schema.superseded, verdict_id=f"{n}", kept_until=_NOW - 10 + n)
    assert await _swept(database, 3) == 3
    async with database.reading() as tx:
        left = (await tx.execute(select(schema.superseded.c.verdict_id))).scalars().all()
    assert sorted(left) == ["3", "4", "5", "6"]
    assert [await _swept(database, 3) for _ in range(3)] == [3, 1, 0]
