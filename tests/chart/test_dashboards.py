"""The dashboards: each question is one that Prometheus understands and that somebody answers.

No Grafana runs here: what is not tested is how they look.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart import watched
from chart.boards import DASHBOARDS, filled_in, panels, questions, read
from chart.watched import Series
from prometheuses import PROMTOOL, needs_promtool

ALERTS = Series("ALERTS", dict.fromkeys(("alertname", "alertstate", "severity"), ()))
UNITS = {"short", "cps", "reqps", "s", "µs", "d", "bytes", "percentunit", "bool_yes_no"}
"""Of Grafana's, those that are used: a wrong one is shown as text behind each number."""

each_dashboard = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


def test_a_dashboard_is_missing() -> None:
    assert [path.stem for path in DASHBOARDS] == ["fleet", "model", "review", "tenant"]


@each_dashboard
def test_a_panel_asks_for_what_nobody_exports(path: Path) -> None:
    known = watched.exported() | watched.recorded() | {"ALERTS": ALERTS}
    for title, expression in questions(read(path)):
        assert watched.faults(filled_in(expression), known) == [], title


@needs_promtool
def test_a_panel_asks_what_prometheus_does_not_understand(tmp_path: Path) -> None:
    asked = [
        {"record": f"asked:{number}", "expr": filled_in(expression)}
        for number, expression in enumerate(
            expression for path in DASHBOARDS for _, expression in questions(read(path))
        )
    ]
    rules = tmp_path / "asked.yaml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": asked}]}))
    done = subprocess.run(
        [str(PROMTOOL), "check", "rules", str(rules)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(asked)} rules found" in done.stdout


@each_dashboard
def test_a_panel_shows_another_fleet_s_figures(path: Path) -> None:
    for title, expression in questions(read(path)):
        for each in watched.selectors(expression):
            if each.name != "qwarden_build_info" or "by (namespace)" not in expression:
                asked = [m for m in each.matchers if m[0] == "namespace"]
                assert asked == [("namespace", "=~", "$namespace")], f"{title}: {expression}"


@each_dashboard
def test_a_panel_leaves_open_what_it_shows(path: Path) -> None:
    for panel in panels(read(path)):
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["targets"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        if len(panel["targets"]) > 1:
            legends = [target["legendFormat"] for target in panel["targets"]]
            assert len(set(legends)) == len(legends), panel["title"]
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = watched.grouping(target["expr"])
            recorded = "qwarden:" in target["expr"]
            assert recorded or shown <= grouped, panel["title"]


@each_dashboard
def test_a_dashboard_is_bound_to_one_grafana(path: Path) -> None:
    board = read(path)
    assert board["uid"] == f"qwarden-{path.stem}"
    assert "id" not in board
    variables = [each["name"] for each in board["templating"]["list"]]
    assert variables[:2] == ["datasource", "namespace"]
    assert board["templating"]["list"][0]["type"] == "datasource"
    # Panels do not aggregate by namespace: two of them at once would be shown as one fleet.
    (namespace,) = [each for each in board["templating"]["list"] if each["name"] == "namespace"]
    assert not namespace["includeAll"]
    assert not namespace["multi"]
    source = {"type": "prometheus", "uid": "${datasource}"}
    asking = [*panels(board), *board["annotations"]["list"]]
    asking += [each for each in board["templating"]["list"] if each["type"] == "query"]
    asking += [target for panel in panels(board) for target in panel["targets"]]
    assert all(each["datasource"] == source for each in asking)
    for name in re.findall(r"\$\{?([a-z]\w*)", json.dumps(board)):
        assert name in variables, name


@each_dashboard
def test_a_panel_lies_on_another_one(path: Path) -> None:
    board = read(path)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize(
    "alert", [rule for rule in watched.rules() if "alert" in rule], ids=lambda rule: rule["alert"]
)
def test_an_alert_fires_about_what_no_dashboard_shows(alert: dict[str, Any]) -> None:
    shown = {
        each.name
        for path in DASHBOARDS
        for _, expression in questions(read(path))
        for each in watched.selectors(expression)
    }
    asked = {each.name for each in watched.selectors(alert["expr"])}
    known = {rule["record"]: rule["expr"] for rule in watched.rules() if "record" in rule}
    for name in list(asked):
        if name in known:
            asked |= {each.name for each in watched.selectors(known[name])}
    assert asked & shown
