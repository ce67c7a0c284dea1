"""How far people agree with one another, and how sure a share of few is. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

LEAST_PAIRS = 30
"""Fewer say nothing of anybody: with 30 pairs of which 24 agree, and half of them by chance, the
standard error of kappa is 0.15 (Cohen 1960), so that 0.6 may as well be 0.3."""

_Z = 1.959963984540054
"""Standard errors that 95 % of a normal distribution lie within."""

Pairs = Mapping[tuple[str, str], int]
"""How often one said the first while the other said the second."""


@dataclass(frozen=True, slots=True)
class Proportion:
    """A share with its 95 % confidence interval, all from 0 to 1."""

    share: float
    low: float
    high: float


def kappa(pairs: Pairs) -> float | None:
    """Cohen's kappa: agreement beyond that of two who say each answer as often as these did, but
    without looking. From -1 to 1; None without pairs.

    1 where both say one and the same of everything: they agree in all, though that tells little.
    """
    total = sum(pairs.values())
    if not total:
        return None
    agreed = sum(count for (one, other), count in pairs.items() if one == other)
    if agreed == total:
        return 1.0
    ours: dict[str, int] = {}
    theirs: dict[str, int] = {}
    for (one, other), count in pairs.items():
        ours[one] = ours.get(one, 0) + count
        theirs[other] = theirs.get(other, 0) + count
    by_chance = sum(count * theirs.get(said, 0) for said, count in ours.items())
    # In whole numbers, so that two who only ever agree by chance have a kappa of exactly 0.
    return (agreed * total - by_chance) / (total * total - by_chance)


def wilson(hits: float, of: float) -> Proportion | None:
    """The share of `hits` in `of` with Wilson's score interval, which stays within 0 and 1 and
    holds for few; None of nothing. Both may be fractions: see `weighted`."""
    if of <= 0:
        return None
    share = hits / of
    square = _Z * _Z / of
    middle = (share + square / 2) / (1 + square)
    half = _Z * math.sqrt(share * (1 - share) / of + square / (4 * of)) / (1 + square)
    return Proportion(
        share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))
    )


def weighted(strata: Iterable[tuple[int, int, float]]) -> Proportion | None:
    """The share of hits where not all were as likely to be looked at.

    `strata`: hits, how many were looked at, and the share of all that such a look takes, over 0.
    Each one that was looked at stands for 1 ÷ that share (Horvitz and Thompson). The interval is
    Wilson's, of as many as would tell as much if all weighed the same: (Σ w)² ÷ Σ w² (Kish). With
    one rate for all it is `wilson`.
    """
    hits = total = squares = 0.0
    for hit, looked_at, rate in strata:
        hits += hit / rate
        total += looked_at / rate
        squares += looked_at / (rate * rate)
    if not total:
        return None
    return wilson(min(1.0, hits / total) * (total * total / squares), total * total / squares)
