"""One run in a process of its own: every kind under the same garbage collector and event loop."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from ceilings import aiokafka_loop
from loops import events, moderating, pace, stock_faststream
from loops.guards import ALLOWED, MIX, InstantGuard
from loops.watch import Watch
from qwarden.contracts import topics

TARGET = "bench.verdicts"
"""Where the loops write; the moderator writes to its own topics."""

LIMIT_S = 180.0
"""Of one run: some ten times what a slow one takes."""

_LEAVE_S = 30.0
"""Over the 20 s that a moderator may drain."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to run. `environ`: the service's settings. `ready`: the file with the verdicts.
    `rate`, `warm_s`, `seconds`, `answers`: of the kind `load` alone, see `pace.load`."""

    kind: str
    group: str
    events: int
    bootstrap: str
    environ: dict[str, str]
    ready: Path
    rate: float = 0.0
    warm_s: float = 0.0
    seconds: float = 0.0
    answers: str = topics.VERDICTS


@dataclass(frozen=True, slots=True)
class Ran:
    """`rate`: events a second, all of them committed. `cpu_us`: of the process, an event. `counts`:
    what else the run left, by name."""

    rate: float
    cpu_us: float
    counts: dict[str, int] = field(default_factory=dict)


class Child:
    """A run that is under way."""

    def __init__(self, order: Order) -> None:
        self._order = order
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(order, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def result(self) -> Any:
        """What it found; leaves the bench where it failed."""
        kind = self._order.kind
        try:
            if not self._ours.poll(2 * LIMIT_S):
                sys.exit(f"the run of {kind} did not end within {2 * LIMIT_S:.0f} s")
            found = self._ours.recv()
        except EOFError:
            sys.exit(f"the run of {kind} failed; its error stands above")
        except BaseException:
            self._process.kill()
            raise
        self._process.join(_LEAVE_S)
        return found

    def stop(self) -> None:
        """Ends a service in order."""
        self._process.terminate()
        self._process.join(_LEAVE_S)
        self._process.kill()


def run(order: Order) -> Any:
    return Child(order).result()


def _work(order: Order, pipe: Any) -> None:
    logging.basicConfig(level=logging.ERROR)
    if order.kind == "librdkafka":
        pipe.send(_librdkafka(order))
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        pipe.send(runner.run(_KINDS[order.kind](order)))


def _tuned() -> None:
    """The garbage collector's settings, once all is there that stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def _librdkafka(order: Order) -> Ran:
    from ceilings import librdkafka_loop

    ready = events.kept_verdicts(order.ready)
    _tuned()
    before = time.process_time()
    rate = librdkafka_loop.run(order.bootstrap, topics.CONTENT, TARGET, order.group, ready)
    return Ran(rate, (time.process_time() - before) / order.events * 1e6)


async def _ceiling(order: Order) -> Ran:
    ready = events.kept_verdicts(order.ready)
    watch = Watch(topics.CONTENT, order.events)
    _tuned()
    rate = await aiokafka_loop.run(order.bootstrap, topics.CONTENT, TARGET, order.group, ready)
    return Ran(rate, watch.cpu_us)


async def _faststream(order: Order) -> Ran:
    ready = events.kept_verdicts(order.ready)
    watch = Watch(topics.CONTENT, order.events)
    _tuned()
    await stock_faststream.run(
        order.bootstrap,
        source=topics.CONTENT,
        target=TARGET,
        group=order.group,
        ready=ready,
        done=lambda: watch.all_committed(LIMIT_S),
    )
    return Ran(watch.rate, watch.cpu_us)


async def _moderator(order: Order) -> Ran:
    answers = MIX if order.kind == "mix" else ALLOWED
    guard = None if order.kind == "cold" else InstantGuard(answers)
    watch = Watch(topics.CONTENT, order.events)
    _tuned()
    counts = await moderating.moderate(
        order.environ,
        guard,
        lambda: watch.all_committed(LIMIT_S),
        fills=order.events if order.kind == "fill" else 0,
    )
    return Ran(watch.rate, watch.cpu_us, counts)


async def _served(order: Order) -> None:
    _tuned()
    await moderating.serve(order.environ, InstantGuard(ALLOWED))


async def _load(order: Order) -> pace.Latency:
    _tuned()
    return await pace.load(
        order.bootstrap,
        rate=order.rate,
        warm_s=order.warm_s,
        seconds=order.seconds,
        answers=order.answers,
    )


_KINDS: dict[str, Callable[[Order], Coroutine[Any, Any, Any]]] = {
    "ceiling": _ceiling,
    "faststream": _faststream,
    "fill": _moderator,
    "moderator": _moderator,
    "redis": _moderator,
    "cold": _moderator,
    "mix": _moderator,
    "served": _served,
    "load": _load,
}
