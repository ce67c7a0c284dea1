"""A guard without a model: its answers come from a function. For tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qwarden.guard.answer import Answer, Failure, Unanswered
from qwarden.guard.conversation import Conversation, refusal_of


class MemoryGuard:
    """Answers at once, with what `judge` says of a conversation and its bytes."""

    def __init__(self, judge: Callable[[bytes], Answer], *, revision: str = "memory@0") -> None:
        self._judge = judge
        self._revision = revision

    async def revision(self) -> str:
        return self._revision

    async def judge(
        self, conversations: Sequence[bytes], *, timeout_s: float | None = None
    ) -> list[Answer]:
        return [self._answer(row) for row in conversations]

    async def close(self) -> None:
        return None

    def _answer(self, row: bytes) -> Answer:
        try:
            conversation = Conversation.from_json(row)
            reason = refusal_of(conversation.task, conversation.turns)
        except ValueError as error:
            reason = str(error)
        if reason:
            return Unanswered(Failure.REFUSED, reason, self._revision)
        return self._judge(row)
