"""A simulated fleet under the shipped rules, with a real Prometheus that is told the time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from prometheuses import needs_prometheus
from qwarden.stack.home import Home

sys.path.append(str(Path(__file__).parents[2] / "bench"))

from scaling import rules, run
from scaling.day import MORNING, SHORT_OF_GPUS, traffic_of
from scaling.fleet import LOOK_S

pytestmark = needs_prometheus

LIMITS = run.Limits()
FEW_GPUS = run.Limits(guards=(1, 3))


def test_moderators_grow_while_the_guard_is_what_is_full(tmp_path: Path) -> None:
    traffic = traffic_of(SHORT_OF_GPUS)
    gated, _ = run.by_rules(Home(tmp_path / "gated"), rules.shipped(), traffic, FEW_GPUS)
    open_, _ = run.by_rules(
        Home(tmp_path / "open"), rules.without_gate(rules.shipped()), traffic, FEW_GPUS
    )

    assert gated.guards_most == FEW_GPUS.guards[1]
    assert gated.moderators_most <= 3
    # The same check catches the rule without its gate, and what that costs gives nothing back.
    assert open_.moderators_most == LIMITS.moderators[1]
    assert open_.within["60"] == pytest.approx(gated.within["60"], abs=0.01)


def test_a_spike_a_hang_or_an_outage_makes_the_fleet_thrash_or_late(tmp_path: Path) -> None:
    traffic = traffic_of(MORNING)
    known = run.foreseen(traffic, 0.7)
    plan = [known(step) for step in range(traffic.steps)]
    size = max(each[0] for each in plan), max(each[1] for each in plan)
    static, _ = run.by_plan(traffic, lambda step: size, size)

    said, course = run.by_rules(Home(tmp_path), rules.shipped(), traffic, LIMITS)

    assert said.undone < 1
    assert said.within["300"] >= static.within["300"] - 0.01
    assert said.guard_turns + said.moderator_turns <= 4
    assert min(course.guards) >= 1
    assert said.moderators_most <= 2 * size[0]
    # While no guard pod answers there is no number, and nothing changes.
    away = MORNING.guard_away[0]
    meanwhile = {
        pods
        for at, pods in zip(course.at_s, course.guards, strict=True)
        if away.start_s + LOOK_S < at < away.end_s
    }
    assert len(meanwhile) == 1
    assert course.blind > 0
