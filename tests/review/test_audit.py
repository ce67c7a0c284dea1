"""The audit log: nothing is missing from it, nobody changes it unseen, and it holds nobody up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from databases import Databases
from qwarden.review.chain import START, ChainHead, Row, chained
from qwarden.review.person import EVERY, Person, Role
from qwarden.review.store import audit, schema
from qwarden.review.store.audit import Act
from qwarden.review.store.database import Database

_NOW = 1_800_000_000.123456


def _auditor(*tenants: str) -> Person:
    return Person(
        user_id="a",
        name="Ann",
        pseudonym="calm otter",
        roles=frozenset([Role.AUDITOR]),
        tenants=frozenset(tenants),
        languages=frozenset(),
    )


async def _written(database: Database, count: int) -> None:
    async with database.writing() as tx:
        for n in range(count):
            at = _NOW + n
            await audit.write(tx, Act.CLAIMED, actor="somebody", at=at, item_id=f"{n}", fence=n)


async def _sealed(database: Database, limit: int = 1000) -> int:
    async with database.writing() as tx:
        return await audit.seal(tx, limit)


async def _verified(database: Database, known: ChainHead | None = None) -> audit.Verified:
    async with database.reading() as tx:
        return await audit.verify(tx, known)


async def test_a_row_is_in_the_chain_once_whatever_the_batches(database: Database) -> None:
    await _written(database, 5)
    assert await _verified(database) == audit.Verified(0, 5, None, None)
    assert [await _sealed(database, 2) for _ in range(4)] == [2, 2, 1, 0]
    await _written(database, 3)
    assert await _sealed(database) == 3
    found = await _verified(database)
    assert (found.rows, found.unsealed, found.broken_at) == (8, 0, None)


async def test_the_act_of_a_transaction_that_fails_is_not_in_the_log(database: Database) -> None:
    with pytest.raises(KeyError):
        async with database.writing() as tx:
            await audit.write(tx, Act.REVEALED, actor="somebody", at=_NOW)
            raise KeyError
    async with database.reading() as tx:
        assert await audit.read(tx, _auditor(EVERY), limit=9) == []


@pytest.mark.parametrize(
    "tamper",
    [
        lambda tx: tx.execute(update(schema.audit).where(_at(1)).values(actor="somebody else")),
        lambda tx: tx.execute(update(schema.audit).where(_at(1)).values(at=_NOW + 1.0000005)),
        lambda tx: tx.execute(update(schema.audit).where(_at(1)).values(about='{"fence": 1}')),
        lambda tx: tx.execute(delete(schema.audit).where(_at(1))),
    ],
    ids=["actor", "at", "about", "deleted"],
)
async def test_a_change_in_the_database_is_found(
    database: Database, tamper: Callable[[AsyncConnection], Awaitable[None]]
) -> None:
    await _written(database, 4)
    await _sealed(database)
    async with database.writing() as tx:
        await tamper(tx)
    assert (await _verified(database)).broken_at == 1


async def test_last_rows_that_are_gone_or_sealed_anew_are_found_by_a_head_kept_elsewhere(
    database: Database,
) -> None:
    await _written(database, 4)
    await _sealed(database)
    kept = (await _verified(database)).head
    assert kept is not None and kept.position == 3
    async with database.writing() as tx:
        await tx.execute(update(schema.audit).where(_at(3)).values(position=None, actor="nobody"))
    assert (await _verified(database)).broken_at is None
    assert (await _verified(database, kept)).broken_at == 3
    await _sealed(database)
    assert (await _verified(database)).broken_at is None
    assert (await _verified(database, kept)).broken_at == 3


async def test_an_export_can_be_checked_without_the_database(database: Database) -> None:
    await _written(database, 3)
    await _sealed(database)
    await _written(database, 1)  # not sealed yet, and not exported
    async with database.reading() as tx:
        lines = [line async for line in audit.export(tx)]
    previous = START
    for position, line in enumerate(lines):
        said = line.pop("chained")
        assert line["position"] == position
        previous = chained(previous, msgspec.convert(line, Row))
        assert said == previous
    assert len(lines) == 3


async def test_a_page_misses_no_row_and_shows_none_twice(database: Database) -> None:
    await _written(database, 7)
    pages: list[list[int]] = []
    after = None
    while True:
        async with database.reading() as tx:
            page = await audit.read(tx, _auditor(EVERY), limit=3, after=after)
        if not page:
            break
        pages.append([int(row.item_id or -1) for row in page])
        after = page[-1].number
    assert pages == [[6, 5, 4], [3, 2, 1], [0]]


async def test_a_tenants_auditor_sees_nothing_of_another_tenant(database: Database) -> None:
    async with database.writing() as tx:
        await audit.put(
            tx,
            [
                audit.entry(Act.SAW, actor="x", at=_NOW, tenant="one\0", item_id="i"),
                audit.entry(Act.DECIDED, actor="y", at=_NOW, tenant="two", item_id="j", fence=2),
                audit.entry(Act.SIGNED_IN, actor="y", at=_NOW),
            ],
        )

    async def acts(person: Person, **filters: Any) -> list[str]:
        async with database.reading() as tx:
            return [row.act for row in await audit.read(tx, person, limit=9, **filters)]

    assert await acts(_auditor("one\0")) == ["saw"]
    assert await acts(_auditor("two")) == ["decided"]
    assert await acts(_auditor(EVERY)) == ["signed_in", "decided", "saw"]
    assert await acts(_auditor(EVERY), actor="y") == ["signed_in", "decided"]
    assert await acts(_auditor(EVERY), act=Act.SAW) == ["saw"]
    assert await acts(_auditor(EVERY), item_id="j") == ["decided"]
    async with database.reading() as tx:
        (row,) = await audit.read(tx, _auditor("two"), limit=9)
    assert (row.tenant, row.about, row.at, row.position) == ("two", {"fence": 2}, _NOW, None)


@pytest.mark.parts
async def test_acts_do_not_wait_for_one_another_nor_for_the_sealing(databases: Databases) -> None:
    """Each transaction commits while another one, which began before, is open: with a chain that is
    written at once the second would wait for the first."""
    url = await databases.fresh()
    database = Database.open(url, 4)
    async with database.writing() as late:
        await audit.write(late, Act.CLAIMED, actor="late", at=_NOW)
        async with asyncio.timeout(2):
            await _written(database, 2)
            assert await _sealed(database) == 2
            async with database.writing() as sealing:
                await audit.seal(sealing, 9)
                await _written(database, 1)
    assert await _sealed(database) == 2
    assert (await _verified(database)).rows == 4
    async with database.reading() as tx:
        by_place = select(schema.audit.c.actor).order_by(schema.audit.c.position)
        actors = (await tx.execute(by_place)).scalars().all()
    assert actors[:2] == ["somebody", "somebody"] and "late" in actors[2:]
    await database.close()
    await databases.drop(url)


@pytest.mark.parts
async def test_two_that_seal_at_once_break_nothing(databases: Databases) -> None:
    url = await databases.fresh()
    database = Database.open(url, 8)

    async def seal_all() -> None:
        while await _sealed(database, 3):
            pass

    await _written(database, 40)
    await asyncio.gather(*(seal_all() for _ in range(4)), _written(database, 20))
    await seal_all()
    found = await _verified(database)
    assert (found.rows, found.unsealed, found.broken_at) == (60, 0, None)
    await database.close()
    await databases.drop(url)


def _at(position: int) -> ColumnElement[bool]:
    return schema.audit.c.position == position
