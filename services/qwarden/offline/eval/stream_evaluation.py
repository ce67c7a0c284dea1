"""One evaluation of the stream guard: labelled rows as sessions, and what is written of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qwarden.guard.answer import Answer
from qwarden.guard.conversation import Task
from qwarden.guard.debounce import RULES
from qwarden.offline.eval.outcomes import outcomes_of
from qwarden.offline.eval.stream_choice import Choice, choice_of, text_of
from qwarden.offline.eval.stream_report import (
    StreamReport,
    answers_of,
    outcome_of,
    stream_report_of,
    tokens_of,
)
from qwarden.offline.eval.stream_rows import StreamRow
from qwarden.offline.eval.stream_spans import Decode
from qwarden.offline.eval.stream_table import stream_table
from qwarden.offline.stream_reading import ExchangeReader, Read, in_order


async def read_rows(
    reader: ExchangeReader, rows: Sequence[StreamRow], done: Callable[[int], object]
) -> list[Read]:
    """What the guard says of each row, in order; nothing of those that it could only refuse."""

    async def read(row: StreamRow) -> Read:
        return await reader.read(row.parts) if row.parts else Read("")

    reads = []
    async for _, each in in_order(rows, read):
        reads.append(each)
        done(1)
    return reads


@dataclass(frozen=True, slots=True)
class StreamEvaluation:
    """Rows, what the guard says of each, also at its end (`answers`), and all figures."""

    rows: Sequence[StreamRow]
    reads: Sequence[Read]
    answers: Sequence[Answer]
    report: StreamReport

    @classmethod
    def of(
        cls, rows: Sequence[StreamRow], reads: Sequence[Read], revision: str
    ) -> StreamEvaluation:
        """`revision`: of the guard, for rows that it was not asked about."""
        answers = answers_of(rows, reads, revision)
        return cls(rows, reads, answers, stream_report_of(rows, reads, answers))

    @property
    def unanswered(self) -> str | None:
        """Why, where no row was answered."""
        ends = self.report.ends
        return None if ends.answered else ends.not_answered.reasons[0].reason

    def json(self) -> bytes:
        return msgspec.json.encode(self.report)

    def text(self) -> str:
        return stream_table(self.report)

    def write(self, folder: Path) -> None:
        """Writes eval.json, table.md and the plots. Needs matplotlib."""
        from qwarden.offline.eval.plots import draw
        from qwarden.offline.eval.stream_plots import draw_stream

        (folder / "eval.json").write_bytes(msgspec.json.format(self.json(), indent=2) + b"\n")
        (folder / "table.md").write_text(self.text(), encoding="utf-8")
        outcomes = [
            outcome_of(row, read)
            for row, read in zip(self.rows, self.reads, strict=True)
            if read.thinking or read.response
        ]
        draw_stream(self.report, outcomes, folder)
        labelled = [row.labelled for row in self.rows]
        draw(self.report.ends, outcomes_of(labelled, self.answers), folder)

    def draw(self, folder: Path) -> list[Path]:
        """Writes a picture of each row, and answers where. Needs matplotlib."""
        files = []
        for row, read in zip(self.rows, self.reads, strict=True):
            if not row.parts or read.refused or read.failure:
                why = row.labelled.refused or read.refused or read.failure
                raise ValueError(f"the row {row.labelled.id} cannot be drawn: {why}")
            name = re.sub(r"[^\w.-]+", "_", row.labelled.id)[-100:]
            files.append(folder / f"{name}.png")
            _draw_row(row, read, files[-1])
        return files


def named(rows: Sequence[StreamRow], ids: Sequence[str]) -> list[StreamRow]:
    """The rows of these ids. Raises `ValueError` for one that no row has."""
    by_id = {row.labelled.id: row for row in rows}
    for each in ids:
        if each not in by_id:
            known = ", ".join(list(by_id)[:3])
            raise ValueError(
                f"no row has the id {each!r}; there are {len(by_id):,}, such as {known}"
            )
    return [by_id[each] for each in ids]


def decoder_of(tokenizer: str, hub_revision: str | None = None) -> Decode:
    """What decodes a tokenizer's ids: of a `tokenizer.json`, or of a checkpoint. Needs the extra
    `engine`. Raises `ValueError`."""
    path = Path(tokenizer)
    if path.is_file():
        from tokenizers import Tokenizer

        try:
            made = Tokenizer.from_file(str(path))
        except Exception as error:  # what the library raises is nothing more
            raise ValueError(f"--tokenizer {tokenizer} is no tokenizer.json: {error}") from None
    else:
        from qwarden_engine.checkpoint import family_of, open_checkpoint

        family = family_of(tokenizer, hub_revision)
        made = open_checkpoint(tokenizer, hub_revision, family).tokenizer

    def decode(ids: Sequence[int]) -> str:
        text: str = made.decode(list(ids), skip_special_tokens=False)
        return text

    return decode


def choices_of(
    rows: Sequence[StreamRow], reads: Sequence[Read], budget: float
) -> tuple[list[Choice], list[str]]:
    """A choice for thoughts and one for answers, and why there is none. An answer behind a thought
    is left out: whether it or the thought is what the label means, the file does not say."""
    choices, missing = [], []
    for task in (Task.THINKING, Task.RESPONSE):
        texts = [
            text_of(row.labelled.id, row.labelled.label, scored)
            for row, read in zip(rows, reads, strict=True)
            if row.labelled.task is task and (scored := tokens_of(read)[task]) and not read.closed
        ]
        if not texts:
            continue
        try:
            choices.append(choice_of(task, texts, budget))
        except ValueError as error:
            missing.append(str(error))
    if not choices and not missing:
        missing.append("the file has no thought and no answer to choose a rule on")
    return choices, missing


def _draw_row(row: StreamRow, read: Read, file: Path) -> None:
    """Writes the picture of one row. Needs matplotlib."""
    from qwarden.offline.score_sheet import draw_sheet, section_of

    tokens = tokens_of(read)
    asked = next(part for part in reversed(row.parts) if part.role == "user")
    prompt = () if read.prompt is None else (read.prompt,)
    sections = [section_of(Task.PROMPT, asked.text, prompt, RULES[Task.PROMPT])]
    offset = 0
    for task, text in row.texts:
        if task is Task.PROMPT:
            continue
        span = None
        if row.span is not None:
            span = max(0, row.span.start - offset), min(len(text), row.span.end - offset)
        sections.append(section_of(task, text, tokens[task], RULES[task], span))
        offset += len(text)
    labelled = row.labelled
    under = f"labelled {labelled.label}, from {labelled.source}; judged by {read.revision}"
    draw_sheet(labelled.id, under, sections, file)
