"""A guard without a model: its answers come from a function. For tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from qwarden.guard.answer import Answer, Assessment, Entry, Failure, Unanswered, assessment_of
from qwarden.guard.normaliser import normalised
from qwarden.guard.row import Row, View, rewritten, row_of


class MemoryGuard:
    """Answers at once, with what `judge` says of a row's bytes; what it raises is raised, also a
    `GuardUnavailable` of any trouble. A text that evades is judged as a person reads it too."""

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
            asked = Row.from_json(row)
        except ValueError as error:
            return Unanswered(Failure.REFUSED, str(error), self._revision)
        answer = self._judge(row)
        if View.NORMALISED not in asked.views or isinstance(answer, Unanswered):
            return answer
        plain = rewritten(asked.conversation, normalised)
        if plain is None:
            return answer
        other = self._judge(row_of(plain.to_json(), (View.AS_SENT,), exact=asked.exact))
        if isinstance(other, Unanswered):
            return other
        entries = [
            *_entries(answer),
            *(replace(entry, view=View.NORMALISED) for entry in _entries(other)),
        ]
        return assessment_of(entries, answer.dropped_turns, answer.revision)


def _entries(answer: Assessment) -> Sequence[Entry]:
    only = Entry(View.AS_SENT, 0, answer.logits, answer.categories, answer.refusal, answer.tokens)
    return answer.entries or (only,)
