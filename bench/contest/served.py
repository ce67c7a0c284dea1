"""The engine behind Triton beside the engine alone: throughput at saturation, and latency."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from contest import plan
from contest.adapter import environ_of, row_of, settings_of
from contest.cells import Terms
from contest.child import Worker
from contest.computed import Counter
from contest.rendering import Messages
from contest.results import Results
from contest.shapes import STAND_IN
from contest.texts import Texts
from qwarden.guard.answer import Assessment
from qwarden.inference.triton import TritonGuard
from qwarden.stack.home import Home
from qwarden.stack.triton import Triton, available

ROWS_A_REQUEST = 64
REQUESTS_IN_FLIGHT = 4
"""As the moderator asks: its settings' own values."""


async def _saturate(guard: TritonGuard, rows: Sequence[bytes]) -> float:
    """Seconds until all rows are answered, with several requests in flight at any time."""
    starts = iter(range(0, len(rows), ROWS_A_REQUEST))

    async def ask() -> None:
        for start in starts:
            _check(await guard.judge(rows[start : start + ROWS_A_REQUEST]))

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(REQUESTS_IN_FLIGHT)))
    return time.perf_counter() - began


async def _each(guard: TritonGuard, rows: Sequence[bytes]) -> list[float]:
    """Seconds of each row, asked for alone."""
    seconds = []
    for row in rows:
        began = time.perf_counter()
        answers = await guard.judge([row])
        seconds.append(time.perf_counter() - began)
        _check(answers)
    return seconds


def _check(answers: Sequence[object]) -> None:
    for answer in answers:
        if not isinstance(answer, Assessment):
            raise RuntimeError(f"a row of the contest has no answer: {answer}")


def measure(only: Sequence[str], results: Results, terms: Terms) -> None:
    """The two cells that are wanted and not there yet, with the stand-in and traffic's texts."""
    cells: dict[str, Callable[..., Any]] = {"triton": _throughput, "latency": _latency}
    wanted = [name for name in cells if name in only and not results.has(f"stand-in/{name}")]
    reason = available()
    if wanted and reason is not None:
        terms.say(f"Triton is left out: {reason}")
    if not wanted or reason is not None:
        return
    asyncio.run(_measure({name: cells[name] for name in wanted}, results, terms))


async def _measure(cells: dict[str, Callable[..., Any]], results: Results, terms: Terms) -> None:
    # Its own floor and dtype: as it is served.
    wanted = {"threads": terms.threads, **terms.more}
    environ = environ_of(settings_of(str(STAND_IN), wanted)[0])
    texts = Texts("served-1", Counter(STAND_IN).tokens)
    home = Home(terms.logs.parent / "stack")
    terms.say("starting Triton with the stand-in")
    with (
        Worker("engine", terms.logs / "engine-alone.log", env={}) as alone,
        Triton(home, environ) as triton,
    ):
        about = alone.ask("load", name="alone", checkpoint=str(STAND_IN), wanted=wanted)
        guard = TritonGuard(triton.grpc, timeout_s=120)
        try:
            for name, cell in cells.items():
                found = await cell(guard, alone, texts, terms)
                results.add(f"stand-in/{name}", {**found, "engine": about})
        finally:
            await guard.close()


async def _throughput(
    guard: TritonGuard, alone: Worker, texts: Texts, terms: Terms
) -> dict[str, Any]:
    count, rounds = (128, 1) if terms.quick else (1024, terms.rounds or 7)

    async def served(rows: list[Messages]) -> float:
        return count / await _saturate(guard, [row_of(row) for row in rows])

    async def bare(rows: list[Messages]) -> float:
        return count / float(alone.run(rows, name="alone")["seconds"])

    runs = {"engine alone": bare, "through Triton": served}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        await run(texts.conversations("traffic", count))
    for number in range(rounds):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            # Texts of its own for each, so that nothing can be answered from what was seen.
            rates[name].append(await runs[name](texts.conversations("traffic", count)))
        now = ", ".join(f"{name} {found[-1]:.1f}" for name, found in rates.items())
        terms.say(f"stand-in, Triton: round {number + 1} of {rounds}: {now} /s")
    ratios = [b / a for a, b in zip(*rates.values(), strict=True)]
    median = statistics.median(ratios)
    return {
        "rows": count,
        "rounds": rounds,
        "rows_a_request": ROWS_A_REQUEST,
        "requests_in_flight": REQUESTS_IN_FLIGHT,
        "entrants": {
            name: {
                "rates": [round(rate, 1) for rate in found],
                "median": round(statistics.median(found), 1),
            }
            for name, found in rates.items()
        },
        "ratio": {
            "median": round(median, 3),
            "least": round(min(ratios), 3),
            "most": round(max(ratios), 3),
        },
        "bars": [
            {
                "peer": "engine alone",
                "least": plan.THROUGH_TRITON,
                "met": median >= plan.THROUGH_TRITON,
            }
        ],
    }


async def _latency(guard: TritonGuard, alone: Worker, texts: Texts, terms: Terms) -> dict[str, Any]:
    blocks, size = (2, 10) if terms.quick else (20, 25)
    seconds: dict[str, list[float]] = {"bare loop": [], "through Triton": []}
    for number in range(blocks + 1):
        rows = texts.conversations("traffic", size)
        found = {}
        for name in list(seconds)[:: -1 if number % 2 else 1]:
            if name == "bare loop":
                found[name] = alone.ask("each", rows=rows, name="alone")["seconds"]
            else:
                found[name] = await _each(guard, [row_of(row) for row in rows])
        if number:  # the first block only warms
            for name, some in found.items():
                seconds[name] += some
    terms.say(f"stand-in, latency: {blocks * size} items, one at a time")
    return {
        "items": blocks * size,
        **{name: _percentiles(some) for name, some in seconds.items()},
    }


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return round(1000 * ordered[math.ceil(share * len(ordered)) - 1], 3)

    return {"p50_ms": at(0.5), "p99_ms": at(0.99)}
