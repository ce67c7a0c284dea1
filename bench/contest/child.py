"""The bench's side of a contestant: its process, and questions to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from contest.rendering import Messages

BENCH = Path(__file__).parents[1]
_LEAVE_S = 30.0
"""For a contestant to end by itself: vLLM ends its own children first."""


class Worker:
    """One contestant's process. `log`: the file that gets what it prints."""

    def __init__(
        self, kind: str, log: Path, *, python: Path | None = None, env: Mapping[str, str]
    ) -> None:
        self.kind = kind
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        paths = [str(BENCH), *([os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else [])]
        with log.open("w") as printed:
            self._process = subprocess.Popen(
                [str(python or sys.executable), "-m", "contest.worker", kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **env},
                start_new_session=True,
            )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Its reply; leaves the bench with the last lines of its log where there is none."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
            sys.exit(f"{tail}\n{self.kind} ended while it was asked to {do}; see {self._log}")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def run(self, rows: Sequence[Messages], **options: Any) -> dict[str, Any]:
        """`seconds`, `answers` and `more` of one run."""
        return self.ask("run", rows=rows, **options)

    def close(self) -> None:
        """Ends the process and whatever it has started."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LEAVE_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
