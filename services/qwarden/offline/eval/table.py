"""A report as people read it: Markdown with aligned columns. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qwarden.guard.answer import SAFETIES
from qwarden.offline.eval.intervals import RESAMPLES, SEED, Interval
from qwarden.offline.eval.metrics import Bin
from qwarden.offline.eval.outcomes import Mode
from qwarden.offline.eval.report import FEW, Figures, Group, Overall, Report
from qwarden.render import plain

_UNDEFINED = "-"
_FEW = " *"
_WIDEST_NAME = 40
"""Characters; what is longer is cut, so that the figures beside it stay on its line."""
_REASONS = 5
"""Different ones that are printed; all of them stand in the report."""
_FIGURES = ("P", "R", "F1", "FPR", "AUC", "AP", "ECE")


def table(report: Report, title: str = "The guard on labelled rows") -> str:
    """All of the report but the single rows without an answer."""
    sections = [_head(report, title), _overall(report), _confusion(report)]
    sections += [
        _groups(title, each)
        for title, each in (
            ("task", report.tasks),
            ("source", report.sources),
            ("language", report.languages),
        )
        if any(group.name is not None for group in each)
    ]
    sections += [_categories(report), _refusal(report), _reliability(report)]
    groups = [*report.tasks, *report.sources, *report.languages]
    if any(each.few for each in groups) or any(each.few for each in report.categories.by_name):
        sections.append(f"\\* fewer than {FEW} rows: chance says as much as the guard.")
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(report: Report, title: str) -> str:
    lines = [
        f"# {title}",
        "",
        f"- guard: {', '.join(map(text_of, report.guards))}"
        + (" (it was replaced meanwhile: run this again)" if len(report.guards) > 1 else ""),
        f"- files: {', '.join(map(text_of, report.files))}",
        f"- rows: {report.rows:,}, answered {report.answered:,}: labelled "
        + ", ".join(f"{safety} {count:,}" for safety, count in report.labels.items()),
    ]
    if report.shortened:
        lines.append(
            f"- judged without their oldest turns, which did not fit: {report.shortened:,}"
        )
    absent = report.not_answered
    if absent.rows:
        labels = ", ".join(f"{safety} {count:,}" for safety, count in absent.labels.items())
        lines += [
            f"- **no answer, and in no figure below: {absent.rows:,} ({absent.share:.1%})**, "
            f"labelled {labels}:",
            *(
                f"  - {each.rows:,} {each.failure}: {text_of(each.reason, 200)}"
                for each in absent.reasons[:_REASONS]
            ),
        ]
        if len(absent.reasons) > _REASONS:
            rest = sum(each.rows for each in absent.reasons[_REASONS:])
            lines.append(f"  - {rest:,} for other reasons")
    return "\n".join(lines)


def _overall(report: Report) -> str:
    modes = [report.overall[mode] for mode in Mode]
    rows = [
        ["labelled Unsafe", *(f"{each.true:,}" for each in modes)],
        ["judged Unsafe", *(f"{each.flagged:,}" for each in modes)],
        *(
            [title, *(_with_interval(each, name) for each in modes)]
            for title, name in (
                ("precision (P)", "precision"),
                ("recall (R)", "recall"),
                ("F1", "f1"),
                ("false alarms (FPR)", "fpr"),
                ("AUC", "auc"),
                ("average precision (AP)", "average_precision"),
            )
        ),
        ["calibration error (ECE)", *(number(each.figures.ece) for each in modes)],
    ]
    return (
        "## All answered rows\n\n"
        "Of the class Unsafe. Strict: Controversial counts as Unsafe, in labels and answers;\n"
        "loose: as Safe. In brackets 95 % bootstrap intervals "
        f"({RESAMPLES:,} resamples, seed {SEED}).\n\n" + markdown(["", *Mode], rows)
    )


def _with_interval(overall: Overall, name: str) -> str:
    interval: Interval | None = getattr(overall.intervals, name)
    return number(getattr(overall.figures, name)) + bracket(interval)


def _confusion(report: Report) -> str:
    rows = [
        [f"labelled {label}", *(f"{report.confusion[label][said]:,}" for said in SAFETIES)]
        for label in SAFETIES
    ]
    return "## Confusion\n\n" + markdown(["", *(f"judged {said}" for said in SAFETIES)], rows)


def _groups(title: str, groups: Sequence[Group]) -> str:
    rows = []
    for group in groups:
        name = "(not said)" if group.name is None else text_of(group.name, _WIDEST_NAME)
        mix = "/".join(f"{count}" for count in group.labels.values())
        head = [name + (_FEW if group.few else ""), f"{group.rows:,}", f"{group.unanswered:,}", mix]
        rows.append([*head, Mode.STRICT, *_line(group.strict)])
        rows.append(["", "", "", "", Mode.LOOSE, *_line(group.loose)])
    heads = [title, "rows", "no answer", "S/C/U", "mode", *_FIGURES]
    return f"## By {title}\n\n" + markdown(heads, rows, left=(0, 4))


def _line(figures: Figures) -> list[str]:
    return [
        number(value)
        for value in (
            figures.precision,
            figures.recall,
            figures.f1,
            figures.fpr,
            figures.auc,
            figures.average_precision,
            figures.ece,
        )
    ]


def _categories(report: Report) -> str:
    categories = report.categories
    if not any(each.rows for each in categories.by_name):
        return ""
    rows = [
        [
            text_of(each.name, _WIDEST_NAME) + (_FEW if each.few else ""),
            f"{each.rows:,}",
            *(number(each.flagged[mode]) for mode in Mode),
            _UNDEFINED if each.named is None else f"{each.named:,}",
            number(each.precision),
            number(each.recall),
            number(each.f1),
        ]
        for each in categories.by_name
    ]
    heads = ["category", "rows", "flagged strict", "flagged loose", "named", "P", "R", "F1"]
    return (
        "## By category\n\n"
        "Flagged: the share of the rows with this category that was not judged Safe (strict)\n"
        "or was judged Unsafe (loose). Named, P, R, F1: how the guard's own categories agree,\n"
        f"over the {categories.compared:,} rows whose categories are known and the guard's.\n\n"
        + markdown(heads, rows)
    )


def _refusal(report: Report) -> str:
    refusal = report.refusal
    if refusal is None:
        return ""
    counts = refusal.counts
    rows = [
        ["rows", f"{refusal.rows:,}"],
        ["labelled refusal", f"{counts.hits + counts.misses:,}"],
        ["judged refusal", f"{counts.hits + counts.false_alarms:,}"],
        *(
            [title, number(value) + bracket(refusal.intervals[name])]
            for title, name, value in (
                ("precision (P)", "precision", refusal.precision),
                ("recall (R)", "recall", refusal.recall),
                ("F1", "f1", refusal.f1),
            )
        ),
    ]
    return "## Refusal\n\n" + markdown(["", "responses"], rows)


def _reliability(report: Report) -> str:
    strict = report.overall[Mode.STRICT]

    def row(each: Bin) -> list[str]:
        gap = None
        if each.score is not None and each.share is not None:
            gap = each.share - each.score
        return [
            f"{each.low:.2f} to {each.high:.2f}",
            f"{each.rows:,}",
            number(each.score),
            number(each.share),
            _UNDEFINED if gap is None else f"{gap:+.3f}",
        ]

    heads = ["P(not Safe)", "rows", "mean score", "labelled not Safe", "gap"]
    return (
        "## Reliability\n\n"
        f"ECE {number(strict.figures.ece)}: the gaps of score and share, weighted by rows.\n\n"
        + markdown(heads, map(row, strict.reliability))
    )


def markdown(
    heads: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)
) -> str:
    """The columns `left` are words and stand to the left; the others are numbers."""
    rows = list(rows)
    widths = [max(len(line[column]) for line in [heads, *rows]) for column in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            f"{cell:<{width}}" if column in left else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = (
        f":{'-' * (width + 1)}" if column in left else f"{'-' * (width + 1)}:"
        for column, width in enumerate(widths)
    )
    return "\n".join([line(heads), f"|{'|'.join(rule)}|", *map(line, rows)])


def number(value: float | None) -> str:
    return _UNDEFINED if value is None else f"{value:.3f}"


def bracket(interval: Interval | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"


def text_of(text: str, widest: int = 1000) -> str:
    """Text of a file, so that it neither ends a cell or a line nor acts on a terminal."""
    shown = plain(" ".join(text.split())).replace("|", "\\|")
    return shown if len(shown) <= widest else f"{shown[: widest - 1]}…"
