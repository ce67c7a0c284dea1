"""A server of the local stack: it is started until it answers, and it never outlives its owner."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar, Self

from qwarden.stack.child import Child, Progress, quiet

_CRASHED_S = 5.0
"""Seconds in which a process that was told so has ended: Triton's supervisor looks every 0.2 s."""


class Part(ABC):
    """One server as a child process; a context manager that starts and ends it.

    Its addresses stay the same when it is stopped or killed and started again.
    """

    READY_TIMEOUT_S: ClassVar[float]
    """Seconds that a start may take."""
    STOP_GRACE_S: ClassVar[float]
    """Seconds that an orderly end may take before the server is killed."""
    FIX: ClassVar[str]
    """The sentence that follows a start that failed."""
    STARTING: ClassVar[str] = "starting"
    """What it does until it answers."""
    END: ClassVar[signal.Signals] = signal.SIGTERM
    """What asks it to end in order."""

    def __init__(self, progress: Progress = quiet) -> None:
        self._progress = progress
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        """The server's process. Raises RuntimeError before the first start."""
        if self._child is None:
            raise RuntimeError(f"{type(self).__name__} has no process before its first start.")
        return self._child

    @property
    def alive(self) -> bool:
        """Whether the server runs."""
        return self._child is not None and self._child.alive

    def begin(self) -> None:
        """Start the server and return at once, before it answers.

        Raises StackError if it cannot be had here.
        """
        if self._child is None:
            self._child = self._prepare()
        self._progress(self.STARTING, None)
        self._child.start()

    def start(self) -> None:
        """Start the server and return when it answers.

        Raises StackError if it cannot be had here, or with its last lines if it does not start.
        """
        self.begin()
        try:
            self.child.wait_ready(
                self._answers,
                self.READY_TIMEOUT_S,
                fix=self.FIX,
                progress=lambda said, done: self._progress(f"{self.STARTING}, {said}", done),
            )
        except BaseException:
            self.kill()
            raise

    def stop(self, grace_s: float | None = None) -> None:
        """End the server in order, within `grace_s` seconds, STOP_GRACE_S by default."""
        if self._child is not None:
            self._child.signal(self.END)
            self._child.wait(self.STOP_GRACE_S if grace_s is None else grace_s)
            self.kill()

    def kill(self) -> None:
        """End the server as a crash would, and return when all of it is gone."""
        if self._child is not None:
            self._crash(self._child)
            self._child.wait(_CRASHED_S)
            self._child.kill()

    def hurry(self) -> None:
        """Begin what `kill` does and return at once; a `stop` under way then ends soon."""
        if self.alive:
            self._crash(self.child)

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

    @abstractmethod
    def _prepare(self) -> Child:
        """Make what the server needs, and its process, which is not started yet.

        Raises StackError if this machine cannot run it.
        """

    @abstractmethod
    def _answers(self) -> bool:
        """Ask the server itself whether it is ready; an OSError means no."""

    def _crash(self, child: Child) -> None:
        """Send what ends the server at once, and all that it has started."""
        child.hurry()
