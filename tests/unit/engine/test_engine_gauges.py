"""What waits in the engines, as the autoscaler reads it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from qwarden.guard.answer import Answer
from qwarden.guard.stream import Append, Part
from qwarden_engine.checkpoint import open_checkpoint
from qwarden_engine.counts import GAUGES, HELP
from qwarden_engine.model import Forwarded, Past, Qwen3, Span
from qwarden_engine.stream.chat import Chat
from qwarden_engine.stream.counts import GAUGES as STREAM_GAUGES
from qwarden_engine.stream.network import StreamSpan
from unit.engine.checkpoints import STAND_IN, prompt, tiny
from unit.engine.stream_checkpoint import TEMPLATE
from unit.engine.stream_fakes import opened

LONG = 60.0
"""Seconds after which a test that waits has failed."""


class _Gate:
    """Holds whoever comes, until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self.opened.wait(LONG)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_queue_that_grows_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    gen = tiny(second_look=False)
    gate = _Gate()
    forward = Qwen3.forward

    def held(model: Qwen3, spans: Sequence[Span], past: Past | None = None) -> Forwarded:
        gate.wait()
        return forward(model, spans, past)

    monkeypatch.setattr(Qwen3, "forward", held)
    idle = gen.measures()
    assert set(idle) == HELP.keys() | GAUGES.keys()
    assert (idle["queue_oldest_seconds"], idle["pending_tokens"]) == (0, 0)
    answered: list[list[Answer] | None] = []
    gen.submit([prompt("the first one").to_json()], answered.append)
    assert gate.reached.wait(LONG)
    running = gen.measures()
    assert running["queue_oldest_seconds"] == 0, "what runs does not wait"
    assert running["pending_tokens"] > 0
    gen.submit([prompt("another, of some more words").to_json()], answered.append)
    first = gen.measures()
    assert first["pending_tokens"] > 2 * running["pending_tokens"] - 5
    until(lambda: gen.measures()["queue_oldest_seconds"] > first["queue_oldest_seconds"] > 0)
    gate.opened.set()
    until(lambda: len(answered) == 2)
    until(lambda: gen.measures()["pending_tokens"] == 0)
    assert gen.measures()["queue_oldest_seconds"] == 0
    gen.close()


def test_what_waits_before_the_engine_s_door_is_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    gen = tiny(second_look=False, token_budget=64)
    gate = _Gate()
    forward = Qwen3.forward

    def held(model: Qwen3, spans: Sequence[Span], past: Past | None = None) -> Forwarded:
        gate.wait()
        return forward(model, spans, past)

    monkeypatch.setattr(Qwen3, "forward", held)
    answered: list[list[Answer] | None] = []
    rows = [prompt(f"number {n} of some words").to_json() for n in range(40)]

    def ask() -> None:
        for row in rows:
            gen.submit([row], answered.append)

    asking = threading.Thread(target=ask)
    asking.start()
    assert gate.reached.wait(LONG)
    until(lambda: len(gen._scheduler._outside) == 1)
    inside = gen._scheduler._waiting.tokens + gen._scheduler._running
    assert gen.measures()["pending_tokens"] > inside
    gate.opened.set()
    asking.join(LONG)
    until(lambda: len(answered) == len(rows))
    gen.close()


def test_a_stream_s_queue_that_grows_is_not_seen() -> None:
    made = opened(Chat(replace(open_checkpoint(str(STAND_IN)), template=TEMPLATE)))
    gate = _Gate()

    def hold(spans: Sequence[StreamSpan]) -> None:
        gate.wait()

    made.network.before = hold
    idle = made.scheduler.gauges()
    assert set(idle) == STREAM_GAUGES.keys()
    assert (idle["queue_oldest_seconds"], idle["pending_tokens"]) == (0, 0)
    first = made.asked(Append("t", "one", 0, (Part("user", "How are you?", end=True),)))
    assert gate.reached.wait(LONG)
    running = made.scheduler.gauges()
    assert running["pending_tokens"] > 0
    second = made.asked(Append("t", "two", 0, (Part("user", "And how is she?", end=True),)))
    until(lambda: made.scheduler.gauges()["pending_tokens"] > running["pending_tokens"])
    was = made.scheduler.gauges()["queue_oldest_seconds"]
    until(lambda: made.scheduler.gauges()["queue_oldest_seconds"] > was)
    gate.opened.set()
    assert first() is not None
    assert second() is not None
    until(lambda: made.scheduler.gauges()["pending_tokens"] == 0)
    assert made.scheduler.gauges()["queue_oldest_seconds"] == 0
    made.scheduler.close()
