"""The picture of a comparison: how actions flow from one policy to the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline

from qwarden.offline.policy_diff.text import written
from qwarden.policy.diff_report import Flow, Report
from qwarden.policy.told import UNDECIDED, WORDS

# Okabe and Ito's colours, which people tell apart whose eyes do not see red or green.
_COLOUR = {
    "allow": "#009E73",
    "disclaim": "#56B4E9",
    "review": "#E69F00",
    "block": "#D55E00",
    UNDECIDED: "#999999",
}
_INK, _FAINT = "#222222", "#BBBBBB"
_GAP = 0.03
"""Between two actions, of the whole height."""
_LEAST = 0.004
"""What is thinner would not be seen."""
_WIDTH = 0.05
_LEFT, _RIGHT = 0.2, 0.8
"""Of the picture's width: a column, and where the two stand, with room for words beside them."""
_DPI = 150


def draw(report: Report, file: Path) -> None:
    """Writes the PNG: on the left all verdicts, on the right those whose action changes."""
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    old, new = report.old, report.new
    figure.suptitle(
        f"{old.name} {old.version}  →  {new.name} {new.version}: "
        f"{report.changed_share.value:.2%} of {written(report.records)} verdicts change",
        fontsize=11,
        color=_INK,
    )
    every = [flow for flow in report.actions if flow.records.total]
    changed = [flow for flow in every if flow.old != flow.new]
    left, right = figure.subplots(1, 2)
    _flow(left, every, "all verdicts")
    _flow(right, changed, "what changes, or is undecided")
    figure.savefig(file, dpi=_DPI, format="png")


def _flow(axes: Axes, flows: list[Flow], title: str) -> None:
    axes.set_title(title, fontsize=10, color=_INK)
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(1.02, -0.06)
    if not flows:
        axes.text(0.5, 0.5, "nothing", ha="center", va="center", color=_FAINT)
        return
    olds, news = _sums(flows, 0), _sums(flows, 1)
    heights = _heights(flows)
    _bars(axes, olds, heights, 0)
    _bars(axes, news, heights, 1)
    at_old, at_new = _starts(flows, heights, 0), _starts(flows, heights, 1)
    for flow in sorted(flows, key=lambda each: (WORDS.index(each.old), WORDS.index(each.new))):
        height = heights[flow.old, flow.new]
        _band(axes, at_old[flow.old], at_new[flow.new], height, _COLOUR[flow.new])
        at_old[flow.old] += height
        at_new[flow.new] += height
    axes.text(_LEFT, -0.03, "was", ha="right", color=_INK, fontsize=9)
    axes.text(_RIGHT, -0.03, "would be", ha="left", color=_INK, fontsize=9)


def _sums(flows: list[Flow], side: int) -> dict[str, float]:
    sums: dict[str, float] = {}
    for flow in flows:
        word = (flow.old, flow.new)[side]
        sums[word] = sums.get(word, 0.0) + flow.records.total
    return {word: sums[word] for word in WORDS if word in sums}


def _heights(flows: list[Flow]) -> dict[tuple[str, str], float]:
    """Of the bands: the whole is 1, less the gaps."""
    room = 1 - _GAP * (len(WORDS) - 1)
    whole = sum(flow.records.total for flow in flows)
    return {(flow.old, flow.new): max(_LEAST, room * flow.records.total / whole) for flow in flows}


def _starts(
    flows: list[Flow], heights: Mapping[tuple[str, str], float], side: int
) -> dict[str, float]:
    """Where each action's bar begins, from the top."""
    starts, at = {}, 0.0
    for word in WORDS:
        own = [heights[f.old, f.new] for f in flows if (f.old, f.new)[side] == word]
        if own:
            starts[word] = at
            at += sum(own) + _GAP
    return starts


def _bars(
    axes: Axes, sums: Mapping[str, float], heights: Mapping[tuple[str, str], float], side: int
) -> None:
    x, align, beside = (
        (_LEFT - _WIDTH, "right", _LEFT - _WIDTH - 0.01)
        if side == 0
        else (_RIGHT, "left", _RIGHT + _WIDTH + 0.01)
    )
    at = 0.0
    for word, total in sums.items():
        height = sum(own for flow, own in heights.items() if flow[side] == word)
        axes.add_patch(Rectangle((x, at), _WIDTH, height, color=_COLOUR[word], linewidth=0))
        axes.text(
            beside, at + height / 2, f"{word}  {total:,.0f}",
            ha=align, va="center", fontsize=8, color=_INK,
        )  # fmt: skip
        at += height + _GAP


def _band(axes: Axes, old: float, new: float, height: float, colour: str) -> None:
    middle = (_LEFT + _RIGHT) / 2
    points = [
        (_LEFT, old), (middle, old), (middle, new), (_RIGHT, new),
        (_RIGHT, new + height), (middle, new + height), (middle, old + height),
        (_LEFT, old + height), (_LEFT, old),
    ]  # fmt: skip
    curve = Outline.CURVE4
    codes = [
        Outline.MOVETO, curve, curve, curve, Outline.LINETO, curve, curve, curve, Outline.CLOSEPOLY
    ]  # fmt: skip
    axes.add_patch(PathPatch(Outline(points, codes), facecolor=colour, alpha=0.45, linewidth=0))
