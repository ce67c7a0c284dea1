"""What the rules that scale make of a day, beside other ways to scale, with a real Prometheus.

`python bench/autoscaling.py` runs a simulated fleet (scaling/fleet.py) through a day: night, the
morning's ramp, a spike of five times, a flood of copies, a moderator that hangs, a guard that is
away. `deploy/prometheus/autoscaling.rules.yaml` says how many pods there should be, a real
Prometheus scrapes and evaluates it by its own clock, with all times divided by `--factor`, and
Kubernetes' algorithm does it. Beside it: the same rules without their gate, an HPA on CPU as it
comes and one with a target that was found by trying, a fleet of one size, and one that knows the
day beforehand. Half an hour with fewer GPUs than it needs, and with `--only stepped` the whole day,
run on a Prometheus that is told the time: no window is changed, and each run is the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from machine import machine
from qwarden.stack import prometheus
from qwarden.stack.home import Home
from scaling import rules, run
from scaling.day import FULL, SHORT_OF_GPUS, Day, traffic_of

RESULTS = Path(__file__).resolve().parent / "results" / "autoscaling.json"
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "autoscaling.svg"
LIMITS = run.Limits()
FEW_GPUS = run.Limits(guards=(1, 3))
SLO_S = "60"
DAYS = ("the day", "fewer GPUs than it needs", "the day, told the time")
GATED, UNGATED = "rules", "rules without the gate"
RULES = {GATED: rules.shipped(), UNGATED: rules.without_gate(rules.shipped())}

Ran = tuple[run.Outcome, run.Course]


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def ways(day: Day, limits: run.Limits) -> dict[str, Callable[[Home], Ran]]:
    """The ways to scale that need no clock, by name."""
    traffic = traffic_of(day)
    known = run.foreseen(traffic, 0.7)
    plan = [known(step) for step in range(traffic.steps)]
    static = max(each[0] for each in plan), min(max(each[1] for each in plan), limits.guards[1])
    best = run.foreseen(traffic, 0.85)

    def capped(step: int) -> tuple[int, int]:
        moderators, guards = best(step)
        return min(moderators, limits.moderators[1]), min(guards, limits.guards[1])

    return {
        "HPA on CPU at 70 %": lambda home: run.by_cpu(
            traffic, limits, moderator_target=0.7, guard_target=0.7
        ),
        "HPA on CPU, guard at 35 %": lambda home: run.by_cpu(
            traffic, limits, moderator_target=0.7, guard_target=0.35
        ),
        "one size": lambda home: run.by_plan(traffic, lambda step: static, static),
        "foreseen": lambda home: run.by_plan(traffic, capped, capped(0)),
    }


def stepped(day: Day, limits: run.Limits) -> dict[str, Callable[[Home], Ran]]:
    """By the rules, on a Prometheus that is told the time."""
    traffic = traffic_of(day)
    return {
        way: lambda home, text=text: run.by_rules(home, text, traffic, limits)  # type: ignore[misc]
        for way, text in RULES.items()
    }


def clocked(day: Day, limits: run.Limits, factor: float) -> dict[str, Callable[[Home], Ran]]:
    """By the rules, on a Prometheus with a clock of its own."""
    traffic = traffic_of(day)
    return {
        way: lambda home, text=text: run.by_clock(  # type: ignore[misc]
            home, rules.hurried(text, factor), traffic, limits, factor
        )
        for way, text in RULES.items()
    }


def in_own_home(work: Callable[[Home], Ran]) -> Ran:
    with tempfile.TemporaryDirectory() as folder:
        return work(Home(Path(folder)))


def checks(full: dict[str, Any], few: dict[str, Any], way: str) -> dict[str, bool]:
    """What a way to scale has to hold, by that day's figures."""
    said, static, known = full[way], full["one size"], full["foreseen"]
    return {
        # In time as often as a fleet that knows the day, and nearly all within five minutes.
        "no SLO lost": said["within"][SLO_S] >= known["within"][SLO_S]
        and said["within"]["300"] >= static["within"]["300"] - 0.001,
        # Two changes of direction for each of the day's five events, and for its two slopes.
        "no thrash": said["guard_turns"] <= 14 and said["moderator_turns"] <= 14,
        "no more moderators than twice what they need": said["moderators_most"]
        <= 2 * known["moderators_most"]
        and few[way]["moderators_most"] <= 2 * few["foreseen"]["moderators_most"],
        "fewer guard hours than one size": said["guard_hours"] < 0.6 * static["guard_hours"],
    }


