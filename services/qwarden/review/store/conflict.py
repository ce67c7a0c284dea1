"""INSERT … ON CONFLICT, which both databases have and SQLAlchemy keeps apart."""

from __future__ import annotations

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection


def insert(tx: AsyncConnection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """The insert into `table` that knows `on_conflict_do_nothing` and `on_conflict_do_update`, in
    the words of this transaction's database."""
    if tx.dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)
