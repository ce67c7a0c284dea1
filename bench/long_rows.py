"""What long rows cost the short ones beside them.

Short rows come one by one, at fixed times, at a share of what the engine can do (measured first):
alone, and then while conversations of 8,000 to 30,000 tokens are judged, always with another long
one waiting. They go on until the last long one is answered. The latency of a row runs from the time
at which it was due, so that a producer that is held up hides nothing.

The engine forwards a long row in slices, in turns with micro-batches of short ones. The bar: the
99th percentile of the latency beside long rows is at most that alone plus two slice times. The
slice time is the 99th percentile of those measured beside short rows; the result by the median
slice is printed too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

import subjects
from qwarden.guard.answer import Answer, Assessment
from qwarden_engine.gen import Gen
from qwarden_engine.settings import EngineSettings
from subjects import say

UNDER_WAY = 2
"""Long rows that are handed over and not answered: one in slices, one that waits."""

EPILOG = """\
examples:
  .venv/bin/python bench/long_rows.py                  the counts of the bar
  .venv/bin/python bench/long_rows.py --load 0.25      with more room for the short ones
  .venv/bin/python bench/long_rows.py --long 2 --short 100 --most 12000
                                                       a quick look

Nothing else may run meanwhile. The exit status is 1 where the bar is missed, a row has no answer,
or there were fewer rows than the bar asks for.
"""


class Timed:
    """Puts a stopwatch around a method of the engine's judge."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self.seconds: list[float] = []

    def __call__(self, *given: Any) -> Any:
        began = time.perf_counter()
        try:
            return self._call(*given)
        finally:
            self.seconds.append(time.perf_counter() - began)


class Watch:
    """The times of slices and micro-batches of one engine."""

    def __init__(self, gen: Gen) -> None:
        judge: Any = gen._scheduler._judge
        self.slices, self.batches = Timed(judge.slice), Timed(judge.together)
        judge.slice, judge.together = self.slices, self.batches

    def forget(self) -> None:
        self.slices.seconds, self.batches.seconds = [], []


class Paced:
    """Hands rows over one by one, each when it is due."""

    def __init__(self, gen: Gen, rows: Sequence[bytes], rate: float) -> None:
        self._gen, self._rows, self._rate = gen, rows, rate
        self._answered = threading.Condition()
        self.latencies: list[float] = []
        self.failed: list[str] = []
        self.held_up = 0.0

    def run(self, wanted: int, going_on: Callable[[], bool] = lambda: False) -> None:
        """Sends `wanted` rows, and more as long as it is `going_on`; waits for their answers."""
        began = time.perf_counter()
        sent = 0
        while sent < wanted or going_on():
            due = began + sent / self._rate
            time.sleep(max(0.0, due - time.perf_counter()))
            before = time.perf_counter()
            self._gen.submit([self._rows[sent % len(self._rows)]], self._done(due))
            self.held_up = max(self.held_up, time.perf_counter() - before)
            sent += 1
        with self._answered:
            self._answered.wait_for(lambda: len(self.latencies) == sent)

    def _done(self, due: float) -> Callable[[list[Answer] | None], None]:
        def done(answers: list[Answer] | None) -> None:
            latency = time.perf_counter() - due
            with self._answered:
                self.latencies.append(latency)
                if answers is None or not isinstance(answers[0], Assessment):
                    self.failed.append(str(answers))
                self._answered.notify_all()

        return done

    def body(self) -> dict[str, Any]:
        """For the file of results."""
        return {
            "rows": len(self.latencies),
            **_quantiles(self.latencies),
            "longest_in_submit_ms": round(self.held_up * 1e3, 2),
            "failed": self.failed,
        }


class Background(threading.Thread):
    """Has long rows judged, `UNDER_WAY` at a time."""

    def __init__(self, gen: Gen, rows: Sequence[bytes]) -> None:
        super().__init__(name="long", daemon=True)
        self._gen, self._rows = gen, rows
        self._room = threading.Semaphore(UNDER_WAY)
        self._left = len(rows)
        self.answers: list[Answer] = []
        self.failed: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        for row in self._rows:
            self._room.acquire()
            self._gen.submit([row], self._done)

    def _done(self, answers: list[Answer] | None) -> None:
        # Only the engine's thread comes here.
        if answers is None or not isinstance(answers[0], Assessment):
            self.failed.append(str(answers))
        else:
            self.answers += answers
        self._left -= 1
        say(f"{len(self._rows) - self._left} of {len(self._rows)} long rows are answered")
        if not self._left:
            self.ended.set()
        self._room.release()


