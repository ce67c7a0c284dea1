"""Duties: one process at a time, and not nobody for long."""

from __future__ import annotations

import asyncio

import pytest

from databases import Databases
from qwarden.review.store.database import Database
from qwarden.review.store.duties import hold, release


async def _hold(database: Database, name: str, holder: str, now: float) -> bool:
    async with database.writing() as tx:
        return await hold(tx, name, holder, now, 10.0)


async def test_a_duty_has_one_holder_until_that_one_is_late(database: Database) -> None:
    assert await _hold(database, "seal", "one", 100.0)
    assert not await _hold(database, "seal", "two", 109.9)
    assert await _hold(database, "sweep", "two", 100.0)
    assert await _hold(database, "seal", "one", 105.0)  # renewed, until 115
    assert not await _hold(database, "seal", "two", 114.9)
    assert await _hold(database, "seal", "two", 115.0)
    assert not await _hold(database, "seal", "one", 115.1)


async def test_the_next_one_waits_for_who_has_stopped(database: Database) -> None:
    for name, holder in (("seal", "one"), ("sweep", "one"), ("publish", "two")):
        assert await _hold(database, name, holder, 100.0)
    async with database.writing() as tx:
        await release(tx, "one")
    assert await _hold(database, "seal", "three", 100.1)
    assert await _hold(database, "sweep", "three", 100.1)
    assert not await _hold(database, "publish", "three", 100.1)


async def test_of_many_that_start_at_once_one_gets_it(database: Database) -> None:
    names = [f"{n}" for n in range(8)]
    got = await asyncio.gather(*(_hold(database, "seal", name, 100.0) for name in names))
    assert sum(got) == 1


@pytest.mark.parts
async def test_nobody_takes_over_while_the_holders_transaction_lasts(databases: Databases) -> None:
    url = await databases.fresh()
    database = Database.open(url, 4)
    async with database.writing() as tx:
        assert await hold(tx, "seal", "one", 100.0, 10.0)
        other = asyncio.create_task(_hold(database, "seal", "two", 200.0))
        done, _ = await asyncio.wait([other], timeout=0.2)
        assert not done
    assert await other
    await database.close()
    await databases.drop(url)