def table(days: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, outcomes in days.items():
        lines += [
            "",
            f"{name:<32}{'≤ 60 s':>9}{'≤ 300 s':>9}{'guard h':>9}{'moder. h':>9}"
            f"{'most':>9}{'turns':>8}{'regrets':>9}",
        ]
        lines += [
            f"{way:<32}{said['within'][SLO_S]:>9.2%}{said['within']['300']:>9.2%}"
            f"{said['guard_hours']:>9}{said['moderator_hours']:>9}"
            f"{said['guards_most']:>5} {said['moderators_most']:>3}"
            f"{said['guard_turns']:>5} {said['moderator_turns']:>2}{said['regrets']:>9}"
            for way, said in outcomes.items()
        ]
    return "\n".join(lines)


def draw(course: dict[str, run.Course], to: Path) -> None:
    """The day: what came, how many pods each way had, and how late the oldest record was."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "qwarden"
    import matplotlib.pyplot as plt

    figure, panes = plt.subplots(4, 1, figsize=(10, 9), sharex=True)
    first = next(iter(course.values()))
    panes[0].plot(
        [at / 3600 for at in first.at_s], [each / 1000 for each in first.rate], "k", lw=0.8
    )
    panes[0].set_ylabel("1,000 events/s")
    for way, colour in (
        ("one size", "0.7"),
        ("foreseen", "tab:green"),
        ("HPA on CPU, guard at 35 %", "tab:orange"),
        ("rules", "tab:blue"),
    ):
        hours = [at / 3600 for at in course[way].at_s]
        for pane, values in (
            (panes[1], course[way].guards),
            (panes[2], course[way].moderators),
            (panes[3], course[way].oldest_s),
        ):
            pane.step(hours, values, where="post", color=colour, lw=1, label=way)
    for pane, label in zip(panes[1:], ("guard pods", "moderators", "oldest, s"), strict=True):
        pane.set_ylabel(label)
        pane.set_ylim(bottom=0)
    panes[0].legend(handles=panes[1].get_lines(), loc="upper left", fontsize=8)
    panes[3].set_xlabel("hour")
    panes[3].set_xlim(0, first.at_s[-1] / 3600)
    panes[3].set_xticks(range(0, 25, 2))
    figure.align_ylabels()
    figure.tight_layout()
    figure.savefig(to, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--factor", type=float, default=60.0, help="how fast the day by the clock is"
    )
    parser.add_argument(
        "--only", default="clock,plain,few", help="parts; the file keeps the others; also: stepped"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    if (reason := prometheus.available()) is not None:
        say(reason)
        return 3
    load, parts = os.getloadavg()[0], given.only.split(",")
    kept: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    days: dict[str, dict[str, Any]] = {name: kept.get("days", {}).get(name, {}) for name in DAYS}
    courses: dict[str, run.Course] = {}
    works: list[tuple[str, str, Callable[[Home], Ran]]] = []
    if "clock" in parts:
        say(f"the day by the clock takes {24 * 60 / given.factor:g} minutes")
        works += [(DAYS[0], *each) for each in clocked(FULL, LIMITS, given.factor).items()]
    if "plain" in parts:
        works += [(DAYS[0], *each) for each in ways(FULL, LIMITS).items()]
    if "few" in parts:
        few = stepped(SHORT_OF_GPUS, FEW_GPUS) | ways(SHORT_OF_GPUS, FEW_GPUS)
        works += [(DAYS[1], *each) for each in few.items()]
    if "stepped" in parts:
        works += [(DAYS[2], *each) for each in stepped(FULL, LIMITS).items()]
    with ThreadPoolExecutor(2) as pool:  # the two that have a clock wait most of the time
        done = pool.map(lambda work: in_own_home(work[2]), works)
        for (name, way, _), (outcome, course) in zip(works, done, strict=True):
            say(f"{name}: {way}")
            days[name][way] = dataclasses.asdict(outcome) | {"blind_looks": course.blind}
            if name == DAYS[0]:
                courses[way] = course.every(4)
    held = {
        way: checks(days[DAYS[0]], days[DAYS[1]], way)
        for way in RULES
        if len(days[DAYS[0]]) == len(days[DAYS[1]]) == 6
    }
    print(table(days))
    for way, each in held.items():
        print(f"{way}: " + ", ".join(f"{what} {'✓' if ok else '✗'}" for what, ok in each.items()))
    written = {
        "what": "a simulated fleet's day, scaled by rules that a real Prometheus evaluates",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "load_before": load,
        "factor_of_the_clock": given.factor
        if "clock" in parts
        else kept.get("factor_of_the_clock"),
        "limits": dataclasses.asdict(LIMITS),
        "days": days,
        "held": held,
    }
    given.out.write_text(json.dumps(written, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if {"clock", "plain"} <= set(parts):
        draw(courses, PICTURE)
    if not held:
        return 0
    return int(not all(held[GATED].values()) or all(held[UNGATED].values()))


if __name__ == "__main__":
    sys.exit(main())
