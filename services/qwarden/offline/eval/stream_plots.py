"""The pictures of an evaluation of the stream guard: where flags fall, and what waiting buys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from qwarden.guard.answer import Safety
from qwarden.offline.eval.stream_measures import BINS, SOON, Debounce, recall_after
from qwarden.offline.eval.stream_published import SIZES, published_latency_of
from qwarden.offline.eval.stream_report import Outcome, Split, StreamReport

# Okabe and Ito's colours, which people tell apart whose eyes do not see red or green.
_COLOUR = {Debounce.REPORT: "#0072B2", Debounce.SCRIPT: "#56B4E9", Debounce.DEFAULT: "#F0B48A"}
_STYLE = {Debounce.REPORT: "-", Debounce.SCRIPT: (0, (5, 2)), Debounce.DEFAULT: "-"}
_NAME = {
    Debounce.REPORT: "report's rule",
    Debounce.SCRIPT: "script's rule",
    Debounce.DEFAULT: "our default",
}
_BY_WIDTH = {Debounce.DEFAULT: 4.5, Debounce.REPORT: 2.2, Debounce.SCRIPT: 2.2}
"""Where rules agree, each curve is to be seen: the widest is drawn first."""
_SIZE_MARK = dict(zip(SIZES, "sDo", strict=True))
_LABEL_STYLE = {Safety.SAFE: "--", Safety.CONTROVERSIAL: ":", Safety.UNSAFE: "-"}
_INK = "#222222"
_DPI = 150
_FARTHEST = 512
"""Tokens that the axis goes to on either side of the sentence: twice the last bin of the report's
that has an end, so that what comes later is seen to come late."""


def draw_stream(report: StreamReport, outcomes: Sequence[Outcome], folder: Path) -> None:
    """Writes flags.png and recall.png where rows have spans, flagged.png where there are answers or
    thoughts."""
    located = [split for split in report.splits if split.spans]
    if located:
        _flags(report, located).savefig(folder / "flags.png", dpi=_DPI)
        _recall(report, located, outcomes).savefig(folder / "recall.png", dpi=_DPI)
    if report.splits:
        _flagged(report, outcomes).savefig(folder / "flagged.png", dpi=_DPI)


def _flags(report: StreamReport, splits: Sequence[Split]) -> Figure:
    figure = Figure(figsize=(10, 1.0 + 3.9 * len(splits)), layout="constrained")
    _title(figure, "Where flags fall beside the first unsafe sentence", report)
    for number, split in enumerate(splits):
        axes = figure.add_subplot(len(splits), 1, number + 1)
        places = np.arange(len(BINS))
        width = 0.26
        for column, debounce in enumerate(Debounce):
            latency = split.rules[debounce].latency
            assert latency is not None
            shares = [latency.bins[name] / latency.rows for name in BINS]
            left = places + (column - 1) * width
            axes.bar(left, shares, width * 0.94, color=_COLOUR[debounce], label=_NAME[debounce])
            for x, name, share in zip(left, BINS, shares, strict=True):
                if latency.bins[name]:
                    count = f"{latency.bins[name]:,}"
                    axes.text(x, share + 0.012, count, ha="center", fontsize=7.5, color=_INK)
        for size, bins in zip(SIZES, published_latency_of(split.task).bins, strict=True):
            there = [(place, count / sum(bins)) for place, count in enumerate(bins) if count]
            if there:
                axes.plot(*zip(*there, strict=True), _SIZE_MARK[size], color="none",
                          markeredgecolor=_INK, label=f"published {size}")  # fmt: skip
        axes.set_title(f"{split.name}: {split.spans:,} rows", fontsize=11, color=_INK)
        axes.set_xticks(places, [_wrapped(name) for name in BINS], fontsize=9)
        axes.set_ylabel("share of rows")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylim(0, 1.2)
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.legend(loc="upper center", ncols=5, frameon=False, fontsize=9)
        _frame(axes)
    return figure


def _wrapped(name: str) -> str:
    return name.replace(" after", "\nafter").replace("in the ", "in the\n")


def _recall(report: StreamReport, splits: Sequence[Split], outcomes: Sequence[Outcome]) -> Figure:
    figure = Figure(figsize=(9.5, 1.0 + 4.2 * len(splits)), layout="constrained")
    _title(figure, "Recall against tokens behind the first unsafe sentence", report)
    for number, split in enumerate(splits):
        axes = figure.add_subplot(len(splits), 1, number + 1)
        own = [each for each in outcomes if each.after and each.row.labelled.task is split.task]
        for debounce, width in _BY_WIDTH.items():
            steps = recall_after([each.after[debounce] for each in own])
            xs = [-_FARTHEST, *(float(x) for x, _ in steps), _FARTHEST]
            ys = [0.0, *(y for _, y in steps), steps[-1][1] if steps else 0.0]
            axes.step(xs, ys, where="post", color=_COLOUR[debounce], linestyle=_STYLE[debounce],
                      linewidth=width, label=_NAME[debounce])  # fmt: skip
        published = published_latency_of(split.task)
        for place, size in enumerate(SIZES):
            soon = published.soon[place]
            if soon is not None:
                axes.plot(SOON, soon, _SIZE_MARK[size], color="none", markeredgecolor=_INK,
                          markersize=7, label=f"published {size}, {SOON} behind")  # fmt: skip
        axes.axvline(0, color=_INK, linewidth=0.8)
        axes.annotate("in the sentence", (0, 1.0), xytext=(3, -2), textcoords="offset points",
                      fontsize=8, va="top", color=_INK)  # fmt: skip
        axes.set_xscale("symlog", linthresh=8, base=2)
        axes.set_xlim(-_FARTHEST, _FARTHEST)
        axes.set_xticks([-256, -64, -16, -4, 0, 4, 16, 64, 128, 256])
        _flagged_by_then(
            axes, split.name, split.spans, "tokens: ahead of the sentence, or behind it"
        )
    return figure


def _flagged(report: StreamReport, outcomes: Sequence[Outcome]) -> Figure:
    """What is flagged by each token, of Unsafe rows and of others: a long text has more chances to
    be flagged wrongly."""
    figure = Figure(figsize=(9.5, 1.0 + 4.2 * len(report.splits)), layout="constrained")
    _title(figure, "Flagged by each token, by the label", report)
    for number, split in enumerate(report.splits):
        axes = figure.add_subplot(len(report.splits), 1, number + 1)
        own = [each for each in outcomes if each.row.labelled.task is split.task]
        farthest = max(sum(map(len, each.tokens.values())) for each in own)
        for debounce in (Debounce.DEFAULT, Debounce.REPORT):
            for label, count in split.labels.items():
                if not count:
                    continue
                at = [
                    each.flags[debounce].strict for each in own if each.row.labelled.label is label
                ]
                steps = recall_after(at)
                xs = [1.0, *(x + 1.0 for x, _ in steps), float(farthest)]
                ys = [0.0, *(y for _, y in steps), steps[-1][1] if steps else 0.0]
                axes.step(xs, ys, where="post", color=_COLOUR[debounce],
                          linewidth=_BY_WIDTH[debounce], linestyle=_LABEL_STYLE[label],
                          label=f"labelled {label} ({count:,}), {_NAME[debounce]}")  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xlim(1, max(2, farthest))
        _flagged_by_then(axes, split.name, split.rows, "token of the text, from 1")
    return figure


def _flagged_by_then(axes: Axes, name: str, rows: int, tokens: str) -> None:
    """Dresses a plot of the share of a split's rows that is flagged by each token. `tokens`: what
    the axis counts, whose scale is set already, since that sets how its numbers are written."""
    axes.set_title(f"{name}: {rows:,} rows", fontsize=11, color=_INK)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.set_xlabel(tokens)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylabel("share that is flagged by then")
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    _frame(axes)


def _title(figure: Figure, title: str, report: StreamReport) -> None:
    figure.suptitle(f"{title}\n", fontsize=13, fontweight="bold", color=_INK)
    figure.text(
        0.5,
        1 - 0.34 / figure.get_figheight(),
        f"flags as not Safe (strict); judged by {', '.join(report.ends.guards)}",
        ha="center",
        va="top",
        fontsize=9,
        color=_INK,
        parse_math=False,
    )


def _frame(axes: Axes) -> None:
    axes.grid(color="#EEEEEE")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
