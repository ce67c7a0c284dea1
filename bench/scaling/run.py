"""A day by one way to scale, and what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from qwarden.stack.home import Home
from scaling.autoscaler import Autoscaler
from scaling.day import STEP_S, Traffic
from scaling.fleet import (
    EVENTS_A_CORE,
    GUARD,
    GUARD_EVENTS,
    LATE_S,
    LOOK_S,
    Fleet,
    exposed,
)
from scaling.prometheus import Clocked, Labels, Stepped
from scaling.rules import DESIRED, recorded

EPOCH_S = 1_750_000_000.0
"""When the stepped day begins; any time in the past."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The ScaledObjects' minReplicas and maxReplicas."""

    moderators: tuple[int, int] = (2, 24)
    guards: tuple[int, int] = (1, 16)


@dataclass(slots=True)
class Course:
    """What a day was, a row for each look of the autoscaler."""

    at_s: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    moderators: list[int] = field(default_factory=list)
    guards: list[int] = field(default_factory=list)
    oldest_s: list[float] = field(default_factory=list)
    blind: int = 0
    """Looks at which a desired number was missing."""

    def every(self, looks: int) -> Course:
        """One look of so many, for a picture."""
        return Course(
            self.at_s[::looks],
            [round(each) for each in self.rate[::looks]],
            self.moderators[::looks],
            self.guards[::looks],
            self.oldest_s[::looks],
            self.blind,
        )

    def look(self, fleet: Fleet) -> None:
        self.at_s.append(fleet.now_s)
        self.rate.append(float(fleet.traffic.rate[min(fleet.step, fleet.traffic.steps - 1)]))
        self.moderators.append(fleet.moderators.replicas)
        self.guards.append(fleet.guards.replicas)
        self.oldest_s.append(fleet.oldest_s)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a way to scale gave, and cost. `turns`: how often a workload went from growing to
    shrinking or back; `regrets`: pods that were taken away and back within ten minutes."""

    within: dict[str, float]
    """Share of the events done within so many seconds."""
    undone: float
    """Events that nobody has done at the end."""
    moderator_hours: float
    guard_hours: float
    moderators_most: int
    guards_most: int
    moderator_turns: int
    guard_turns: int
    regrets: int
    oldest_most_s: float


def outcome_of(fleet: Fleet, course: Course) -> Outcome:
    arrived = float(fleet.traffic.arrived[-1])
    undone = arrived - float(fleet.done.sum())
    return Outcome(
        within={
            f"{limit:g}": round(1 - (fleet.late[limit] + undone) / arrived, 5) for limit in LATE_S
        },
        undone=round(undone),
        moderator_hours=round(fleet.moderators.seconds / 3600, 1),
        guard_hours=round(fleet.guards.seconds / 3600, 1),
        moderators_most=max(course.moderators),
        guards_most=max(course.guards),
        moderator_turns=turns(course.moderators),
        guard_turns=turns(course.guards),
        regrets=regrets(course.moderators) + regrets(course.guards),
        oldest_most_s=max(course.oldest_s),
    )


def turns(replicas: list[int]) -> int:
    """Changes of direction."""
    changes = [b > a for a, b in pairwise(replicas) if a != b]
    return sum(a != b for a, b in pairwise(changes))


def regrets(replicas: list[int]) -> int:
    """Pods that were taken away and wanted back within ten minutes."""
    looks = round(600 / LOOK_S)
    found = 0
    for at, (before, after) in enumerate(pairwise(replicas)):
        if after > before:
            lately = replicas[max(0, at - looks) : at + 1]
            found += max(0, min(after, max(lately)) - before)
    return found


def by_rules(home: Home, rules: str, traffic: Traffic, limits: Limits) -> tuple[Outcome, Course]:
    """KEDA on the recording rules, evaluated by a Prometheus that is told the time."""
    with Stepped(home, recorded(rules)) as prometheus:
        return _run(
            traffic,
            limits,
            lambda fleet: {
                (name, labels): value
                for (name, labels), value in prometheus.look(
                    EPOCH_S + fleet.now_s, fleet.metrics()
                ).items()
                if name.startswith(DESIRED)
            },
        )


def by_clock(
    home: Home, rules: str, traffic: Traffic, limits: Limits, factor: float
) -> tuple[Outcome, Course]:
    """The same by a Prometheus that scrapes and evaluates by its own clock; the day goes by
    `factor` times as fast. `rules`: with their times divided by it."""
    told = ""

    with Clocked(home, rules, lambda: told, LOOK_S / factor) as prometheus:
        began = time.monotonic()

        def wait(fleet: Fleet) -> None:
            nonlocal told
            told = exposed(fleet.metrics(clock=factor))
            time.sleep(max(0.0, began + fleet.now_s / factor - time.monotonic()))

        return _run(
            traffic,
            limits,
            lambda fleet: {
                (f"{DESIRED}{name}", labels): value
                for name in ("moderator", "triton")
                for labels, value in prometheus.ask(f"{DESIRED}{name}").items()
            },
            each_step=wait,
        )


def _run(
    traffic: Traffic,
    limits: Limits,
    look: Callable[[Fleet], dict[tuple[str, Labels], float]],
    each_step: Callable[[Fleet], None] = lambda fleet: None,
) -> tuple[Outcome, Course]:
    fleet, course = Fleet(traffic, limits.moderators[0], 2), Course()
    moderators, guards = Autoscaler(*limits.moderators), Autoscaler(*limits.guards)
    while not fleet.over:
        fleet.advance()
        each_step(fleet)
        if fleet.now_s % LOOK_S:
            continue
        said = {name: value for (name, _), value in look(fleet).items()}
        now = fleet.now_s
        for name, autoscaler, pods in (
            ("moderator", moderators, fleet.moderators),
            ("triton", guards, fleet.guards),
        ):
            wanted = said.get(f"{DESIRED}{name}")
            course.blind += wanted is None
            pods.scale(autoscaler.by_value(now, pods.replicas, wanted), now)
        course.look(fleet)
    return outcome_of(fleet, course), course


def by_cpu(
    traffic: Traffic, limits: Limits, *, moderator_target: float, guard_target: float
) -> tuple[Outcome, Course]:
    """An HPA on the pods' CPU. A guard pod that is full uses a core of the two that it requests:
    its forwards are on the GPU."""
    fleet, course = Fleet(traffic, limits.moderators[0], 2), Course()
    moderators, guards = Autoscaler(*limits.moderators), Autoscaler(*limits.guards)
    used: list[tuple[list[float], list[float]]] = []
    while not fleet.over:
        fleet.advance()
        now = fleet.now_s
        used.append(
            (
                [pod.share for pod in fleet.moderators.working(now)],
                [0.05 + 0.5 * pod.share for pod in fleet.guards.working(now)],
            )
        )
        if now % LOOK_S:
            continue
        lately = used[-6:]  # metrics-server's window: half a minute
        for place, autoscaler, pods, target in (
            (0, moderators, fleet.moderators, moderator_target),
            (1, guards, fleet.guards, guard_target),
        ):
            shares = lately[-1][place]
            mean = (
                [float(np.mean([share for each in lately for share in each[place]]))]
                if shares
                else []
            )
            wanted = autoscaler.by_use(
                now, pods.replicas, mean * len(shares), pods.starting(now), target
            )
            pods.scale(wanted, now)
        course.look(fleet)
    return outcome_of(fleet, course), course


def by_plan(
    traffic: Traffic, plan: Callable[[int], tuple[int, int]], start: tuple[int, int]
) -> tuple[Outcome, Course]:
    """Moderators and guards as a plan says for each step: a fleet of one size, or one that knows
    the day beforehand."""
    fleet, course = Fleet(traffic, *start), Course()
    while not fleet.over:
        fleet.advance()
        if fleet.now_s % LOOK_S:
            continue
        moderators, guards = plan(fleet.step)
        fleet.moderators.scale(moderators, fleet.now_s)
        fleet.guards.scale(guards, fleet.now_s)
        course.look(fleet)
    return outcome_of(fleet, course), course


def foreseen(traffic: Traffic, busy: float) -> Callable[[int], tuple[int, int]]:
    """The pods that are needed at `busy` of their time, started in time: of each step, for the most
    that comes until a pod that is asked for now would be there."""
    ahead = round((GUARD.start_s + 120) / STEP_S)
    guards = traffic.rate * traffic.asked / GUARD_EVENTS / busy
    moderators = np.maximum(traffic.rate / EVENTS_A_CORE / busy, guards * 0.5)

    def plan(step: int) -> tuple[int, int]:
        until = slice(step, step + ahead)
        most = (
            float(np.max(guards[until], initial=0.1)),
            float(np.max(moderators[until], initial=0.1)),
        )
        return max(2, math.ceil(most[1])), max(1, math.ceil(most[0]))

    return plan
