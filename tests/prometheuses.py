"""The real Prometheus: it scrapes what a test names, by the rules that a test gives."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from qwarden.stack.home import Home
from qwarden.stack.prometheus import Prometheus, available, scraping

PROMTOOL = shutil.which("promtool")

needs_prometheus = pytest.mark.skipif(available() is not None, reason=available() or "")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is missing (Debian: apt install prometheus)"
)

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One series at one moment: its labels in the order of their names, and its value."""

    labels: Labels
    value: float

    def __getitem__(self, name: str) -> str:
        """The value of a label; empty where there is none, as Prometheus has it."""
        return dict(self.labels).get(name, "")


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that is pending or firing, with its labels in the order of their names."""

    name: str
    state: str
    labels: Labels

    def __getitem__(self, name: str) -> str:
        """The value of a label; empty where there is none."""
        return dict(self.labels).get(name, "")


class Watching(Prometheus):
    """One that scrapes `targets`, host:port by job, each second; `rules`: the text of each file."""

    def __init__(
        self, home: Home, targets: Mapping[str, Sequence[str]], rules: Mapping[str, str]
    ) -> None:
        # A label that the operator gives every series.
        labels = {"namespace": "local"}
        jobs = {
            job: {"static_configs": [{"targets": list(of), "labels": labels}]}
            for job, of in targets.items()
        }
        super().__init__(home, scraping(jobs, every_s=1.0), rules)
        self._client = httpx.Client(base_url=self.url, timeout=30)

    def stop(self, grace_s: float | None = None) -> None:
        """End it."""
        self._client.close()
        super().stop(grace_s)

    def ask(self, query: str) -> list[Sample]:
        """What a query says now: of a vector each series, of a scalar one without labels."""
        said = self._get("/api/v1/query", query=query)
        if said["resultType"] == "scalar":
            return [Sample((), float(said["result"][1]))]
        return [
            Sample(tuple(sorted(each["metric"].items())), float(each["value"][1]))
            for each in said["result"]
        ]

    def alerts(self) -> list[Alert]:
        """The alerts that are pending or firing."""
        return [
            Alert(each["labels"]["alertname"], each["state"], tuple(sorted(each["labels"].items())))
            for each in self._get("/api/v1/alerts")["alerts"]
        ]

    def firing(self, name: str) -> list[Alert]:
        """Those of one name that fire."""
        return [each for each in self.alerts() if (each.name, each.state) == (name, "firing")]

    def failing_rules(self) -> list[str]:
        """The rules whose last evaluation failed, each with why."""
        return [
            f"{rule['name']}: {rule.get('lastError')}"
            for group in self._get("/api/v1/rules")["groups"]
            for rule in group["rules"]
            if rule["health"] == "err"
        ]

    def _get(self, path: str, **query: str) -> Any:
        answer = self._client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]
