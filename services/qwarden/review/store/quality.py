"""How good decisions are: people beside people and golden items, the automatic beside people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.agreement import LEAST_PAIRS, Proportion, kappa, weighted, wilson
from qwarden.review.person import Person
from qwarden.review.store import asking
from qwarden.review.store.ledger import DAY_S
from qwarden.review.store.schema import checks, rulings, users
from qwarden.review.store.scope import of_tenants

_LATEST = 1000
"""Decisions by which the guard's accuracy for a category is told: the interval is 3 percentage
points to either side then, and no more than these are read each time somebody opens an item."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How often people agreed with the guard where it named this category first: they restricted
    `agreed` of `reviewed`. `share`, with the bounds of its 95 % interval, Wilson's: null while
    nobody has looked."""

    reviewed: int
    agreed: int
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Reviewer:
    """`golden_right` of `goldens` said what the golden item says. `agreed`: the share of `pairs`,
    answers beside a golden item's or another reviewer's, that are equal; `kappa`: Cohen's, of
    those; null where there are too few."""

    pseudonym: str
    decisions: int
    goldens: int
    golden_right: int
    pairs: int
    agreed: float | None
    kappa: float | None


@dataclass(frozen=True, slots=True)
class Category:
    """How far people agree on one; `kappa`: null where there are too few pairs."""

    category: str
    pairs: int
    kappa: float | None


@dataclass(frozen=True, slots=True)
class Errors:
    """How often an automatic action was wrong by a person's word, of one language or of one
    category; null stands for all. `share`, with its 95 % interval, is of all such verdicts, not
    only of those looked at."""

    action: str
    language: str | None
    category: str | None
    reviewed: int
    wrong: int
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Quality:
    """`stranded`: open items that nobody can take, by kind."""

    reviewers: list[Reviewer]
    categories: list[Category]
    errors: list[Errors]
    stranded: dict[str, int]


async def accuracy(
    tx: AsyncConnection, tenant: str, categories: Iterable[str]
) -> dict[str, Accuracy]:
    """How often the guard is right, by category, as people of this tenant have said of the latest
    items that they were sent for it; the guard's first category counts."""
    found = {}
    for category in categories:
        latest = (
            select((rulings.c.action != "allow").label("restricted"))
            .where(
                rulings.c.tenant == tenant,
                rulings.c.category == category,
                rulings.c.kind == "review",
                rulings.c.user_id.is_not(None),
                rulings.c.bulk_id.is_(None),
                rulings.c.taken_back_at.is_(None),
            )
            .order_by(rulings.c.decided_at.desc())
            .limit(_LATEST)
            .subquery()
        )
        counted = select(func.count(), func.count().filter(latest.c.restricted)).select_from(latest)
        reviewed, agreed = (await tx.execute(counted)).one()
        told = wilson(agreed, reviewed)
        found[category] = Accuracy(
            reviewed,
            agreed,
            told.share if told else None,
            told.low if told else None,
            told.high if told else None,
        )
    return found


