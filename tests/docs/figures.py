"""docs/benchmarks.md and the figures of README.md, from what stands in bench/results:

    PYTHONPATH=tests .venv/bin/python -m docs.figures

Nobody copies a figure by hand, and none outlives the run that it is of.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from docs.pages import ROOT

RESULTS: Final = ROOT / "bench" / "results"
PAGE: Final = ROOT / "docs" / "benchmarks.md"
README: Final = ROOT / "README.md"
COMMAND: Final = "PYTHONPATH=tests .venv/bin/python -m docs.figures"
BEGIN: Final = "<!-- figures -->\n"
END: Final = "<!-- end of figures -->\n"


def page() -> str:
    """docs/benchmarks.md."""
    return "\n".join(_page()) + "\n"


def readme() -> str:
    """README.md with the figures as they are now."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, behind = rest.partition(END)
    return before + BEGIN + "\n".join(_first_page()) + "\n" + END + behind


def _read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def _first_page() -> Iterator[str]:
    pipeline, gen, stream = _read("pipeline.json"), _read("gen.json"), _read("stream.json")
    kills, review = _read("storm.json")["parts"]["kills"], _read("review.json")
    parts = _read("equality.json")["parts"]
    equal = [parts[name]["compared"] for name in ("stand-in", "0.6B")]
    whole = gen["cells"]["0.6B/traffic/whole"]["ratios"]
    scores = gen["cells"]["0.6B/traffic/scores"]["ratios"]
    latency, share = pipeline["latency"], pipeline["of_ceiling"]["moderator"]
    shipped = stream["bars"]["the shipped way at 4096, beside an append of 1"]["found"]
    claim = review["bars"]["a claim's p95, ms"]["measured"]
    lost = sum(count for what, count in kills["found"].items() if what != "duplicated")
    yield from _table(
        ("", "found", "file"),
        [
            (
                f"Nothing is lost: {kills['events']:,} events, {kills['members']} moderators, "
                f"killed or frozen {kills['strikes']} times",
                f"{lost} lost or wrong, {kills['repeats'] / kills['events']:.1%} repeated",
                _link("storm.json"),
            ),
            (
                f"What the pipeline adds at {latency['rate']:,.0f} events a second",
                f"p50 {latency['ms']['p50']:.0f} ms, p99 {latency['ms']['p99']:.0f} ms",
                _link("pipeline.json"),
            ),
            (
                "A moderator's rate with a guard that answers at once",
                f"{pipeline['median']['moderator']:,} events a second, {share['median']:.2f} of a "
                f"hand-written loop's (bar {pipeline['bars']['moderator']['least']}: missed)",
                _link("pipeline.json"),
            ),
            (
                "Whole answers at the size of 0.6B, beside `transformers` and vLLM",
                f"{whole['transformers generate']['median']:.1f} and "
                f"{whole['vLLM as documented']['median']:.1f} times as many"
                + _missed_bar(gen, "whole", "vLLM as documented"),
                _link("gen.json"),
            ),
            (
                "Scores alone there, beside vLLM with the same trick",
                f"{scores['vLLM forced']['median']:.2f} times as many"
                + _missed_bar(gen, "scores", "vLLM forced"),
                _link("gen.json"),
            ),
            (
                "A token of a running answer behind 4,096 others, beside the published way",
                f"{shipped:.0f} times as fast",
                _link("stream.json"),
            ),
            (
                "Answers of the toy, and at the size of 0.6B, that differ from a full greedy "
                "decode by `transformers`",
                " and ".join(
                    f"{len(each['differences'])} of {each['compared']:,}" for each in equal
                ),
                _link("equality.json"),
            ),
            (
                f"A reviewer's next item out of {review['taken_in']['items']:,}, 50 people at once",
                f"p95 {claim:.0f} ms",
                _link("review.json"),
            ),
        ],
    )


def _missed_bar(gen: Any, what: str, peer: str) -> str:
    bars = gen["cells"][f"0.6B/traffic/{what}"]["bars"]
    (bar,) = (each for each in bars if each["peer"] == peer)
    return "" if bar["met"] else f" (bar {bar['least']}: missed)"


def _link(name: str) -> str:
    return f"[{name.removesuffix('.json')}](bench/results/{name})"


