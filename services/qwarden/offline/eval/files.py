"""Labelled files, plain or gzipped, read to their end before anything is judged."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from typing import Any, Generic, TypeVar

import msgspec

from qwarden.offline.eval.names import ABSENT, Names

R = TypeVar("R")

_GZIP = b"\x1f\x8b"


class Reader(Generic[R]):
    """Reads files with one set of names, each line's object by `row_of`, which is also given the
    names, the file's name and the line's number. A bad line raises `ValueError` with file, line and
    what to do: a row that is skipped in silence would make the figures those of another file."""

    def __init__(
        self, names: Names, row_of: Callable[[Mapping[str, Any], Names, str, int], R]
    ) -> None:
        self._names = names
        self._row_of = row_of
        self._unseen = set(names.fields)
        self.rows: list[R] = []

    def read(self, name: str, file: BufferedReader) -> None:
        """Adds the rows of one file."""
        for number, line in _lines(name, file):
            try:
                body = _body(line)
                self.rows.append(self._row_of(body, self._names, name, number))
            except ValueError as error:
                raise ValueError(f"line {number:,} of {name}: {error}") from None
            self._unseen -= {
                field for field in self._unseen if self._names.value(body, field) is not ABSENT
            }

    def close(self) -> None:
        """Raises `ValueError` where there is no row, or a named field stands in none."""
        if not self.rows:
            raise ValueError("there is no row to judge; a labelled file has one JSON object a line")
        for field in sorted(self._unseen):
            raise ValueError(
                f"--field {field}={self._names.fields[field]}: no row has such a field; correct "
                "its name, or leave the option out"
            )


def _body(line: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error}); repair it or take it out") from None
    if not isinstance(body, dict):
        raise ValueError("it is not a JSON object; repair it or take it out")
    return body


def _lines(name: str, file: BufferedReader) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    zipped = file.peek(2)[:2] == _GZIP
    try:
        for number, line in enumerate(gzip.GzipFile(fileobj=file) if zipped else file, 1):
            content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if content.strip():
                yield number, content
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{name} cannot be read to its end: {error}; fetch it again") from None
