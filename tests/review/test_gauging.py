"""How the queues stand, as metrics."""

from __future__ import annotations

import math

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from escalated import NOW, open_item, put_items
from qwarden.review.gauging import gauges
from qwarden.review.store.database import Database

LABELS = {
    "items": {"queue": "urgent", "state": "open"},
    "overdue_seconds": {"queue": "urgent"},
    "unserved_items": {"why": "language"},
    "outbox_oldest_seconds": {},
    "unsealed_rows": {},
}


def figures() -> dict[str, float]:
    """Those that are told; without the ones that are missing or no number."""
    told = {
        name: REGISTRY.get_sample_value(f"qwarden_review_{name}", labels)
        for name, labels in LABELS.items()
    }
    return {
        name: value for name, value in told.items() if value is not None and not math.isnan(value)
    }


async def test_a_queue_stands_as_before_though_the_database_is_away(database: Database) -> None:
    look = gauges(database, lambda: NOW)
    assert not figures(), "nothing is known before the first look"
    async with database.writing() as tx:
        await put_items(tx, [open_item(1, queue="urgent", breach_at=NOW - 60)])
    await look()
    assert figures().keys() == LABELS.keys()
    assert figures()["items"] == 1
    assert figures()["overdue_seconds"] == 60
    async with database.writing() as tx:
        await tx.execute(text("ALTER TABLE items RENAME TO elsewhere"))
    with pytest.raises(DBAPIError):
        await look()
    assert not figures()
    async with database.writing() as tx:
        await tx.execute(text("ALTER TABLE elsewhere RENAME TO items"))
    await look()
    assert figures()["items"] == 1
