"""The files and folders that a command reads and writes, seen to before the work starts."""

from __future__ import annotations

import codecs
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from qwarden.cli.terminal import WRONG_USE, OutputLost, end, write


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Any]:
    """A file to read, or standard input where it is called -."""
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    if not file.exists() or file.is_dir():  # a pipe of the shell's is no file, and can be read
        end(WRONG_USE, f"there is no file {file}")
    with file.open("rb") as source:
        yield source


def lines_of(file: Path) -> list[bytes]:
    """The lines of a JSONL, without their ends and without blank ones."""
    with opened(file) as source:
        lines = [line.rstrip(b"\r\n") for line in source]
    if lines:
        lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
    return [line for line in lines if line]


@contextlib.contextmanager
def appending(file: Path | None) -> Iterator[Callable[[bytes], None]]:
    """What writes lines behind those that a file has, or to standard output where there is none.
    It raises `OutputLost` where no more can be written."""
    if file is None:
        yield write
        return
    if file.exists() and not file.is_file():
        end(WRONG_USE, f"--out {file}: is no file; name one, or pipe standard output there")
    try:
        sink = file.open("ab", buffering=0)
    except OSError as error:
        if not file.parent.exists():
            end(WRONG_USE, f"--out {file}: there is no folder {file.parent}; make it first")
        end(WRONG_USE, f"--out {file}: {error.strerror}; name another file")

    def append(lines: bytes) -> None:
        left = memoryview(lines)
        try:
            while left:
                left = left[sink.write(left) :]
        except OSError as error:
            raise OutputLost(
                f"--out {file}: {error.strerror}; mend that and run the same again, which goes on "
                "where this has stopped"
            ) from None

    with sink:
        yield append


def made(folder: Path, option: str, *names: str) -> None:
    """Makes the folder that an option names, where files of these names are to be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for name in names:
            if (folder / name).exists():
                with (folder / name).open("ab"):
                    pass
    except OSError as error:
        end(WRONG_USE, f"{option} {folder}: {error.strerror}; name another folder")
