"""A migration leaves the version before it working: that version's code runs beside the new one
during a roll-out, and alone again after a roll-back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    create_engine,
    delete,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from databases import BOTH, Databases
from qwarden.review.store import migrating
from qwarden.review.store.database import Database
from qwarden.review.store.migrating import Fit, TooNew, look
from qwarden.review.store.schema import duties

_SCRIPTS = Path(migrating.__file__).with_name("migrations")


def _script(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.attributes["connection"] = connection
    return config


STEPS = [
    (str(each.down_revision), each.revision)
    for each in ScriptDirectory.from_config(_script()).walk_revisions()
    if each.down_revision is not None
]
"""Each migration behind the first one: from which revision, to which."""


@pytest.fixture(params=BOTH)
async def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """A database of either kind without tables."""
    if request.param == "sqlite":
        return Database.open(f"sqlite:///{tmp_path / 'review.db'}", 2)
    databases: Databases = request.getfixturevalue("databases")
    return Database.open(await databases.empty(), 2)


async def _to(tx: AsyncConnection, revision: str) -> None:
    await tx.run_sync(lambda connection: command.upgrade(_script(connection), revision))


def _reflected(connection: Connection) -> MetaData:
    """The tables as the code of this revision knows them."""
    known = MetaData()
    known.reflect(connection)
    known.remove(known.tables["alembic_version"])
    return known


def _value(column: Column[Any], turn: int) -> Any:
    if isinstance(column.type, Boolean):
        return False
    if isinstance(column.type, Double):
        return float(turn)
    if isinstance(column.type, Integer):  # BigInteger too
        return turn
    return b"%d" % turn if isinstance(column.type, LargeBinary) else f"{turn}"


def _work_as_before(connection: Connection, known: MetaData) -> None:
    """What any code of that revision does: a row with the columns that it knows goes in, is found,
    is changed, meets an equal one, and goes."""
    for table in known.sorted_tables:
        own = [column for column in table.columns if column.identity is None]
        row = {column.name: _value(column, 1) for column in own}
        connection.execute(insert(table).values(row))
        found = connection.execute(select(*table.columns)).mappings().one()
        assert {name: found[name] for name in row} == row, table.name
        _meets_an_equal_one(connection, table, row)
        changed = {column.name: _value(column, 2) for column in own}
        connection.execute(update(table).values(changed))
        found = connection.execute(select(*table.columns)).mappings().one()
        assert {name: found[name] for name in changed} == changed, table.name
        assert connection.execute(delete(table)).rowcount == 1


def _meets_an_equal_one(connection: Connection, table: Table, row: dict[str, Any]) -> None:
    """`ON CONFLICT` needs the key that it names to be there still."""
    keys = [column.name for column in table.primary_key.columns if column.identity is None]
    if not set(keys) <= row.keys() or not keys:
        return
    names, binds = ", ".join(f'"{name}"' for name in row), ", ".join(f":{name}" for name in row)
    target = ", ".join(f'"{key}"' for key in keys)
    said = f'INSERT INTO "{table.name}" ({names}) VALUES ({binds}) ON CONFLICT ({target})'
    connection.execute(text(f"{said} DO NOTHING"), row)


@pytest.mark.parametrize(("before", "after"), STEPS)
async def test_what_the_version_before_writes_and_reads_works_on_the_migrated_schema(
    empty: Database, before: str, after: str
) -> None:
    async with empty.writing() as tx:
        await _to(tx, before)
        known = await tx.run_sync(_reflected)
        assert len(known.tables) >= 20
    async with empty.writing() as tx:
        await _to(tx, after)
    async with empty.writing() as tx:
        await tx.run_sync(_work_as_before, known)
    await empty.close()


@pytest.mark.parametrize(
    "step",
    [
        "ALTER TABLE duties RENAME COLUMN holder TO held_by",
        "ALTER TABLE duties DROP COLUMN holder",
        "ALTER TABLE duties ADD COLUMN since TEXT NOT NULL DEFAULT 'x' CHECK (since <> 'x')",
        "CREATE TABLE duties_new (name TEXT, holder TEXT, until DOUBLE PRECISION);"
        "DROP TABLE duties; ALTER TABLE duties_new RENAME TO duties",
    ],
    ids=["renamed", "dropped", "demanded", "without-its-key"],
)
async def test_a_migration_that_breaks_the_version_before_is_seen(
    empty: Database, step: str
) -> None:
    """Else the test above could not fail."""
    async with empty.writing() as tx:
        await _to(tx, "head")
        known = await tx.run_sync(lambda connection: _only(connection, "duties"))
    async with empty.writing() as tx:
        for each in step.split(";"):
            await tx.execute(text(each))
    with pytest.raises(DBAPIError):
        async with empty.writing() as tx:
            await tx.run_sync(_work_as_before, known)
    await empty.close()


def _only(connection: Connection, name: str) -> MetaData:
    known = MetaData()
    known.reflect(connection, only=[name])
    return known


def test_each_migration_says_that_the_version_before_it_works_on() -> None:
    """A schema that shuts the version before out needs two steps: one that expands it, and in a
    later version one that takes away what nobody uses any more (docs/adr/0023)."""
    script = ScriptDirectory.from_config(_script())
    assert STEPS
    for before, after in STEPS:
        oldest = script.get_revision(after).module.OLDEST
        assert oldest <= int(before)


async def test_a_database_that_was_migrated_step_by_step_says_what_its_last_step_says(
    empty: Database,
) -> None:
    async with empty.writing() as tx:
        await _to(tx, "1")
        at_first = await tx.run_sync(look)
    assert (at_first.revision, at_first.oldest, at_first.fit) == ("1", None, Fit.BEHIND)
    await empty.migrate()
    async with empty.reading() as tx:
        now = await tx.run_sync(look)
    head = ScriptDirectory.from_config(_script()).get_revision("head")
    assert (now.revision, now.oldest, now.fit) == (head.revision, head.module.OLDEST, Fit.OWN)
    await empty.close()


async def _become_later(database: Database, oldest: int) -> None:
    """As a later version leaves it: a table more, a column more in each, another number."""
    async with database.writing() as tx:
        await tx.execute(text("ALTER TABLE duties ADD COLUMN since DOUBLE PRECISION"))
        await tx.execute(text("CREATE TABLE of_later (number INTEGER PRIMARY KEY)"))
        await tx.execute(text("UPDATE alembic_version SET version_num = '900'"))
        await tx.execute(text(f"UPDATE compatibility SET oldest = {oldest}"))


async def test_a_rolled_back_service_works_on_a_later_schema_that_has_room_for_it(
    database: Database,
) -> None:
    async with database.reading() as tx:
        own = int((await tx.run_sync(look)).own)
    await _become_later(database, own)
    await database.migrate()
    async with database.writing() as tx:
        stands = await tx.run_sync(look)
        await tx.execute(insert(duties).values(name="sweep", holder="somebody", until=1.5))
        assert (await tx.execute(select(duties))).mappings().one()["holder"] == "somebody"
    assert (stands.revision, stands.fit) == ("900", Fit.LATER)


async def test_a_rolled_back_service_refuses_a_schema_that_shuts_it_out(
    database: Database,
) -> None:
    await _become_later(database, 900)
    with pytest.raises(TooNew, match=r"the schema 900, .* \(it needs the version of schema 900\)"):
        await database.migrate()
    async with database.reading() as tx:
        assert (await tx.run_sync(look)).fit is Fit.TOO_NEW


def test_a_look_changes_nothing(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'review.db'}")
    with engine.begin() as connection:
        assert look(connection).fit is Fit.EMPTY
        assert connection.execute(text("SELECT count(*) FROM sqlite_master")).scalar_one() == 0
