"""Work beside the API: it goes on whatever a round does, and a standstill is seen."""

from __future__ import annotations

import asyncio
import logging

import pytest

from qwarden.review import sweeping
from qwarden.review.failing import where
from qwarden.review.sweeping import Work


@pytest.mark.long
async def test_a_round_that_fails_is_the_last(caplog: pytest.LogCaptureFixture) -> None:
    rounds = 0
    done = asyncio.Event()

    async def a_round() -> None:
        nonlocal rounds
        rounds += 1
        if rounds < 3:
            raise ValueError("canary: what somebody wrote")
        done.set()

    work = Work("sweep", 0.01, a_round)
    with caplog.at_level(logging.DEBUG):
        task = asyncio.create_task(work.run())
        await asyncio.wait_for(done.wait(), 30)
    task.cancel()
    assert caplog.text.count("the sweep fails") == 1, "each round tells it again"
    assert "ValueError" in caplog.text and "canary" not in caplog.text


async def test_a_round_that_hangs_is_taken_for_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "_HUNG_S", 0.05)
    began = asyncio.Event()

    async def a_round() -> None:
        began.set()
        await asyncio.Event().wait()

    work = Work("seal", 0.0, a_round)
    assert work.hangs is None, "it has not begun"
    task = asyncio.create_task(work.run())
    await began.wait()
    await asyncio.sleep(0.1)  # twice what it may take
    assert work.hangs is not None and work.hangs.startswith("the seal has stood still for")
    task.cancel()


def fails() -> None:
    raise ValueError("canary: what somebody wrote")


def test_a_failure_is_told_with_what_it_was_about_or_without_its_place() -> None:
    with pytest.raises(ValueError, match="canary") as raised:
        fails()
    line = fails.__code__.co_firstlineno + 1
    assert where(raised.value) == f"ValueError in {__name__}.fails:{line}"
    assert where(KeyError("canary")) == "KeyError", "it was never raised"
