"""A guard without a model: its answers come from a function. For tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qwarden.guard.answer import Answer, Failure, Unanswered
from qwarden.guard.row import Row


class MemoryGuard:
    """Answers at once, with what `judge` says of a row's bytes; what it raises is raised, also a
    `GuardUnavailable` of any trouble."""

    def __init__(self, judge: Callable[[bytes], Answer], *, revision: str = "memory@0") -> None:
        self._judge = judge
        self._revision = revision

    async def revision(self) -> str:
        return self._revision

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        return [self._answer(row) for row in rows]

    async def close(self) -> None:
        return None

    def _answer(self, row: bytes) -> Answer:
        try:
            Row.from_json(row)
        except ValueError as error:
            return Unanswered(Failure.REFUSED, str(error), self._revision)
        return self._judge(row)
