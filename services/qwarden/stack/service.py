"""One of our own services, and the commands that prepare the stack for them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from qwarden.stack.child import Child, Progress, quiet
from qwarden.stack.errors import StackError
from qwarden.stack.home import Home
from qwarden.stack.ports import free_ports
from qwarden.stack.probe import answers_200

READY_TIMEOUT_S = 600.0
"""Seconds for a start: a second, but minutes where the engine loads a large guard in process."""

STOP_GRACE_S = 30.0
"""Seconds for a stop: over the 20 s that a moderator may drain (`moderator.drain_s`)."""

TOPICS_TIMEOUT_S = 60.0
"""Seconds in which the topics are made: two measured, most of it the start of Python."""


class Service:
    """`qwarden NAME` as a child; a context manager that starts and ends it.

    `settings`: its environment beside its own HTTP port. The address stays the same when it is
    stopped or killed and started again.
    """

    def __init__(
        self, home: Home, name: str, settings: Mapping[str, str], *, progress: Progress = quiet
    ) -> None:
        self.name = name
        self._progress = progress
        (self._port,) = free_ports(1)
        own = {
            "QWARDEN_HTTP__HOST": "127.0.0.1",
            "QWARDEN_HTTP__PORT": str(self._port),
            "QWARDEN_REVIEW__PUBLIC_URL": f"http://127.0.0.1:{self._port}",
        }
        self.child = Child(home, name, _qwarden(name), env={**settings, **own})

    @property
    def http(self) -> str:
        """Its host:port for /metrics, /healthz, /readyz and its own API."""
        return f"127.0.0.1:{self._port}"

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.child.alive

    def start(self) -> None:
        """Start it and return when it is ready.

        Raises StackError with its last lines if it ends first.
        """
        self._progress("starting", None)
        self.child.start()
        try:
            self.child.wait_ready(
                lambda: answers_200(self._port, "/readyz"),
                READY_TIMEOUT_S,
                fix="Its log says what it waits for.",
                progress=self._progress,
            )
        except BaseException:
            self.child.kill()
            raise

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Ask it to finish what it has and end, within `grace_s` seconds."""
        self.child.stop(grace_s)

    def kill(self) -> None:
        """End it as a crash would."""
        self.child.kill()

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
    return [sys.executable, "-m", "qwarden.cli", *words]
