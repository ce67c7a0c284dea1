"""What the simulation of scaling stands on: Kubernetes' algorithm, the rules as they are read."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))

from scaling import rules
from scaling.autoscaler import Autoscaler
from scaling.day import STEP_S, Day, traffic_of
from scaling.fleet import GUARD, GUARD_EVENTS, Fleet
from scaling.run import regrets, turns


def test_a_metric_that_is_away_takes_pods_away() -> None:
    assert Autoscaler(1, 10).by_value(0, 7, None) == 7


def test_a_tenth_is_a_reason_to_change() -> None:
    assert Autoscaler(1, 100).by_value(0, 20, 22.0) == 20
    assert Autoscaler(1, 100).by_value(0, 20, 22.1) == 23


def test_one_low_look_takes_pods_away() -> None:
    scaler = Autoscaler(1, 10, down_s=300)
    assert scaler.by_value(0, 8, 8.0) == 8
    assert scaler.by_value(15, 8, 2.0) == 8
    assert scaler.by_value(300, 8, 2.0) == 8
    assert scaler.by_value(315, 8, 2.0) == 7


def test_pods_go_faster_than_one_a_minute() -> None:
    scaler = Autoscaler(1, 10, down_s=0)
    assert scaler.by_value(0, 8, 2.0) == 7
    assert scaler.by_value(15, 7, 2.0) == 7
    assert scaler.by_value(60, 7, 2.0) == 6


def test_more_pods_than_double_come_within_a_minute() -> None:
    assert Autoscaler(1, 100).by_value(0, 1, 90.0) == 5
    scaler = Autoscaler(1, 100)
    assert scaler.by_value(0, 10, 90.0) == 20
    assert scaler.by_value(15, 20, 90.0) == 20
    assert scaler.by_value(60, 20, 90.0) == 40


def test_pods_that_start_are_counted_as_full() -> None:
    scaler = Autoscaler(1, 100)
    assert scaler.by_use(0, 2, [1.0, 1.0], 0, target=0.5) == 4
    assert scaler.by_use(15, 4, [1.0, 1.0], 2, target=0.5) == 4


def test_a_change_of_direction_or_a_pod_that_comes_back_is_not_seen() -> None:
    assert turns([2, 2, 3, 5, 4, 4, 6]) == 2
    assert regrets([4, 3, 3, 4, 8]) == 1
    assert regrets([4, 3, *[3] * 50, 4]) == 0


def test_a_window_of_the_hurried_rules_is_as_long_as_before() -> None:
    text = rules.hurried(rules.shipped(), 60)
    assert not re.search(
        r"\[\d+[smh]\]|offset \d+[smh]\b|group_age_seconds\S* > (bool )?30\b", text
    )
    assert "[1000ms]" in text
    assert "interval: 250ms" in text
    assert "> bool 0.5)" in text


def test_the_rules_without_their_gate_are_the_shipped_ones() -> None:
    with pytest.raises(AssertionError, match="compares a rule with itself"):
        rules.without_gate("groups: [{name: a, rules: [{record: x, expr: y}]}]")


def test_the_fleet_makes_or_loses_content() -> None:
    traffic = traffic_of(Day(hours=0.5, curve=((0, 1000), (0.5, 6000)), seed=3))
    fleet = Fleet(traffic, 2, 1)
    while not fleet.over:
        before = fleet.done.sum()
        fleet.advance()
        assert fleet.done.sum() <= traffic.arrived[fleet.step - 1] + 1e-6
        assert fleet.done.sum() - before <= GUARD_EVENTS / traffic.asked[0] * STEP_S + 1e-6
    assert fleet.done.sum() < traffic.arrived[-1]
    assert fleet.oldest_s > 0


def test_a_guard_pod_works_before_it_has_started() -> None:
    fleet = Fleet(traffic_of(Day(hours=0.2, curve=((0, 5000), (0.2, 5000)))), 2, 1)
    fleet.guards.scale(2, 0.0)
    while fleet.now_s < GUARD.start_s:
        fleet.advance()
        assert len({dict(at)["pod"] for (name, at) in fleet.metrics() if "forwards" in name}) == 1
    fleet.advance()
    fleet.advance()
    assert len({dict(at)["pod"] for (name, at) in fleet.metrics() if "forwards" in name}) == 2
