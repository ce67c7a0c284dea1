"""How well people and the guard agree, and how the work goes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from qwarden.review.http.access import Overseer
from qwarden.review.http.served import Reading, Serves
from qwarden.review.store import quality, statistics

router = APIRouter(prefix="/v1", tags=["quality"])

Days = Annotated[int, Query(ge=1, le=365)]


class Reviewer(BaseModel):
    """`agreed`: the share of `pairs`, answers beside a golden item's or another reviewer's, that
    are equal; `kappa`: Cohen's, of those; null where there are too few."""

    pseudonym: str
    decisions: int
    goldens: int
    golden_right: int
    pairs: int
    agreed: float | None
    kappa: float | None


class Category(BaseModel):
    category: str
    pairs: int
    kappa: float | None


class Errors(BaseModel):
    """How often an automatic action was wrong, of one language or of one category; null stands for
    all. `share` with its 95 % interval is of all such verdicts, not only of those looked at."""

    action: str
    language: str | None
    category: str | None
    reviewed: int
    wrong: int
    share: float
    low: float
    high: float


class Quality(BaseModel):
    reviewers: list[Reviewer]
    categories: list[Category]
    errors: list[Errors]
    stranded: dict[str, int]
    """Open items that nobody can take, by kind."""


class QueueFigures(BaseModel):
    """`arrived`, `decided`: counts of each step, the earliest first."""

    queue: str
    arrived: list[int]
    decided: list[int]
    sla_kept: float | None
    median_wait_s: float | None


class ReviewerFigures(BaseModel):
    pseudonym: str
    decided: int
    per_hour: float
    median_held_s: float | None
    skipped: int


class Statistics(BaseModel):
    since: float
    step_s: float
    queues: list[QueueFigures]
    reviewers: list[ReviewerFigures]


@router.get("/quality")
async def read_quality(tx: Reading, person: Overseer, served: Serves, days: Days = 30) -> Quality:
    """Golden items, second reviews and samples of the last days."""
    found = await quality.figures(tx, person, days, served.clock())
    return Quality.model_validate(
        {
            "reviewers": found.reviewers,
            "categories": found.categories,
            "errors": found.errors,
            "stranded": dict(found.stranded),
        },
        from_attributes=True,
    )


@router.get("/statistics")
async def read_statistics(
    tx: Reading, person: Overseer, served: Serves, days: Days = 7
) -> Statistics:
    """What came and what was decided in the last days, by queue, and by reviewer."""
    found = await statistics.figures(tx, person, served.clock(), days)
    return Statistics.model_validate(found, from_attributes=True)
