"""The engine behind the port, without Triton: what its failure and a cancellation become."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from qwarden.inference.in_process import InProcessGuard
from qwarden.inference.port import GuardFailed
from qwarden_engine.gen import Gen
from qwarden_engine.judge import Judge
from qwarden_engine.settings import EngineSettings
from unit.engine.checkpoints import conversations, tiny_checkpoint


def _guard() -> InProcessGuard:
    checkpoint = str(tiny_checkpoint(8192))
    return InProcessGuard(EngineSettings(checkpoint=checkpoint, device="cpu", token_budget=64))


async def test_an_engine_that_has_failed_is_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = _guard()
    await guard.revision()

    def fails(*_: object) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(Judge, "together", fails)
    with pytest.raises(GuardFailed, match="start it anew"):
        await guard.judge([conversations()[0].to_json()])
    await guard.close()


async def test_a_request_that_is_cancelled_while_it_is_handed_over_is_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guard = _guard()
    await guard.revision()
    handed, go_on = asyncio.Event(), threading.Event()
    asks: list[Callable[[], bool]] = []
    loop = asyncio.get_running_loop()

    def submit(_: Gen, rows: Sequence[bytes], done: object, cancelled: Callable[[], bool]) -> None:
        asks.append(cancelled)
        loop.call_soon_threadsafe(handed.set)
        go_on.wait(60)

    monkeypatch.setattr(Gen, "submit", submit)
    asked = asyncio.create_task(guard.judge([conversations()[0].to_json()]))
    await handed.wait()
    assert not asks[0]()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert asks[0]()
    go_on.set()
    await guard.close()
