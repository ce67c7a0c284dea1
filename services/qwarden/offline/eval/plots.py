"""The pictures of an evaluation: reliability, score histograms, ROC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from qwarden.guard.answer import SAFETIES
from qwarden.offline.eval import metrics
from qwarden.offline.eval.intervals import Interval
from qwarden.offline.eval.metrics import Bin
from qwarden.offline.eval.outcomes import Mode, Outcomes
from qwarden.offline.eval.report import FEW, Report

# Okabe and Ito's colours, which people tell apart whose eyes do not see red or green.
_SAFETY_COLOUR = {"Safe": "#009E73", "Controversial": "#E69F00", "Unsafe": "#D55E00"}
_MODE_COLOUR = {Mode.STRICT: "#0072B2", Mode.LOOSE: "#CC79A7"}
_MODE_MARK = {Mode.STRICT: "o", Mode.LOOSE: "s"}
_INK, _FAINT = "#222222", "#BBBBBB"
_SCORE = {Mode.STRICT: "P(Controversial) + P(Unsafe)", Mode.LOOSE: "P(Unsafe)"}
_COUNTS_AS = {Mode.STRICT: "Controversial or Unsafe", Mode.LOOSE: "Unsafe"}
_HISTOGRAM_BINS = 25
"""Of a score from 0 to 1: a policy's thresholds are seldom finer than 0.04."""
_DPI = 150
"""Sharp on paper and on screens of twice the density."""


def draw(report: Report, outcomes: Outcomes, folder: Path) -> None:
    """Writes reliability.png, scores.png and roc.png."""
    _reliability(report).savefig(folder / "reliability.png", dpi=_DPI)
    _scores(report, outcomes).savefig(folder / "scores.png", dpi=_DPI)
    _roc(report, outcomes).savefig(folder / "roc.png", dpi=_DPI)


def _reliability(report: Report) -> Figure:
    figure = Figure(figsize=(10, 6.6), layout="constrained")
    _title(figure, "Reliability: how often a score comes true", report)
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 1))
    for column, mode in enumerate(Mode):
        overall = report.overall[mode]
        above = figure.add_subplot(grid[0, column])
        _diagram(above, mode, overall.reliability)
        ece = overall.figures.ece
        _frame(above, f"{mode.capitalize()}: ECE {'-' if ece is None else f'{ece:.3f}'}")
        above.set_ylabel(f"labelled {_COUNTS_AS[mode]}")
        above.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        above.set_ylim(-0.02, 1.02)
        above.tick_params(labelbottom=False)
        below = figure.add_subplot(grid[1, column], sharex=above)
        below.bar(
            [each.low for each in overall.reliability],
            [each.rows for each in overall.reliability],
            width=[each.high - each.low for each in overall.reliability],
            align="edge",
            color=_MODE_COLOUR[mode],
            edgecolor="white",
        )
        _frame(below)
        below.set_xlabel(f"score: {_SCORE[mode]}")
        below.set_ylabel("rows")
        _log_counts(below, max(each.rows for each in overall.reliability))
    figure.legend(
        handles=[
            Line2D([], [], color=_FAINT, linestyle="--", label="perfectly calibrated"),
            Line2D([], [], color=_FAINT, linewidth=3, label="gap, which ECE adds up"),
            Line2D([], [], color=_INK, marker="o", label="rows of a bin"),
            Line2D(
                [], [], color=_INK, marker="o", markerfacecolor="white", linestyle="",
                label=f"fewer than {FEW} rows",
            ),
        ],
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )  # fmt: skip
    return figure


def _diagram(axes: Axes, mode: Mode, bins: Sequence[Bin]) -> None:
    colour = _MODE_COLOUR[mode]
    points = [
        (each.score, each.share, each.rows < FEW)
        for each in bins
        if each.score is not None and each.share is not None
    ]
    axes.plot((0, 1), (0, 1), color=_FAINT, linestyle="--")
    for score, share, _ in points:
        axes.plot((score, score), (score, share), color=_FAINT, linewidth=3, zorder=1)
    axes.plot([score for score, _, _ in points], [share for _, share, _ in points], color=colour)
    for score, share, few in points:
        axes.plot(
            score,
            share,
            marker=_MODE_MARK[mode],
            color=colour,
            markerfacecolor="white" if few else colour,
        )


