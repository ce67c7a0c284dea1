"""The port to a guard. Every adapter passes `tests/contract/engine/test_guard_port.py`."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

from qwarden.guard.answer import Answer


class Trouble(enum.Enum):
    """Why a request has no answers: what may be concluded from it, and what may not."""

    AWAY = enum.auto()
    """Nobody answers, or nobody who could: says nothing of the rows, whatever comes after."""
    BUSY = enum.auto()
    """The guard is there and has enough: says nothing of the rows; ask for less at a time."""
    FAILED = enum.auto()
    """This request failed, or took too long: a row of it, or the guard, is to blame."""


class GuardUnavailable(Exception):
    """A request as a whole has no answers now. Ask again, as its trouble says."""

    def __init__(self, reason: str, trouble: Trouble = Trouble.AWAY) -> None:
        super().__init__(reason)
        self.trouble = trouble


class GuardFailed(Exception):
    """The guard cannot answer any more, and no waiting mends it: only a new start does."""


class Guard(Protocol):
    """Judges rows, many at a time."""

    async def revision(self) -> str:
        """The revision that answers now. Raises `GuardUnavailable`."""
        ...

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        """An answer for each row (`row_of`), in their order, within `timeout_s` seconds (the
        adapter's own limit where it is None).

        A row that cannot be judged is an `Unanswered` of its own; the rows beside it are
        answered. Raises `GuardUnavailable` where the request as a whole has no answers,
        `GuardFailed` where every later one will have none either.
        """
        ...

    async def close(self) -> None: ...
