"""What is deleted when its time is over. The audit log stays: it holds nothing that people wrote.

What an open item still needs stays too, however long that one waits.
"""

from __future__ import annotations

from sqlalchemy import Select, and_, delete, exists, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.store.ledger import DAY_S
from qwarden.review.store.schema import (
    appeals,
    checks,
    decisions,
    escalations,
    events,
    exclusions,
    goldens,
    items,
    ledger,
    links,
    notes,
    overrides,
    rulings,
    sessions,
    superseded,
)
from qwarden.settings import Review


async def sweep(tx: AsyncConnection, now: float, limits: Review, limit: int) -> int:
    """Deletes `limit` rows of each kind at most, the oldest ones, and what hangs on them; returns
    how many, so that there may be more where it is not 0. `now`: seconds since 1970."""
    before = now - limits.keep_days * DAY_S
    ended = select(items.c.item_id).where(items.c.ended_at < before)
    gone = await _ids(tx, ended.order_by(items.c.ended_at).limit(limit))
    for table in (items, escalations, exclusions, notes, appeals):
        await tx.execute(delete(table).where(table.c.item_id.in_(gone)))

    decided = select(rulings.c.ruling_id).where(rulings.c.decided_at < before, ~_is_needed)
    said = await _ids(tx, decided.order_by(rulings.c.decided_at).limit(limit))
    for table in (rulings, decisions):
        await tx.execute(delete(table).where(table.c.ruling_id.in_(said)))

    over = select(goldens.c.golden_id).where(goldens.c.retired_at < before, ~_is_asked)
    retired = await _ids(tx, over.order_by(goldens.c.retired_at).limit(limit))
    # Who was given a golden item is kept off it by its own id.
    await tx.execute(delete(exclusions).where(exclusions.c.item_id.in_(retired)))
    await tx.execute(delete(goldens).where(goldens.c.golden_id.in_(retired)))

    deleted = len(gone) + len(said) + len(retired)
    for table, condition, order in (
        (ledger, and_(ledger.c.kept_until < now, ~_is_shown), ledger.c.kept_until),
        (events, and_(events.c.kept_until < now, ~_is_kept), events.c.kept_until),
        (superseded, superseded.c.kept_until < now, superseded.c.kept_until),
        (checks, checks.c.at < before, checks.c.at),
        (links, links.c.expires_at < now, links.c.expires_at),
        (sessions, sessions.c.expires_at < now, sessions.c.expires_at),
    ):
        key = tuple_(*table.primary_key.columns)
        oldest = select(*table.primary_key.columns).where(condition).order_by(order).limit(limit)
        # The condition again: a row that another transaction has prolonged meanwhile stays.
        ran = await tx.execute(delete(table).where(key.in_(oldest), condition))
        deleted += ran.rowcount
    return deleted


async def _ids(tx: AsyncConnection, wanted: Select[str]) -> list[str]:
    return list((await tx.execute(wanted)).scalars())


_is_open = items.c.state == "open"
_is_shown = or_(
    exists().where(_is_open, items.c.verdict_id == ledger.c.verdict_id),
    exists().where(escalations.c.is_open, escalations.c.verdict_id == ledger.c.verdict_id),
)
"""A row of the ledger that people still look at."""
_is_kept = exists().where(
    ledger.c.tenant == events.c.tenant, ledger.c.event_id == events.c.event_id
)
"""An event of which something is kept on, since people decided of it: whether its content is gone
has to be known as long."""
_is_asked = exists().where(_is_open, items.c.golden_id == goldens.c.golden_id)
_is_needed = or_(
    exists().where(_is_open, items.c.ruling_id == rulings.c.ruling_id),
    exists().where(overrides.c.ruling_id == rulings.c.ruling_id),
    exists().where(
        decisions.c.ruling_id == rulings.c.ruling_id,
        appeals.c.decision_id == decisions.c.decision_id,
        appeals.c.outcome.is_(None),
    ),
)
"""A ruling that is checked or appealed against, or whose override holds."""
