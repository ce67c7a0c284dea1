"""The review service's databases: SQLite and a real PostgreSQL, a new one for each test."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from qwarden.review.store.database import Database
from qwarden.stack import postgres as postgres_part
from qwarden.stack.home import Home
from qwarden.stack.postgres import Postgres

CONNECTIONS = 10


class Databases:
    """Databases of one server, copied from one that was migrated once."""

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self._has_template = False

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
async def database_url(request: pytest.FixtureRequest, sqlite: Sqlite) -> AsyncIterator[str]:
    """The address of a new migrated database, of either kind."""
    if request.param == "sqlite":
        yield sqlite.fresh()
    else:
        databases: Databases = request.getfixturevalue("databases")
        url = await databases.fresh()
        yield url
        await databases.drop(url)


@pytest.fixture
async def database(database_url: str, sqlite: Sqlite) -> AsyncIterator[Database]:
    """A new migrated database, of either kind; closed after the test."""
    is_file = database_url == sqlite.url
    opened = sqlite.open() if is_file else Database.open(database_url, CONNECTIONS)
    yield opened
    await opened.close()
