"""Virtual time: an event loop whose clock jumps to the next timer when nothing is left to run."""

from __future__ import annotations

import asyncio
import random
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest import mock

T = TypeVar("T")

EPOCH_S = 1_700_000_000.0
"""What the wall clock shows when a run begins."""


_TURN_S = 1e-6
"""What a turn of the loop takes: aiokafka asks again at once where a deadline is a rounding error
away, and on a clock that stands still it would ask for ever."""


class Stuck(AssertionError):
    """Nothing runs and no timer is set: whatever is awaited will never come."""


class _NoSockets(selectors.SelectSelector):
    """Waits for nothing real: its wait is the jump."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck("nothing runs and no timer is set, so that nothing will ever happen")
        self.now += max(_TURN_S, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Deterministic as long as its tasks are: it has no sockets, no threads and no real clock."""

    def __init__(self) -> None:
        self._no_sockets = _NoSockets()
        super().__init__(self._no_sockets)

    def time(self) -> float:
        return self._no_sockets.now


@contextmanager
def _virtual(loop: VirtualLoop, seed: int) -> Iterator[None]:
    """aiokafka reads `time.monotonic` and draws from `random`: both are of the run meanwhile."""
    state = random.getstate()
    random.seed(seed)
    try:
        with (
            mock.patch.object(time, "monotonic", loop.time),
            mock.patch.object(time, "time", lambda: EPOCH_S + loop.time()),
        ):
            yield
    finally:
        random.setstate(state)


def run(main: Callable[[], Coroutine[Any, Any, T]], *, seed: int = 0) -> T:
    """Runs `main` in virtual time. Raises `Stuck` when it waits for what will never come."""
    loop = VirtualLoop()
    with _virtual(loop, seed), asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main())
