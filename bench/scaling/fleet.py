"""A fleet of moderators and guard pods on one topic, as its metrics would show it. Pure.

Content is a fluid that flows from the topic's partitions through moderators to the guard, in steps
of five seconds. What bounds it is what bounds the real fleet: a moderator's core, the rows that it
may have in flight, its partitions, and the guard's pods, of which none takes more than two
micro-batches ahead. Pods take a time to start, and stop with a drain; a moderator that comes or
goes stops all for a rebalance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from scaling.day import PARTITIONS, STEP_S, Series, Traffic

EVENTS_A_CORE = 12_000.0
"""A moderator's events a second, each asked for in cache and guard: 72 µs of CPU an event, measured
(results/pipeline.json, cold)."""
IDLE_CORES = 0.03
ROWS_IN_FLIGHT = 4 * 64
"""Of a moderator: triton.requests_in_flight × rows_a_request."""
CLIENT_S = 0.005
"""Of a request beside the guard's own time."""
GUARD_EVENTS = 2000.0
"""A guard pod's events a second in full batches: a number to simulate with, not a measured one."""
TOKENS_AN_EVENT, BATCH_TOKENS = 60.0, 2048.0
TURN_S = BATCH_TOKENS / TOKENS_AN_EVENT / GUARD_EVENTS
"""Of a full micro-batch."""
FULL_AT = 0.97
"""Busy share of a guard pod that has always more to do."""
FULL_WAIT_TURNS = 3.0
"""Turns that a job waits in an engine that holds two micro-batches ahead, and the request that
went over them."""
REBALANCE_S = 3.0
LOOK_S = 15.0
"""How often metrics are read, and the autoscaler looks."""
LATE_S = (10.0, 30.0, 60.0, 300.0)

Metrics = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Values by name and labels."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Of pods. `start_s`: until one is ready; `drain_s`: from its end until it is gone."""

    workload: str
    job: str
    start_s: float
    drain_s: float


MODERATOR = Kind("moderator", "qwarden-moderator", 20.0, 20.0)
GUARD = Kind("gen", "qwarden-triton-gen", 180.0, 10.0)
"""A guard pod's three minutes: a node that is there, weights from its disk, and warming up."""


@dataclass(slots=True)
class Pod:
    name: str
    ready_s: float
    ends_s: float | None = None
    share: float = 0.0
    """Of its core, or of its time in forwards, in the last step."""
    counters: dict[str, float] = field(default_factory=dict)


class Pods:
    """The pods of one workload."""

    def __init__(self, kind: Kind, replicas: int, now_s: float) -> None:
        self.kind = kind
        self._made = 0
        self.replicas = 0
        self.all: list[Pod] = []
        self.seconds = 0.0
        self.scale(replicas, now_s)
        for pod in self.all:
            pod.ready_s = now_s

    def scale(self, replicas: int, now_s: float) -> None:
        """So many from now on; the youngest go first, those that start before all."""
        running = [pod for pod in self.all if pod.ends_s is None]
        for pod in reversed(running[replicas:]):
            pod.ends_s = now_s + (self.kind.drain_s if pod.ready_s <= now_s else 0)
        for _ in range(replicas - len(running)):
            self.all.append(Pod(f"{self.kind.workload}-{self._made}", now_s + self.kind.start_s))
            self._made += 1
        self.replicas = replicas

    def pass_time(self, now_s: float) -> None:
        self.all = [pod for pod in self.all if pod.ends_s is None or pod.ends_s > now_s]
        self.seconds += STEP_S * len(self.all)

    def restart(self, pod: Pod, now_s: float) -> None:
        """Kubernetes starts a container anew; its counters begin at 0 in a series of their own."""
        pod.name, self._made = f"{self.kind.workload}-{self._made}", self._made + 1
        pod.ready_s, pod.counters = now_s + self.kind.start_s, {}

    def working(self, now_s: float) -> list[Pod]:
        return [pod for pod in self.all if pod.ends_s is None and pod.ready_s <= now_s]

    def starting(self, now_s: float) -> int:
        return sum(pod.ends_s is None and pod.ready_s > now_s for pod in self.all)


