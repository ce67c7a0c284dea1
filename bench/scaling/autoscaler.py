"""How Kubernetes' HorizontalPodAutoscaler decides, from its documented algorithm. Pure.

KEDA hands a ScaledObject's trigger to one as an external metric of type AverageValue; without KEDA
it reads the pods' CPU itself. How fast pods come and go is what the chart sets for either
(helm/qwarden/templates/autoscaling-keda.yaml).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

TOLERANCE = 0.1
"""A change of less is none."""
PERIOD_S = 60.0
MORE_PODS, MORE_TIMES, FEWER_PODS = 4, 2, 1
"""Within a period as many pods more, or times as many, whichever is more; and as many fewer."""


@dataclass(slots=True)
class Autoscaler:
    """Of one workload. `down_s`: of the recommendations of that long the highest stands, where it
    is fewer pods than there are."""

    least: int
    most: int
    down_s: float = 600.0
    _said: deque[tuple[float, int]] = field(default_factory=deque)
    _changed: deque[tuple[float, int]] = field(default_factory=deque)

    def by_value(self, now_s: float, pods: int, value: float | None) -> int:
        """Replicas for a metric of type AverageValue with a target of 1. `pods`: those that there
        are, ready or not. None, where the metric cannot be had, changes nothing."""
        if value is None:
            return pods
        near = 1 - TOLERANCE <= value / pods <= 1 + TOLERANCE
        return self._settled(now_s, pods, pods if near else math.ceil(value))

    def by_use(
        self, now_s: float, pods: int, used: Sequence[float], starting: int, target: float
    ) -> int:
        """Replicas for a share of the requested CPU. `used`: of each pod that is ready. One that
        starts counts as idle where there would be more pods."""
        if not used:
            return pods
        ratio = sum(used) / len(used) / target
        if 1 - TOLERANCE <= ratio <= 1 + TOLERANCE:
            return self._settled(now_s, pods, pods)
        if ratio < 1 or not starting:
            return self._settled(now_s, pods, math.ceil(ratio * len(used)))
        counted = len(used) + starting
        ratio = sum(used) / counted / target
        more = ratio > 1 + TOLERANCE
        return self._settled(now_s, pods, math.ceil(ratio * counted) if more else pods)

    def _settled(self, now_s: float, pods: int, wanted: int) -> int:
        self._said.append((now_s, wanted))
        while self._said[0][0] < now_s - self.down_s:
            self._said.popleft()
        while self._changed and self._changed[0][0] <= now_s - PERIOD_S:
            self._changed.popleft()
        if wanted < pods:
            wanted = min(pods, max(each for _, each in self._said))
        before = pods - sum(each for _, each in self._changed)
        most = max(pods, before + MORE_PODS, before * MORE_TIMES)
        least = min(pods, before - FEWER_PODS)
        settled = min(self.most, max(self.least, min(most, max(least, wanted))))
        if settled != pods:
            self._changed.append((now_s, settled - pods))
        return settled
