"""What comes in a day, and what goes wrong in it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Series = NDArray[np.float64]

HOUR_S = 3600.0
STEP_S = 5.0
"""Seconds of the day that are simulated as one."""
PARTITIONS = 48

_CURVE = ((0, 2500), (4, 2000), (6, 2000), (9, 11_000), (12, 14_000), (15, 12_000), (18, 16_000))
_CURVE_TO_MIDNIGHT = ((20, 20_000), (22, 12_000), (24, 2500))


@dataclass(frozen=True, slots=True)
class Surge:
    """From `at_s` on there is `times` as much for `lasts_s`, after a ramp of `ramp_s`; `asked`: the
    share of it that the guard is asked for (the rest is in the cache)."""

    at_s: float
    lasts_s: float
    ramp_s: float
    times: float
    asked: float


@dataclass(frozen=True, slots=True)
class Between:
    """A stretch of time, in seconds."""

    start_s: float
    end_s: float

    def __contains__(self, at_s: float) -> bool:
        return self.start_s <= at_s < self.end_s


@dataclass(frozen=True, slots=True)
class Day:
    """`curve`: hours and events a second, straight lines between. `hangs`: when one moderator stops
    working and keeps its partitions. `guard_away`: when no guard pod answers."""

    hours: float
    curve: tuple[tuple[float, float], ...]
    surges: tuple[Surge, ...] = ()
    hangs: tuple[Between, ...] = ()
    guard_away: tuple[Between, ...] = ()
    asked: float = 0.8
    """Share of events that the guard is asked for."""
    seed: int = 11
    noise: float = field(default=0.05)
    """Of the rate: one standard deviation of a change that lasts a minute."""


FULL = Day(
    hours=24,
    curve=(*_CURVE, *_CURVE_TO_MIDNIGHT),
    surges=(
        # Five times the night's traffic within two minutes, all of it new.
        Surge(at_s=5 * HOUR_S, lasts_s=20 * 60, ramp_s=120, times=5, asked=0.8),
        # Four times the evening's within one, nearly all of it copies: the guard has no part in it.
        Surge(at_s=20.5 * HOUR_S, lasts_s=30 * 60, ramp_s=60, times=4, asked=0.2),
    ),
    hangs=(Between(10 * HOUR_S, 10 * HOUR_S + 300),),
    guard_away=(Between(14 * HOUR_S, 14 * HOUR_S + 300),),
)
"""Night, the morning's ramp, a spike of five times, a dead consumer, a guard that is away."""

MORNING = Day(
    hours=0.9,
    curve=((0, 2000), (0.4, 2000), (0.55, 6000), (0.9, 6000)),
    surges=(Surge(at_s=0.1 * HOUR_S, lasts_s=6 * 60, ramp_s=120, times=4, asked=0.8),),
    hangs=(Between(0.6 * HOUR_S, 0.6 * HOUR_S + 60),),
    guard_away=(Between(0.75 * HOUR_S, 0.75 * HOUR_S + 60),),
)
"""The same, in less: what the suite runs."""

SHORT_OF_GPUS = Day(hours=0.5, curve=((0, 2000), (0.05, 2000), (0.1, 12_000), (0.5, 12_000)))
"""More than three GPUs can judge, for twenty-four minutes."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """A day's events: `rate` and `asked` at each step, `arrived` (of all) at its end."""

    day: Day
    rate: Series
    asked: Series
    arrived: Series

    @property
    def steps(self) -> int:
        return len(self.rate)


def traffic_of(day: Day) -> Traffic:
    """The same for the same day, always."""
    steps = round(day.hours * HOUR_S / STEP_S)
    at_s = np.arange(steps) * STEP_S
    hours, rates = zip(*day.curve, strict=True)
    rate = np.interp(at_s / HOUR_S, hours, rates)
    share = np.full(steps, day.asked)
    for surge in day.surges:
        rise = np.interp(
            at_s,
            (
                surge.at_s,
                surge.at_s + surge.ramp_s,
                surge.at_s + surge.lasts_s,
                surge.at_s + surge.lasts_s + surge.ramp_s,
            ),
            (0, 1, 1, 0),
        )
        more = rate * (surge.times - 1) * rise
        share = (share * rate + surge.asked * more) / (rate + more)
        rate = rate + more
    at = np.random.default_rng(day.seed)
    minutes = at.normal(1, day.noise, size=steps // 12 + 2)
    rate = rate * np.interp(at_s, np.arange(len(minutes)) * 60.0, minutes).clip(0.5, 1.5)
    return Traffic(day, rate, share, np.cumsum(rate) * STEP_S)