def _scores(report: Report, outcomes: Outcomes) -> Figure:
    """A panel for each label: laid over each other, the small ones vanish."""
    present = [index for index in range(len(SAFETIES)) if (outcomes.label == index).any()]
    figure = Figure(figsize=(10, 1.6 + 1.7 * max(1, len(present))), layout="constrained")
    _title(figure, "Scores of rows by their label", report)
    edges = np.linspace(0, 1, _HISTOGRAM_BINS + 1)
    counted = {
        (index, mode): np.histogram(outcomes.score(mode)[outcomes.label == index], edges)[0]
        for index in present
        for mode in Mode
    }
    most = max((int(counts.max()) for counts in counted.values()), default=0)
    for (index, mode), counts in counted.items():
        row, column = present.index(index), list(Mode).index(mode)
        axes = figure.add_subplot(len(present), 2, 2 * row + column + 1)
        safety = SAFETIES[index]
        axes.bar(
            edges[:-1],
            counts,
            width=np.diff(edges),
            align="edge",
            color=_SAFETY_COLOUR[safety],
            edgecolor="white",
        )
        _frame(axes, f"{mode.capitalize()} score" if row == 0 else "")
        _log_counts(axes, most)
        last = row == len(present) - 1
        axes.tick_params(labelbottom=last)
        if last:
            axes.set_xlabel(f"score: {_SCORE[mode]}")
        if column == 0:
            axes.set_ylabel(f"labelled {safety}\n({int(counts.sum()):,} rows)")
    return figure


def _roc(report: Report, outcomes: Outcomes) -> Figure:
    figure = Figure(figsize=(6.6, 6.6), layout="constrained")
    _title(figure, "ROC: what a threshold on the score buys", report)
    axes = figure.add_subplot()
    axes.plot((0, 1), (0, 1), color=_FAINT, linestyle="--", label="chance")
    for mode in Mode:
        overall = report.overall[mode]
        curve = metrics.roc(metrics.ranking_of(outcomes.true(mode), outcomes.score(mode)))
        if curve is None:
            axes.plot([], [], " ", label=f"{mode}: no curve, all rows have one label")
            continue
        colour = _MODE_COLOUR[mode]
        area = f"AUC {overall.figures.auc:.3f}{_bracket(overall.intervals.auc)}"
        style = "-" if mode is Mode.STRICT else "-."
        axes.plot(
            curve.false_alarm_rate, curve.recall, style, color=colour, label=f"{mode}: {area}"
        )
        axes.plot(
            overall.figures.fpr or 0,
            overall.figures.recall or 0,
            _MODE_MARK[mode],
            color=colour,
            markeredgecolor=_INK,
            markersize=9,
            label=f"{mode}: the guard's own word",
        )
    _frame(axes)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("false alarms: share of the others that is flagged")
    axes.set_ylabel("recall: share of Unsafe that is flagged")
    axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")
    return figure


def _title(figure: Figure, title: str, report: Report) -> None:
    under = f"{report.answered:,} rows judged by {', '.join(report.guards)}"
    if report.not_answered.rows:
        under += f"; left out for want of an answer: {report.not_answered.rows:,}"
    figure.suptitle(f"{title}\n", fontsize=13, fontweight="bold", color=_INK)
    figure.text(
        0.5,
        1 - 0.34 / figure.get_figheight(),
        under,
        ha="center",
        va="top",
        fontsize=9,
        color=_INK,
        parse_math=False,
    )


def _frame(axes: Axes, title: str = "") -> None:
    axes.set_title(title, fontsize=11, color=_INK)
    axes.set_xlim(-0.02, 1.02)
    axes.grid(color="#EEEEEE")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _log_counts(axes: Axes, most: int) -> None:
    """Scores crowd at the ends: a plain axis would show the middle, where thresholds are, flat."""
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(0, most * 1.6 + 1)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _bracket(interval: Interval | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
