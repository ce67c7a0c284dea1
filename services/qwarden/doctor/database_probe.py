"""What the review service's database says of itself. It is read, and nothing in it is changed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import msgspec
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.doctor import clocks, stores
from qwarden.doctor.finding import Findings
from qwarden.doctor.stores import StoreFacts
from qwarden.review.chain import Row, chained
from qwarden.review.store import outbox
from qwarden.review.store.database import Database, is_outage
from qwarden.review.store.migrating import Fit, look
from qwarden.review.store.schema import audit, duties
from qwarden.settings import Review

_TAIL = 1000
"""Rows of the log's end that are checked here; `qwarden review audit verify` walks all of it."""


async def look_at_database(found: Findings, review: Review) -> None:
    """`review.database_url` must be there."""
    async with _opened(review) as database:
        try:
            async with database.reading() as tx:
                facts = await _facts(tx)
        except Exception as error:
            if not is_outage(error):
                raise
            found.away("server", _why(error))
            return
    stores.judge(found, facts, now=time.time())


async def look_at_clock(found: Findings, review: Review) -> None:
    """The server's clock, beside ours; a file has none."""
    async with _opened(review) as database:
        if database.dialect == "sqlite":
            return
        try:
            async with database.reading() as tx:
                await tx.execute(text("SELECT 1"))
                sent = time.time()
                asked = text("SELECT extract(epoch FROM clock_timestamp())::float8")
                said = float((await tx.execute(asked)).scalar_one())
                came = time.time()
        except Exception as error:
            if not is_outage(error):
                raise
            return  # which the check of the database says
    clocks.judge(found, clocks.reading("PostgreSQL", sent=sent, said=said, came=came))


@asynccontextmanager
async def _opened(review: Review) -> AsyncIterator[Database]:
    assert review.database_url is not None
    database = Database.open(
        review.database_url.get_secret_value(), 2, review.database_certificates
    )
    try:
        yield database
    finally:
        await database.close()


async def _facts(tx: AsyncConnection) -> StoreFacts:
    schema = await tx.run_sync(look)
    is_standby, encrypted = False, None
    if tx.dialect.name == "postgresql":
        is_standby = bool((await tx.execute(text("SELECT pg_is_in_recovery()"))).scalar_one())
        ssl = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        encrypted = bool((await tx.execute(ssl)).scalar_one())
    if schema.fit in (Fit.EMPTY, Fit.TOO_NEW):
        return StoreFacts(schema, is_standby, encrypted)
    rows, broken_at = await _tail(tx)
    unsealed = select(func.min(audit.c.at)).where(audit.c.position.is_(None))
    held = (await tx.execute(select(duties.c.name, duties.c.until))).all()
    return StoreFacts(
        schema,
        is_standby,
        encrypted,
        tail_rows=rows,
        tail_broken_at=broken_at,
        unsealed_since=(await tx.execute(unsealed)).scalar_one(),
        due_since=await outbox.oldest(tx),
        duties={row.name: row.until for row in held},
    )


async def _tail(tx: AsyncConnection) -> tuple[int, int | None]:
    """How many rows of the log's end were checked, and the first that is not as it was sealed."""
    newest = select(audit).where(audit.c.position.is_not(None))
    found = await tx.execute(newest.order_by(audit.c.position.desc()).limit(_TAIL + 1))
    rows = list(reversed(found.mappings().all()))
    for before, row in pairwise(rows):
        fields = {name: row[name] for name in Row.__struct_fields__}
        whole = row["position"] == before["position"] + 1
        if not whole or row["chained"] != chained(before["chained"], msgspec.convert(fields, Row)):
            return len(rows), int(row["position"])
    return len(rows), None


def _why(error: BaseException) -> str:
    reason = str(getattr(error, "orig", None) or error) or type(error).__name__
    first = reason.splitlines()[0] if reason else type(error).__name__
    return (
        f"it does not answer ({first}); is QWARDEN_REVIEW__DATABASE_URL right, its password too, "
        "and the server up? People cannot work meanwhile; what is escalated waits on the topic"
    )
