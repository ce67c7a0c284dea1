"""The real Prometheus as a child: it scrapes what a test names, by the rules that a test gives."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest
import yaml

from qwarden.stack.child import Child
from qwarden.stack.home import Home
from qwarden.stack.ports import free_ports
from qwarden.stack.probe import answers_200

PROMETHEUS = shutil.which("prometheus")
PROMTOOL = shutil.which("promtool")
_FIX = "(Debian: apt install prometheus)"

needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason=f"prometheus is missing {_FIX}")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason=f"promtool is missing {_FIX}")

READY_TIMEOUT_S = 60.0
"""Seconds for a start: 0.5 measured on two idle cores."""

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


class Prometheus:
    """A server of its own folder in the home; a context manager that starts and ends it.

    `targets`: host:port by job. `rules`: the text of each file of rules, by its name. `every_s`:
    seconds between scrapes, and between evaluations where a group names none. `namespace`: a label
    that every series gets, as the operator would give it.
    """

    def __init__(
        self,
        home: Home,
        targets: Mapping[str, Sequence[str]],
        rules: Mapping[str, str],
        *,
        every_s: float = 1.0,
        namespace: str = "local",
    ) -> None:
        (self._port,) = free_ports(1)
        folder = home.data("prometheus")
        for name, text in rules.items():
            (folder / name).write_text(text, encoding="utf-8")
        config = folder / "prometheus.yaml"
        config.write_text(
            yaml.safe_dump(_config(folder, targets, sorted(rules), every_s, namespace)),
            encoding="utf-8",
        )
        command = [
            PROMETHEUS or "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'series'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=warn",
        ]
        self.child = Child(home, "prometheus", command)
        self._client = httpx.Client(base_url=self.url, timeout=30)

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it and return when it answers queries.

        Raises StackError with its last lines if it ends first, such as for a rule that is wrong.
        """
        self.child.start()
        try:
            self.child.wait_ready(
                lambda: answers_200(self._port, "/-/ready"),
                READY_TIMEOUT_S,
                fix="promtool check rules says which rule is wrong.",
            )
        except BaseException:
            self.child.kill()
            raise

    def stop(self) -> None:
        """End it."""
        self._client.close()
        self.child.stop()

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

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _config(
    folder: Path,
    targets: Mapping[str, Sequence[str]],
    rules: Sequence[str],
    every_s: float,
    namespace: str,
) -> dict[str, Any]:
    every = f"{round(every_s * 1000)}ms"
    return {
        "global": {
            "scrape_interval": every,
            "scrape_timeout": every,
            "evaluation_interval": every,
        },
        "rule_files": [str(folder / name) for name in rules],
        "scrape_configs": [
            {
                "job_name": job,
                "static_configs": [{"targets": list(of), "labels": {"namespace": namespace}}],
            }
            for job, of in targets.items()
        ],
    }
