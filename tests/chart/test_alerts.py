"""The alert rules, by Prometheus's own tool."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

from qwarden import telemetry

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "deploy" / "prometheus").glob("*.rules.yaml"))
PROMTOOL = shutil.which("promtool")

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is missing (Debian: apt install prometheus)"
)


@needs_promtool
@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.name)
def test_an_alert_stays_silent_or_cries_wolf(rules: Path) -> None:
    tests = rules.with_name(rules.name.replace(".rules.yaml", ".rules.test.yaml"))
    done = subprocess.run(
        [str(PROMTOOL), "test", "rules", str(tests)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.name)
def test_an_alert_watches_a_metric_that_nobody_exports(rules: Path) -> None:
    assert telemetry.REVIEW_ITEMS, "its import registers every metric"
    exported = {
        name for family in REGISTRY.collect() for name in (family.name, f"{family.name}_total")
    }
    watched = set(re.findall(r"\bqwarden_[a-z_]+", "".join(_expressions(rules))))
    assert watched
    assert watched <= exported


@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.name)
def test_an_alert_s_runbook_is_missing(rules: Path) -> None:
    runbooks = re.findall(r"runbook: (\S+)", rules.read_text(encoding="utf-8"))
    assert runbooks
    assert all((ROOT / each).is_file() for each in runbooks)


def _expressions(rules: Path) -> list[str]:
    groups = yaml.safe_load(rules.read_text(encoding="utf-8"))["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]
