"""The chain that the audit log's rows stand in: each hash covers its row and the hash before. Pure.

Whoever changes, drops, swaps or adds a row breaks every hash from there on. Whoever drops the last
ones is found by who kept a `ChainHead` of theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

START = "0" * 64
"""What stands before the first row."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row with its place, as its hash covers it. `about`: the JSON text as it is kept."""

    number: int
    at: float
    actor: str
    act: str
    tenant: str
    item_id: str | None
    about: str
    position: int


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The last row at some moment: its place and its hash."""

    position: int
    chained: str


def chained(previous: str, row: Row) -> str:
    """SHA-256 in 64 hexadecimal digits, over canonical JSON (keys sorted, no spaces, UTF-8): the
    row's fields, and `previous`, the hash before."""
    fields = {**msgspec.structs.asdict(row), "previous": previous}
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()


class Checking:
    """Walks along a chain from its start. `broken_at`: the first position where the row is not
    what was sealed there, or None."""

    def __init__(self, known: ChainHead | None = None) -> None:
        self.rows = 0
        self.head = ChainHead(-1, START)
        self.broken_at: int | None = None
        self._known = known

    def take(self, rows: Iterable[tuple[Row, str]]) -> None:
        """The next rows in the order of their positions, each with its hash."""
        for row, said in rows:
            position = self.head.position + 1
            is_whole = row.position == position and said == chained(self.head.chained, row)
            is_known = (
                self._known is None
                or self._known.position != position
                or self._known.chained == said
            )
            if self.broken_at is None and not (is_whole and is_known):
                self.broken_at = position
            self.rows += 1
            self.head = ChainHead(position, said)

    def end(self) -> None:
        """There are no more rows."""
        known = self._known
        if self.broken_at is None and known is not None and known.position > self.head.position:
            self.broken_at = self.head.position + 1
