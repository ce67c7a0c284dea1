"""Which row ended the engine's process: found by the engine itself, from one life to the next.

Before each forward the hashes of its rows are written to a file that outlives the process. A life
that finds some there knows that they were running when the last one ended. It gives each of them a
micro-batch of its own: who comes back is cleared; who stood alone at two deaths is convicted, and
answered `crashed` without a forward; but only where a known good conversation, run alone between
the two, came back. Else it is the machine or the deploy that dies, and nobody is convicted for it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

LEDGER = "running.json"
"""Name of its file."""

GOOD = "good"
"""Stands for the known good conversation, which is never convicted."""

LIMIT = 1024
"""Rows that are remembered, suspects and convicts each. A micro-batch has far fewer; the oldest go
first, which costs a convict that comes again two more deaths."""


@dataclass(slots=True)
class Suspect:
    """`alone`: whether it stood alone at a death. `good`: whether the known good conversation
    came back alone since."""

    alone: bool = False
    good: bool = False


@dataclass(slots=True)
class Record:
    """What outlives a death. Pure: `died` and the others say how it changes."""

    running: list[str] = field(default_factory=list)
    suspects: dict[str, Suspect] = field(default_factory=dict)
    convicted: list[str] = field(default_factory=list)

    def died(self) -> None:
        """A life ended with a forward under way, or none was."""
        running, self.running = self.running, []
        if running == [GOOD]:
            # What had to be good was not: no death counts for the rows.
            for suspect in self.suspects.values():
                suspect.alone = suspect.good = False
            return
        if len(running) > 1:
            for row in running:
                self.suspects.setdefault(row, Suspect())
        for row in running if len(running) == 1 else ():
            suspect = self.suspects.setdefault(row, Suspect())
            if suspect.alone and suspect.good:
                del self.suspects[row]
                self.convicted.append(row)
            else:
                suspect.alone, suspect.good = True, False
        while len(self.suspects) > LIMIT:
            del self.suspects[next(iter(self.suspects))]
        del self.convicted[:-LIMIT]

    def came_back(self, *, whole: bool) -> None:
        """The forward under way ended. `whole`: with it, all that its row needs is forwarded."""
        if self.running == [GOOD]:
            for suspect in self.suspects.values():
                suspect.good = True
        elif len(self.running) == 1 and whole:
            self.suspects.pop(self.running[0], None)
        self.running = []

    def must_be_alone(self, row: str) -> bool:
        return row in self.suspects

    def wants_good_first(self, row: str) -> bool:
        """Whether the known good conversation has to come back before this row is tried again."""
        suspect = self.suspects.get(row)
        return suspect is not None and suspect.alone and not suspect.good


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


class Ledger:
    """The record in its file. Without a `path` it lives as long as the process, and convicts
    nobody. One process at a time writes a file."""

    def __init__(self, path: Path | None) -> None:
        self.record = Record()
        self._file: int | None = None
        if path is not None:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self.record = _read(self._file)
            self.record.died()
            self._write()

    def starts(self, rows: Sequence[str]) -> None:
        """These rows are forwarded now."""
        self.record.running = list(rows)
        self._write()

    def came_back(self, *, whole: bool = True) -> None:
        """The forward ended, well or with an error that the engine has caught."""
        self.record.came_back(whole=whole)
        self._write()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self) -> None:
        if self._file is None:
            return
        body = _encoder.encode(self.record)
        # One call: the kernel finishes it even where the process is killed in it.
        os.pwrite(self._file, len(body).to_bytes(4, "little") + body, 0)


def forgive(path: Path) -> None:
    """Takes back that anything was running: the process was ended from outside."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        record = _read(file)
        record.running = []
        body = _encoder.encode(record)
        os.pwrite(file, len(body).to_bytes(4, "little") + body, 0)
    finally:
        os.close(file)


def _read(file: int) -> Record:
    """What the file holds; nothing where it is of another version or damaged: that convicts
    nobody."""
    length = int.from_bytes(os.pread(file, 4, 0), "little")
    body = os.pread(file, min(length, os.fstat(file).st_size), 4)
    try:
        return _decoder.decode(body) if body else Record()
    except (ValueError, RecursionError):
        return Record()