def capacity(gen: Gen, rows: Sequence[bytes]) -> float:
    """Short rows a second where the next one always waits already."""
    paced = Paced(gen, rows, rate=1e9)
    began = time.perf_counter()
    paced.run(len(rows))
    return len(rows) / (time.perf_counter() - began)


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """All of it, on one engine."""
    network = subjects.network(asked.network, "listing")
    tokenizer = Tokenizer.from_file(str(network / "tokenizer.json"))

    def tokens(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    seed = f"long-rows-{asked.seed}"
    short = [each.to_json() for each in subjects.conversations(seed, asked.short, most=4)]
    some = subjects.long_conversations(seed, asked.long, asked.least, asked.most, tokens)
    long = [each.to_json() for each in some]
    settings = EngineSettings(checkpoint=str(network), device="cpu", dtype=asked.dtype)
    gen = Gen.load(settings, say)
    watch = Watch(gen)
    capacity(gen, short[:100])
    able = capacity(gen, short)
    rate = able * asked.load
    say(f"the engine judges {able:.1f} short rows/s; {rate:.1f}/s are sent")
    watch.forget()
    alone = Paced(gen, short, rate)
    alone.run(asked.short)
    batches_alone = watch.batches.seconds
    say(f"alone: {_quantiles(alone.latencies)}")
    watch.forget()
    beside, background = Paced(gen, short, rate), Background(gen, long)
    background.start()
    beside.run(asked.short, lambda: not background.ended.is_set())
    background.ended.wait()
    gen.close()
    judged = sum(each.tokens for each in background.answers if isinstance(each, Assessment))
    return {
        "network": network.name,
        "dtype": asked.dtype,
        "revision": gen.revision,
        "capacity_rows_s": round(able, 1),
        "load": asked.load,
        "rate_rows_s": round(rate, 1),
        "long": {"rows": len(long), "tokens": judged, "failed": background.failed},
        "slices": {"count": len(watch.slices.seconds), **_quantiles(watch.slices.seconds)},
        "micro_batches": {
            "alone": _quantiles(batches_alone),
            "beside": _quantiles(watch.batches.seconds),
        },
        "alone": alone.body(),
        "beside": beside.body(),
    }


def bars(body: dict[str, Any]) -> dict[str, Any]:
    """The bar, by the slice time that counts and by the median one."""
    found: dict[str, Any] = {}
    for name in ("p99_ms", "p50_ms"):
        most = body["alone"]["p99_ms"] + 2 * body["slices"][name]
        found[f"by_slice_{name}"] = {
            "most_ms": round(most, 2),
            "met": body["beside"]["p99_ms"] <= most,
        }
    answered = not (body["alone"]["failed"] or body["beside"]["failed"] or body["long"]["failed"])
    enough = body["long"]["rows"] >= 50 and body["alone"]["rows"] >= 500
    met = answered and enough and found["by_slice_p99_ms"]["met"]
    return {**found, "all_answered": answered, "enough_rows": enough, "met": met}


def show(body: dict[str, Any]) -> None:
    """Prints what was measured."""
    print(
        f"{body['network']} in {body['dtype']}: {body['long']['rows']} long rows of "
        f"{body['long']['tokens']:,} tokens in all, {body['beside']['rows']:,} short ones beside "
        f"them, {body['alone']['rows']:,} alone, at {body['rate_rows_s']}/s of "
        f"{body['capacity_rows_s']}/s"
    )
    for name in ("alone", "beside"):
        each = body[name]
        print(
            f"  short rows {name}: p50 {each['p50_ms']} ms, p99 {each['p99_ms']} ms, most "
            f"{each['most_ms']} ms; longest wait to hand one over {each['longest_in_submit_ms']} ms"
        )
    slices = body["slices"]
    print(
        f"  {slices['count']:,} slices: p50 {slices['p50_ms']} ms, p99 {slices['p99_ms']} ms, "
        f"most {slices['most_ms']} ms; micro-batches beside them p50 "
        f"{body['micro_batches']['beside']['p50_ms']} ms"
    )
    for failed in (*body["long"]["failed"], *body["alone"]["failed"], *body["beside"]["failed"]):
        print(f"  NO ANSWER: {failed}")
    if not body["bar"]["enough_rows"]:
        print("  fewer rows than the bar asks for: 50 long ones, 500 short ones")
    for name, bar in body["bar"].items():
        if isinstance(bar, dict):
            met = "met" if bar["met"] else "NOT MET"
            print(f"  p99 beside <= {bar['most_ms']} ms, {name.replace('_', ' ')}: {met}")


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {
        "p50_ms": round(cuts[49] * 1e3, 2),
        "p99_ms": round(cuts[98] * 1e3, 2),
        "most_ms": round(max(seconds) * 1e3, 2),
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Measure short rows beside long ones.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--network", choices=("tiny", "stand-in", "0.6B"), default="tiny", help="(default tiny)")
    add("--dtype", default="auto", help="of the engine (default auto)")
    add("--short", type=int, default=500, help="short rows alone, and at least beside (500)")
    add("--long", type=int, default=50, help="long rows (default 50)")
    add("--least", type=int, default=8_000, help="tokens of the shortest long row (8000)")
    add("--most", type=int, default=30_000, help="tokens of the longest (default 30000)")
    add("--load", type=float, default=0.5, help="share of the capacity that is sent (0.5)")
    add("--seed", type=int, default=1, help="of the texts (default 1)")
    add("--out", type=Path, default=subjects.RESULTS / "long_rows.json", help="the results")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    body = measure(asked)
    body["bar"] = bars(body)
    part = f"{asked.network}, {asked.dtype}, load {asked.load}"
    subjects.record(asked.out, "short rows beside long ones", part, body)
    show(body)
    sys.exit(0 if body["bar"]["met"] else 1)


if __name__ == "__main__":
    main()
