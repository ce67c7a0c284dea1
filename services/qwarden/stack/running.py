"""Which process runs the stack of a home: at most one, and how to end it from elsewhere."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import IO, Any

from qwarden.stack.errors import StackError
from qwarden.stack.home import Home, write_private
from qwarden.stack.process import Process

STOP_TIMEOUT_S = 120.0
"""Seconds that a stack has to end: over the longest graces of its parts, one after the other."""

_KILLED_TIMEOUT_S = 30.0
"""Seconds until the children of a killed stack are gone: over the watchdog's grace."""


class Claim:
    """This process's hold on a home, by a lock that ends with the process.

    The pid file beside it only tells others whom to signal, so a stale one says nothing.
    """

    def __init__(self, home: Home, lock: IO[str]) -> None:
        self._home = home
        self._lock = lock
        self._write({})

    @classmethod
    def take(cls, home: Home) -> Claim:
        """Claim `home`. Raises StackError if another stack runs there."""
        home.root.mkdir(parents=True, exist_ok=True)
        lock = (home.root / "stack.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            found = _read(home)
            which = f", as process {found[0].pid}" if found is not None else ""
            raise StackError(
                f"A stack runs already in {home.root}{which}: `qwarden down` ends it."
            ) from None
        return cls(home, lock)

    def name_children(self, children: Mapping[str, Process]) -> None:
        """Note the processes of the parts, so that `stop_running` can wait for them too."""
        self._write(children)

    def release(self) -> None:
        """Give the home back."""
        self._home.pid_file.unlink(missing_ok=True)
        self._lock.close()

    def _write(self, children: Mapping[str, Process]) -> None:
        own = Process.of(os.getpid())
        assert own is not None
        noted = {"stack": asdict(own)} | {name: asdict(each) for name, each in children.items()}
        write_private(self._home.pid_file, json.dumps(noted, indent=1) + "\n")


def running(home: Home) -> Process | None:
    """Return the process that runs the stack of `home`, or None."""
    found = _read(home)
    return found[0] if found is not None and found[0].alive else None


def stop_running(home: Home) -> bool:
    """End the stack of `home` and return when all of it is gone; False where none runs.

    Raises StackError if something is left after STOP_TIMEOUT_S seconds and a kill.
    """
    found = _read(home)
    if found is None:
        return False
    stack, *children = found
    ran = stack.alive
    stack.signal(signal.SIGTERM)
    _wait([stack], STOP_TIMEOUT_S)
    stack.signal(signal.SIGKILL)
    for each in _wait([stack, *children], _KILLED_TIMEOUT_S):
        each.signal(signal.SIGKILL)
    left = _wait([stack, *children], _KILLED_TIMEOUT_S)
    if left:
        pids = ", ".join(str(each.pid) for each in left)
        raise StackError(
            f"Of the stack in {home.root} the processes {pids} did not end: kill them."
        )
    if not ran:
        home.pid_file.unlink(missing_ok=True)
    home.forget()
    return ran


def _read(home: Home) -> list[Process] | None:
    """Return the stack's process and its children's, as the pid file names them."""
    try:
        noted: dict[str, Any] = json.loads(home.pid_file.read_text(encoding="utf-8"))
        return [Process(each["pid"], each["began"]) for each in noted.values()] or None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _wait(processes: list[Process], timeout_s: float) -> list[Process]:
    """Wait until `processes` have ended; return those that have not."""
    until = time.monotonic() + timeout_s
    while (left := [each for each in processes if each.alive]) and time.monotonic() < until:
        time.sleep(0.05)
    return left
