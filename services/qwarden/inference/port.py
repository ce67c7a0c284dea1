"""The port to a guard. Every adapter passes `tests/contract/test_guard_port.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from qwarden.guard.answer import Answer


class GuardUnavailable(Exception):
    """The guard cannot answer now: an outage. Nothing is known of any row; ask again."""


class GuardFailed(Exception):
    """The guard cannot answer any more, and no waiting mends it: only a new start does."""


class Guard(Protocol):
    """Judges rows, many at a time."""

    async def revision(self) -> str:
        """The revision that answers now. Raises `GuardUnavailable`."""
        ...

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        """An answer for each row (`row_of`), in their order.

        A row that cannot be judged is an `Unanswered` of its own; the rows beside it are
        answered. Raises `GuardUnavailable` where the request as a whole failed, `GuardFailed` where
        every later one will too.
        """
        ...

    async def close(self) -> None: ...
