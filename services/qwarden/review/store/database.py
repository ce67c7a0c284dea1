"""The database: PostgreSQL for a fleet, or one SQLite file for one process alone."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal, Self

from sqlalchemy import Connection, event, text
from sqlalchemy import exc as sql
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from qwarden import tls
from qwarden.review.store import migrating
from qwarden.settings import Certificates

Dialect = Literal["postgresql", "sqlite"]

CONNECT_S = 5.0
"""A server that takes longer is as good as away."""
STATEMENT_S = 20.0
"""No statement of ours takes a second; one that takes this long has lost its server or its plan.
Over LOCK_S, so that who waits for a lock is told that."""
LOCK_S = 5.0
"""A row is locked for milliseconds, but where its holder hangs: then who waits tries again."""
IDLE_S = 8.0
"""How long a process may hold a transaction in which it does nothing, as one that was stopped does:
the server ends it then, and others go on within the 10 s that a freeze has to reach everybody."""
POOL_S = 5.0
"""How long a transaction waits for a connection before its caller is told to try again."""

_MIGRATING = 7_110_913_522_118_401
"""The number of PostgreSQL's advisory lock: whoever migrates this schema takes it."""
_STATEMENTS = 500
"""Prepared ones that a connection keeps; SQLAlchemy's 100 are fewer than there are."""


class Database:
    """One process's connections. Transactions of `reading` see one state of the database, those of
    `writing` see what others have committed by each of their statements."""

    def __init__(self, engine: AsyncEngine, dialect: Dialect) -> None:
        self.dialect = dialect
        self._engine = engine
        self._reads = (
            engine
            if dialect == "sqlite"
            else engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        )
        self._writes = engine.execution_options(writes=True)
        # SQLite has one writer at a time and lets the others poll; here they stand in line.
        self._turn = asyncio.Lock() if dialect == "sqlite" else contextlib.nullcontext()

    @classmethod
    def open(cls, url: str, connections: int, certificates: Certificates | None = None) -> Self:
        """Connections are made when they are needed, `connections` at most.

        `url`: `postgresql://…` with any parameter that PostgreSQL knows, or `sqlite:///FILE`.
        `certificates`: where they name any file, connections are encrypted, and the server's
        certificate and name are checked. Raises ValueError for another address, and SettingsError
        for files that cannot be used.
        """
        if url.startswith("postgresql://"):
            context = None
            if certificates is not None and certificates.named:
                context = tls.context_of(certificates)
            return cls(_postgresql(url, connections, context), "postgresql")
        if url.startswith("sqlite:///"):
            return cls(_sqlite(Path(url.removeprefix("sqlite:///")), connections), "sqlite")
        raise ValueError("The database's address begins with postgresql:// or sqlite:///.")

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """One transaction, committed at the end and rolled back where an exception leaves it.

        What fails for the database's sake satisfies `is_outage`, or is an error of ours.
        """
        async with self._turn, self._writes.begin() as tx:
            yield tx

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """One transaction that changes nothing and sees one state of the database."""
        async with self._reads.begin() as tx:
            yield tx

    async def migrate(self) -> None:
        """Brings the database to this version's schema; safe where several services start at once.

        A later one on which this version works is left as it is. Raises `migrating.TooNew` where
        it does not.
        """
        async with self.writing() as tx:
            if self.dialect == "postgresql":
                # Whoever comes second waits as long as the first one works.
                await tx.execute(text("SET LOCAL statement_timeout = 0"))
                await tx.execute(text("SET LOCAL lock_timeout = 0"))
                await tx.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATING})"))
                await tx.execute(text(f"SET LOCAL lock_timeout = '{LOCK_S:g}s'"))
            await tx.run_sync(migrating.upgrade)

    async def close(self) -> None:
        await self._engine.dispose()


