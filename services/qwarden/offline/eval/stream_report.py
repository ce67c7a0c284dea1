"""All figures of one evaluation of the stream guard, as they stand in `eval.json`. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from qwarden.guard.answer import SAFETIES, Answer, Assessment, Failure, Safety, Unanswered
from qwarden.guard.conversation import Task
from qwarden.guard.stream import Scored
from qwarden.offline.eval import intervals
from qwarden.offline.eval.intervals import Interval
from qwarden.offline.eval.outcomes import Mode
from qwarden.offline.eval.report import FEW, Report, report_of
from qwarden.offline.eval.stream_measures import (
    Debounce,
    Flag,
    Latency,
    Tokens,
    detection_of,
    flag_of,
    latency_of,
    tokens_after,
    tokens_of_span,
)
from qwarden.offline.eval.stream_rows import StreamRow
from qwarden.offline.stream_reading import Read

_BINS = 15
"""Of the reliability table, as `eval` has them by default."""


@dataclass(frozen=True, slots=True)
class Detection:
    """Rows that are Unsafe and rows that are flagged, in one mode, under one rule. `f1_interval`,
    `fpr_interval`: 95 % bootstrap."""

    true: int
    flagged: int
    precision: float | None
    recall: float | None
    f1: float | None
    fpr: float | None
    f1_interval: Interval | None
    fpr_interval: Interval | None


@dataclass(frozen=True, slots=True)
class Ruled:
    """Under one rule: `modes`, and where its flags as not Safe fall (`latency`, of rows with a
    span)."""

    modes: dict[Mode, Detection]
    latency: Latency | None


@dataclass(frozen=True, slots=True)
class Source:
    """The rows of one source, under the default rules."""

    name: str
    rows: int
    few: bool
    labels: dict[Safety, int]
    modes: dict[Mode, Detection]


@dataclass(frozen=True, slots=True)
class Split:
    """The rows with a thought, or those with an answer alone. `name`: the split of Qwen3GuardTest
    that it looks like. `spans`: rows that say where the first unsafe sentence stands, and `shared`
    those of them where that is told by the share of tokens only. `closed`: whose context was full
    before the end."""

    name: str
    task: Task
    rows: int
    labels: dict[Safety, int]
    spans: int
    shared: int
    closed: int
    rules: dict[Debounce, Ruled]
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class StreamReport:
    """`ends`: the figures of what is said at the end of each text, the prompts' too."""

    splits: tuple[Split, ...]
    ends: Report


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row, the tokens of its texts, its flags, and where each falls beside its span: `after` has
    None for a row that is missed, and nothing where the row has no span."""

    row: StreamRow
    tokens: Tokens
    flags: dict[Debounce, Flag]
    after: dict[Debounce, int | None]


def answers_of(rows: Sequence[StreamRow], reads: Sequence[Read], revision: str) -> list[Answer]:
    """What is said at the end of each row's texts. `revision`: of the guard, for rows that it was
    not asked about."""
    return [_end(row, read, revision) for row, read in zip(rows, reads, strict=True)]


def stream_report_of(
    rows: Sequence[StreamRow], reads: Sequence[Read], answers: Sequence[Answer]
) -> StreamReport:
    """`reads` and `answers`: one for each row, in their order."""
    splits = []
    for task in (Task.THINKING, Task.RESPONSE):
        own = [
            (row, read)
            for row, read, answer in zip(rows, reads, answers, strict=True)
            if row.labelled.task is task and isinstance(answer, Assessment)
        ]
        if own:
            splits.append(_split(task, own))
    return StreamReport(
        tuple(splits), report_of([row.labelled for row in rows], answers, bins=_BINS)
    )


def _end(row: StreamRow, read: Read, revision: str) -> Answer:
    if not row.parts or read.refused:
        return Unanswered(Failure.REFUSED, row.labelled.refused or read.refused, revision)
    if read.failure:
        return Unanswered(Failure.NO_ANSWER, read.failure, read.revision or revision)
    last: Scored | None
    if row.labelled.task is Task.PROMPT:
        last = read.prompt
    else:
        last = (read.response or read.thinking or (None,))[-1]
    if last is None:
        if read.closed:
            reason = "the context was full before the judged text"
            return Unanswered(Failure.TOO_LONG, reason, read.revision)
        return Unanswered(Failure.REFUSED, "its text has no token to judge", read.revision)
    count = len(read.thinking) + len(read.response) or 1
    return Assessment(last.logits, last.categories[:1], None, count, 0, read.revision)


def outcome_of(row: StreamRow, read: Read) -> Outcome:
    tokens = tokens_of(read)
    flags = {debounce: flag_of(debounce, tokens) for debounce in Debounce}
    after: dict[Debounce, int | None] = {}
    if row.span is not None:
        thought = sum(len(text) for task, text in row.texts if task is Task.THINKING)
        first, last = tokens_of_span(tokens, row.span.start, row.span.end, thought)
        after = {each: tokens_after(flag.strict, first, last) for each, flag in flags.items()}
    return Outcome(row, tokens, flags, after)


def tokens_of(read: Read) -> Tokens:
    return {Task.THINKING: read.thinking, Task.RESPONSE: read.response}


def _split(task: Task, own: Sequence[tuple[StreamRow, Read]]) -> Split:
    found = [outcome_of(row, read) for row, read in own]
    labels = _labels(found)
    spans = [each.row.span for each in found if each.row.span is not None]
    is_loc = labels[Safety.UNSAFE] == len(found)
    return Split(
        name=f"{task}{'_loc' if is_loc else ''}",
        task=task,
        rows=len(found),
        labels=labels,
        spans=len(spans),
        shared=sum(not span.is_exact for span in spans),
        closed=sum(read.closed for _, read in own),
        rules={
            each: Ruled(
                _modes(found, each),
                latency_of([one.after[each] for one in found if one.after]) if spans else None,
            )
            for each in Debounce
        },
        sources=_sources(found),
    )


def _sources(found: Sequence[Outcome]) -> tuple[Source, ...]:
    members: dict[str, list[Outcome]] = {}
    for each in found:
        members.setdefault(each.row.labelled.source, []).append(each)
    made = [
        Source(name, len(own), len(own) < FEW, _labels(own), _modes(own, Debounce.DEFAULT))
        for name, own in members.items()
    ]
    return tuple(sorted(made, key=lambda each: (-each.rows, each.name)))


def _labels(found: Sequence[Outcome]) -> dict[Safety, int]:
    counted = Counter(each.row.labelled.label for each in found)
    return {safety: counted[safety] for safety in SAFETIES}


def _modes(found: Sequence[Outcome], debounce: Debounce) -> dict[Mode, Detection]:
    labels = [each.row.labelled.label for each in found]
    flags = [each.flags[debounce] for each in found]
    modes = {}
    for mode in Mode:
        counts = detection_of(labels, flags, mode)
        f1, fpr = intervals.of_counts(
            counts, (lambda each: each.f1, lambda each: each.false_alarm_rate)
        )
        modes[mode] = Detection(
            counts.hits + counts.misses,
            counts.hits + counts.false_alarms,
            counts.precision,
            counts.recall,
            counts.f1,
            counts.false_alarm_rate,
            f1,
            fpr,
        )
    return modes
