"""The engine's sign of life: a count of finished slices, in a file that its supervisor reads.

A busy engine moves it, however long its queue is; so a server is never ended for being busy.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

PULSE = "pulse"
"""Name of its file."""

_FORM = struct.Struct("<Qd?")


@dataclass(frozen=True, slots=True)
class Beat:
    """`count`: slices and micro-batches finished in this life. `slice_s`: seconds of the slowest.
    `running`: whether one is under way."""

    count: int
    slice_s: float
    running: bool


def read_beat(path: Path) -> Beat | None:
    """What the engine last wrote, or None where it has not written yet."""
    try:
        return Beat(*_FORM.unpack(path.read_bytes()))
    except (OSError, struct.error):
        return None


class Pulse:
    """Writes the beats. `path`: in shared memory; None for an engine that nobody supervises."""

    def __init__(self, path: Path | None) -> None:
        self._file = (
            None if path is None else os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        )
        self._count = 0
        self._slowest = 0.0
        self._since = 0.0
        self._write(running=False)

    def starts(self) -> None:
        """A slice or a micro-batch begins."""
        self._since = time.monotonic()
        self._write(running=True)

    def ends(self) -> float:
        """It has ended; returns its seconds."""
        took = time.monotonic() - self._since
        self._count += 1
        self._slowest = max(self._slowest, took)
        self._write(running=False)
        return took

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, *, running: bool) -> None:
        if self._file is not None:
            os.pwrite(self._file, _FORM.pack(self._count, self._slowest, running), 0)
