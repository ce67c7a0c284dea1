"""What a metric is: its name, what an operator reads of it, and how many series its labels make.

A metric is described where it is made, so that none is exported without a description, and none by
a service that it says nothing of. `DESCRIBED` has them all; `catalogue.py` writes docs/metrics.md
from it.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TypeVar

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
)
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

OTHER = "other"
"""The label value of all that a bound has no room for."""


class Kind(enum.StrEnum):
    """What Prometheus does with it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Label:
    """A label. `values`: all that it can have; `bound`: what keeps it small, where they are not
    known beforehand."""

    name: str
    values: tuple[str, ...] = ()
    bound: str = ""

    def __post_init__(self) -> None:
        if bool(self.values) is bool(self.bound):
            raise ValueError(f"the label {self.name} needs its values, or what bounds them")


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as it is described. `unit`: of its value. `of`: who exports it."""

    name: str
    kind: Kind
    text: str
    unit: str
    labels: tuple[Label, ...]
    of: tuple[str, ...]

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which Prometheus has it."""
        if self.kind is Kind.HISTOGRAM:
            return tuple(f"{self.name}{end}" for end in ("_bucket", "_count", "_sum"))
        return (self.name,)


DESCRIBED: dict[Metric, Collector] = {}
"""Every metric of this process with what counts it, in the order in which they are made."""

_UNITS = ("seconds", "bytes", "tokens")


def unit_of(name: str, kind: Kind) -> str:
    """The unit that a metric's name ends in; without one it counts what it is called after."""
    ending = name.removesuffix("_total").rpartition("_")[2]
    if ending in _UNITS:
        return ending
    return "count" if kind is Kind.COUNTER else "number"


class Tally(Collector):
    """A counter that every record adds to: a dictionary, read when it is scraped.

    To find prometheus_client's own by its labels and add to it under its lock is 1.0 µs, as much as
    decoding an event; this is 0.14. It is for one thread.
    """

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._counts: defaultdict[tuple[str, ...], int] = defaultdict(int)
        REGISTRY.register(self)

    def add(self, *labels: str) -> None:
        """One more of these labels, in the order of their names."""
        self._counts[labels] += 1

    def add_many(self, count: int, *labels: str) -> None:
        """So many more."""
        self._counts[labels] += count

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, count in self._counts.items():
            family.add_metric(labels, count)
        yield family


class Bins:
    """The observations of one series of a `Spread`."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Spread(Collector):
    """A histogram that every record is observed in: as `Tally` is to counters. prometheus_client's
    own is 0.6 µs an observation, and this 0.1."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], buckets: Sequence[float]
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._bounds = buckets
        self._bins: dict[tuple[str, ...], Bins] = {}
        if not labels:
            self.observe: Callable[[float], None] = self.of().observe
        REGISTRY.register(self)

    def of(self, *labels: str) -> Bins:
        """The series of these labels, to be kept by who observes in it."""
        bins = self._bins.get(labels)
        if bins is None:
            bins = self._bins[labels] = Bins(self._bounds)
        return bins

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        bounds = list(map(floatToGoString, (*self._bounds, float("inf"))))
        for labels, bins in self._bins.items():
            family.add_metric(
                labels, list(zip(bounds, accumulate(bins.counts), strict=True)), bins.sum
            )
        yield family


def registry_of(service: str) -> CollectorRegistry:
    """What a service exports: its own metrics, and its process's. Those of others would stand there
    at 0, which reads as an outage."""
    registry = CollectorRegistry()
    for process in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        registry.register(process)
    for metric, collector in DESCRIBED.items():
        if service in metric.of:
            registry.register(collector)
    return registry


C = TypeVar("C", bound=Collector)


def _described(
    make: Callable[[Sequence[str]], C],
    kind: Kind,
    name: str,
    text: str,
    labels: tuple[Label, ...],
    unit: str,
    of: Sequence[str],
) -> C:
    """What counts a metric, made by its labels' names and described."""
    collector = make([label.name for label in labels])
    described = Metric(name, kind, text, unit or unit_of(name, kind), labels, tuple(of))
    DESCRIBED[described] = collector
    return collector


def counter(name: str, text: str, *labels: Label, of: Sequence[str]) -> Counter:
    """A counter of prometheus_client's, described."""
    return _described(partial(Counter, name, text), Kind.COUNTER, name, text, labels, "", of)


def tally(name: str, text: str, *labels: Label, of: Sequence[str]) -> Tally:
    """A counter that every record adds to, described."""
    return _described(partial(Tally, name, text), Kind.COUNTER, name, text, labels, "", of)


def gauge(name: str, text: str, *labels: Label, of: Sequence[str], unit: str = "") -> Gauge:
    """A gauge, described."""
    return _described(partial(Gauge, name, text), Kind.GAUGE, name, text, labels, unit, of)


def histogram(name: str, text: str, *, buckets: Sequence[float], of: Sequence[str]) -> Histogram:
    """A histogram of prometheus_client's, described."""
    make = partial(Histogram, name, text, buckets=buckets)
    return _described(make, Kind.HISTOGRAM, name, text, (), "", of)


def spread(
    name: str, text: str, *labels: Label, buckets: Sequence[float], of: Sequence[str]
) -> Spread:
    """A histogram that every record is observed in, described."""
    make = partial(Spread, name, text, buckets=buckets)
    return _described(make, Kind.HISTOGRAM, name, text, labels, "", of)


class FirstSeen:
    """Label values: those that are known beforehand, and the first `most` others; the rest are
    `other`."""

    def __init__(self, known: Iterable[str], most: int) -> None:
        self._seen = set(known)
        self._room = len(self._seen) + most

    def __call__(self, value: str) -> str:
        if value in self._seen:
            return value
        if len(self._seen) >= self._room:
            return OTHER
        self._seen.add(value)
        return value
