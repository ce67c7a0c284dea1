"""The project's own alerts over real parts, by the real Prometheus, in a hurry."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import fleet
from hurried import hurried
from prometheuses import Watching
from qwarden.stack.home import Home

FACTOR = 20.0
"""By which every time in the rules is divided: five minutes are fifteen seconds. A higher one makes
the windows of the SLOs too short for two scrapes of a second by this machine."""

RULES = Path(__file__).parents[2] / "deploy" / "prometheus"


class Watch:
    """Prometheus with all of the project's rules. `home`: of its own, so that it knows of no other
    test's targets. `targets`: host:port by job."""

    def __init__(self, home: Home, targets: Mapping[str, Sequence[str]]) -> None:
        rules = {
            path.name: hurried(path.read_text(encoding="utf-8"), FACTOR)
            for path in sorted(RULES.glob("*.rules.yaml"))
        }
        self.prometheus = Watching(home, targets, rules)

    async def __aenter__(self) -> Watch:
        await asyncio.to_thread(self.prometheus.start)
        return self

    async def __aexit__(self, *failure: object) -> None:
        await asyncio.to_thread(self.prometheus.stop)

    async def firing(self, severity: str = "page") -> set[str]:
        """The names of what fires."""
        alerts = await asyncio.to_thread(self.prometheus.alerts)
        return {
            each.name for each in alerts if each.state == "firing" and each["severity"] == severity
        }

    async def has(self, query: str, within_s: float = 60) -> None:
        """Waits until a query says something."""

        async def says() -> bool:
            return bool(await asyncio.to_thread(self.prometheus.ask, query))

        await fleet.until(says, f"Prometheus has {query}", within_s)

    async def fires(self, name: str, within_s: float = 90) -> float:
        """Waits until an alert fires; seconds that it took."""
        return await self._until(name, True, within_s)

    async def clears(self, name: str, within_s: float = 90) -> float:
        """Waits until an alert does not fire any more; seconds that it took."""
        return await self._until(name, False, within_s)

    async def _until(self, name: str, fires: bool, within_s: float) -> float:
        began = time.monotonic()

        async def so() -> bool:
            found = await asyncio.to_thread(self.prometheus.firing, name)
            return bool(found) == fires

        what = f"{name} {'fires' if fires else 'clears'}"
        try:
            await fleet.until(so, what, within_s)
        except AssertionError as late:
            failing = self.prometheus.failing_rules()
            raise AssertionError(
                f"{late}; firing: {sorted(await self.firing())}; rules that fail: {failing}"
            ) from None
        return time.monotonic() - began


def qwarden(settings: Mapping[str, str], *words: str) -> str:
    """What a command says, as an operator would type it; it must end well."""
    done = subprocess.run(
        [sys.executable, "-m", "qwarden", *words],
        env={**os.environ, **settings},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
