"""One evaluation: labelled rows through the guard, and what is written of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qwarden.guard.answer import Answer
from qwarden.inference.dispatch import Dispatcher
from qwarden.offline.eval.asking import ask
from qwarden.offline.eval.labelled import Labelled
from qwarden.offline.eval.outcomes import outcomes_of
from qwarden.offline.eval.report import Report, report_of
from qwarden.offline.eval.table import table


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Rows, the guard's answer to each, and all figures."""

    rows: Sequence[Labelled]
    answers: Sequence[Answer]
    report: Report

    @property
    def unanswered(self) -> str | None:
        """Why, where no row was answered."""
        if self.report.answered:
            return None
        return self.report.not_answered.reasons[0].reason

    def json(self) -> bytes:
        return msgspec.json.encode(self.report)

    def text(self) -> str:
        return table(self.report)

    def write(self, folder: Path) -> None:
        """Writes eval.json, table.md and the plots. Needs matplotlib."""
        from qwarden.offline.eval.plots import draw

        (folder / "eval.json").write_bytes(msgspec.json.format(self.json(), indent=2) + b"\n")
        (folder / "table.md").write_text(self.text(), encoding="utf-8")
        draw(self.report, outcomes_of(self.rows, self.answers), folder)


async def evaluate(
    dispatcher: Dispatcher,
    rows: Sequence[Labelled],
    revision: str,
    *,
    bins: int,
    done: Callable[[int], object],
) -> Evaluation:
    """Asks the guard of `revision` for every row; `done` is told how many more are answered."""
    answers = await ask(dispatcher, rows, revision, done)
    return Evaluation(rows, answers, report_of(rows, answers, bins=bins))
