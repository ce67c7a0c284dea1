"""`qwarden` as a person types it: in this process, or in one of its own where that is the point (it
is killed, or its memory, its files or its end are looked at)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TextIO
from unittest import mock

from qwarden import cli

WITHIN_S = 300.0
"""Of a command in a process of its own: over the start of a whole stack on two busy cores."""


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """The records of JSON that it printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def line(self) -> Any:
        """The only one."""
        (line,) = self.lines or [None]
        assert line is not None, self.err
        return line


class Shell:
    """A terminal in a folder of its own, with these settings and none of the machine's."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.folder = folder
        kept = {name: text for name, text in os.environ.items() if not name.startswith("QWARDEN_")}
        own = {"QWARDEN_STACK__HOME": str(folder / "stack"), "COLUMNS": "250"}
        self.environ: dict[str, str] = {**kept, **own, **settings}

    def under(self, **settings: str) -> Shell:
        """The same with these settings too."""
        return Shell(self.folder, {**self.environ, **settings})

    def __call__(self, *words: object, stdin: bytes = b"", stdout: TextIO | None = None) -> Said:
        """Runs `qwarden WORDS` in this process to its end; `stdout`: where else its output goes."""
        out, err = _written(), _written()
        with (
            mock.patch.dict(os.environ, self.environ, clear=True),
            mock.patch.multiple(
                sys, argv=["qwarden", *map(str, words)], stdin=io.TextIOWrapper(io.BytesIO(stdin))
            ),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(stdout or out),
            contextlib.redirect_stderr(err),
            _logs_of_a_new_process(),
        ):
            gc.freeze()  # what was there before is not looked through
            code = _ended()
            gc.collect()  # what it has left open says so when it is collected
            gc.unfreeze()
        return Said(code, _read(out), _read(err))

    def alone_if(self, asks: bool) -> Callable[..., Said]:
        """How to run a command that asks over gRPC (`asks`), or any other: gRPC has one poller in a
        process, which complains of what earlier commands' loops have left."""
        return self.process if asks else self

    async def run(self, *words: object) -> Said:
        """The same beside a loop that goes on: a command has its own."""
        return await asyncio.to_thread(self, *words)

    def process(
        self,
        *words: object,
        stdout: IO[bytes] | int = subprocess.PIPE,
        before: Callable[[], None] | None = None,
    ) -> Said:
        """Runs it to its end in a process of its own. `before`: done in it at its start."""
        ran = subprocess.run(
            _line(words),
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=self.environ,
            cwd=self.folder,
            timeout=WITHIN_S,
            check=False,
            preexec_fn=before,
        )
        return Said(ran.returncode, (ran.stdout or b"").decode(), ran.stderr.decode())

    def begun(
        self, *words: object, stderr: IO[bytes] | int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Begins it in a process of its own, for what is done while it runs."""
        return subprocess.Popen(
            _line(words),
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=self.environ,
            cwd=self.folder,
            text=True,
            preexec_fn=_heed_ctrl_c,  # noqa: PLW1509 - it takes no lock
        )


def _heed_ctrl_c() -> None:
    """What a shell runs in its background ignores Ctrl-C, and so would what that begins."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _line(words: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-m", "qwarden", *map(str, words)]


def _ended() -> int:
    """Runs the command line; how it ended."""
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code or 0
        assert isinstance(code, int), code
        return code
    raise AssertionError("a command line ends its process")


def _written() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def _read(written: io.TextIOWrapper) -> str:
    written.seek(0)
    return written.read()


@contextlib.contextmanager
def _logs_of_a_new_process() -> Iterator[None]:
    """Nobody listens to the logs yet, so that warnings go to standard error; and what a command
    sets ends with it."""
    root = logging.root
    handlers, level, disabled = root.handlers, root.level, root.manager.disable
    root.handlers = []
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
        logging.disable(disabled)
