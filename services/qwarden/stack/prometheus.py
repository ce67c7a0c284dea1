"""Prometheus, where the machine has it: for the alerts' tests, and for rules under simulation."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from qwarden.stack.child import Child
from qwarden.stack.errors import StackError
from qwarden.stack.home import Home
from qwarden.stack.part import Part
from qwarden.stack.ports import free_ports
from qwarden.stack.probe import answers_200


def available() -> str | None:
    """Return why Prometheus cannot run here, in a sentence, or None where it can."""
    if shutil.which("prometheus") is None:
        return "Prometheus is not installed. Install it (Debian: apt install prometheus)."
    return None


class Prometheus(Part):
    """A server that keeps its series in the home.

    `config`: what its file says. `rules`: the text of each file of rules, by its name, which the
    file then names. `options`: more of the server's own.
    """

    READY_TIMEOUT_S = 60.0  # 0.5 measured on two idle cores
    STOP_GRACE_S = 10.0  # it writes its last two hours
    FIX = "`promtool check rules` says which rule is wrong."

    def __init__(
        self,
        home: Home,
        config: Mapping[str, Any],
        rules: Mapping[str, str],
        *,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._home = home
        self._config = config
        self._rules = rules
        self._options = options
        (self.port,) = free_ports(1)

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://127.0.0.1:{self.port}"

    def _prepare(self) -> Child:
        reason = available()
        if reason is not None:
            raise StackError(reason)
        folder = self._home.data("prometheus")
        for name, text in self._rules.items():
            (folder / name).write_text(text, encoding="utf-8")
        config = {**self._config, "rule_files": [str(folder / name) for name in self._rules]}
        file = folder / "prometheus.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        command = [
            "prometheus",
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'series'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
            *self._options,
        ]
        return Child(self._home, "prometheus", command)

    def _answers(self) -> bool:
        return answers_200(self.port, "/-/ready")


def scraping(jobs: Mapping[str, Mapping[str, Any]], every_s: float) -> dict[str, Any]:
    """Return a configuration that scrapes every `every_s` seconds, and evaluates as often where a
    group of rules names no time of its own. `jobs`: by name, what Prometheus is to know of each."""
    every = f"{round(every_s * 1000)}ms"
    return {
        "global": {
            "scrape_interval": every,
            "scrape_timeout": every,
            "evaluation_interval": every,
        },
        "scrape_configs": [{"job_name": name, **job} for name, job in jobs.items()],
    }
