"""The review service's databases: SQLite and a real PostgreSQL, an empty one for each test."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from qwarden.review.store.database import Database
from qwarden.review.store.schema import compatibility, metadata
from qwarden.stack import postgres as postgres_part
from qwarden.stack.home import Home
from qwarden.stack.postgres import Postgres

CONNECTIONS = 10

_OTHERS_GO = (
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname ="
    " current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
)
_SCHEMA = (
    "SELECT concat_ws(' ', (SELECT version_num FROM alembic_version),"
    " (SELECT oldest FROM compatibility), string_agg(relname || '.' || attname, ' '"
    " ORDER BY relname, attnum)) FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
    " WHERE relnamespace = 'public'::regnamespace"
)
_EMPTY = (
    "".join(
        f'DELETE FROM "{each.name}";'
        for each in metadata.sorted_tables
        if each is not compatibility
    )
    + "SELECT setval(oid, 1, false) FROM pg_class"
    " WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace"
)


class Databases:
    """Databases of one server, copied from one that was migrated once."""

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self._has_template = False
        self._shared: tuple[str, Database, str] | None = None

    async def emptied(self) -> tuple[str, Database]:
        """The one that tests share, with nothing in it and nobody else at it, and its address.

        To make one for a test and drop it took 0.27 s of CPU, to empty it takes 0.04; and its
        engine keeps the statements which it has compiled, as the one of `Sqlite` does.
        """
        shared, self._shared = self._shared, None
        if shared is not None:
            url, database, schema = shared
            if await _is_emptied(database, schema):
                self._shared = shared
                return url, Database(database._engine, "postgresql")
            await database.close()
            await self.drop(url)
        url = await self.fresh()
        database = Database.open(url, CONNECTIONS)
        async with database.reading() as tx:
            self._shared = url, database, await _schema(tx)
        return url, Database(database._engine, "postgresql")

    async def fresh(self) -> str:
        """The address of a new migrated one."""
        if not self._has_template:
            await self._run("CREATE DATABASE template_migrated")
            database = Database.open(self.server.url_of("template_migrated"), 2)
            await database.migrate()
            await database.close()
            self._has_template = True
        name = f"test_{secrets.token_hex(6)}"
        await self._run(f"CREATE DATABASE {name} TEMPLATE template_migrated")
        return self.server.url_of(name)

    async def empty(self) -> str:
        """The address of a new one without tables."""
        name = f"test_{secrets.token_hex(6)}"
        await self._run(f"CREATE DATABASE {name}")
        return self.server.url_of(name)

    async def drop(self, url: str) -> None:
        await self._run(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    async def _run(self, statement: str) -> None:
        engine = create_async_engine(
            "postgresql+asyncpg://",
            connect_args={"dsn": self.server.url},
            isolation_level="AUTOCOMMIT",
        )
        async with engine.connect() as connection:
            await connection.execute(text(statement))
        await engine.dispose()


async def _schema(tx: AsyncConnection) -> str:
    found: str = (await tx.execute(text(_SCHEMA))).scalar_one()
    return found


async def _is_emptied(database: Database, schema: str) -> bool:
    """Empties a database, or leaves it as it is where a test has given it another schema."""
    async with database.writing() as tx:
        await tx.execute(text(_OTHERS_GO))
        if await _schema(tx) != schema:
            return False
        driver = (await tx.get_raw_connection()).driver_connection
        assert driver is not None
        await driver.execute(_EMPTY)  # many statements at once, which SQLAlchemy does not send
    return True


@pytest.fixture(scope="session")
def postgres(parts_home: Home) -> Iterator[Postgres]:
    reason = postgres_part.available()
    if reason is not None:
        pytest.skip(reason)
    with Postgres(parts_home) as part:
        yield part


@pytest.fixture(scope="session")
def databases(postgres: Postgres) -> Databases:
    return Databases(postgres)


class Sqlite:
    """One file, new for each test, and one engine for it: that keeps the statements which it has
    compiled, and to compile them for each test took longer than to run them."""

    def __init__(self, folder: Path) -> None:
        self._migrated = folder / "migrated.db"
        self._file = folder / "review.db"
        self._opened = Database.open(self.url, CONNECTIONS)
        with asyncio.Runner() as runner:
            runner.run(self._opened.migrate())
            runner.run(self._opened.close())
        self._file.rename(self._migrated)

    @property
    def url(self) -> str:
        return f"sqlite:///{self._file}"

    def fresh(self) -> str:
        """The address of a new migrated one, in place of that before."""
        for left in self._file.parent.glob("review.db*"):
            left.unlink()
        shutil.copy(self._migrated, self._file)
        return self.url

    def open(self) -> Database:
        return Database(self._opened._engine, "sqlite")


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Sqlite:
    return Sqlite(tmp_path_factory.mktemp("sqlite"))


BOTH = ("sqlite", pytest.param("postgres", marks=pytest.mark.parts))


@pytest.fixture(params=BOTH)
async def migrated(
    request: pytest.FixtureRequest, sqlite: Sqlite
) -> AsyncIterator[tuple[str, Database]]:
    """A migrated database with nothing in it, of either kind, and its address."""
    if request.param == "sqlite":
        found = sqlite.fresh(), sqlite.open()
    else:
        databases: Databases = request.getfixturevalue("databases")
        found = await databases.emptied()
    yield found
    await found[1].close()


@pytest.fixture
def database_url(migrated: tuple[str, Database]) -> str:
    """The address of the test's `database`."""
    return migrated[0]


@pytest.fixture
def database(migrated: tuple[str, Database]) -> Database:
    """A migrated database with nothing in it, of either kind; closed after the test."""
    return migrated[1]
