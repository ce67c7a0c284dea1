"""How many records there were, from those that a sample has kept. Pure.

Evidence keeps some records always and each of the others with a rate, by a hash of its id: Poisson
sampling. A kept record counts as 1 ÷ its rate (Horvitz and Thompson), and the variance of the sum
is estimated by Σ (1 - rate) ÷ rate². The interval holds all totals T that are no further from the
estimate than 1.96 of the standard deviations that T itself would give (a score interval), since at
a rate of 1 % the plain one claims to know what five records say, and that none means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

Z = 1.959964
"""Of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """`rows`: records that were seen. `total`: how many there were, with 95 % from `low` to
    `high`."""

    rows: int
    total: float
    low: float
    high: float

    @property
    def is_exact(self) -> bool:
        return self.low == self.high


@dataclass(frozen=True, slots=True)
class Sum:
    """Records, added up. `total`: of 1 ÷ rate. `sampled`: of that, what has a rate under 1.
    `variance`: of Σ (1 - rate) ÷ rate²."""

    rows: int = 0
    total: float = 0.0
    sampled: float = 0.0
    variance: float = 0.0

    @classmethod
    def of(cls, rows: int, rate: float) -> Sum:
        """So many records that were kept with this rate."""
        total = rows / rate
        return cls(rows, total, total if rate < 1 else 0.0, rows * (1 - rate) / rate**2)

    def __add__(self, other: Sum) -> Sum:
        return Sum(
            self.rows + other.rows,
            self.total + other.total,
            self.sampled + other.sampled,
            self.variance + other.variance,
        )

    @property
    def a_record(self) -> float:
        """The variance that one sampled record stands for: (1 - rate) ÷ rate, on average."""
        return self.variance / self.sampled if self.sampled else 0.0

    def estimate(self, a_record: float = 0.0) -> Estimate:
        """What the sum says. `a_record`: of the whole sample, where records of it may have been
        missed here; what is always kept is missed nowhere."""
        spread = self.a_record or a_record
        middle = self.sampled + Z**2 * spread / 2
        half = Z * math.sqrt(spread * self.sampled + (Z * spread) ** 2 / 4)
        certain = self.total - self.sampled
        return Estimate(
            self.rows,
            self.total,
            max(float(self.rows), certain + middle - half),
            certain + middle + half,
        )


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole, from 0 to 1; from `low` to `high` with 95 %."""

    value: float
    low: float
    high: float


NOTHING = Share(0.0, 0.0, 0.0)


def added(sums: Iterable[Sum]) -> Sum:
    return sum(sums, Sum())


def share(part: Sum, whole: Sum) -> Share:
    """How much of the whole a part of it is. The wider of two intervals: that of the part, and that
    of the quotient, in which the whole is no more certain than the part."""
    if not whole.total:
        return NOTHING
    value = part.total / whole.total
    rest = whole.variance - part.variance
    half = Z * math.sqrt((1 - value) ** 2 * part.variance + value**2 * rest) / whole.total
    counted = part.estimate(whole.a_record)
    return Share(
        value,
        max(0.0, min(value - half, counted.low / whole.total)),
        min(1.0, max(value + half, counted.high / whole.total)),
    )
