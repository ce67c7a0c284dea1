"""The database's own promises, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from databases import CONNECTIONS, Databases
from qwarden.review.store import database as module
from qwarden.review.store.database import Database, is_outage
from qwarden.review.store.migrating import TooNew
from qwarden.review.store.schema import duties, metadata
from qwarden.stack.home import Home
from qwarden.stack.ports import free_ports
from qwarden.stack.postgres import Postgres

_DUTY = {"name": "sweep", "holder": "somebody", "until": 1.5}


async def _put(database: Database, name: str) -> None:
    async with database.writing() as tx:
        await tx.execute(insert(duties), [{**_DUTY, "name": name}])


async def _names(database: Database) -> set[str]:
    async with database.reading() as tx:
        return set((await tx.execute(select(duties.c.name))).scalars())


# Transactions.


async def test_half_a_transaction_is_never_kept(database: Database) -> None:
    with pytest.raises(KeyError):
        async with database.writing() as tx:
            await tx.execute(insert(duties), [_DUTY])
            raise KeyError
    assert await _names(database) == set()


async def test_a_page_of_several_statements_does_not_see_half_of_another_ones_work(
    database: Database,
) -> None:
    await _put(database, "one")
    async with database.reading() as tx:
        before = (await tx.execute(select(duties.c.name))).scalars().all()
        await _put(database, "two")
        assert (await tx.execute(select(duties.c.name))).scalars().all() == before == ["one"]
    assert await _names(database) == {"one", "two"}


async def test_more_writers_than_connections_all_get_their_turn(database: Database) -> None:
    await _put(database, "count")

    async def one_more() -> None:
        async with database.writing() as tx:
            await tx.execute(update(duties).values(until=duties.c.until + 1))

    await asyncio.gather(*(one_more() for _ in range(3 * CONNECTIONS)))
    async with database.reading() as tx:
        assert (await tx.execute(select(duties.c.until))).scalar_one() == 1.5 + 3 * CONNECTIONS


async def test_people_who_leave_in_the_middle_take_no_connection_with_them(
    database: Database,
) -> None:
    """A browser that goes away cancels its request, here while it waits for a row."""
    await _put(database, "one")
    begun = asyncio.Semaphore(0)

    async def wait_for_the_row() -> None:
        async with database.writing() as tx:
            begun.release()
            await tx.execute(update(duties).values(holder="a waiter"))

    async with database.writing() as tx:
        await tx.execute(update(duties).values(holder="who has it"))
        waiting = [asyncio.create_task(wait_for_the_row()) for _ in range(CONNECTIONS - 1)]
        if database.dialect == "postgresql":
            for _ in waiting:
                await begun.acquire()
        await asyncio.sleep(0.05)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(10):
        await asyncio.gather(*(_put(database, f"{n}") for n in range(2 * CONNECTIONS)))
    assert len(await _names(database)) == 2 * CONNECTIONS + 1


# What it is to be tried again for.


async def test_an_error_in_what_is_written_is_not_tried_again_for_ever(database: Database) -> None:
    await _put(database, "one")
    with pytest.raises(DBAPIError) as twice:
        await _put(database, "one")
    with pytest.raises(DBAPIError) as null:
        async with database.writing() as tx:
            await tx.execute(text("INSERT INTO duties (name) VALUES ('two')"))
    with pytest.raises(DBAPIError) as unknown:
        async with database.reading() as tx:
            await tx.execute(text("SELECT no_such_column FROM duties"))
    assert not any(is_outage(raised.value) for raised in (twice, null, unknown))
    assert not is_outage(KeyError("a bug of ours"))


@pytest.mark.parts
async def test_a_crash_of_the_server_is_an_outage_and_the_next_transaction_after_it_works(
    parts_home: Home,
) -> None:
    with Postgres(Home(parts_home.root / "crashing")) as server:
        database = Database.open(server.url, 4)
        await database.migrate()
        await asyncio.gather(*(_put(database, f"{n}") for n in range(4)))
        with pytest.raises(DBAPIError) as cut:
            async with database.writing() as tx:
                await tx.execute(insert(duties), [_DUTY])
                server.kill()
                await tx.execute(select(duties))
        assert is_outage(cut.value)
        with pytest.raises((DBAPIError, OSError)) as refused:
            await _put(database, "too late")
        assert is_outage(refused.value)
        await asyncio.to_thread(server.start)
        # The connections of before are dead: nobody is to be told so.
        assert await _names(database) == {"0", "1", "2", "3"}
        await asyncio.gather(*(_put(database, f"{n}") for n in range(4, 12)))
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        assert len(await _names(database)) == 12
        await database.close()


@pytest.mark.parts
async def test_an_address_where_nobody_listens_is_an_outage() -> None:
    (port,) = free_ports(1)
    database = Database.open(f"postgresql://somebody@127.0.0.1:{port}/none", 2)
    with pytest.raises(OSError) as refused:
        await _names(database)
    assert is_outage(refused.value)
    await database.close()


@pytest.mark.parts
async def test_a_server_that_does_not_let_us_in_blames_no_record(databases: Databases) -> None:
    database = Database.open(databases.server.url_of("no_such_database"), 2)
    with pytest.raises(DBAPIError) as missing:
        await _names(database)
    assert is_outage(missing.value)
    await database.close()


@pytest.mark.parts
async def test_two_transactions_in_each_others_way_are_tried_again(databases: Databases) -> None:
    url = await databases.fresh()
    database = Database.open(url, 4)
    for name in ("one", "two"):
        await _put(database, name)

    async def lock(tx: AsyncConnection, name: str) -> None:
        await tx.execute(update(duties).where(duties.c.name == name).values(until=2.0))

    async def lock_both(first: str, second: str, both: asyncio.Barrier) -> None:
        async with database.writing() as tx:
            await lock(tx, first)
            await both.wait()
            await lock(tx, second)

    both = asyncio.Barrier(2)
    deadlocked = await asyncio.gather(
        lock_both("one", "two", both), lock_both("two", "one", both), return_exceptions=True
    )
    lost = [error for error in deadlocked if error is not None]
    assert len(lost) == 1 and is_outage(lost[0])

    async with database.writing() as holder:
        await lock(holder, "one")
        with pytest.raises(DBAPIError) as waited:
            async with database.writing() as tx:
                await tx.execute(text("SET LOCAL lock_timeout = '50ms'"))
                await lock(tx, "one")
    assert is_outage(waited.value)

    with pytest.raises(DBAPIError) as slow:
        async with database.writing() as tx:
            await tx.execute(text("SET LOCAL statement_timeout = '50ms'"))
            await tx.execute(text("SELECT pg_sleep(5)"))
    assert is_outage(slow.value)
    await database.close()
    await databases.drop(url)


@pytest.mark.parts
async def test_a_process_that_stands_still_in_a_transaction_holds_nobody_up_for_long(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await databases.fresh()
    monkeypatch.setattr(module, "IDLE_S", 0.3)
    stopped = Database.open(url, 2)
    monkeypatch.undo()
    others = Database.open(url, 2)
    await _put(others, "one")
    with pytest.raises(DBAPIError) as ended:
        async with stopped.writing() as tx:
            await tx.execute(update(duties).values(holder="who stands still"))
            async with others.writing() as theirs:
                await theirs.execute(update(duties).values(holder="who goes on"))
            await tx.execute(update(duties).values(holder="who woke up"))
    assert is_outage(ended.value)
    async with others.reading() as tx:
        assert (await tx.execute(select(duties.c.holder))).scalar_one() == "who goes on"
    for each in (stopped, others):
        await each.close()
    await databases.drop(url)


async def test_a_file_that_another_program_has_locked_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_S", 0.1)
    file = tmp_path / "review.db"
    database = Database.open(f"sqlite:///{file}", 2)
    await database.migrate()
    theirs = sqlite3.connect(file, isolation_level=None)
    theirs.execute("BEGIN IMMEDIATE")
    with pytest.raises(DBAPIError) as locked:
        await _put(database, "one")
    assert is_outage(locked.value)
    theirs.execute("ROLLBACK")
    theirs.close()
    await _put(database, "one")
    await database.close()


async def test_a_file_of_what_people_wrote_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "review.db"
    database = Database.open(f"sqlite:///{file}", 2)
    await database.migrate()
    await _put(database, "one")
    files = list(file.parent.iterdir())
    assert file in files
    assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}
    await database.close()


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="begins with postgresql:// or sqlite:///"):
        Database.open("mysql://somebody@localhost/review", 2)


@pytest.mark.parts
async def test_a_plan_that_was_made_for_others_is_not_used_for_somebody_else(
    databases: Databases,
) -> None:
    """A plan for any language walks along the whole queue for a language that hardly waits."""
    url = await databases.fresh()
    database = Database.open(url, 1)
    for name in range(20):
        async with database.writing() as tx:
            await tx.execute(select(duties).where(duties.c.name == f"{name}"))
    async with database.reading() as tx:
        kept = "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement ~ "
        plans = await tx.execute(text(kept + "'^SELECT duties'"))
        assert [tuple(row) for row in plans] == [(0, 20)]
    await database.close()
    await databases.drop(url)


# Migrations.


async def _facts(tx: AsyncConnection) -> list[tuple[object, ...]]:
    """All that the database knows of its tables, in its own words."""
    if tx.dialect.name == "sqlite":
        queries = [
            "SELECT m.name, i.* FROM sqlite_master m, pragma_table_info(m.name) i "
            "WHERE m.type = 'table' AND m.name <> 'alembic_version'",
            'SELECT m.name, i.name, i."unique", i.origin, i.partial, c.seqno, c.name '
            "FROM sqlite_master m, pragma_index_list(m.name) i, pragma_index_info(i.name) c "
            "WHERE m.type = 'table' AND m.name <> 'alembic_version' AND i.origin = 'c'",
            'SELECT m.name, i."unique", i.origin, group_concat(c.name) '
            "FROM sqlite_master m, pragma_index_list(m.name) i, pragma_index_info(i.name) c "
            "WHERE m.type = 'table' AND m.name <> 'alembic_version' GROUP BY m.name, i.name",
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
            "SELECT name, sql LIKE '%AUTOINCREMENT%' FROM sqlite_master "
            "WHERE type = 'table' AND name <> 'alembic_version'",
        ]
    else:
        queries = [
            "SELECT table_name, column_name, ordinal_position, data_type, is_nullable, "
            "column_default, character_maximum_length, is_identity "
            "FROM information_schema.columns "
            "WHERE table_schema = 'public' AND table_name <> 'alembic_version'",
            "SELECT indexname, indexdef FROM pg_indexes "
            "WHERE schemaname = 'public' AND tablename <> 'alembic_version'",
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) "
            "FROM pg_constraint WHERE connamespace = 'public'::regnamespace "
            "AND conrelid::regclass::text <> 'alembic_version'",
        ]
    found = [tuple(row) for query in queries for row in (await tx.execute(text(query))).all()]
    return sorted(found, key=repr)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.parts)])
async def two_empty(request: pytest.FixtureRequest, tmp_path: Path) -> list[Database]:
    """Two databases of one kind without tables."""
    if request.param == "sqlite":
        return [Database.open(f"sqlite:///{tmp_path / name}", 2) for name in ("one.db", "two.db")]
    databases: Databases = request.getfixturevalue("databases")
    return [Database.open(await databases.empty(), 2) for _ in range(2)]


async def test_migrations_make_the_tables_that_the_code_knows(two_empty: list[Database]) -> None:
    migrated, made = two_empty
    await migrated.migrate()
    async with made.writing() as tx:
        await tx.run_sync(metadata.create_all)
    async with migrated.reading() as one, made.reading() as other:
        assert await _facts(one) == await _facts(other)
        assert len(await _facts(one)) > 100
    for each in two_empty:
        await each.close()


async def test_two_starts_at_once_in_one_process_migrate_once(
    two_empty: list[Database],
) -> None:
    database, unused = two_empty
    await asyncio.gather(*(database.migrate() for _ in range(2)))
    await database.migrate()
    assert await _names(database) == set()
    for each in (database, unused):
        await each.close()


@pytest.mark.parts
async def test_processes_that_start_at_once_migrate_once(databases: Databases) -> None:
    url = await databases.empty()
    services = [Database.open(url, 2) for _ in range(4)]
    await asyncio.gather(*(service.migrate() for service in services))
    for service in services:
        assert await _names(service) == set()
        await service.close()


async def test_a_database_of_a_later_version_is_left_alone(database: Database) -> None:
    async with database.writing() as tx:
        await tx.execute(text("UPDATE alembic_version SET version_num = '900'"))
        await tx.execute(text("UPDATE compatibility SET oldest = 900"))
    with pytest.raises(TooNew, match="the schema 900, which this version does not know: start"):
        await database.migrate()
    async with database.reading() as tx:
        version = (await tx.execute(text("SELECT version_num FROM alembic_version"))).scalar_one()
    assert version == "900"
