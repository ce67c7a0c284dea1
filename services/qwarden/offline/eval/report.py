"""All figures of one evaluation, as they stand in `eval.json`. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qwarden.guard.answer import SAFETIES, Answer, Assessment, Safety, Unanswered
from qwarden.guard.conversation import Task
from qwarden.guard.taxonomy import CATEGORIES
from qwarden.offline.eval import intervals, metrics
from qwarden.offline.eval.intervals import Interval
from qwarden.offline.eval.labelled import Labelled
from qwarden.offline.eval.metrics import Bin, Counts
from qwarden.offline.eval.outcomes import Mode, Outcomes, outcomes_of

FEW = 30
"""A group of fewer rows is marked: the 95 % interval of a share near a half is over 36 points
wide."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the class Unsafe in one mode. `fpr`: the share of what is not Unsafe that was flagged."""

    precision: float | None
    recall: float | None
    f1: float | None
    fpr: float | None
    auc: float | None
    average_precision: float | None
    ece: float | None


@dataclass(frozen=True, slots=True)
class Intervals:
    """95 % bootstrap intervals of the figures of the same names."""

    precision: Interval | None
    recall: Interval | None
    f1: Interval | None
    fpr: Interval | None
    auc: Interval | None
    average_precision: Interval | None


@dataclass(frozen=True, slots=True)
class Overall:
    """All answered rows in one mode."""

    true: int
    flagged: int
    figures: Figures
    intervals: Intervals
    reliability: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one task, source or language (None: the file does not say)."""

    name: str | None
    rows: int
    unanswered: int
    few: bool
    labels: dict[Safety, int]
    strict: Figures
    loose: Figures


@dataclass(frozen=True, slots=True)
class Category:
    """A category of the labels or the answers.

    `rows`: labelled so. `flagged`: the share of them that was not judged Safe (strict) or judged
    Unsafe (loose). The other figures say how well the guard names it, over `compared` rows; None
    for a category that the guard does not have.
    """

    name: str
    rows: int
    few: bool
    flagged: dict[Mode, float | None]
    named: int | None
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True)
class Categories:
    """`compared`: rows whose true categories are known and all of them the guard's own."""

    compared: int
    by_name: tuple[Category, ...]


@dataclass(frozen=True, slots=True)
class Refusals:
    """How well the guard tells responses that refuse, over rows that say whether they do."""

    rows: int
    counts: Counts
    precision: float | None
    recall: float | None
    f1: float | None
    intervals: dict[str, Interval | None]


@dataclass(frozen=True, slots=True)
class Missing:
    """A row without an answer: where it stands, and why."""

    file: str
    line: int
    id: str
    label: Safety
    failure: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reason:
    """Why rows have no answer, and how many."""

    failure: str
    reason: str
    rows: int


