"""What a command says: its result on standard output, all else on standard error."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn

import msgspec
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

NO, WRONG_USE, MISSING = 1, 2, 3
"""Exit codes: the answer is no, the command was called wrongly, a dependency is missing."""
INTERRUPTED = 128 + signal.SIGINT
"""As shells report what Ctrl-C has ended."""

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class OutputLost(Exception):
    """What a command has found cannot be written; the message says where, and what to do."""


def end(code: int, sentence: str) -> NoReturn:
    """Ends the command with a sentence on standard error."""
    err.print(sentence, style="red" if code else "", markup=False)
    raise SystemExit(code)


def show(what: RenderableType) -> None:
    """Prints for people to read. Raises `OutputLost`."""
    with _standard_output():
        out.print(what, markup=False)


def write(data: bytes) -> None:
    """Writes bytes as they are, at once. Raises `OutputLost`."""
    with _standard_output():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def write_json(record: object) -> None:
    """Writes a record as a line of JSON. Raises `OutputLost`."""
    write(msgspec.json.encode(record) + b"\n")


def show_rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints rows in columns, whole whatever the window's width: ids are copied from them. Raises
    `OutputLost`."""
    every = [head, *rows]
    widths = [max(len(row[at]) for row in every) for at in range(len(head))]
    for row in every:
        show("  ".join(map(str.ljust, row, widths)).rstrip())


@contextlib.contextmanager
def _standard_output() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # the reader has what it wanted
        raise
    except OSError as error:
        # Else the interpreter tries again to write what is left, and complains when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputLost(
            f"standard output cannot be written: {error.strerror}; send it elsewhere"
        ) from None


@contextlib.contextmanager
def bar(what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, where somebody looks at it."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        task = progress.add_task(what, total=total, completed=done)
        yield lambda count: progress.advance(task, count)