async def figures(tx: AsyncConnection, person: Person, days: float, now: float) -> Quality:
    """What the last days say, of this person's tenants."""
    since = now - days * DAY_S
    pairs = await _pairs(tx, person, since)
    return Quality(
        reviewers=await _reviewers(tx, person, since, pairs),
        categories=_categories(pairs),
        errors=await _errors(tx, person, since),
        stranded=await asking.stranded(tx, person),
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    """How often a person said this while another one, or a golden item, said that."""

    kind: str
    user_id: str
    against: str | None
    category: str
    said: str
    expected: str
    count: int


async def _pairs(tx: AsyncConnection, person: Person, since: float) -> list[_Pair]:
    of = checks.c
    columns = (of.kind, of.user_id, of.against, of.category, of.said, of.expected)
    wanted = (
        select(*columns, func.count())
        .where(of.at >= since, of.kind.in_(("golden", "second")), of_tenants(person, of.tenant))
        .group_by(*columns)
    )
    return [_Pair(*row) for row in await tx.execute(wanted)]


async def _reviewers(
    tx: AsyncConnection, person: Person, since: float, pairs: Iterable[_Pair]
) -> list[Reviewer]:
    """Everybody who decided, by pseudonym. Of two who said something of one item each is measured
    by the other."""
    decided = (
        select(rulings.c.user_id, func.count())
        .where(
            rulings.c.decided_at >= since,
            rulings.c.user_id.is_not(None),
            rulings.c.taken_back_at.is_(None),
            of_tenants(person, rulings.c.tenant),
        )
        .group_by(rulings.c.user_id)
    )
    counts: dict[str, int] = {row[0]: row[1] for row in await tx.execute(decided)}
    tables: dict[str, dict[tuple[str, str], int]] = defaultdict(lambda: defaultdict(int))
    asked: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for each in pairs:
        tables[each.user_id][each.said, each.expected] += each.count
        if each.kind == "golden":
            asked[each.user_id][0] += each.count
            asked[each.user_id][1] += each.count * (each.said == each.expected)
        elif each.against is not None:
            tables[each.against][each.expected, each.said] += each.count
    wanted = select(users.c.user_id, users.c.pseudonym).where(
        users.c.user_id.in_(sorted(counts.keys() | tables.keys())), users.c.is_tool.is_(False)
    )
    return [
        Reviewer(
            pseudonym=row.pseudonym,
            decisions=counts.get(row.user_id, 0),
            goldens=asked[row.user_id][0],
            golden_right=asked[row.user_id][1],
            pairs=sum(tables[row.user_id].values()),
            agreed=_agreed(tables[row.user_id]),
            kappa=_kappa(tables[row.user_id]),
        )
        for row in await tx.execute(wanted.order_by(users.c.pseudonym))
    ]


def _categories(pairs: Iterable[_Pair]) -> list[Category]:
    tables: dict[str, dict[tuple[str, str], int]] = defaultdict(lambda: defaultdict(int))
    for each in pairs:
        tables[each.category][each.said, each.expected] += each.count
    return [
        Category(category, sum(table.values()), _kappa(table))
        for category, table in sorted(tables.items())
    ]


def _agreed(table: Mapping[tuple[str, str], int]) -> float | None:
    total = sum(table.values())
    alike = sum(count for (one, other), count in table.items() if one == other)
    return alike / total if total else None


def _kappa(table: Mapping[tuple[str, str], int]) -> float | None:
    return kappa(table) if sum(table.values()) >= LEAST_PAIRS else None


async def _errors(tx: AsyncConnection, person: Person, since: float) -> list[Errors]:
    """Of allowed verdicts the moderator keeps a share of its own, which may have changed: each that
    was looked at weighs 1 ÷ (that share × the sample's), as `agreement.weighted` has it."""
    of = checks.c
    columns = (of.expected, of.language, of.category, of.rate)
    wanted = (
        select(*columns, func.count(), func.count().filter(of.said != of.expected))
        .where(of.at >= since, of.kind == "sample", of_tenants(person, of.tenant))
        .group_by(*columns)
    )
    strata: dict[tuple[str, str | None, str | None], list[tuple[int, int, float]]]
    strata = defaultdict(list)
    for action, language, category, rate, reviewed, wrong in await tx.execute(wanted):
        stratum = (wrong, reviewed, rate or 1.0)
        strata[action, None, None].append(stratum)
        strata[action, language, None].append(stratum)
        strata[action, None, category].append(stratum)
    return [
        _errors_of(action, language, category, of_these)
        for (action, language, category), of_these in sorted(
            strata.items(), key=lambda each: tuple(part or "" for part in each[0])
        )
    ]


def _errors_of(
    action: str,
    language: str | None,
    category: str | None,
    strata: Sequence[tuple[int, int, float]],
) -> Errors:
    told = weighted(strata)
    assert isinstance(told, Proportion)  # a stratum is there because somebody looked
    return Errors(
        action=action,
        language=language,
        category=category,
        reviewed=sum(reviewed for _, reviewed, _ in strata),
        wrong=sum(wrong for wrong, _, _ in strata),
        share=told.share,
        low=told.low,
        high=told.high,
    )