def _page() -> Iterator[str]:
    yield f"""\
# Benchmarks

Written by `{COMMAND}` from `bench/results`; a test holds it to them. Figures are
ratios of one run in which the contestants take turns: two machines, or two runs, are not compared.
What each benchmark does and how to run it stands in [bench](../bench/README.md).

**Bar** is what was wanted before it was measured. A bar that is missed says so. No GPU was at hand:
nothing here tells of one. The sizes *tiny* and *0.6B* are random weights of those shapes; the
*stand-in* is the toy of this project.

## The machines
"""
    yield from _table(
        ("results", "processor", "cores", "memory", "load before", "when"),
        [_machine(path.name) for path in sorted(RESULTS.glob("*.json"))],
    )
    yield from _missed()
    yield from _pipeline(_read("pipeline.json"))
    yield from _gen(_read("gen.json"))
    yield from _stream(_read("stream.json"))
    yield from _equal(_read("equality.json"), _read("near_ties.json"))
    yield from _long(_read("long_rows.json"))
    yield from _storm(_read("storm.json"))
    yield from _others()


def _machine(name: str) -> tuple[str, ...]:
    body = _read(name)
    parts = [body, *body.get("parts", {}).values()]
    machines = [part["machine"] for part in parts if "machine" in part]
    if not machines:
        return (f"`{name}`", "not recorded", "2", "", "", "")
    machine = machines[0]
    found = [
        part[name]
        for part in parts
        for name in ("load_before", "load")
        if part.get(name) is not None
    ]
    found = sorted({round(each, 2) for each in found})
    load = " to ".join(map(str, found[:: max(1, len(found) - 1)]))
    when = [part["at"][:10] for part in [*parts, *body.get("cells", {}).values()] if "at" in part]
    return (
        f"`{name}`",
        f"{machine['processor']}, {', '.join(machine['flags'])}",
        str(machine["cores"]),
        f"{machine['memory_mib'] / 1024:.1f} GiB",
        load,
        max(when),
    )


def _missed() -> Iterator[str]:
    yield """
## What is missed
"""
    pipeline, gen, stream = _read("pipeline.json"), _read("gen.json"), _read("stream.json")
    for name, bar in pipeline["bars"].items():
        if not bar["met"]:
            yield f"- pipeline, *{name}*: {bar['median']} of the ceiling, wanted {bar['least']}"
    for name, cell in gen["cells"].items():
        for bar in cell.get("bars", ()):
            if not bar["met"]:
                found = cell["ratios"][bar["peer"]]["median"]
                yield f"- Gen, {name}: {found} of {bar['peer']}, wanted {bar['least']}"
    for name, bar in stream["bars"].items():
        if not bar["met"]:
            yield f"- Stream, {name}: {bar['found']}, wanted at most {bar['at_most']}"
    cpu = pipeline["cpu_us_an_event"]
    yield (
        f"\nThe moderator spends {cpu['moderator']} µs of a core on an event, stock FastStream\n"
        f"with a handler that only answers {cpu['faststream']}, "
        f"a hand-written loop {cpu['ceiling']}."
    )


def _pipeline(body: Any) -> Iterator[str]:
    yield f"""
## The moderator beside a hand-written loop

{body["events"]:,} events of {body["event_bytes"]} bytes over {body["partitions"]} partitions
of a real Kafka, everything on the same two cores. *ceiling* reads, writes ready bytes and commits.
"""
    share = body["of_ceiling"]
    yield from _table(
        ("", "events a second", "CPU µs an event", "of the ceiling", "bar"),
        [
            (
                name,
                f"{rate:,}",
                str(body["cpu_us_an_event"][name]),
                _range(share[name]) if name in share else "1",
                _bar(body["bars"].get(name)),
            )
            for name, rate in body["median"].items()
        ],
    )
    latency = body["latency"]
    yield f"""
Latency at {latency["rate"]:,.0f} events a second, {latency["load"]:.0%} of the moderator's
own rate, from the moment at which an event is due to its verdict read.
Of {latency["events"]:,} events {latency["missing"]} have none.
"""
    yield from _table(
        ("", "p50", "p95", "p99", "bar"),
        [
            (
                "event to verdict, ms",
                *(str(latency["ms"][each]) for each in ("p50", "p95", "p99")),
                "; ".join(f"{name} {_bar(bar)}" for name, bar in latency["bars"].items()),
            ),
            (
                "one hop through the broker alone, ms",
                *(str(latency["one_hop_ms"][each]) for each in ("p50", "p95", "p99")),
                "",
            ),
        ],
    )


def _gen(body: Any) -> Iterator[str]:
    yield """
## The Gen engine beside transformers and vLLM

On a CPU, in float32. *scores*: the three scores; *whole*: refusals too, and categories for a fifth.
*forced* peers were given the engine's own trick, `Safety:` and one forward.
"""
    rows = []
    for name, cell in body["cells"].items():
        bars = {bar["peer"]: bar for bar in cell.get("bars", ())}
        for peer, ratio in cell.get("ratios", {}).items():
            bar = bars.get(peer)
            own = cell["entrants"]["engine"]["median"]
            rows.append((name, f"{own:,.1f}", peer, _range(ratio), _bar(bar)))
    yield from _table(
        ("shape, texts, what", "engine, rows a second", "peer", "times it", "bar"), rows
    )


