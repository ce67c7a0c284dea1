"""A report of the stream guard as people read it: Markdown with aligned columns. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from qwarden.guard.debounce import Consecutive, Evaluation, Rule, Threshold
from qwarden.offline.eval.outcomes import Mode
from qwarden.offline.eval.report import FEW
from qwarden.offline.eval.stream_choice import Choice, Trade
from qwarden.offline.eval.stream_measures import BINS, SOON, Debounce, Latency
from qwarden.offline.eval.stream_published import SIZES, published_latency_of, published_of
from qwarden.offline.eval.stream_report import Detection, Split, StreamReport
from qwarden.offline.eval.table import bracket, markdown, number, table, text_of

_FEW = " *"
_WIDEST_NAME = 40
"""Characters; what is longer is cut, so that the figures beside it stay on its line."""
_RULES = {
    Debounce.REPORT: "report's rule",
    Debounce.SCRIPT: "script's rule",
    Debounce.DEFAULT: "our default",
}


def stream_table(report: StreamReport) -> str:
    """All of the report but the single rows without an answer."""
    sections = ["# The stream guard, token by token"]
    for split in report.splits:
        sections += [_head(split), _detection(split), _latency(split), _sources(split)]
    if report.splits:
        sections.append(
            "The report's rule flags at two tokens in a row that are not Safe, mixed pairs "
            "included. The script's\nwants two of one safety, and takes an Unsafe pair before a "
            "Controversial one wherever it stands; both\nread thought and answer as one text. Our "
            "default reads them apart, a thought by a longer run."
        )
    if any(each.few for split in report.splits for each in split.sources):
        sections.append(f"\\* fewer than {FEW} rows: chance says as much as the guard.")
    body = "\n\n".join(section for section in sections if section)
    return f"{body}\n\n{table(report.ends, 'The stream guard at the end of each text')}"


def _head(split: Split) -> str:
    labels = ", ".join(f"{safety} {count:,}" for safety, count in split.labels.items())
    lines = [
        f"## {split.name}",
        "",
        f"- rows: {split.rows:,}: labelled {labels}",
    ]
    if split.spans:
        lines.append(f"- rows that say where the first unsafe sentence stands: {split.spans:,}")
    if split.shared:
        lines.append(
            f"- **of these {split.shared:,} only about**: the tokenizer does not spell their texts "
            "from input_ids, so a place\n  among the tokens is taken for the same share of the "
            "characters; --tokenizer names the one that made them"
        )
    if split.closed:
        lines.append(
            f"- rows that were longer than the context, and not read to their end: {split.closed:,}"
        )
    return "\n".join(lines)


def _detection(split: Split) -> str:
    rows = [
        [_RULES[debounce], mode, *_figures(ruled.modes[mode])]
        for debounce, ruled in split.rules.items()
        for mode in Mode
    ]
    published = published_of(split.name)
    for place, size in enumerate(SIZES):
        for mode, f1 in ((Mode.STRICT, published.strict_f1), (Mode.LOOSE, published.loose_f1)):
            if f1[place] is not None:
                blanks = ["-"] * 5
                rows.append([f"published {size}", mode, *blanks, number(f1[place]), "-"])
    heads = ["rule", "mode", "Unsafe", "flagged", "P", "R", "FPR", "F1", "95 %"]
    note = (
        "Flagged at any token. Strict: Controversial counts as Unsafe, in labels and flags; loose: "
        "as Safe.\nPublished figures are of the script's rule, under the modes' true names."
    )
    if split.name.endswith("_loc"):
        note += " All rows are Unsafe, so that\nprecision is 1 and the false alarms are not known."
    return f"### Flagged\n\n{note}\n\n{markdown(heads, rows, left=(0, 1))}"


def _figures(figures: Detection) -> list[str]:
    return [
        f"{figures.true:,}",
        f"{figures.flagged:,}",
        number(figures.precision),
        number(figures.recall),
        number(figures.fpr),
        number(figures.f1),
        bracket(figures.f1_interval).strip() or "-",
    ]


def _latency(split: Split) -> str:
    latencies = [(each, ruled.latency) for each, ruled in split.rules.items()]
    ours: list[tuple[Debounce, Latency]] = [
        (each, latency) for each, latency in latencies if latency is not None
    ]
    if not ours:
        return ""
    published = published_latency_of(split.task)
    rows = []
    for place, name in enumerate(BINS):
        said = [_counted(each.bins[name], each.rows) for _, each in ours]
        there = [_counted(bins[place], sum(bins)) if bins else "-" for bins in published.bins]
        rows.append([name, *said, *there])
    rows.append(
        ["**hit**: in the sentence", *(_percent(each.hit) for _, each in ours),
         *map(_percent, published.hit)]
    )  # fmt: skip
    rows.append(
        [f"**soon**: ahead, in it, to {SOON} after", *(_percent(each.soon) for _, each in ours),
         *map(_percent, published.soon)]
    )  # fmt: skip
    rows.append(
        [f"in it, to {SOON} after", *(_percent(each.in_time) for _, each in ours), "-", "-", "-"]
    )
    heads = [
        "tokens behind the sentence",
        *(_RULES[each] for each, _ in ours),
        *(f"published {size}" for size in SIZES),
    ]
    return (
        "### Where flags fall beside the first unsafe sentence\n\n"
        "Of rows that say where it stands; flags as not Safe (strict). Published: the script's "
        "rule.\n\n" + markdown(heads, rows)
    )


def _sources(split: Split) -> str:
    if len(split.sources) < 2:
        return ""
    rows = []
    for each in split.sources:
        name = text_of(each.name, _WIDEST_NAME) + (_FEW if each.few else "")
        mix = "/".join(f"{count}" for count in each.labels.values())
        for mode in Mode:
            head = [name, f"{each.rows:,}", mix] if mode is Mode.STRICT else ["", "", ""]
            figures = each.modes[mode]
            shown = (figures.precision, figures.recall, figures.f1, figures.fpr)
            rows.append([*head, mode, *map(number, shown)])
    heads = ["source", "rows", "S/C/U", "mode", "P", "R", "F1", "FPR"]
    return f"### By source, our default\n\n{markdown(heads, rows, left=(0, 3))}"


def choice_table(choices: Sequence[Choice]) -> str:
    """What was chosen, what else there is, and how sure that is."""
    sections = ["# Rules within a budget of false alarms", *map(_choice, choices)]
    chosen = [each for each in choices if each.chosen is not None]
    if chosen:
        lines = ["flagging:"]
        for each in chosen:
            assert each.chosen is not None
            lines.append(f"  {each.task}: {_as_yaml(each.chosen.rule)}")
        yaml = "\n".join(lines)
        where = "In policies/NAME.yaml of QWARDEN_POLICY__PATH:"
        sections.append(f"## What to set\n\n{where}\n\n```yaml\n{yaml}\n```")
    return "\n\n".join(sections) + "\n"


def _choice(choice: Choice) -> str:
    kind = "thoughts" if choice.task == "thinking" else "answers"
    lines = [
        f"## {choice.task}",
        "",
        f"{choice.safe:,} Safe {kind} and {choice.unsafe:,} others; of the Safe ones "
        f"{choice.budget:.1%} may be flagged.",
    ]
    rows = [_trade(choice.default, "the default")]
    rows += [
        _trade(each, "best at its price")
        for each in choice.frontier
        if each not in (choice.chosen, choice.default)
    ]
    if choice.chosen is not None:
        rows.insert(0, _trade(choice.chosen, "**chosen**"))
    heads = ["", "rule", "Safe flagged", "others flagged", "median token"]
    lines += ["", markdown(heads, rows, left=(0, 1)), ""]
    if choice.chosen is None:
        lines.append(
            f"**No rule that was tried finds any within {choice.budget:.1%}.** Allow more with "
            "--budget, or find out which Safe rows\nare flagged (`--plot ID` draws one): their "
            "labels may be wrong."
        )
        return "\n".join(lines)
    assert choice.interval is not None
    low, high = choice.interval
    lines.append(
        f"- {choice.chosen.false_alarms:,} of {choice.safe:,} Safe {kind} are flagged; with so "
        f"many, the true share lies between {low:.1%}\n  and {high:.1%} (95 %)."
    )
    if high > choice.budget:
        lines.append(
            f"- **This file cannot show that {choice.budget:.1%} is kept**: that takes at least "
            f"{choice.needed:,} Safe {kind} of which none\n  is flagged, and more where some are."
        )
    lines.append(_held_out(choice, kind))
    lines.append(
        "- What other traffic does is not known from this: measure it on rows like your own."
    )
    return "\n".join(lines)


def _held_out(choice: Choice, kind: str) -> str:
    held = choice.held_out
    if held is None:
        return "- Halves of the file are too small to choose on one and measure on the other."
    safe, others = share(held.false_alarms, held.safe), share(held.found, held.unsafe)
    return (
        "- The rule was chosen on the rows that it is measured on. Chosen on one half and measured "
        f"on the other,\n  both ways, {safe} of the Safe {kind} and {others} of the others are "
        "flagged."
    )


def _trade(trade: Trade, mark: str) -> list[str]:
    return [
        mark,
        rule_text(trade.rule),
        _counted(trade.false_alarms, trade.safe),
        _counted(trade.found, trade.unsafe),
        "-" if trade.median is None else f"{trade.median:,.0f}",
    ]


def rule_text(rule: Rule) -> str:
    if isinstance(rule, Threshold):
        return f"P(not Safe) of at least {rule.p:g}, {rule.run} in a row"
    if isinstance(rule, Evaluation):
        return "2 of one safety in a row"
    return f"not Safe, {rule.run} in a row"


def _as_yaml(rule: Rule) -> str:
    if isinstance(rule, Threshold):
        return f"{{rule: threshold, p: {rule.p:g}, run: {rule.run}}}"
    assert isinstance(rule, Consecutive)
    return f"{{rule: consecutive, run: {rule.run}}}"


def _counted(part: int, whole: int) -> str:
    return f"{share(part, whole)} ({part:,})"


def share(part: int, whole: int) -> str:
    return _percent(part / whole if whole else None)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
