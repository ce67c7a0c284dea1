"""A person's work at the store, for tests: claim, decide, take back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, select

from escalated import NOW
from qwarden.review.person import Person
from qwarden.review.ruling import Said
from qwarden.review.store import intake, leases, rulings
from qwarden.review.store.database import Database
from qwarden.review.store.intake import Arrived
from qwarden.review.store.leases import Lease
from qwarden.review.store.rulings import Ruled
from qwarden.review.store.schema import items
from qwarden.review.store.turns import Wanted
from qwarden.settings import Review

PLAIN = Review(golden_share=0.0, second_share=0.0, sample_share=0.0)
"""Nothing is mixed in."""


def saying(action: str) -> Said:
    if action == "allow":
        return Said("allow", reason="no_violation")
    return Said(action, ("PII",), "violates_terms", "terms", "content policy")


async def arrive(
    database: Database, records: Sequence[Arrived], limits: Review = PLAIN, now: float = NOW
) -> None:
    async with database.writing() as tx:
        await intake.take(tx, records, now, limits)


async def claim(
    database: Database,
    person: Person,
    limits: Review = PLAIN,
    now: float = NOW,
    wanted: Wanted = Wanted(),  # noqa: B008  it is frozen
) -> Lease | None:
    async with database.writing() as tx:
        return await leases.claim(tx, person, wanted, now, limits)


async def decide(
    database: Database,
    person: Person,
    action: str,
    limits: Review = PLAIN,
    now: float = NOW,
    wanted: Wanted = Wanted(),  # noqa: B008  it is frozen
) -> Ruled:
    """Claims what is wanted, or the next item, and decides it."""
    lease = await claim(database, person, limits, now, wanted)
    assert lease is not None, "there is nothing to decide"
    async with database.writing() as tx:
        return await rulings.decide(
            tx, person, lease.item_id, lease.token, saying(action), now, limits
        )


async def take_back(
    database: Database, person: Person, ruled: Ruled, now: float = NOW
) -> Lease | None:
    async with database.writing() as tx:
        return await rulings.take_back(tx, person, ruled.ruling_id, now, PLAIN)


async def items_of(database: Database, kind: str, state: str = "open") -> list[Row[Any]]:
    """The items of a kind in a state, the oldest first."""
    async with database.reading() as tx:
        wanted = select(items).where(items.c.kind == kind, items.c.state == state)
        return list(await tx.execute(wanted.order_by(items.c.arrived_at, items.c.item_id)))
