"""A picture of what the stream guard says along a text: its scores over its words.

The text is set in lines as on a page, its own ends of lines as signs in them. Over each line stand
the three probabilities of its tokens, as bands that add up to 1: Unsafe from the bottom,
Controversial on it, Safe the rest; their edge is P(not Safe). A flag is drawn where it is raised.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from qwarden.guard.answer import Safety
from qwarden.guard.conversation import Task
from qwarden.guard.debounce import Latch, Raised, Rule
from qwarden.guard.stream import Scored
from qwarden.streamer.verdicts import word_of

# Okabe and Ito's colours, which people tell apart whose eyes do not see red or green.
_COLOUR = {Safety.SAFE: "#DDEFE8", Safety.CONTROVERSIAL: "#E69F00", Safety.UNSAFE: "#D55E00"}
_INK, _FAINT, _SPAN = "#222222", "#999999", "#0072B2"
_WORD = {Safety.SAFE: "#222222", Safety.CONTROVERSIAL: "#9A6700", Safety.UNSAFE: "#B23A00"}

_CELLS = 96
"""Characters a line; a wide one, as Chinese has them, takes two cells."""
_WIDTH_IN, _LEFT_IN, _RIGHT_IN = 13.0, 0.75, 0.25
_LINE_IN, _GAP_IN = 0.62, 0.52
_HEAD_IN, _SECTION_IN, _FOOT_IN = 0.95, 0.42, 0.15
_DPI = 130
_MOST_LINES = 60
"""More would be no picture that anybody can open: then it shows the lines around the first flag."""
_FONTS = (
    "DejaVu Sans Mono", "Noto Sans Mono CJK SC", "Noto Sans CJK SC", "Noto Sans CJK JP",
    "WenQuanYi Zen Hei", "Source Han Sans SC", "Unifont", "Arial Unicode MS", "PingFang SC",
    "Microsoft YaHei", "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Section:
    """One judged text with what is said of its tokens. `raised`: its flag and that flag's rise.
    `span`: code points that are labelled unsafe, None where no label says which."""

    heading: str
    text: str
    scored: Sequence[Scored]
    raised: Sequence[Raised]
    span: tuple[int, int] | None


def section_of(
    task: Task,
    text: str,
    scored: Sequence[Scored],
    rule: Rule,
    span: tuple[int, int] | None = None,
) -> Section:
    """A text as it is drawn, with the flags that a rule raises."""
    latch = Latch(rule)
    raised = [found for each in scored if (found := latch.see(each)) is not None]
    if task is Task.PROMPT:
        word = word_of(latch)
        said = "not judged" if word is None else f"{word.safety}{_named(word.category)}"
        return Section(f"prompt: {said}", text, scored, (), span)
    flags = ", ".join(
        f"{'flagged' if each.kind == 'flag' else 'risen to'} {each.safety}{_named(each.category)} "
        f"at token {each.token + 1:,}"
        for each in raised
    )
    heading = f"{task}: {len(scored):,} tokens, {flags or 'not flagged'}"
    return Section(heading, text, scored, raised, span)


def _named(category: str | None) -> str:
    return f" ({category})" if category else ""


@dataclass(frozen=True, slots=True)
class _Line:
    """Code points `start` to `end` of a text, and the cell at which each of them begins, one more
    than there are."""

    start: int
    end: int
    cells: Sequence[int]


def draw_sheet(title: str, under: str, sections: Sequence[Section], file: Path) -> None:
    """Writes a PNG."""
    pages = [(section, *_shown(section)) for section in sections if section.text]
    count = sum(len(lines) for _, lines, _ in pages)
    height = _HEAD_IN + _FOOT_IN + len(pages) * _SECTION_IN + count * (_LINE_IN + _GAP_IN)
    figure = Figure(figsize=(_WIDTH_IN, height))
    with warnings.catch_warnings():
        # A character that no font here has is shown as a box; there is nothing else to say of it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        has_span = any(section.span is not None for section in sections)
        top = _head(figure, title, under, height, has_span=has_span)
        for section, lines, note in pages:
            _draw_heading(figure, section.heading + note, top)
            top -= _SECTION_IN
            for line in lines:
                _draw_line(_axes(figure, top), section, line)
                top -= _LINE_IN + _GAP_IN
        figure.savefig(file, dpi=_DPI, facecolor="white")


def _head(figure: Figure, title: str, under: str, height: float, *, has_span: bool) -> float:
    left = _LEFT_IN / _WIDTH_IN
    figure.text(left, 1 - 0.14 / height, textwrap.shorten(title, 60, placeholder=" …"), va="top",
                fontsize=14, fontweight="bold", color=_INK, parse_math=False)  # fmt: skip
    figure.text(left, 1 - 0.42 / height, textwrap.shorten(under, 170, placeholder=" …"), va="top",
                fontsize=9.5, color=_INK, parse_math=False)  # fmt: skip
    handles = [Patch(color=_COLOUR[safety], label=f"P({safety})") for safety in Safety]
    if has_span:
        handles.append(Patch(color=_SPAN, label="labelled unsafe"))
    figure.legend(
        handles=handles,
        loc="upper right",
        bbox_to_anchor=(1 - _RIGHT_IN / _WIDTH_IN, 1 - 0.08 / height),
        ncols=4,
        frameon=False,
        fontsize=9.5,
        borderaxespad=0,
    )
    return height - _HEAD_IN


def _draw_heading(figure: Figure, heading: str, top: float) -> None:
    """`top`: inches from the bottom, as everywhere here."""
    figure.text(_LEFT_IN / _WIDTH_IN, (top - 0.05) / figure.get_figheight(), heading, va="top",
                fontsize=11, fontweight="bold", color=_INK, parse_math=False)  # fmt: skip


def _axes(figure: Figure, top: float) -> Axes:
    height = figure.get_figheight()
    width = (_WIDTH_IN - _LEFT_IN - _RIGHT_IN) / _WIDTH_IN
    return figure.add_axes(
        (_LEFT_IN / _WIDTH_IN, (top - _LINE_IN) / height, width, _LINE_IN / height)
    )


def _draw_line(axes: Axes, section: Section, line: _Line) -> None:
    axes.set_xlim(0, _CELLS)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1], ["0", "", "1"], fontsize=7, color=_FAINT)
    axes.set_xticks([])
    axes.tick_params(length=2, color=_FAINT)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(_FAINT)
    here = [each for each in section.scored if each.start < line.end and each.end > line.start]
    lefts = np.array([line.cells[max(each.start, line.start) - line.start] for each in here])
    rights = np.array([line.cells[min(each.end, line.end) - line.start] for each in here])
    floor = np.zeros(len(here))
    if here:
        scores = np.array([each.scores for each in here])
        for safety, column in ((Safety.UNSAFE, 2), (Safety.CONTROVERSIAL, 1), (Safety.SAFE, 0)):
            axes.bar(lefts, scores[:, column], rights - lefts, floor, align="edge",
                     color=_COLOUR[safety], linewidth=0)  # fmt: skip
            floor = floor + scores[:, column]
        # A hair between tokens, so that they can be counted, and none of their colour is lost.
        axes.vlines(lefts[1:], 0, 1, color="white", linewidth=0.5)
        edge = scores[:, 1] + scores[:, 2]
        axes.step([*lefts, rights[-1]], [*edge, edge[-1]], where="post", color=_INK, linewidth=0.9)
    end = line.cells[-1]
    axes.plot((0, end), (0.5, 0.5), color=_FAINT, linewidth=0.6, linestyle=(0, (2, 3)))
    _draw_words(axes, section, line, here)
    _draw_span(axes, section, line)
    if section.raised and section.raised[0].start < line.end:
        # It latches: from there on the text is flagged.
        flagged = line.cells[max(section.raised[0].start, line.start) - line.start]
        axes.plot((flagged, end), (1.04, 1.04), color=_INK, linewidth=2, clip_on=False,
                  solid_capstyle="butt")  # fmt: skip
    for each in section.raised:
        if line.start <= each.start < line.end:
            _draw_flag(axes, line, each)


def _draw_words(axes: Axes, section: Section, line: _Line, here: Sequence[Scored]) -> None:
    safety = {}
    for each in here:
        for place in range(each.start, each.end):
            safety[place] = each.safety
    for start, end in _runs(section.text, line, safety):
        said = safety.get(start, Safety.SAFE)
        axes.text(
            line.cells[start - line.start],
            -0.4,
            _visible(section.text[start:end]),
            va="baseline",
            ha="left",
            fontsize=_font_size(),
            family=_families(),
            color=_WORD[said],
            fontweight="normal" if said is Safety.SAFE else "bold",
            parse_math=False,
            clip_on=False,
        )


def _runs(text: str, line: _Line, safety: dict[int, Safety]) -> Iterator[tuple[int, int]]:
    """Stretches without a blank and of one safety: each is set where it belongs, whatever widths
    the font has."""
    start = None
    for place in range(line.start, line.end):
        blank = text[place] in " \t"
        if start is not None and (blank or safety.get(place) is not safety.get(start)):
            yield start, place
            start = None
        if start is None and not blank:
            start = place
    if start is not None:
        yield start, line.end


def _draw_span(axes: Axes, section: Section, line: _Line) -> None:
    if section.span is None:
        return
    start, end = max(section.span[0], line.start), min(section.span[1], line.end)
    if start < end:
        left, right = line.cells[start - line.start], line.cells[end - line.start]
        axes.plot((left, right), (-0.52, -0.52), color=_SPAN, linewidth=2.2, clip_on=False,
                  solid_capstyle="butt")  # fmt: skip


def _draw_flag(axes: Axes, line: _Line, raised: Raised) -> None:
    left = line.cells[raised.start - line.start]
    right = line.cells[min(raised.end, line.end) - line.start]
    middle = (left + right) / 2
    height = 1.18 if raised.kind == "flag" else 0.74
    axes.plot((middle, middle), (-0.05, height), color=_INK, linewidth=1.6, clip_on=False)
    what = f"{raised.safety}" if raised.kind == "flag" else f"rises to {raised.safety}"
    label = f"⚑ {what}{f': {raised.category}' if raised.category else ''}"
    is_right = middle > _CELLS * 0.7
    axes.annotate(
        label,
        (middle, height),
        xytext=(-4 if is_right else 4, -1),
        textcoords="offset points",
        ha="right" if is_right else "left",
        va="center",
        fontsize=9,
        fontweight="bold",
        color="white",
        bbox={"boxstyle": "round,pad=0.25", "facecolor": _INK, "edgecolor": "none"},
        annotation_clip=False,
        parse_math=False,
        zorder=5,
    )


def _shown(section: Section) -> tuple[list[_Line], str]:
    """The lines that are drawn, and what to say where that is not all of them."""
    lines = lines_of(section.text)
    if len(lines) <= _MOST_LINES:
        return lines, ""
    flagged = section.raised[0].start if section.raised else 0
    at = next(number for number, line in enumerate(lines) if flagged < line.end)
    first = max(0, min(at - _MOST_LINES // 3, len(lines) - _MOST_LINES))
    last = first + _MOST_LINES
    return lines[first:last], f" (lines {first + 1} to {last} of {len(lines)})"


def lines_of(text: str, most: int = _CELLS) -> list[_Line]:
    """The text in lines of at most so many cells, broken behind a blank where there is one."""
    lines: list[_Line] = []
    start = 0
    while start < len(text):
        cells = [0]
        place = start
        while place < len(text) and cells[-1] + (wide := _cells(text[place])) <= most:
            cells.append(cells[-1] + wide)
            place += 1
        end = place
        if place < len(text) and not text[place - 1].isspace():
            if text[place].isspace():  # it hangs over the edge, where nothing is to be seen of it
                cells.append(cells[-1])
                end = place + 1
            else:
                blanks = [at for at in range(start + most // 2, place) if text[at].isspace()]
                end = blanks[-1] + 1 if blanks else place
        end = max(end, start + 1)
        lines.append(_Line(start, end, cells[: end - start + 1]))
        start = end
    return lines


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _visible(text: str) -> str:
    return _CONTROL.sub("·", text.replace("\n", "↵"))


def _font_size() -> float:
    """In which a character of DejaVu Sans Mono, 0.602 em wide, fills 0.97 of a cell."""
    cell = (_WIDTH_IN - _LEFT_IN - _RIGHT_IN) / _CELLS * 72
    return cell / 0.602 * 0.97


def _families() -> list[str]:
    here = set(font_manager.get_font_names())
    return [name for name in _FONTS if name in here]
