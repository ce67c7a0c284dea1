"""The figures against cases counted by hand and against their definitions, written out slowly."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwarden.offline.eval import intervals, metrics
from qwarden.offline.eval.metrics import Counts

Rows = list[tuple[bool, float]]

# Few different scores, so that ties are common, and the edges of bins among them.
SCORES = st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 0.5, 0.6, 0.7, 0.999, 1.0]) | st.floats(0, 1)
ROWS = st.lists(st.tuples(st.booleans(), SCORES), max_size=40)


def columns(rows: Rows) -> tuple[metrics.Flags, metrics.Floats]:
    return (
        np.array([true for true, _ in rows], dtype=np.bool_),
        np.array([score for _, score in rows], dtype=np.float64),
    )


def ranking(rows: Rows) -> metrics.Ranking:
    return metrics.ranking_of(*columns(rows))


def test_precision_and_recall_change_places() -> None:
    true = np.array([1, 1, 1, 0, 0, 0, 0, 1], dtype=np.bool_)
    said = np.array([1, 1, 0, 1, 0, 0, 0, 0], dtype=np.bool_)
    counts = metrics.counts_of(true, said)
    assert counts == Counts(hits=2, false_alarms=1, misses=2, rest=3)
    assert counts.precision == 2 / 3
    assert counts.recall == 2 / 4
    assert counts.f1 == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert counts.false_alarm_rate == 1 / 4


@pytest.mark.parametrize(
    ("counts", "defined"),
    [
        (Counts(0, 0, 0, 0), set()),
        (Counts(0, 0, 0, 5), {"false_alarm_rate"}),
        (Counts(0, 2, 0, 5), {"precision", "false_alarm_rate"}),
        (Counts(0, 0, 3, 0), {"recall", "f1"}),
        (Counts(4, 0, 0, 0), {"precision", "recall", "f1"}),
    ],
)
def test_nothing_to_divide_by_is_an_error_or_a_zero(counts: Counts, defined: set[str]) -> None:
    names = {"precision", "recall", "f1", "false_alarm_rate"}
    assert {name for name in names if getattr(counts, name) is not None} == defined


def test_the_area_under_the_curve_of_four_rows_is_not_the_hand_counted_one() -> None:
    # Pairs of a true and another row: .8 beats both, .4 beats .2 and loses to .6.
    rows = [(True, 0.8), (False, 0.6), (True, 0.4), (False, 0.2)]
    assert metrics.auc(ranking(rows)) == 3 / 4
    # Precision 1/1 at the first true row and 2/3 at the second, each half of the recall.
    assert metrics.average_precision(ranking(rows)) == pytest.approx((1 + 2 / 3) / 2)


def test_rows_of_one_score_are_given_an_order() -> None:
    rows = [(True, 0.5), (False, 0.5), (False, 0.5), (True, 0.5)]
    for shuffled in (rows, rows[::-1], sorted(rows), sorted(rows, reverse=True)):
        assert metrics.auc(ranking(shuffled)) == 0.5
        assert metrics.average_precision(ranking(shuffled)) == 0.5


@settings(deadline=None)
@given(ROWS)
def test_the_area_is_another_than_the_share_of_pairs_in_order(rows: Rows) -> None:
    pairs = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for (true, high), (other, low) in product(rows, rows)
        if true and not other
    ]
    found = metrics.auc(ranking(rows))
    if not pairs:
        assert found is None
    else:
        assert found == pytest.approx(sum(pairs) / len(pairs))


@settings(deadline=None)
@given(ROWS)
def test_average_precision_is_another_than_its_definition(rows: Rows) -> None:
    trues = sum(true for true, _ in rows)
    found = metrics.average_precision(ranking(rows))
    if trues in (0, len(rows)):
        assert found is None
        return
    total = reached = 0.0
    for threshold in sorted({score for _, score in rows}, reverse=True):
        said = [true for true, score in rows if score >= threshold]
        recall = sum(said) / trues
        total += (recall - reached) * sum(said) / len(said)
        reached = recall
    assert found == pytest.approx(total)


@settings(deadline=None)
@given(ROWS)
def test_the_curve_encloses_another_area_than_is_reported(rows: Rows) -> None:
    curve = metrics.roc(ranking(rows))
    area = metrics.auc(ranking(rows))
    if curve is None:
        assert area is None
        return
    assert (curve.false_alarm_rate[0], curve.recall[0]) == (0, 0)
    assert (curve.false_alarm_rate[-1], curve.recall[-1]) == (1, 1)
    heights = (curve.recall[1:] + curve.recall[:-1]) / 2
    assert float(np.sum(np.diff(curve.false_alarm_rate) * heights)) == pytest.approx(area)


@given(ROWS, st.integers(1, 20))
def test_a_row_is_in_no_bin_or_in_another_than_its_score_says(rows: Rows, bins: int) -> None:
    table = metrics.reliability(*columns(rows), bins)
    assert len(table) == bins
    assert sum(each.rows for each in table) == len(rows)
    gaps = 0.0
    for index, each in enumerate(table):
        last = index == bins - 1
        inside = [
            (true, score)
            for true, score in rows
            if each.low <= score and (score < each.high or last)
        ]
        assert each.rows == len(inside)
        if not inside:
            assert (each.score, each.share) == (None, None)
            continue
        score = sum(score for _, score in inside) / len(inside)
        share = sum(true for true, _ in inside) / len(inside)
        assert each.score == pytest.approx(score)
        assert each.share == pytest.approx(share)
        gaps += len(inside) * abs(score - share)
    found = metrics.calibration_error(table)
    assert found == (pytest.approx(gaps / len(rows)) if rows else None)


def test_a_score_of_one_is_outside_the_last_bin() -> None:
    table = metrics.reliability(np.array([True, False]), np.array([1.0, 0.0]), 15)
    assert [each.rows for each in table] == [1, *([0] * 13), 1]
    assert metrics.calibration_error(table) == 0


def test_the_calibration_error_of_two_bins_is_not_the_hand_counted_one() -> None:
    rows = [(False, 0.2), (True, 0.4), (True, 0.9), (True, 0.7)]
    # Two rows of mean .3 of which half are true, and two of mean .8 which all are.
    table = metrics.reliability(*columns(rows), 2)
    assert metrics.calibration_error(table) == pytest.approx((2 * 0.2 + 2 * 0.2) / 4)


@pytest.mark.long
@settings(deadline=None)
@given(ROWS)
def test_an_interval_leaves_its_range_or_changes_from_run_to_run(rows: Rows) -> None:
    ranked = ranking(rows)
    figures = (metrics.auc, metrics.average_precision)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "RESAMPLES", 50)  # it holds for any number of draws
        found = intervals.of_ranking(ranked, figures)
        assert found == intervals.of_ranking(ranked, figures)
    for figure, interval in zip(figures, found, strict=True):
        if interval is not None:
            assert figure(ranked) is not None
            assert 0 <= interval[0] <= interval[1] <= 1


def test_an_interval_is_far_from_the_textbook_one() -> None:
    # 800 of 1,000: the normal approximation gives .8 ± 1.96 √(.8 · .2 / 1,000).
    counts = Counts(hits=800, false_alarms=0, misses=200, rest=0)
    (recall,) = intervals.of_counts(counts, [lambda each: each.recall])
    assert recall is not None
    assert recall[0] == pytest.approx(0.7752, abs=0.004)
    assert recall[1] == pytest.approx(0.8248, abs=0.004)


def test_the_two_ways_to_draw_rows_anew_disagree() -> None:
    # A score that is 1 where it was said and 0 elsewhere: its area is (recall + 1 - FPR) / 2.
    counts = Counts(hits=150, false_alarms=40, misses=50, rest=160)
    rows = [
        *[(True, 1.0)] * counts.hits,
        *[(False, 1.0)] * counts.false_alarms,
        *[(True, 0.0)] * counts.misses,
        *[(False, 0.0)] * counts.rest,
    ]
    (drawn,) = intervals.of_ranking(ranking(rows), [metrics.auc])
    (counted,) = intervals.of_counts(
        counts, [lambda each: ((each.recall or 0) + 1 - (each.false_alarm_rate or 0)) / 2]
    )
    assert drawn == pytest.approx(counted, abs=0.01)


def test_one_true_row_is_given_an_interval() -> None:
    # More than a third of the draws leave it out, and have no area.
    (interval,) = intervals.of_ranking(ranking([(True, 0.9), *[(False, 0.1)] * 50]), [metrics.auc])
    assert interval is None
