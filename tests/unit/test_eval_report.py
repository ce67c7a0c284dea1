"""The report of a few rows that can be counted by hand, and what is shown of it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwarden.guard.answer import Answer, Assessment, Failure, Safety, Unanswered
from qwarden.guard.conversation import Task
from qwarden.inference.dispatch import Dispatcher, Limits
from qwarden.inference.memory import MemoryGuard
from qwarden.offline.eval.asking import ask
from qwarden.offline.eval.evaluation import Evaluation
from qwarden.offline.eval.labelled import Labelled, labelled_of
from qwarden.offline.eval.names import names_of
from qwarden.offline.eval.outcomes import Mode
from qwarden.offline.eval.report import FEW, Category, report_of
from qwarden.stack.home import Home
from unit.builders import CONTROVERSIAL, REVISION, SAFE, UNSAFE, assessment, unanswered

os.environ.setdefault("MPLCONFIGDIR", str(Home().cache("matplotlib")))

LOGITS = {Safety.SAFE: SAFE, Safety.CONTROVERSIAL: CONTROVERSIAL, Safety.UNSAFE: UNSAFE}


def row(label: Safety, **fields: Any) -> Labelled:
    plain = Labelled("a.jsonl", 1, "one", "a", "en", Task.PROMPT, label, None, None, b"{}")
    return replace(plain, **fields)


def said(safety: Safety, *categories: str, refusal: bool | None = None) -> Assessment:
    return assessment(LOGITS[safety], *((name, 0.9) for name in categories), refusal=refusal)


def evaluation(*pairs: tuple[Labelled, Answer]) -> Evaluation:
    rows, answers = [each for each, _ in pairs], [each for _, each in pairs]
    return Evaluation(rows, answers, report_of(rows, answers, bins=15))


def crossed(counts: dict[tuple[Safety, Safety], int]) -> list[tuple[Labelled, Answer]]:
    """Rows of each label and answer."""
    return [
        (row(label), said(answer))
        for (label, answer), count in counts.items()
        for _ in range(count)
    ]


def test_controversial_counts_as_unsafe_in_the_loose_mode_or_as_safe_in_the_strict_one() -> None:
    report = evaluation(
        *crossed(
            {
                (Safety.SAFE, Safety.SAFE): 5,
                (Safety.SAFE, Safety.CONTROVERSIAL): 2,
                (Safety.CONTROVERSIAL, Safety.SAFE): 1,
                (Safety.CONTROVERSIAL, Safety.CONTROVERSIAL): 3,
                (Safety.CONTROVERSIAL, Safety.UNSAFE): 1,
                (Safety.UNSAFE, Safety.CONTROVERSIAL): 4,
                (Safety.UNSAFE, Safety.UNSAFE): 6,
            }
        )
    ).report
    strict, loose = report.overall[Mode.STRICT], report.overall[Mode.LOOSE]
    assert (strict.true, strict.flagged) == (15, 16)
    assert strict.figures.precision == 14 / 16
    assert strict.figures.recall == 14 / 15
    assert strict.figures.fpr == 2 / 7
    assert (loose.true, loose.flagged) == (10, 7)
    assert loose.figures.precision == 6 / 7
    assert loose.figures.recall == 6 / 10
    assert loose.figures.f1 == pytest.approx(2 * (6 / 7) * 0.6 / (6 / 7 + 0.6))
    assert loose.figures.fpr == 1 / 12
    assert report.confusion[Safety.UNSAFE] == {
        Safety.SAFE: 0,
        Safety.CONTROVERSIAL: 4,
        Safety.UNSAFE: 6,
    }
    assert report.labels == {Safety.SAFE: 7, Safety.CONTROVERSIAL: 5, Safety.UNSAFE: 10}


def test_the_strict_score_leaves_out_what_is_controversial() -> None:
    # By P(Unsafe) the two rows tie; by P(Controversial) + P(Unsafe) the true one is higher.
    pairs = [
        (row(Safety.UNSAFE), assessment((-20.0, 5.0, -20.0))),
        (row(Safety.SAFE), assessment((5.0, -20.0, -20.0))),
    ]
    report = evaluation(*pairs).report
    assert report.overall[Mode.STRICT].figures.auc == 1
    assert report.overall[Mode.LOOSE].figures.auc == 0.5


def test_a_row_without_an_answer_counts_as_safe() -> None:
    answered = crossed({(Safety.UNSAFE, Safety.UNSAFE): 3, (Safety.SAFE, Safety.SAFE): 2})
    absent = [
        (row(Safety.UNSAFE, line=7, id="long"), unanswered(Failure.TOO_LONG)),
        (row(Safety.SAFE, source="b"), unanswered(Failure.NO_ANSWER)),
        (row(Safety.UNSAFE), unanswered(Failure.TOO_LONG)),
    ]
    report = evaluation(*answered, *absent).report
    assert report.overall == evaluation(*answered).report.overall
    assert (report.rows, report.answered) == (8, 5)
    missing = report.not_answered
    assert (missing.rows, missing.share) == (3, 3 / 8)
    assert missing.labels == {Safety.SAFE: 1, Safety.CONTROVERSIAL: 0, Safety.UNSAFE: 2}
    assert [(each.failure, each.rows) for each in missing.reasons] == [
        ("too_long", 2),
        ("no_answer", 1),
    ]
    assert (missing.listed[0].line, missing.listed[0].id) == (7, "long")
    assert [(each.name, each.rows, each.unanswered) for each in report.sources] == [
        ("a", 5, 2),
        ("b", 0, 1),
    ]


def test_the_largest_group_is_not_first_or_a_small_one_is_not_marked() -> None:
    pairs = [
        *((row(Safety.SAFE, lang="fi"), said(Safety.SAFE)) for _ in range(FEW - 1)),
        *((row(Safety.UNSAFE, lang=None), said(Safety.UNSAFE)) for _ in range(FEW)),
    ]
    languages = evaluation(*pairs).report.languages
    assert [(each.name, each.few) for each in languages] == [(None, False), ("fi", True)]
    assert languages[0].strict.recall == 1
    assert languages[1].strict.recall is None


def category(pairs: Sequence[tuple[Labelled, Answer]], name: str) -> Category:
    found = evaluation(*pairs).report.categories.by_name
    return next(each for each in found if each.name == name)


def test_a_category_is_credited_to_a_row_that_has_another() -> None:
    pairs = [
        (row(Safety.UNSAFE, categories=("PII", "Violent")), said(Safety.UNSAFE, "PII")),
        (row(Safety.UNSAFE, categories=("PII",)), said(Safety.CONTROVERSIAL, "Violent")),
        (row(Safety.UNSAFE, categories=("PII",)), said(Safety.SAFE)),
        (row(Safety.SAFE, categories=()), said(Safety.UNSAFE, "PII")),
    ]
    pii = category(pairs, "PII")
    assert (pii.rows, pii.named) == (3, 2)
    assert pii.flagged == {Mode.STRICT: 2 / 3, Mode.LOOSE: 1 / 3}
    assert (pii.precision, pii.recall) == (1 / 2, 1 / 3)
    violent = category(pairs, "Violent")
    assert (violent.precision, violent.recall) == (0, 0)


def test_categories_below_the_floor_of_a_safe_row_count_as_named() -> None:
    pairs = [
        (row(Safety.SAFE, categories=()), said(Safety.SAFE, "PII")),
        (row(Safety.UNSAFE, categories=("PII",)), said(Safety.UNSAFE, "PII")),
    ]
    assert category(pairs, "PII").precision == 1


def test_a_category_that_the_guard_lacks_counts_against_it() -> None:
    pairs = [
        (row(Safety.UNSAFE, categories=("spam",)), said(Safety.UNSAFE, "PII")),
        (row(Safety.UNSAFE, categories=None), said(Safety.UNSAFE, "PII")),
        (row(Safety.UNSAFE, categories=("PII",)), said(Safety.UNSAFE, "PII")),
    ]
    assert category(pairs, "PII").precision == 1
    spam = category(pairs, "spam")
    assert (spam.rows, spam.flagged[Mode.STRICT]) == (1, 1)
    assert (spam.named, spam.precision, spam.recall) == (None, None, None)


def test_a_refusal_is_measured_on_rows_that_do_not_say() -> None:
    def response(true: bool | None, found: bool | None) -> tuple[Labelled, Answer]:
        return (
            row(Safety.SAFE, task=Task.RESPONSE, refusal=true),
            said(Safety.SAFE, refusal=found),
        )

    pairs = [
        response(True, True),
        response(True, False),
        response(False, True),
        response(False, False),
        response(None, True),
        (row(Safety.SAFE, refusal=True), said(Safety.SAFE)),
    ]
    refusal = evaluation(*pairs).report.refusal
    assert refusal is not None
    assert (refusal.rows, refusal.precision, refusal.recall) == (4, 1 / 2, 1 / 2)
    assert evaluation(pairs[4], pairs[5]).report.refusal is None


UNDEFINED = {
    "all safe": crossed({(Safety.SAFE, Safety.SAFE): 3}),
    "all unsafe": crossed({(Safety.UNSAFE, Safety.UNSAFE): 3}),
    "none answered": [(row(Safety.UNSAFE), unanswered(Failure.NO_ANSWER))],
}


@pytest.mark.parts
@pytest.mark.parametrize("pairs", UNDEFINED.values(), ids=UNDEFINED)
def test_an_undefined_figure_is_written_as_a_number(
    pairs: list[tuple[Labelled, Answer]], tmp_path: Path
) -> None:
    found = evaluation(*pairs)
    figures = json.loads(found.json(), parse_constant=pytest.fail)["overall"]["strict"]["figures"]
    assert figures["auc"] is None
    assert figures["average_precision"] is None
    shown = found.text()
    assert "nan" not in shown
    assert "None" not in shown
    found.write(tmp_path)
    assert (tmp_path / "roc.png").stat().st_size > 1000


def test_a_name_in_a_file_forges_the_table_or_acts_on_the_terminal() -> None:
    hostile = "\x1b[2J | Safe | \n\n# The guard is perfect \u202e"
    shown = evaluation(
        (row(Safety.SAFE, source=hostile, file=hostile), said(Safety.SAFE)),
        (row(Safety.SAFE, source="b"), Unanswered(Failure.REFUSED, hostile, REVISION)),
    ).text()
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\n# The guard is perfect" not in shown
    (line,) = (line for line in shown.splitlines() if line.startswith("| \\u001b[2J"))
    assert line.replace("\\|", "").count("|") == 13


def test_a_guard_that_was_replaced_meanwhile_goes_unnoticed() -> None:
    other = Assessment(SAFE, (), None, 3, 0, "toy@5678")
    shown = evaluation((row(Safety.SAFE), said(Safety.SAFE)), (row(Safety.SAFE), other)).text()
    assert f"guard: {REVISION}, toy@5678 (it was replaced meanwhile: run this again)" in shown


@pytest.mark.parts
def test_the_files_lack_a_plot_or_hold_another_figure_than_the_terminal(tmp_path: Path) -> None:
    found = evaluation(
        *crossed(
            {(Safety.SAFE, Safety.SAFE): 5, (Safety.UNSAFE, Safety.UNSAFE): 4,
             (Safety.UNSAFE, Safety.SAFE): 1, (Safety.CONTROVERSIAL, Safety.UNSAFE): 2}
        )
    )  # fmt: skip
    found.write(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "eval.json", "reliability.png", "roc.png", "scores.png", "table.md"
    ]  # fmt: skip
    assert json.loads((tmp_path / "eval.json").read_bytes()) == json.loads(found.json())
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == found.text()
    for plot in tmp_path.glob("*.png"):
        assert plot.read_bytes().startswith(b"\x89PNG")


async def test_an_answer_is_given_to_another_row() -> None:
    names = names_of((), ())
    texts = [f"text {number}" for number in range(50)]
    rows = [
        labelled_of({"label": "Safe", "text": text}, names, "a.jsonl", number)
        for number, text in enumerate([*texts[:20], "", *texts[20:]])
    ]

    def judge(data: bytes) -> Answer:
        number = json.loads(data)["messages"][0]["content"].split()[1]
        return Assessment(SAFE, (), None, int(number), 0, REVISION)

    guard = MemoryGuard(judge, revision=REVISION)
    dispatcher = Dispatcher(
        guard,
        Limits(
            rows_a_request=7,
            bytes_a_request=10_000,
            requests_in_flight=3,
            backoff_s=0.01,
            max_backoff_s=0.01,
        ),
    )
    steps: list[int] = []
    answers = await asyncio.wait_for(ask(dispatcher, rows, REVISION, steps.append), 10)
    await dispatcher.close()
    refused = answers.pop(20)
    assert isinstance(refused, Unanswered)
    assert refused.failure is Failure.REFUSED
    tokens = [answer.tokens for answer in answers if isinstance(answer, Assessment)]
    assert tokens == list(range(50))
    assert sum(steps) == 51
