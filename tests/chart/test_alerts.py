"""The alert rules, by Prometheus's own tool, and against what services and Triton export."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart import watched
from chart.watched import ROOT, RULES
from prometheuses import PROMTOOL, needs_promtool
from qwarden import catalogue

RUNBOOKS = ROOT / "docs" / "runbooks"
CRITICAL = {
    "QwardenWatermarkStuck",
    "QwardenLagAge",
    "QwardenTritonDown",
    "QwardenBreakerOpen",
    "QwardenIntakeHalted",
    "QwardenReviewSlaBreached",
}
"""Each of these is fired by its real fault in tests/alerts."""


def _tests_of(rules: Path) -> Path:
    return rules.with_name(rules.name.replace(".rules.yaml", ".rules.test.yaml"))


def _alerts() -> list[dict[str, Any]]:
    return [rule for rule in watched.rules() if "alert" in rule]


@needs_promtool
@pytest.mark.parts  # promtool takes 24 s of processor for them all
@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.name)
def test_an_alert_stays_silent_or_cries_wolf(rules: Path) -> None:
    done = subprocess.run(
        [str(PROMTOOL), "test", "rules", str(_tests_of(rules))],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_a_rule_is_recorded_twice() -> None:
    done = subprocess.run(
        [str(PROMTOOL), "check", "rules", "--lint-fatal", *map(str, RULES)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.name)
def test_an_alert_is_never_seen_to_fire_or_never_to_be_silent(rules: Path) -> None:
    """promtool is content with a file of tests that asks nothing."""
    tested = yaml.safe_load(_tests_of(rules).read_text(encoding="utf-8"))
    asked = [each for test in tested["tests"] for each in test.get("alert_rule_test", ())]
    fires = {each["alertname"] for each in asked if each["exp_alerts"]}
    silent = {each["alertname"] for each in asked if not each["exp_alerts"]}
    ours = {rule["alert"] for rule in watched.rules([rules]) if "alert" in rule}
    assert ours - fires == set()
    assert ours - silent == set()


@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.name)
def test_a_test_passes_by_chance(rules: Path) -> None:
    """Without an order promtool evaluates a file's groups in any, and an alert on what another
    group records is an interval later, or not."""
    groups = yaml.safe_load(rules.read_text(encoding="utf-8"))["groups"]
    tested = yaml.safe_load(_tests_of(rules).read_text(encoding="utf-8"))
    if len(groups) > 1:
        assert tested["group_eval_order"] == [group["name"] for group in groups]


@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.name)
def test_a_rule_watches_what_nobody_exports(rules: Path) -> None:
    known = watched.exported() | watched.recorded()
    for rule in watched.rules([rules]):
        assert watched.faults(rule["expr"], known) == [], rule.get("alert") or rule["record"]


def test_a_rule_that_watches_what_nobody_exports_is_not_found() -> None:
    known = watched.exported()
    for expression, fault in {
        "max(qwarden_haltz) > 0": "nobody exports or records qwarden_haltz",
        'qwarden_review_items{stat="open"}': "qwarden_review_items has no label stat",
        'qwarden_review_items{state="late"}': "qwarden_review_items never has state=late",
        'qwarden_review_items{state!~"open|late"}': "qwarden_review_items never has state=late",
        "sum by (queu) (qwarden_review_items)": "nothing there has the label queu",
    }.items():
        assert watched.faults(expression, known) == [fault]
    assert watched.faults('rate(qwarden_review_items{queue="a{b"}[5m]) > 2', known) == []


def test_two_fleets_in_one_prometheus_are_one() -> None:
    """Each rule keeps the namespace, so that one fleet's figures never hide another's."""
    for rule in watched.rules():
        for clause in re.findall(r"\bby \(([^)]*)\)", rule["expr"]):
            assert "namespace" in clause, rule.get("alert") or rule["record"]


def test_an_alert_tells_nobody_what_to_do() -> None:
    for rule in _alerts():
        assert rule["alert"].startswith("Qwarden")
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert (ROOT / rule["annotations"]["runbook"]).is_file(), rule["annotations"]["runbook"]
        page = (ROOT / rule["annotations"]["runbook"]).read_text(encoding="utf-8")
        assert "**Means**" in page
        assert "**Afterwards**" in page


def test_a_critical_alert_wakes_nobody() -> None:
    pages = {rule["alert"] for rule in _alerts() if rule["labels"]["severity"] == "page"}
    assert pages >= CRITICAL


def test_a_runbook_belongs_to_no_alert() -> None:
    told = {Path(rule["annotations"]["runbook"]).name for rule in _alerts()}
    assert {page.name for page in RUNBOOKS.glob("*.md")} == told


@pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda path: path.stem)
def test_a_runbook_asks_for_a_figure_that_nobody_exports(page: Path) -> None:
    """By this name and with this label: at night nobody guesses what was meant."""
    text = page.read_text(encoding="utf-8")
    known = watched.exported() | watched.recorded()
    named = known.keys() | {metric.name for metric in catalogue.services()}
    for name in set(re.findall(r"\bqwarden_\w+|\bqwarden:\w+(?::\w+)?|\bnv_\w+", text)):
        assert name in named, name
    for code in re.findall(r"`([^`]*)`", text):
        for asked in re.findall(r"qwarden_\w+\{[^}]*\}", code):
            assert watched.faults(asked, known) == [], asked


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_page_tells_of_an_alert_that_does_not_exist(page: Path) -> None:
    alerts = {rule["alert"] for rule in _alerts()}
    assert set(re.findall(r"\bQwarden[A-Z]\w+", page.read_text(encoding="utf-8"))) <= alerts


def test_a_window_of_an_slo_asks_something_else_than_the_others() -> None:
    """The same question in seven windows: copied by hand, changed by hand."""
    asked: dict[tuple[str, str], set[str]] = {}
    for rule in watched.rules([ROOT / "deploy" / "prometheus" / "slo.rules.yaml"]):
        window = re.search(r":(?:ratio_rate|increase|rate)(\w+)$", rule.get("record", ""))
        if window is None:
            continue
        kind = rule["record"].removesuffix(window[1])
        expression = rule["expr"].replace(f"[{window[1]}]", "[W]")
        expression = expression.replace(f"ratio_rate{window[1]}", "ratio_rateW")
        asked.setdefault((kind, rule.get("labels", {}).get("slo", "")), set()).add(expression)
    assert asked
    for what, expressions in asked.items():
        assert len(expressions) == 1, what
        assert "W" in expressions.pop()


def test_an_slo_counts_in_a_bucket_that_the_histogram_does_not_have() -> None:
    from qwarden import telemetry

    (family,) = telemetry.VERDICT_SECONDS.collect()
    telemetry.VERDICT_SECONDS.of("interactive")
    (family,) = telemetry.VERDICT_SECONDS.collect()
    buckets = {sample.labels["le"] for sample in family.samples if "le" in sample.labels}
    for rule in watched.rules():
        for each in watched.selectors(rule["expr"]):
            for label, operator, value in each.matchers:
                if (label, operator) == ("le", "="):
                    assert each.name == "qwarden_verdict_seconds_bucket"
                    assert value in buckets


def test_the_docs_promise_another_budget_than_the_rules() -> None:
    text = (ROOT / "docs" / "slo.md").read_text(encoding="utf-8")
    for rule in watched.rules([ROOT / "deploy" / "prometheus" / "slo.rules.yaml"]):
        if rule.get("record") == "qwarden:slo_budget:ratio":
            budget = float(rule["expr"].removeprefix("vector(").removesuffix(")"))
            lane = rule["labels"].get("lane", "")
            (row,) = [
                line
                for line in text.splitlines()
                if line.startswith(f"| `{rule['labels']['slo']}`") and lane in line
            ]
            assert f"{100 * (1 - budget):g} %" in row


def test_an_alert_is_held_back_by_one_that_does_not_exist() -> None:
    """Or one that says that time runs out is held back."""
    text = (ROOT / "deploy" / "prometheus" / "alertmanager.yml").read_text(encoding="utf-8")
    severity = {rule["alert"]: rule["labels"]["severity"] for rule in _alerts()}
    for rule in yaml.safe_load(text)["inhibit_rules"]:
        source, target = (
            set(re.findall(r"Qwarden\w+", " ".join(rule[f"{side}_matchers"])))
            for side in ("source", "target")
        )
        assert source | target <= severity.keys()
        assert {severity[name] for name in source} == {"page"}
        assert "namespace" in rule["equal"]
        # What has a job is held back by the same job's fault, or the rule says of which jobs it is.
        if {"QwardenLagAge", "QwardenWatermarkStuck", "QwardenNotReady"} & target:
            assert "job" in rule["equal"] or "job=" in " ".join(rule["target_matchers"])
        assert not target & {"QwardenLagNearsRetention", "QwardenReviewSlaBreached"}
