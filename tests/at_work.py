"""People who decide what came as moderators send it, and what of that waits to be published."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from escalated import NOW, escalation, person
from qwarden.contracts import topics
from qwarden.contracts.control import Override
from qwarden.contracts.decision import Decision, decode_decision
from qwarden.contracts.verdict import Verdict
from qwarden.review.person import Person, Role
from qwarden.review.ruling import Said
from qwarden.review.store import intake, leases, rulings
from qwarden.review.store.database import Database
from qwarden.review.store.leases import Lease
from qwarden.review.store.rulings import Ruled
from qwarden.review.store.schema import outbox
from qwarden.review.store.turns import Wanted
from qwarden.settings import Review

LIMITS = Review(second_share=0.0, golden_share=0.0, sample_share=0.0)
ALLOW = Said("allow", reason="in_context")
BLOCK = Said("block", ("Violent",), "violates_terms", "terms", "3.1")
DISCLAIM = Said("disclaim", ("Unethical Acts",), "borderline", "terms", "4")


@dataclass
class Work:
    """People in one database, and its time."""

    database: Database
    ann: Person
    ben: Person
    lead: Person
    tool: Person
    now: float = NOW
    limits: Review = LIMITS

    @classmethod
    async def begin(cls, database: Database) -> Work:
        async with database.writing() as tx:
            return cls(
                database,
                await person(tx, "Ann"),
                await person(tx, "Ben"),
                await person(tx, "Lea", Role.LEAD),
                await person(tx, "Tool", is_tool=True),
            )

    async def comes(self, *verdicts: Verdict, **how: Any) -> None:
        """Escalations of these arrive now."""
        async with self.database.writing() as tx:
            records = [escalation(each, self.now, **how) for each in verdicts]
            await intake.take(tx, records, self.now, self.limits)

    async def claims(self, who: Person, item_id: str | None = None) -> Lease:
        async with self.database.writing() as tx:
            lease = await leases.claim(tx, who, Wanted(item_id=item_id), self.now, self.limits)
        assert lease is not None
        return lease

    async def decides(self, who: Person, lease: Lease, said: Said) -> Ruled:
        async with self.database.writing() as tx:
            return await rulings.decide(
                tx, who, lease.item_id, lease.token, said, self.now, self.limits
            )

    async def takes_back(self, who: Person, ruling_id: str) -> Lease | None:
        async with self.database.writing() as tx:
            return await rulings.take_back(tx, who, ruling_id, self.now, self.limits)

    async def next_one(self, who: Person, said: Said) -> Ruled:
        """Claims what is due first, and decides it."""
        return await self.decides(who, await self.claims(who), said)

    async def waiting(self) -> list[Any]:
        """The outbox, in its order."""
        async with self.database.reading() as tx:
            return list(await tx.execute(select(outbox).order_by(outbox.c.number)))

    async def decisions(self) -> list[Decision]:
        """Those that wait to be published."""
        return [
            decode_decision(row.value)
            for row in await self.waiting()
            if row.topic == topics.DECISIONS
        ]

    async def overrides(self) -> list[Override | None]:
        """Those that wait to be published; None withdraws."""
        return [
            None if row.value is None else msgspec.json.decode(row.value, type=Override)
            for row in await self.waiting()
            if row.topic == topics.CONTROL
        ]


async def rows_of(tx: AsyncConnection, tables: Iterable[Table]) -> dict[str, list[dict[str, Any]]]:
    """All rows of tables, in an order of their own."""
    found = {}
    for table in tables:
        rows = (await tx.execute(select(table))).mappings()
        found[table.name] = sorted((dict(row) for row in rows), key=repr)
    return found
