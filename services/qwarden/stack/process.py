"""Which process a process id means: a number alone may belong to another program by now."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """A process id and when that process began, in the kernel's own words."""

    pid: int
    began: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Return the process that has this id now, or None; a zombie has ended."""
        began = _began(pid)
        return None if began is None else cls(pid, began)

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return _began(self.pid) == self.began

    def signal(self, number: int) -> None:
        """Send it a signal; nothing happens where it has ended."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def descendants(pid: int | None) -> list[Process]:
    """Return the living children of a process, their children, and so on. Linux only."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))) is not None:
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found: list[Process] = []
    todo = parents.get(pid, []) if pid is not None else []
    while todo:
        process = Process.of(todo[0])
        found += [process] if process is not None else []
        todo = todo[1:] + parents.get(todo[0], [])
    return found


def _stat(pid: int) -> list[str] | None:
    """Return what the kernel says of a process, from its state (field 3) on; None if it ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # after the name, which may hold anything
    return None if fields[0] in "ZX" else fields


def _began(pid: int) -> str | None:
    if sys.platform == "linux":
        fields = _stat(pid)
        return None if fields is None else fields[19]
    said = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split(maxsplit=1)
    return None if len(said) < 2 or said[0].startswith("Z") else said[1].strip()