def _stream(body: Any) -> Iterator[str]:
    yield f"""
## The Stream engine

The shape of 0.6B in {body["dtype"]}; every token is scored. *shipped*: the whole text forwarded
again for each token, as the published code does.
"""
    yield from _table(
        (
            "tokens before",
            "an append of",
            "ms a token",
            "beside the bare matmuls",
            "shipped, ms a token",
        ),
        [
            (
                f"{each['position']:,}",
                str(each["append"]),
                str(each["ms_a_token"]),
                str(each["beside_bare"]),
                f"{each['shipped_ms_a_token']:,}" if "shipped_ms_a_token" in each else "",
            )
            for each in body["appends"]
        ],
    )
    yield ""
    yield from _bars(body["bars"], "found")


def _equal(body: Any, ties: Any) -> Iterator[str]:
    yield """
## The same answers

The engine beside plain forwards and greedy decodes of `transformers`:
"""
    yield from _table(
        ("", "rows", "differences", "largest difference of a score", "bar"),
        [
            (
                name,
                f"{part['compared']['compared']:,}",
                str(len(part["compared"]["differences"])),
                f"{part['compared']['score_difference']:.1e}",
                "met" if part["bar"]["met"] else "**missed**",
            )
            for name, part in body["parts"].items()
        ],
    )
    yield """
The same rows alone and in random batches, with the second look at near ties off and on
([why](adr/0008-near-ties-are-judged-again.md)):
"""
    yield from _table(
        ("", "batches", "judgements", "other answers, off", "on"),
        [
            (
                name,
                f"{part['batches']:,}",
                f"{part['judgements']:,}",
                str(part["flips_off"]),
                str(part["flips_on"]),
            )
            for name, part in ties["parts"].items()
        ],
    )


def _long(body: Any) -> Iterator[str]:
    yield """
## Short rows beside long ones
"""
    yield from _table(
        ("", "short rows alone, p50 and p99 ms", "beside long rows", "a slice, p99 ms", "bar"),
        [
            (
                name,
                f"{part['alone']['p50_ms']:.0f}, {part['alone']['p99_ms']:.0f}",
                f"{part['beside']['p50_ms']:.0f}, {part['beside']['p99_ms']:.0f}",
                f"{part['slices']['p99_ms']:.0f}",
                "met" if part["bar"]["met"] else "**missed**",
            )
            for name, part in body["parts"].items()
        ],
    )


def _storm(body: Any) -> Iterator[str]:
    yield """
## The storm

`make storm`: moderators killed and frozen, Triton killed, rolling restarts; then every record is
held against what came of it. Repeats have the same id and the same value.
"""
    yield from _table(
        ("", "events", "kills, freezes, restarts", "lost or wrong", "repeated"),
        [
            (
                name,
                f"{part['events']:,}",
                str(part.get("strikes", part.get("restarts", ""))),
                str(
                    len(part["faults"])
                    + sum(n for what, n in part.get("found", {}).items() if what != "duplicated")
                ),
                f"{part['repeats']:,}",
            )
            for name, part in body["parts"].items()
        ],
    )


def _others() -> Iterator[str]:
    for title, name in (
        ("People's queue, 100,000 open items on PostgreSQL", "review.json"),
        ("A start behind a million overrides", "overrides.json"),
        ("A policy diff over a million verdicts", "policy-diff.json"),
        ("Telling a language", "language.json"),
    ):
        yield f"\n## {title}\n"
        yield from _bars(_read(name)["bars"], "measured")
    yield """
What the normalised view costs and how often it errs: [evasion](evasion.md). A simulated day of
autoscaling: [autoscaling](autoscaling.md)."""


def _bars(bars: dict[str, Any], found: str) -> Iterator[str]:
    yield from _table(
        ("", "found", "bar"), [(name, str(bar[found]), _bar(bar)) for name, bar in bars.items()]
    )


def _bar(bar: dict[str, Any] | None) -> str:
    """`at least 0.55: **missed**`; empty where there is none."""
    if bar is None:
        return ""
    for word, names in (("at least", ("least", "at_least")), ("at most", ("most", "at_most"))):
        for name in names:
            if name in bar:
                met = "met" if bar["met"] else "**missed**"
                cores = bar.get("cores_allow")
                allowed = "" if cores is None else f", or the {cores} that the cores allow"
                return f"{word} {bar[name]:g}{allowed}: {met}"
    raise ValueError(f"a bar without a bound: {bar}")


def _range(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")
