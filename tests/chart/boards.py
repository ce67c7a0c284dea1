"""The dashboards as files, and the questions that they ask Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chart.watched import ROOT

DASHBOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))


def read(path: Path) -> dict[str, Any]:
    """A dashboard."""
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Its panels, without the titles of rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def questions(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each panel's title and expression, and those of annotations and variables."""
    for panel in panels(board):
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for each in board["annotations"]["list"]:
        yield each["name"], each["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert asked is not None, variable["name"]
            yield variable["name"], f"count by ({asked[2]}) ({asked[1]})"


def filled_in(expression: str) -> str:
    """With Grafana's own variables as it would fill them in."""
    for name, value in {"$__rate_interval": "1m", "$__range": "6h"}.items():
        expression = expression.replace(name, value)
    return re.sub(r'"\$(?:namespace|tenant)"', '".*"', expression)
