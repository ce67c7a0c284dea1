"""Rules in a hurry: what is divided, and what is left alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from hurried import age_limits, duration_of, durations, hurried, seconds_of

RULES = Path(__file__).parents[2] / "deploy" / "prometheus"
OURS = sorted(set(RULES.glob("*.rules.yaml")) - {RULES / "autoscaling.rules.yaml"})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300.0), ("1h30m", 5400.0), ("100ms", 0.1), ("1w", 604_800.0), ("1d", 86_400.0)],
)
def test_a_duration_is_read_as_another_one(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds
    assert seconds_of(duration_of(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "5", "5 m", "m5", "5x", "1.5h"])
def test_what_is_no_duration_is_taken_for_one(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("rate(a_total[5m])", "rate(a_total[15000ms])"),
        ("max_over_time(a[1h:1m])", "max_over_time(a[180000ms:3000ms])"),
        ("max_over_time(a[1h:])", "max_over_time(a[180000ms:])"),
        ("a - a offset 1w", "a - a offset 30240000ms"),
        ("qwarden:slo_burn:rate1h > 14.4", "qwarden:slo_burn:rate1h > 14.4"),
    ],
)
def test_a_window_stays_as_long_as_it_was(before: str, after: str) -> None:
    assert durations(before, 20) == after


def test_a_window_gets_too_short_to_hold_two_scrapes() -> None:
    with pytest.raises(ValueError, match="use a factor of at most 150"):
        durations("rate(a_total[5m])", 200)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("max by (a) (lag_seconds) > 300", "max by (a) (lag_seconds) > 15"),
        ('max(lag_seconds{topic!="b"}) > 300', 'max(lag_seconds{topic!="b"}) > 15'),
        (
            "max(up_seconds) > 5 or max(old_seconds) > 2",
            "max(up_seconds) > 0.25 or max(old_seconds) > 0.1",
        ),
        ("items > 300", "items > 300"),
        ("rate(wait_seconds_count[5m]) > 20", "rate(wait_seconds_count[5m]) > 20"),
    ],
)
def test_a_limit_of_an_age_is_left_or_another_one_divided(before: str, after: str) -> None:
    assert age_limits(before, 20) == after


def test_a_share_or_a_count_is_divided_in_the_project_s_own_rules() -> None:
    """Every number that changes, seen by a person: ages, and nothing else. Those of autoscaling are
    its own tests' matter."""
    changed = {}
    for path in OURS:
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                before = re.findall(r"[<>]=? (?:bool )?([\d.]+)", rule["expr"])
                after = re.findall(r"[<>]=? (?:bool )?([\d.]+)", age_limits(rule["expr"], 10))
                if before != after:
                    changed[rule["alert"]] = [
                        b for b, a in zip(before, after, strict=True) if b != a
                    ]
    assert changed == {
        "QwardenLagAge": ["300"],
        "QwardenWatermarkStuck": ["300"],
        "QwardenReviewSlaBreached": ["60"],
        "QwardenDecisionsNotPublished": ["60"],
    }


def test_rules_in_a_hurry_are_others_than_the_rules() -> None:
    for path in OURS:
        text = path.read_text()
        calm, hasty = yaml.safe_load(text), yaml.safe_load(hurried(text, 10))
        for was, now in zip(calm["groups"], hasty["groups"], strict=True):
            assert was["name"] == now["name"]
            for before, after in zip(was["rules"], now["rules"], strict=True):
                assert before.keys() == after.keys()
                for key in before.keys() - {"expr", "for"}:
                    assert before[key] == after[key]
                if "for" in before:
                    assert seconds_of(after["for"]) == pytest.approx(seconds_of(before["for"]) / 10)