class Fleet:
    """Runs through its traffic, one step a call."""

    def __init__(self, traffic: Traffic, moderators: int, guards: int) -> None:
        self.traffic = traffic
        self.moderators = Pods(MODERATOR, moderators, 0.0)
        self.guards = Pods(GUARD, guards, 0.0)
        self.step = 0
        self.oldest_s = 0.0
        """Age of the oldest record that is not done."""
        self.done = np.zeros(PARTITIONS)
        self.late = dict.fromkeys(LATE_S, 0.0)
        self._of_partition = traffic.arrived / PARTITIONS
        self._group: list[str] = []
        self._hung: Pod | None = None
        self._was_away = False
        self._wait_turns = self._busy = self._turn_s = self._tokens_a_turn = 0.0
        self._latency_s = TURN_S

    @property
    def now_s(self) -> float:
        return self.step * STEP_S

    @property
    def over(self) -> bool:
        return self.step >= self.traffic.steps

    def advance(self) -> None:
        """One step."""
        now = self.now_s
        day = self.traffic.day
        self._hang_or_return(now, any(now in each for each in day.hangs))
        away = any(now in each for each in day.guard_away)
        if self._was_away and not away:
            for pod in self.guards.working(now):
                self.guards.restart(pod, now - GUARD.start_s)  # it answers now
        self._was_away = away
        moderators = self.moderators.working(now)
        guards = [] if away else self.guards.working(now)
        group = [pod.name for pod in moderators]
        pause = 1.0 if group == self._group else 1 - REBALANCE_S / STEP_S
        self._group = group

        waiting = self._of_partition[self.step] - self.done
        share = self.traffic.asked[self.step]
        of_pod = np.arange(PARTITIONS) % max(1, len(moderators))
        has = np.bincount(of_pod, waiting, max(1, len(moderators)))
        rows_bound = ROWS_IN_FLIGHT / self._latency_s
        may = min(EVENTS_A_CORE, rows_bound / share) * pause * STEP_S
        works = np.array([pod is not self._hung for pod in moderators] or [False])
        does = np.minimum(has, may) * works
        asks, can = does.sum() * share / STEP_S, FULL_AT * GUARD_EVENTS * len(guards)
        if asks > can:
            does = does * (can / asks)
        self._guard_works(guards, min(asks, can), full=asks > can)
        self._moderators_work(moderators, does, share)

        served = np.divide(does, has, out=np.zeros_like(does), where=has > 0)[of_pod] * waiting
        self._count_late(self.done, self.done + served)
        self.done = self.done + served
        self._look_at_the_oldest()
        self.moderators.pass_time(now)
        self.guards.pass_time(now)
        self.step += 1

    def _hang_or_return(self, now: float, hangs: bool) -> None:
        working = self.moderators.working(now)
        if hangs and self._hung is None and working:
            self._hung = working[0]
        elif not hangs and self._hung is not None:
            self.moderators.restart(self._hung, now)  # its liveness probe has ended it
            self._hung = None

    def _guard_works(self, guards: list[Pod], rows: float, *, full: bool) -> None:
        if not guards:
            self._busy, self._wait_turns, self._latency_s = 0.0, 0.0, 1.0
            return
        self._busy = busy = rows / (GUARD_EVENTS * len(guards))
        fill = 1.0 if full else min(1.0, max(0.05, 1.2 * busy))
        self._turn_s = turn_s = TURN_S * (0.25 + 0.75 * fill)
        self._wait_turns = wait = (
            FULL_WAIT_TURNS
            if full
            else min(FULL_WAIT_TURNS, 0.5 * busy + busy**2 / (2 * max(0.03, 1 - busy)))
        )
        self._latency_s = CLIENT_S + turn_s * (1 + wait)
        self._tokens_a_turn = GUARD_EVENTS * TOKENS_AN_EVENT * turn_s
        for pod in guards:
            pod.share = busy
            jobs = rows / len(guards) * STEP_S
            add = pod.counters
            for name, more in (
                ("forwards", busy * STEP_S / turn_s),
                ("forward_seconds", busy * STEP_S),
                ("jobs", jobs),
                ("tokens", jobs * TOKENS_AN_EVENT),
                ("queue_seconds", jobs * wait * turn_s),
            ):
                add[name] = add.get(name, 0.0) + more

    def _moderators_work(self, moderators: list[Pod], does: Series, share: float) -> None:
        for pod, events in zip(moderators, does, strict=False):
            if pod is self._hung:
                pod.share = 0.0
                continue
            pod.share = min(1.0, IDLE_CORES + events / STEP_S / EVENTS_A_CORE)
            rows = events * share
            in_flight = min(float(ROWS_IN_FLIGHT), rows / STEP_S * self._latency_s)
            # A request goes as soon as one of four may: full of rows only where all four are out.
            requests = min(4.0, max(1.0, in_flight / 16))
            a_request = max(1.0, min(64.0, in_flight / requests))
            add = pod.counters
            for name, more in (
                ("cpu", pod.share * STEP_S),
                ("model_seconds", rows / a_request * self._latency_s),
                ("rows", rows),
                ("requests", rows / a_request),
            ):
                add[name] = add.get(name, 0.0) + more

    def _count_late(self, before: Series, after: Series) -> None:
        for limit_s in LATE_S:
            latest = self.step - round(limit_s / STEP_S)
            if latest >= 0:
                due = self._of_partition[latest]
                self.late[limit_s] += float(np.clip(due - before, 0, after - before).sum())

    def _look_at_the_oldest(self) -> None:
        waits = self._of_partition[self.step] - self.done > 1.0
        if not waits.any():
            self.oldest_s = 0.0
            return
        arrived = np.searchsorted(self._of_partition, self.done[waits].min(), side="right")
        self.oldest_s = (self.step - int(arrived)) * STEP_S

    def metrics(self, clock: float = 1.0) -> Metrics:
        """What Prometheus would scrape now. `clock`: seconds of the day that pass in one of
        Prometheus's own; every time is told in the latter."""
        now, found = self.now_s, Metrics()

        def put(name: str, kind: Kind, pod: Pod, value: float, **more: str) -> None:
            labels = {"namespace": "day", "job": kind.job, "pod": pod.name, **more}
            found[name, tuple(sorted(labels.items()))] = value

        for pod in self.moderators.working(now):
            if pod is self._hung or not pod.counters:
                continue
            add = pod.counters
            put("qwarden_build_info", MODERATOR, pod, 1.0)
            put("process_cpu_seconds_total", MODERATOR, pod, add["cpu"] / clock)
            put("qwarden_model_seconds_sum", MODERATOR, pod, add["model_seconds"] / clock)
            put("qwarden_guard_requests_allowed", MODERATOR, pod, 4.0)
            put("qwarden_guard_request_rows_sum", MODERATOR, pod, add["rows"])
            put("qwarden_guard_request_rows_count", MODERATOR, pod, add["requests"])
            put(
                "qwarden_group_lag_seconds", MODERATOR, pod, self.oldest_s / clock,
                group="qwarden-moderator", topic="content.events",
            )  # fmt: skip
        away = any(now in each for each in self.traffic.day.guard_away)
        for pod in [] if away else self.guards.working(now):
            if not pod.counters:
                continue
            add = pod.counters
            wait_s = self._wait_turns * self._turn_s
            for name in ("forwards", "jobs", "tokens"):
                put(f"qwarden_engine_{name}_total", GUARD, pod, add[name])
            for name in ("forward_seconds", "queue_seconds"):
                put(f"qwarden_engine_{name}_total", GUARD, pod, add[name] / clock)
            put("qwarden_engine_queue_oldest_seconds", GUARD, pod, self._busy * wait_s / clock)
            pending = self._busy * (1 + self._wait_turns) * self._tokens_a_turn
            put("qwarden_engine_pending_tokens", GUARD, pod, pending)
        return found


def exposed(metrics: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]) -> str:
    """Metrics as a scrape gets them."""
    lines = []
    for (name, labels), number in sorted(metrics.items()):
        told = ",".join(f'{key}="{value}"' for key, value in labels)
        lines.append(f"{name}{{{told}}} {number!r}\n")
    return "".join(lines)
