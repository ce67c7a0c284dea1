"""A stack that runs on after the command that started it: `qwarden up --detach`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from qwarden.stack.errors import StackError
from qwarden.stack.home import Home
from qwarden.stack.stack import PARTS, SERVICES, Stack, StackProgress, run


def start_detached(
    home: Home,
    *,
    services: Sequence[str] = SERVICES,
    parts: Sequence[str] = PARTS,
    settings: Mapping[str, str] | None = None,
    progress: StackProgress = lambda part, message, fraction: None,
) -> None:
    """Start a `Stack` in a process and session of its own, and return when it is ready.

    Arguments as for `Stack`; `stop_running` ends it. Raises StackError as `Stack.start` does;
    an interruption of this call (KeyboardInterrupt) ends what it started.
    """
    request = {
        "root": str(home.root),
        "services": list(services),
        "parts": list(parts),
        "settings": dict(settings or {}),
    }
    log = home.logs / "stack.log"
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "qwarden.stack.detached"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            text=True,
        )
    assert process.stdin is not None and process.stdout is not None
    try:
        # By the pipe, because an argument list can be read by everybody on the machine.
        with process.stdin as pipe:
            pipe.write(json.dumps(request))
        if not _follow(process.stdout, progress):
            raise StackError("The stack ended while it started.", log=log)
    except StackError:
        process.wait()
        raise
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        process.stdout.close()


def _follow(lines: IO[str], progress: StackProgress) -> bool:
    """Hand on what the other process says; True once it is ready, False if it fell silent."""
    for line in lines:
        kind, *words = json.loads(line)
        if kind == "ready":
            return True
        if kind == "failed":
            message, log = words
            raise StackError(message, log=None if log is None else Path(log))
        progress(*words)
    return False


def main() -> int:
    """Run the stack that standard input asks for; tell the caller on standard output."""
    request = json.loads(sys.stdin.read())
    log = sys.stderr.fileno()
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(log, 1)

    def tell(*words: str | float | None) -> None:
        try:
            print(json.dumps(words), file=told)
        except (OSError, ValueError):  # the caller has what it waited for, or is gone
            print(json.dumps(words), file=sys.stderr, flush=True)

    def ready() -> None:
        tell("ready")
        told.close()

    stack = Stack(
        Home(Path(request["root"])),
        services=request["services"],
        parts=request["parts"],
        settings=request["settings"],
        progress=lambda part, message, fraction: tell("progress", part, message, fraction),
    )
    try:
        run(stack, ready)
    except StackError as error:
        tell("failed", error.message, None if error.log is None else str(error.log))
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
