"""What a verification found, and how people read it. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec


class Finding(enum.StrEnum):
    """What can be wrong with one event, or with one key's order."""

    NO_VERDICT = "no_verdict"
    """A task without a verdict, where the event has no dead letter and no withdrawal either."""
    NO_ESCALATION = "no_escalation"
    """A verdict that goes to `moderation.review`, and is not there."""
    NO_EVIDENCE = "no_evidence"
    """A verdict that is kept with its content, and is not. What only the sample keeps is not
    demanded: the rate in force stands on the evidence alone."""
    DISORDERED = "disordered"
    """A key whose first verdicts came in another order than its records, within a lane."""
    DIFFERENT = "different"
    """One verdict id with two values: safety, categories or action."""
    DUPLICATED = "duplicated"
    """The same outcome of one event again: at-least-once delivery, after a crash."""
    REVISED = "revised"
    """Another outcome of one event and task: redelivered across a change of guard or policy."""


FAULTS = frozenset(Finding) - {Finding.DUPLICATED, Finding.REVISED}
"""What must not be. The others are how a fleet that loses nothing comes through a crash."""


@dataclass(frozen=True, slots=True)
class Example:
    """One event with a finding. It holds no content."""

    finding: Finding
    origin: str
    """topic/partition/offset."""
    key: str | None
    """The record's key, escaped, shortened."""
    verdict_ids: tuple[str, ...]
    """Those that were read for this event."""
    beside: str | None = None
    """The origin that was overtaken, where the key is out of order."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was found in one input partition. Events that were relayed count where they came from;
    the order of a key counts in the lane that published it."""

    topic: str
    partition: int
    records: int
    """How many were read."""
    below: int | None
    """Records under this offset are judged; null: nobody has committed anything, so none is."""
    judged: int
    """Events whose outcomes were due."""
    ahead: int
    """Events whose outcomes were not due yet, and are there, all or some."""
    found: dict[Finding, int]


@dataclass(frozen=True, slots=True)
class Report:
    """A verification's result."""

    rows: tuple[Row, ...]
    found: dict[Finding, int]
    """The sums of the rows."""
    unmatched: int
    """Origins that outcomes name and that were not among the records read."""
    examples: tuple[Example, ...]
    notes: tuple[str, ...] = ()
    """What to know beside the figures: sentences."""

    @property
    def judged(self) -> int:
        return sum(row.judged for row in self.rows)

    @property
    def is_good(self) -> bool:
        """Whether nothing is missing and nothing is at fault; repeats may be."""
        return not any(self.found[finding] for finding in FAULTS)

    def json(self) -> bytes:
        """All of it, with `ok`, on one line."""
        fields = msgspec.to_builtins(self)
        return msgspec.json.encode({"ok": self.is_good, "judged": self.judged, **fields})


_WORDS = {
    Finding.NO_VERDICT: "no verdict",
    Finding.NO_ESCALATION: "no escalation",
    Finding.NO_EVIDENCE: "no evidence",
    Finding.DISORDERED: "key disordered",
    Finding.DIFFERENT: "two values",
    Finding.DUPLICATED: "duplicated",
    Finding.REVISED: "revised",
}
_HEADINGS = ("partition", "records", "judged below", "events judged", *_WORDS.values(), "ahead")


def table(report: Report) -> str:
    """A line a partition, and the sums: 110 columns where the numbers are small."""
    cells = [
        [" ".join(heading.split()[:-1]) for heading in _HEADINGS],
        [heading.split()[-1] for heading in _HEADINGS],
    ]
    for row in report.rows:
        below = "-" if row.below is None else f"{row.below:,}"
        counts = (row.judged, *row.found.values(), row.ahead)
        cells.append(
            [f"{row.topic}/{row.partition}", f"{row.records:,}", below, *map(_written, counts)]
        )
    records, ahead = sum(row.records for row in report.rows), sum(row.ahead for row in report.rows)
    counts = (report.judged, *report.found.values(), ahead)
    cells.append(["total", f"{records:,}", "", *map(_written, counts)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        " ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in cells
    )


def sentence(report: Report) -> str:
    """The result in a sentence."""
    faults = [
        f"{_WORDS[each]}: {report.found[each]:,}"
        for each in Finding
        if each in FAULTS and report.found[each]
    ]
    if faults:
        return f"Of {report.judged:,} events: {'; '.join(faults)}."
    if not report.judged:
        return "No event was judged: none lies below a committed offset. --to-end judges them all."
    return f"All {report.judged:,} events have what they are owed."


def lines(report: Report) -> Iterator[str]:
    """The examples and what else there is to say, a line each."""
    for example in report.examples:
        words = [f"{_WORDS[example.finding]:<14} {example.origin}"]
        if example.beside is not None:
            words.append(f"overtook {example.beside}")
        words.append("without a key" if example.key is None else f"key {example.key}")
        # A verdict's id comes from its topic: no control character of it reaches the terminal.
        words += [ascii(identity)[1:-1] for identity in example.verdict_ids]
        yield " ".join(words)
    if report.unmatched:
        yield f"{report.unmatched:,} origins that outcomes name are not among the records read"
    yield from report.notes


def _written(count: int) -> str:
    return f"{count:,}"
