"""One of our own services, and the commands that prepare the stack for them."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from qwarden.stack.child import Child, Progress, quiet
from qwarden.stack.errors import StackError
from qwarden.stack.home import Home
from qwarden.stack.part import Part
from qwarden.stack.ports import free_ports
from qwarden.stack.probe import answers_200

PUBLIC_URL = "QWARDEN_REVIEW__PUBLIC_URL"
"""Where people reach the review service: what the links begin with that they are given."""

TOPICS_TIMEOUT_S = 60.0
"""Seconds in which the topics are made: two measured, most of it the start of Python."""


class Service(Part):
    """`qwarden NAME`. `settings`: its environment beside its own HTTP port."""

    READY_TIMEOUT_S = 600.0  # a second, but minutes where the engine loads a large guard in process
    STOP_GRACE_S = 30.0  # over the 20 s that a moderator may drain (`moderator.drain_s`)
    FIX = "Its log says what it waits for."

    def __init__(
        self, home: Home, name: str, settings: Mapping[str, str], *, progress: Progress = quiet
    ) -> None:
        super().__init__(progress)
        self.name = name
        self._home = home
        (self._port,) = free_ports(1)
        self._settings = {
            **settings,
            "QWARDEN_HTTP__HOST": "127.0.0.1",
            "QWARDEN_HTTP__PORT": str(self._port),
            PUBLIC_URL: self.url,
        }

    @property
    def http(self) -> str:
        """Its host:port for /metrics, /healthz, /readyz and its own API."""
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """`http`, as people open it."""
        return f"http://{self.http}"

    def _prepare(self) -> Child:
        return Child(self._home, self.name, _qwarden(self.name), env=self._settings)

    def _answers(self) -> bool:
        return answers_200(self._port, "/readyz")


def create_topics(home: Home, settings: Mapping[str, str]) -> None:
    """Run `qwarden topics create` against the broker that `settings` names.

    Raises StackError if it does not end well in TOPICS_TIMEOUT_S.
    """
    child = Child(home, "topics", _qwarden("topics", "create"), env=settings)
    child.start()
    code = child.wait(TOPICS_TIMEOUT_S)
    child.kill()
    if code != 0:
        what = "took too long" if code is None else f"ended with code {code}"
        raise StackError(
            f"`qwarden topics create` {what}. It said last:\n{child.tail()}\n", log=child.log
        )


def _qwarden(*words: str) -> list[str]:
    return [sys.executable, "-m", "qwarden", *words]
