"""How well people and the guard agree, and how the work goes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from qwarden.review.http.access import Overseer
from qwarden.review.http.served import Reading, Serves
from qwarden.review.store import quality, statistics
from qwarden.review.store.quality import Quality
from qwarden.review.store.statistics import Statistics

router = APIRouter(prefix="/v1", tags=["quality"])

Days = Annotated[int, Query(ge=1, le=365)]
"""Up to a year, which is longer than the ledger keeps by default."""


@router.get("/quality")
async def read_quality(tx: Reading, person: Overseer, served: Serves, days: Days = 30) -> Quality:
    """Golden items, second reviews and samples of the last days."""
    return await quality.figures(tx, person, days, served.clock())


@router.get("/statistics")
async def read_statistics(
    tx: Reading, person: Overseer, served: Serves, days: Days = 7
) -> Statistics:
    """What came and what was decided in the last days, by queue, and by reviewer."""
    return await statistics.figures(tx, person, served.clock(), days)
