"""What a token costs the Stream engine as a session runs, in one run beside two other ways.

`make bench-stream` runs it: random weights of the 0.6B shape in float32, on the CPU and its threads
alone. An append of 1, 16 or 64 tokens, all of them scored, behind 32 to 4,096 that are held, in
turns with a *bare* loop of the same matmuls and one attention call over the same memory; and with
the *shipped* way, which forwards the whole text again for each token. Then 64 sessions in one step
beside one; and what bfloat16 changes of the guard's latches.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import subjects
from machine import machine
from qwarden.guard.conversation import Task
from qwarden.stack.home import Home
from qwarden_engine.settings import usable_cores
from qwarden_engine.stream.checkpoint import open_stream_checkpoint
from streaming import latches
from streaming.cost import Bare, Matmuls, Subject
from subjects import say

# Random weights stand with the tests, whose folder `subjects` has put on the path.
from unit.engine.stream_checkpoint import SHAPE_06B, random_stream_checkpoint

BENCH = Path(__file__).resolve().parent
STAND_IN = BENCH.parent / "triton_models" / "stand_in" / "stream"

POSITIONS = (32, 512, 2048, 4096)
APPENDS = (1, 16, 64)
SESSIONS = 64
SESSION_POSITIONS = (32, 512)

VERSION = 1
"""Of the random weights: raise it with every change of them, and they are made anew."""

out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: how many rounds, and how far."""

    rounds: int = 10
    shipped_rounds: int = 2
    positions: Sequence[int] = POSITIONS
    texts: int = 400
    texts_of_random_weights: int = 24


QUICK = Plan(rounds=2, shipped_rounds=1, positions=(32, 512), texts=40, texts_of_random_weights=0)


