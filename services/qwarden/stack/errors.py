"""What goes wrong with the local stack."""

from __future__ import annotations

from pathlib import Path


class StackError(Exception):
    """A part of the stack did not start, or is missing; the message is a sentence with the fix.

    `log`: the file in which the part says more, where it got far enough to write one.
    """

    def __init__(self, message: str, *, log: Path | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.log = log

    def __str__(self) -> str:
        """Return the message, and where the log is."""
        return self.message if self.log is None else f"{self.message} Its log: {self.log}"


class Interrupted(StackError):
    """Somebody ended the stack before it had done what it was started for."""
