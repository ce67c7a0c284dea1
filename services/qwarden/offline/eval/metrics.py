"""The figures of a question with two answers: what is true, what was said, and with what score.

Pure. A figure with nothing to divide by is None: never 0, and never not-a-number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many rows are true and said, only said, only true, and neither."""

    hits: int
    false_alarms: int
    misses: int
    rest: int

    @property
    def precision(self) -> float | None:
        return ratio(self.hits, self.hits + self.false_alarms)

    @property
    def recall(self) -> float | None:
        return ratio(self.hits, self.hits + self.misses)

    @property
    def f1(self) -> float | None:
        """None where nothing is true: it would be 0 whatever was said."""
        if not self.hits + self.misses:
            return None
        return ratio(2 * self.hits, 2 * self.hits + self.false_alarms + self.misses)

    @property
    def false_alarm_rate(self) -> float | None:
        """Of what is not true, the share that was said."""
        return ratio(self.false_alarms, self.false_alarms + self.rest)


def ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def counts_of(true: Flags, said: Flags) -> Counts:
    hits = int(np.count_nonzero(true & said))
    false_alarms = int(np.count_nonzero(said)) - hits
    misses = int(np.count_nonzero(true)) - hits
    return Counts(hits, false_alarms, misses, len(true) - hits - false_alarms - misses)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rows by their score, the highest first: at each of the scores, how many are true and how
    many are not. Rows of one score are one step, so that no order among them is made up."""

    true: Ints
    others: Ints

    @property
    def decides(self) -> bool:
        """Whether there is something to tell apart."""
        return bool(self.true.any() and self.others.any())


def ranking_of(true: Flags, score: Floats) -> Ranking:
    scores, step = np.unique(-score, return_inverse=True)
    return Ranking(
        np.bincount(step[true], minlength=len(scores)),
        np.bincount(step[~true], minlength=len(scores)),
    )


def auc(ranking: Ranking) -> float | None:
    """The chance that a true row scores higher than another one; a tie counts a half."""
    if not ranking.decides:
        return None
    others = int(ranking.others.sum())
    lower = others - np.cumsum(ranking.others)
    won = float(np.sum(ranking.true * (lower + ranking.others / 2)))
    return won / (int(ranking.true.sum()) * others)


def average_precision(ranking: Ranking) -> float | None:
    """The precision at each score, weighted by the recall that is gained there.

    None where all rows are true: it would be 1 whatever the scores.
    """
    if not ranking.decides:
        return None
    hits = np.cumsum(ranking.true)
    said = hits + np.cumsum(ranking.others)
    gained = ranking.true > 0
    return float(np.sum(ranking.true[gained] * hits[gained] / said[gained])) / int(hits[-1])


@dataclass(frozen=True, slots=True)
class Curve:
    """The recall that each rate of false alarms buys, from (0, 0) to (1, 1)."""

    false_alarm_rate: Floats
    recall: Floats


def roc(ranking: Ranking) -> Curve | None:
    if not ranking.decides:
        return None
    others = np.concatenate(([0], np.cumsum(ranking.others)))
    true = np.concatenate(([0], np.cumsum(ranking.true)))
    return Curve(others / others[-1], true / true[-1])


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows whose score is from `low` to `high`: their mean score, and the share that is true."""

    low: float
    high: float
    rows: int
    score: float | None
    share: float | None


def reliability(true: Flags, score: Floats, bins: int) -> tuple[Bin, ...]:
    """Bins of equal width from 0 to 1. A score on an edge is in the upper bin, 1 in the last."""
    edges = np.arange(bins + 1) / bins
    where = np.clip(np.searchsorted(edges, score, side="right") - 1, 0, bins - 1)
    rows = np.bincount(where, minlength=bins)
    scores = np.bincount(where, weights=score, minlength=bins)
    trues = np.bincount(where[true], minlength=bins)
    return tuple(
        Bin(
            float(edges[index]),
            float(edges[index + 1]),
            int(rows[index]),
            float(scores[index] / rows[index]) if rows[index] else None,
            ratio(int(trues[index]), int(rows[index])),
        )
        for index in range(bins)
    )


def calibration_error(bins: tuple[Bin, ...]) -> float | None:
    """The expected calibration error: the distance of mean score and share, weighted by rows."""
    total = sum(each.rows for each in bins)
    gaps = sum(
        each.rows * abs(each.score - each.share)
        for each in bins
        if each.score is not None and each.share is not None
    )
    return gaps / total if total else None