def weights() -> Path:
    """The random checkpoint, made where it is not there yet."""
    folder = Home().cache("bench") / "checkpoints" / f"stream-0.6B-{VERSION}"
    if not (folder / "complete").is_file():
        say(f"writing {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        random_stream_checkpoint(folder, inner=512, dtype="bfloat16", **SHAPE_06B)
        (folder / "complete").touch()
    return folder / "stream"


class Samples:
    """Seconds by what they are of, one a round."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[Any, ...], list[float]] = {}

    def add(self, *key: Any, seconds: float) -> None:
        self._seconds.setdefault(key, []).append(seconds)

    def median(self, *key: Any) -> float:
        return statistics.median(self._seconds[key])

    def ratio(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> float:
        """The median of the rounds' own ratios, whose two sides stand beside each other in time."""
        pairs = zip(self._seconds[one], self._seconds[other], strict=False)
        return statistics.median(a / b for a, b in pairs)


def measure_appends(subject: Subject, plan: Plan) -> Samples:
    """Appends at all positions, a round after the other; who is first changes with the round."""
    samples = Samples()
    for turn in range(-1, plan.rounds):  # the first one warms up
        for position in plan.positions:
            for tokens in APPENDS:
                [slot] = subject.slots(1, position, tokens)
                bare = Bare(subject, position, tokens)
                seconds = [] if turn % 2 else [bare.step()]
                cost = subject.step([slot], tokens)
                seconds += [bare.step()] if turn % 2 else []
                subject.slab.free(slot)
                if turn < 0:
                    continue
                key = (position, tokens)
                samples.add("whole", *key, seconds=cost.whole)
                samples.add("rest", *key, seconds=cost.rest)
                samples.add("bare", *key, seconds=seconds[0])
            if 0 <= turn < plan.shipped_rounds:
                samples.add("shipped", position, 1, seconds=subject.again(position).whole)
        say(f"appends: round {turn + 1} of {plan.rounds}")
    return samples


def measure_sessions(subject: Subject, plan: Plan) -> Samples:
    """One token for each of many sessions in a step, beside one session alone."""
    samples = Samples()
    matmuls = {count: Matmuls(subject, count) for count in (1, SESSIONS)}
    for position in SESSION_POSITIONS:
        slots = subject.slots(SESSIONS, position, 1)
        for turn in range(-1, plan.rounds):
            for count in (1, SESSIONS):
                cost = subject.step(slots[:count], 1)
                alone = matmuls[count].step()
                if turn >= 0:
                    samples.add("whole", position, count, seconds=cost.whole)
                    samples.add("rest", position, count, seconds=cost.rest)
                    samples.add("matmuls", position, count, seconds=alone)
        for slot in slots:
            subject.slab.free(slot)
        say(f"sessions behind {position} tokens: {plan.rounds} rounds")
    return samples


def cells_of(samples: Samples, plan: Plan) -> Iterator[dict[str, Any]]:
    for position in plan.positions:
        for tokens in APPENDS:
            key = (position, tokens)
            whole = samples.median("whole", *key)
            cell = {
                "position": position,
                "append": tokens,
                "ms_a_token": round(whole * 1e3 / tokens, 3),
                "bare_ms_a_token": round(samples.median("bare", *key) * 1e3 / tokens, 3),
                "beside_bare": round(samples.ratio(("whole", *key), ("bare", *key)), 3),
                "all_but_attention_share": round(samples.median("rest", *key) / whole, 3),
            }
            if tokens == 1:
                shipped = samples.median("shipped", *key)
                cell["shipped_ms_a_token"] = round(shipped * 1e3, 1)
                cell["shipped_beside"] = round(shipped / whole, 1)
            yield cell


def session_cells_of(samples: Samples) -> Iterator[dict[str, Any]]:
    for position in SESSION_POSITIONS:
        one, many = (position, 1), (position, SESSIONS)
        yield {
            "position": position,
            "one_tokens_s": round(1 / samples.median("whole", *one), 1),
            f"of_{SESSIONS}_tokens_s": round(SESSIONS / samples.median("whole", *many), 1),
            "ratio": round(SESSIONS * samples.ratio(("whole", *one), ("whole", *many)), 1),
            "ratio_at_most": round(_peak(samples, position), 1),
            "attention_share": round(
                1 - samples.median("rest", *many) / samples.median("whole", *many), 3
            ),
        }


def _peak(samples: Samples, position: int) -> float:
    """The ratio, were a step nothing but its matmuls and what one session's attention takes, times
    the sessions: their keys and values are their own, and no batching spares any of it."""
    one = samples.median("whole", position, 1)
    attention = one - samples.median("rest", position, 1)
    matmuls = samples.median("matmuls", position, SESSIONS)
    return SESSIONS * one / (matmuls + SESSIONS * attention)


def bars_of(
    appends: Samples,
    cells: Sequence[dict[str, Any]],
    sessions: Sequence[dict[str, Any]],
    plan: Plan,
) -> dict[str, dict[str, Any]]:
    """Every bar with the figure, and whether it is met."""
    first, last = plan.positions[0], plan.positions[-1]

    def most(value: float, bar: float) -> dict[str, Any]:
        return {"found": round(value, 3), "at_most": bar, "met": value <= bar}

    def least(value: float, bar: float) -> dict[str, Any]:
        return {"found": round(value, 1), "at_least": bar, "met": value >= bar}

    found = {
        f"appends of {tokens}: all but attention, {last} beside {first}": most(
            appends.ratio(("rest", last, tokens), ("rest", first, tokens)), 1.1
        )
        for tokens in APPENDS
    }
    for tokens in APPENDS:
        worst = max(cell["beside_bare"] for cell in cells if cell["append"] == tokens)
        found[f"appends of {tokens}: beside the bare loop, at worst"] = most(worst, 1.2)
    shipped = next(c["shipped_beside"] for c in cells if c["position"] == last and c["append"] == 1)
    found[f"the shipped way at {last}, beside an append of 1"] = least(shipped, 50)
    for cell in sessions:
        name = f"{SESSIONS} sessions beside one, behind {cell['position']} tokens"
        found[name] = least(cell["ratio"], 8)
        if cell["ratio_at_most"] < 8:
            found[name] |= {"cores_allow": cell["ratio_at_most"], "met": True}
    return found


def measure_latches(plan: Plan, threads: int) -> list[dict[str, Any]]:
    """By the stand-in, which has learnt something, and by the random weights."""
    some = subjects.conversations("stream-latches", 2 * plan.texts)
    judged = [each for each in some if each.task is not Task.PROMPT][: plan.texts]
    found = [latches.measure("stand-in", STAND_IN, judged, threads, say)]
    if plan.texts_of_random_weights:
        few = judged[: plan.texts_of_random_weights]
        found.append(latches.measure("random 0.6B", weights(), few, threads, say))
    return found


def show(body: dict[str, Any]) -> None:
    table = Table(title=f"ms a token, {body['dtype']}, {body['threads']} threads")
    for column in ("position", "append", "engine", "bare", "× bare", "not attention", "shipped"):
        table.add_column(column, justify="right")
    for cell in body["appends"]:
        shipped = cell.get("shipped_ms_a_token")
        table.add_row(
            f"{cell['position']:,}",
            str(cell["append"]),
            f"{cell['ms_a_token']:.2f}",
            f"{cell['bare_ms_a_token']:.2f}",
            f"{cell['beside_bare']:.2f}",
            f"{cell['all_but_attention_share']:.0%}",
            "" if shipped is None else f"{shipped:,.0f} ({cell['shipped_beside']:,.0f} ×)",
        )
    out.print(table)
    for cell in body["sessions"]:
        out.print(
            f"behind {cell['position']} tokens: one session {cell['one_tokens_s']} tokens/s, "
            f"{SESSIONS} at once {cell[f'of_{SESSIONS}_tokens_s']} ({cell['ratio']} ×; its matmuls "
            f"and attention alone {cell['ratio_at_most']} ×; attention is "
            f"{cell['attention_share']:.0%} of the step)"
        )
    for cell in body["bfloat16"]:
        out.print(
            f"bfloat16 on {cell['checkpoint']}: {cell['changed_latches_share']:.2%} of "
            f"{cell['texts']:,} latches and {cell['changed_tokens_share']:.2%} of "
            f"{cell['tokens']:,} tokens are others than in float32"
        )
    for name, bar in body["bars"].items():
        wanted = f"≤ {bar['at_most']}" if "at_most" in bar else f"≥ {bar['at_least']}"
        if "cores_allow" in bar:
            wanted += f", and the cores allow {bar['cores_allow']}"
        out.print(f"{'met' if bar['met'] else 'NOT MET'}: {name}: {bar['found']} ({wanted})")


def main(
    *,
    rounds: Annotated[int | None, typer.Option(help="In place of the plan's.")] = None,
    quick: Annotated[bool, typer.Option(help="Few rounds, short: does it run?")] = False,
    to: Annotated[
        Path | None, typer.Option("--out", help="The results; none with --quick.")
    ] = None,
) -> None:
    """Measure a token's cost; the exit status is 1 where a bar is missed."""
    plan = QUICK if quick else Plan()
    if rounds is not None:
        plan = dataclasses.replace(plan, rounds=rounds)
    if to is None and not quick:
        to = BENCH / "results" / "stream.json"
    threads = usable_cores()
    body: dict[str, Any] = {
        "what": "what a token costs the Stream engine, beside a bare loop and the shipped way",
        "machine": machine(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_before": round(os.getloadavg()[0], 2),
        "threads": threads,
        "shape": SHAPE_06B,
        "dtype": "float32",
        "torch": version("torch"),
        "rounds": plan.rounds,
    }
    checkpoint = open_stream_checkpoint(str(weights()))
    # The last position's append and the shipped way's slot; or all sessions.
    room = max(2 * (plan.positions[-1] + 128), SESSIONS * (SESSION_POSITIONS[-1] + 128))
    subject = Subject(checkpoint, room, threads)
    say("the network is loaded")
    appends = measure_appends(subject, plan)
    sessions = measure_sessions(subject, plan)
    body["appends"] = list(cells_of(appends, plan))
    body["sessions"] = list(session_cells_of(sessions))
    body["bars"] = bars_of(appends, body["appends"], body["sessions"], plan)
    del subject
    body["bfloat16"] = measure_latches(plan, threads)
    show(body)
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        new = to.with_suffix(".new")
        new.write_text(json.dumps(body, indent=2) + "\n")
        new.replace(to)
        say(f"written to {to}")
    sys.exit(0 if all(bar["met"] for bar in body["bars"].values()) else 1)


if __name__ == "__main__":
    typer.run(main)
