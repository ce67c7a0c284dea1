"""A comparison as people read it in a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from qwarden.policy.diff_report import Example, Load, Part, Report
from qwarden.policy.estimates import Estimate
from qwarden.policy.told import WORDS
from qwarden.render import plain, shortened

_MOST = 15
"""Lines of a table; --json has them all."""


def page(report: Report) -> Iterator[str]:
    """The whole report, a paragraph at a time."""
    yield head(report)
    yield matrix(report)
    if report.rules:
        yield _rules(report)
    if report.changed.rows or report.undecided.rows:
        yield parts("by category", report.categories)
        yield parts("by tenant", report.tenants)
    if report.doubts:
        yield _doubts(report)
    if report.queues:
        yield _queues(report)
    if report.examples:
        yield _examples(report.examples)


def head(report: Report) -> str:
    """What was compared, and what came of it."""
    old, new, share = report.old, report.new, report.changed_share
    lines = [f"{old.name} {old.version}  ->  {new.name} {new.version}"]
    if not report.records.rows:
        lines.append("No record was compared.")
    else:
        lines.append(f"{written(report.records)} verdicts{_how(report)}")
        about = f"{share.value:.2%}"
        if not report.changed.is_exact or not report.records.is_exact:
            about += f" ({share.low:.2%} to {share.high:.2%})"
        lines.append(
            f"changed: {about}, {written(report.changed)}; stricter {written(report.stricter)}, "
            f"milder {written(report.milder)}"
        )
        lines.append(
            f"undecided: {written(report.undecided)}; the same action in another queue, or shown "
            f"or hidden meanwhile: {written(report.moved)}"
        )
    left = [f"{count:,} {why}" for why, count in report.left.items()]
    if report.repeated:
        left.append(f"{report.repeated:,} that came again")
    lines += [f"note: {note}" for note in report.notes]
    if left:
        lines.append(f"not compared: {', '.join(map(plain, left))}")
    return "\n".join(lines)


def _how(report: Report) -> str:
    """Which old words are what was done, and which ones were decided anew."""
    if not report.redone:
        return "; what was is what was done: the old policy gave them all"
    if not report.recorded:
        return "; another version gave them, so what was is what the old policy says of them"
    return (
        f"; of those read {report.recorded:,} were given by the old policy, and what was is what "
        f"was done; of {report.redone:,} it is what the old policy says of them"
    )


def matrix(report: Report) -> str:
    """What was, by what would be."""
    found = {(flow.old, flow.new): flow.records for flow in report.actions}
    olds = [word for word in WORDS if any(old == word and e.rows for (old, _), e in found.items())]
    rows = [["was \\ would be", *WORDS]]
    for old in olds:
        rows.append([old, *(_short(found.get((old, new))) for new in WORDS)])
    return _table(rows)


def parts(heading: str, every: Sequence[Part]) -> str:
    """Tenants or categories, those that change most first."""
    rows = [[heading, "verdicts", "changed", "stricter", "milder", "undecided"]]
    for part in every[:_MOST]:
        counts = (part.records, part.changed, part.stricter, part.milder, part.undecided)
        rows.append([plain(part.name), *map(_short, counts)])
    return _table(rows) + _more(every)


def _rules(report: Report) -> str:
    rows = [["was, by rule", "would be, by rule", "verdicts"]]
    for flow in report.rules[:_MOST]:
        rows.append(
            [
                plain(f"{flow.old}  {flow.old_rule}"),
                f"{flow.new}  {flow.new_rule}",
                written(flow.records),
            ]
        )
    return _table(rows, left=2) + _more(report.rules)


def _doubts(report: Report) -> str:
    lines = ["undecided, by the rule that may match or not"]
    for doubt in report.doubts[:_MOST]:
        whose = report.old if doubt.side == "old" else report.new
        lines.append(f"  {written(doubt.records)}: {whose.name}, rule {doubt.rule}: {doubt.reason}")
    return "\n".join(lines) + _more(report.doubts)


def _queues(report: Report) -> str:
    an_hour = report.hours is not None
    rows = [["queue", "was", "would be", *(("an hour", "reviewers") if an_hour else ())]]
    for load in (*report.queues, *((report.reviews,) if len(report.queues) > 1 else ())):
        rows.append(
            [
                load.queue or "all",
                written(load.old),
                written(load.new),
                *(_rates(load) if an_hour else ()),
            ]
        )
    said = f"reviewers: people who decide all the time, {report.seconds_a_decision:g} s each"
    if report.hours is None:
        said = (
            "over what time these came is not known: --over 24h gives items an hour and reviewers"
        )
    return f"{_table(rows)}\n{said}"


def _rates(load: Load) -> Iterable[str]:
    yield f"{load.old_an_hour or 0:,.1f} -> {load.new_an_hour or 0:,.1f}"
    yield f"{load.old_reviewers or 0:.2f} -> {load.new_reviewers or 0:.2f}"


def _examples(examples: Sequence[Example]) -> str:
    lines = []
    flow = None
    for each in examples:
        if (each.old, each.new) != flow:
            flow = each.old, each.new
            lines.append(f"{each.old} -> {each.new}, for example")
        scores = "not judged" if each.scores is None else "/".join(f"{s:.3f}" for s in each.scores)
        categories = ", ".join(each.categories)
        words = (each.safety, scores, categories, each.task)
        said = "  ".join(str(word) for word in words if word)
        lines.append(
            plain(
                f"  {each.verdict_id}  {each.tenant}/{each.event_id}  {said}  "
                f"{each.old_rule} -> {each.new_rule}"
            )
        )
        if each.text is not None:
            lines.append(f"    {shortened(' '.join(each.text.split()))}")
    return "\n".join(lines)


def written(estimate: Estimate) -> str:
    """A count, and its interval where it is an estimate."""
    if estimate.is_exact:
        return f"{estimate.total:,.0f}"
    return f"~{estimate.total:,.0f} ({estimate.low:,.0f} to {estimate.high:,.0f})"


def _short(estimate: Estimate | None) -> str:
    if estimate is None or not estimate.high:
        return "-"
    return f"{'' if estimate.is_exact else '~'}{estimate.total:,.0f}"


def _more(rows: Sequence[object]) -> str:
    return f"\n… and {len(rows) - _MOST:,} more; --json has them all" if len(rows) > _MOST else ""


def _table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
