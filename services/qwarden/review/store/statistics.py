"""How much comes, how much is decided and how soon, by queue and by reviewer, in the last days."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import ColumnElement, Row, case, distinct, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.person import Person
from qwarden.review.store.ledger import DAY_S
from qwarden.review.store.schema import exclusions, items, rulings, users
from qwarden.review.store.scope import SKIPPED, of_tenants

_HOUR_S = 3_600.0
_HOURLY_DAYS = 2
"""Up to so many days a figure is of an hour, beyond of a day: some fifty columns at most."""
_LATEST = 20_000
"""Rulings that medians are of, the latest ones: they do not move with more."""


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """`arrived`, `decided`: counts of each step, the earliest first. `sla_kept`: the share of what
    was decided that was in time; null where nothing was. `median_wait_s`: from arrival."""

    queue: str
    arrived: list[int]
    decided: list[int]
    sla_kept: float | None
    median_wait_s: float | None


@dataclass(frozen=True, slots=True)
class ReviewerFigures:
    """`per_hour`: of the hours in which one decided anything. `median_held_s`: from the claim."""

    pseudonym: str
    decided: int
    per_hour: float
    median_held_s: float | None
    skipped: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """`step_s`: the length of each step from `since` on."""

    since: float
    step_s: float
    queues: list[QueueFigures]
    reviewers: list[ReviewerFigures]


async def figures(tx: AsyncConnection, person: Person, now: float, days: int) -> Statistics:
    """Of the last days, of this person's tenants. What only checks reviewers is left out."""
    step_s = _HOUR_S if days <= _HOURLY_DAYS else DAY_S
    since = (now // step_s + 1) * step_s - days * DAY_S
    seen = of_tenants(person, items.c.tenant)
    steps = round(days * DAY_S / step_s)
    decided_in = [
        rulings.c.decided_at >= since,
        rulings.c.taken_back_at.is_(None),
        rulings.c.user_id.is_not(None),
        seen,
    ]
    latest = await _latest(tx, decided_in)
    return Statistics(
        since,
        step_s,
        await _queues(tx, since, step_s, steps, seen, decided_in, latest),
        await _reviewers(tx, since, seen, decided_in, latest),
    )


async def _latest(tx: AsyncConnection, where: list[ColumnElement[bool]]) -> list[Row[Any]]:
    wanted = (
        select(items.c.queue, rulings.c.user_id, rulings.c.waited_s, rulings.c.held_s)
        .join(items, items.c.item_id == rulings.c.item_id)
        .where(*where)
        .order_by(rulings.c.decided_at.desc())
        .limit(_LATEST)
    )
    return list(await tx.execute(wanted))


async def _queues(
    tx: AsyncConnection,
    since: float,
    step_s: float,
    steps: int,
    seen: ColumnElement[bool],
    decided_in: list[ColumnElement[bool]],
    latest: Iterable[Row[Any]],
) -> list[QueueFigures]:
    def step(at: ColumnElement[float]) -> ColumnElement[Any]:
        return func.floor((at - literal(since)) / literal(step_s)).label("step")

    came = (
        select(items.c.queue, step(items.c.arrived_at), func.count().label("how_many"))
        .where(items.c.arrived_at >= since, items.c.kind != "golden", seen)
        .group_by("queue", "step")
    )
    done = (
        select(
            items.c.queue,
            step(rulings.c.decided_at),
            func.count().label("how_many"),
            func.count(case((items.c.breached_at.is_(None), 1))).label("in_time"),
        )
        .join(items, items.c.item_id == rulings.c.item_id)
        .where(items.c.kind != "golden", *decided_in)
        .group_by("queue", "step")
    )
    arrived: defaultdict[str, list[int]] = defaultdict(lambda: [0] * steps)
    decided: defaultdict[str, list[int]] = defaultdict(lambda: [0] * steps)
    in_time: defaultdict[str, int] = defaultdict(int)
    waits: defaultdict[str, list[float]] = defaultdict(list)
    for row in await tx.execute(came):
        arrived[row.queue][min(int(row.step), steps - 1)] += row.how_many
    for row in await tx.execute(done):
        decided[row.queue][min(int(row.step), steps - 1)] += row.how_many
        in_time[row.queue] += row.in_time
    for row in latest:
        if row.waited_s is not None:
            waits[row.queue].append(row.waited_s)
    return [
        QueueFigures(
            queue,
            arrived[queue],
            decided[queue],
            in_time[queue] / sum(decided[queue]) if sum(decided[queue]) else None,
            median(waits[queue]) if waits[queue] else None,
        )
        for queue in sorted(arrived.keys() | decided.keys())
    ]


async def _reviewers(
    tx: AsyncConnection,
    since: float,
    seen: ColumnElement[bool],
    decided_in: list[ColumnElement[bool]],
    latest: Iterable[Row[Any]],
) -> list[ReviewerFigures]:
    hours = func.count(distinct(func.floor(rulings.c.decided_at / literal(_HOUR_S))))
    done = (
        select(rulings.c.user_id, func.count().label("how_many"), hours.label("hours"))
        .join(items, items.c.item_id == rulings.c.item_id)
        .where(*decided_in)
        .group_by(rulings.c.user_id)
    )
    passed = (
        select(exclusions.c.user_id, func.count().label("how_many"))
        .join(items, items.c.item_id == exclusions.c.item_id)
        .where(exclusions.c.why == SKIPPED, items.c.arrived_at >= since, seen)
        .group_by(exclusions.c.user_id)
    )
    decided = {row.user_id: row for row in await tx.execute(done)}
    skipped = {row.user_id: row.how_many for row in await tx.execute(passed)}
    held: defaultdict[str, list[float]] = defaultdict(list)
    for row in latest:
        if row.held_s is not None:
            held[row.user_id].append(row.held_s)
    names = select(users.c.user_id, users.c.pseudonym).where(
        users.c.user_id.in_(sorted(decided.keys() | skipped.keys()))
    )
    return [
        ReviewerFigures(
            row.pseudonym,
            decided[row.user_id].how_many if row.user_id in decided else 0,
            decided[row.user_id].how_many / decided[row.user_id].hours
            if row.user_id in decided
            else 0.0,
            median(held[row.user_id]) if held[row.user_id] else None,
            skipped.get(row.user_id, 0),
        )
        for row in await tx.execute(names.order_by(users.c.pseudonym))
    ]
