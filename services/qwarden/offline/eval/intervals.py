"""Bootstrap intervals: the figures of many files that might as well have been drawn. Seeded.

Drawing rows anew is drawing the counts of equal rows anew, so one draw costs as much as the file
has different (score, label) pairs, and a draw of a table of counts costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qwarden.offline.eval.metrics import Counts, Ranking

RESAMPLES = 1000
"""Enough for the 2.5th percentile to stand on 25 of them."""
SEED = 0
_DEFINED = 0.95
"""Where more of the draws leave a figure undefined, the rest say too little of it."""

Interval = tuple[float, float]


def of_counts(
    counts: Counts, figures: Sequence[Callable[[Counts], float | None]]
) -> list[Interval | None]:
    """The 95 % interval of each figure."""
    cells = np.array([counts.hits, counts.false_alarms, counts.misses, counts.rest])
    total = int(cells.sum())
    if not total:
        return [None for _ in figures]
    draws = np.random.default_rng(SEED).multinomial(total, cells / total, size=RESAMPLES)
    drawn = [Counts(*map(int, draw)) for draw in draws]
    return [_interval([figure(each) for each in drawn]) for figure in figures]


def of_ranking(
    ranking: Ranking, figures: Sequence[Callable[[Ranking], float | None]]
) -> list[Interval | None]:
    """The 95 % interval of each figure."""
    steps = len(ranking.true)
    cells = np.concatenate((ranking.true, ranking.others))
    rows = np.repeat(np.arange(len(cells)), cells)
    if not len(rows):
        return [None for _ in figures]
    rng = np.random.default_rng(SEED)
    found: list[list[float | None]] = [[] for _ in figures]
    for _ in range(RESAMPLES):
        draw = np.bincount(rows[rng.integers(0, len(rows), len(rows))], minlength=len(cells))
        drawn = Ranking(draw[:steps], draw[steps:])
        for values, figure in zip(found, figures, strict=True):
            values.append(figure(drawn))
    return [_interval(values) for values in found]


def _interval(values: Sequence[float | None]) -> Interval | None:
    defined = [value for value in values if value is not None]
    if len(defined) < _DEFINED * len(values):
        return None
    low, high = np.percentile(defined, (2.5, 97.5))
    return float(low), float(high)