def is_outage(error: BaseException) -> bool:
    """Whether the same transaction may succeed when it is tried again: the database is away, is
    full or does not let us in, or two transactions stood in each other's way. What is wrong with
    the transaction itself is none."""
    # A TimeoutError is an OSError, and so is a certificate that is not trusted.
    if isinstance(error, OSError | sql.TimeoutError):
        return True
    if not isinstance(error, sql.DBAPIError):
        return False
    if error.connection_invalidated or isinstance(error.orig, OSError):
        return True
    if isinstance(error.orig, sqlite3.Error):
        # The extended code's last byte is the primary one. Some errors of Python's own have none.
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _TRIED_AGAIN_SQLITE
    state = getattr(error.orig, "sqlstate", None) or ""
    return state in _TRIED_AGAIN_STATES or state[:2] in _TRIED_AGAIN_CLASSES


_TRIED_AGAIN_SQLITE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}
_TRIED_AGAIN_CLASSES = {
    "08",  # the connection
    "28",  # a password that was changed: no record is to blame
    "53",  # disk, memory or connections are used up
    "57",  # an operator, a shutdown, a crash, or our own timeout
    "58",  # an error of the server's system
}
_TRIED_AGAIN_STATES = {
    "25006",  # the server is a standby now
    "25P03",  # IDLE_S is over
    "3D000",  # there is no such database, yet
    "40001",  # serialization
    "40P01",  # deadlock
    "42501",  # a right that was taken away
    "55P03",  # LOCK_S is over
}


def _postgresql(url: str, connections: int, context: ssl.SSLContext | None) -> AsyncEngine:
    engine = create_async_engine(
        "postgresql+asyncpg://",
        pool_size=connections,
        max_overflow=0,
        pool_timeout=POOL_S,
        hide_parameters=True,
        pool_use_lifo=True,
        connect_args={
            # The driver reads the address itself: it knows PostgreSQL's parameters, and the
            # password stands in no object that might be shown.
            "dsn": url,
            **({} if context is None else {"ssl": context}),
            "timeout": CONNECT_S,
            # The server ends a statement by itself; this ends it where the server is gone.
            "command_timeout": STATEMENT_S + CONNECT_S,
            "prepared_statement_cache_size": _STATEMENTS,
            "server_settings": {
                "application_name": "qwarden-review",
                "statement_timeout": f"{STATEMENT_S:g}s",
                "lock_timeout": f"{LOCK_S:g}s",
                "idle_in_transaction_session_timeout": f"{IDLE_S:g}s",
                # A plan that is made once does not know that somebody's language is rare, and
                # walks along the whole queue for them: 400 ms of 100,000 items, where making
                # each claim's own plan takes under one.
                "plan_cache_mode": "force_custom_plan",
                # To compile a plan takes longer than to run any of ours.
                "jit": "off",
            },
        },
    )

    @event.listens_for(engine.sync_engine, "do_connect")
    def _connect(dialect: Any, record: Any, arguments: Any, named: Any) -> Any:
        try:
            return dialect.connect(*arguments, **named)
        except ssl.SSLError as error:
            raise ConnectionError(
                f"PostgreSQL's certificate or ours is refused ({error}); set "
                "QWARDEN_REVIEW__DATABASE_CA_FILE to the authority that signed its own, and name "
                "it in QWARDEN_REVIEW__DATABASE_URL as that does"
            ) from error

    @event.listens_for(engine.sync_engine, "checkout")
    def _is_there(connection: Any, record: Any, proxy: Any) -> None:
        """A connection that its server has closed is replaced before anybody uses it. A question to
        the server (`pool_pre_ping`) would find no more and costs each transaction a round trip."""
        if connection.driver_connection.is_closed():
            raise sql.DisconnectionError("The server has closed this connection.")

    return engine


def _sqlite(file: Path, connections: int) -> AsyncEngine:
    # It holds what people wrote: from its first byte on it is its owner's alone.
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600, exist_ok=True)
    url = make_url("sqlite+aiosqlite://").set(database=str(file))
    engine = create_async_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=POOL_S,
        hide_parameters=True,
        connect_args={"timeout": LOCK_S, "isolation_level": None},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _set(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",  # what is committed outlives a power cut
            "foreign_keys = OFF",
            "secure_delete = ON",  # what is erased does not stay in free pages
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        # Who means to write says so at once: a reader that turns writer can be refused at any time.
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