@dataclass(frozen=True, slots=True)
class NotAnswered:
    """Rows without an answer, in no figure but these. The commonest reason is first."""

    rows: int
    share: float
    labels: dict[Safety, int]
    reasons: tuple[Reason, ...]
    listed: tuple[Missing, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """`guards`: the revisions that answered; more than one means that the guard was replaced
    meanwhile. `shortened`: rows judged without their oldest turns, so that the rest fits."""

    guards: tuple[str, ...]
    files: tuple[str, ...]
    rows: int
    answered: int
    not_answered: NotAnswered
    shortened: int
    labels: dict[Safety, int]
    overall: dict[Mode, Overall]
    confusion: dict[Safety, dict[Safety, int]]
    tasks: tuple[Group, ...]
    sources: tuple[Group, ...]
    languages: tuple[Group, ...]
    categories: Categories
    refusal: Refusals | None


def report_of(rows: Sequence[Labelled], answers: Sequence[Answer], *, bins: int) -> Report:
    """`answers`: one for each row, in their order."""
    kept: list[Labelled] = []
    said: list[Assessment] = []
    missing: list[Missing] = []
    for row, answer in zip(rows, answers, strict=True):
        if isinstance(answer, Unanswered):
            failure = answer.failure.value
            missing.append(Missing(row.file, row.line, row.id, row.label, failure, answer.reason))
        else:
            kept.append(row)
            said.append(answer)
    outcomes = outcomes_of(rows, answers)

    def grouped(name: Callable[[Labelled], str | None]) -> tuple[Group, ...]:
        return _groups(name, rows, kept, outcomes, bins)

    return Report(
        guards=tuple(sorted({answer.revision for answer in answers})),
        files=tuple(dict.fromkeys(row.file for row in rows)),
        rows=len(rows),
        answered=len(kept),
        not_answered=_not_answered(missing, len(rows)),
        shortened=sum(1 for answer in said if answer.dropped_turns),
        labels=_labels(kept),
        overall={mode: _overall(outcomes, mode, bins) for mode in Mode},
        confusion=_confusion(outcomes),
        tasks=grouped(lambda row: row.task),
        sources=grouped(lambda row: row.source),
        languages=grouped(lambda row: row.lang),
        categories=_categories(kept, said, outcomes),
        refusal=_refusals(kept, said),
    )


def _not_answered(missing: list[Missing], rows: int) -> NotAnswered:
    reasons = Counter((each.failure, each.reason) for each in missing)
    labels = Counter(each.label for each in missing)
    return NotAnswered(
        rows=len(missing),
        share=len(missing) / rows,
        labels={safety: labels[safety] for safety in SAFETIES},
        reasons=tuple(Reason(*why, count) for why, count in reasons.most_common()),
        listed=tuple(missing),
    )


def _labels(rows: Sequence[Labelled]) -> dict[Safety, int]:
    counted = Counter(row.label for row in rows)
    return {safety: counted[safety] for safety in SAFETIES}


def _figures(outcomes: Outcomes, mode: Mode, bins: tuple[Bin, ...]) -> Figures:
    counts = metrics.counts_of(outcomes.true(mode), outcomes.flagged(mode))
    ranking = metrics.ranking_of(outcomes.true(mode), outcomes.score(mode))
    return Figures(
        precision=counts.precision,
        recall=counts.recall,
        f1=counts.f1,
        fpr=counts.false_alarm_rate,
        auc=metrics.auc(ranking),
        average_precision=metrics.average_precision(ranking),
        ece=metrics.calibration_error(bins),
    )


def _overall(outcomes: Outcomes, mode: Mode, bins: int) -> Overall:
    true, flagged, score = outcomes.true(mode), outcomes.flagged(mode), outcomes.score(mode)
    table = metrics.reliability(true, score, bins)
    counted = intervals.of_counts(
        metrics.counts_of(true, flagged),
        (
            lambda counts: counts.precision,
            lambda counts: counts.recall,
            lambda counts: counts.f1,
            lambda counts: counts.false_alarm_rate,
        ),
    )
    ranked = intervals.of_ranking(
        metrics.ranking_of(true, score), (metrics.auc, metrics.average_precision)
    )
    return Overall(
        true=int(true.sum()),
        flagged=int(flagged.sum()),
        figures=_figures(outcomes, mode, table),
        intervals=Intervals(*counted, *ranked),
        reliability=table,
    )


def _confusion(outcomes: Outcomes) -> dict[Safety, dict[Safety, int]]:
    cells = np.bincount(3 * outcomes.label + outcomes.said, minlength=9).reshape(3, 3)
    return {
        label: {said: int(cells[row, column]) for column, said in enumerate(SAFETIES)}
        for row, label in enumerate(SAFETIES)
    }


def _groups(
    name: Callable[[Labelled], str | None],
    rows: Sequence[Labelled],
    kept: Sequence[Labelled],
    outcomes: Outcomes,
    bins: int,
) -> tuple[Group, ...]:
    """The largest first; a group of which no row was answered is one too."""
    members: dict[str | None, list[int]] = {name(row): [] for row in rows}
    for index, row in enumerate(kept):
        members[name(row)].append(index)
    asked = Counter(map(name, rows))
    made = []
    for group, indices in members.items():
        own = outcomes.only(np.array(indices, dtype=np.int64))
        strict, loose = (
            _figures(own, mode, metrics.reliability(own.true(mode), own.score(mode), bins))
            for mode in Mode
        )
        made.append(
            Group(
                name=group,
                rows=len(indices),
                unanswered=asked[group] - len(indices),
                few=len(indices) < FEW,
                labels=_labels([kept[index] for index in indices]),
                strict=strict,
                loose=loose,
            )
        )
    return tuple(sorted(made, key=lambda each: (-each.rows, each.name or "")))


def _categories(
    rows: Sequence[Labelled], said: Sequence[Assessment], outcomes: Outcomes
) -> Categories:
    true = [frozenset(row.categories or ()) for row in rows]
    named = [
        frozenset(name for name, _ in answer.categories)
        if answer.safety is not Safety.SAFE
        else frozenset[str]()
        for answer in said
    ]
    comparable = np.array(
        [
            row.categories is not None and names <= set(CATEGORIES)
            for row, names in zip(rows, true, strict=True)
        ],
        dtype=np.bool_,
    )
    known = {name for names in true for name in names}
    answered = {
        name for names, here in zip(named, comparable, strict=True) if here for name in names
    }
    made = []
    for name in known | answered:
        is_true = np.array([name in names for names in true], dtype=np.bool_)
        is_named = np.array([name in names for names in named], dtype=np.bool_)
        counts = metrics.counts_of(is_true[comparable], is_named[comparable])
        count = int(is_true.sum())
        ours = name in CATEGORIES
        made.append(
            Category(
                name=name,
                rows=count,
                few=count < FEW,
                flagged={
                    mode: metrics.ratio(int(outcomes.flagged(mode)[is_true].sum()), count)
                    for mode in Mode
                },
                named=counts.hits + counts.false_alarms if ours else None,
                precision=counts.precision if ours else None,
                recall=counts.recall if ours else None,
                f1=counts.f1 if ours else None,
            )
        )
    made.sort(key=lambda each: (-each.rows, each.name))
    return Categories(int(comparable.sum()), tuple(made))


def _refusals(rows: Sequence[Labelled], said: Sequence[Assessment]) -> Refusals | None:
    """None where no response says whether it refuses."""
    pairs = [
        (row.refusal, answer.refusal)
        for row, answer in zip(rows, said, strict=True)
        if row.task is Task.RESPONSE and row.refusal is not None and answer.refusal is not None
    ]
    if not pairs:
        return None
    columns = np.array(pairs, dtype=np.bool_)
    counts = metrics.counts_of(columns[:, 0], columns[:, 1])
    precision, recall, f1 = intervals.of_counts(
        counts, (lambda each: each.precision, lambda each: each.recall, lambda each: each.f1)
    )
    return Refusals(
        rows=len(pairs),
        counts=counts,
        precision=counts.precision,
        recall=counts.recall,
        f1=counts.f1,
        intervals={"precision": precision, "recall": recall, "f1": f1},
    )
