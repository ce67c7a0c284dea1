"""Rows to requests: what an outage, a bad row or a busy guard may not do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from qwarden.guard.answer import Answer, Assessment
from qwarden.inference.dispatch import Dispatcher, Limits
from qwarden.inference.port import GuardUnavailable

LIMITS = Limits(
    rows_a_request=4,
    bytes_a_request=100,
    requests_in_flight=2,
    backoff_s=0.001,
    max_backoff_s=0.004,
)


def safe(row: bytes) -> Answer:
    return Assessment((1.0, 0.0, 0.0), (), None, len(row), 0, "g@1")


class Guard:
    """A guard whose requests are answered when the test says so."""

    def __init__(self, judge: Callable[[bytes], Answer] = safe) -> None:
        self.judge_row = judge
        self.requests: list[list[bytes]] = []
        self.running = 0
        self.most_running = 0
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Condition()

    async def was_asked(self, times: int) -> None:
        async with asyncio.timeout(10), self.asked:
            await self.asked.wait_for(lambda: len(self.requests) >= times)

    async def revision(self) -> str:
        if self.away:
            raise GuardUnavailable("away")
        return "g@1"

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        self.requests.append(list(rows))
        async with self.asked:
            self.asked.notify_all()
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.gate.wait()
            if self.away:
                raise GuardUnavailable("away")
            return [self.judge_row(row) for row in rows]
        finally:
            self.running -= 1

    async def close(self) -> None: ...


@pytest.fixture
async def guard() -> Guard:
    return Guard()


@pytest.fixture
async def dispatcher(guard: Guard) -> AsyncIterator[Dispatcher]:
    made = Dispatcher(guard, LIMITS)
    yield made
    await made.close()


async def answers(dispatcher: Dispatcher, rows: Sequence[bytes]) -> list[Answer]:
    done = await asyncio.wait_for(asyncio.gather(*dispatcher.submit(rows)), 10)
    return [judged.answer for judged in done]


async def test_a_request_grows_over_its_limits(guard: Guard, dispatcher: Dispatcher) -> None:
    rows = [bytes([n]) * 30 for n in range(10)] + [b"x" * 500] + [b"y"] * 9
    got = await answers(dispatcher, rows)
    assert [a.tokens for a in got if isinstance(a, Assessment)] == [len(row) for row in rows]
    for request in guard.requests:
        assert len(request) <= LIMITS.rows_a_request
        assert sum(map(len, request)) <= LIMITS.bytes_a_request or len(request) == 1
    assert sum(map(len, guard.requests)) == len(rows)


async def test_an_idle_guard_lets_a_single_row_wait(guard: Guard, dispatcher: Dispatcher) -> None:
    guard.gate.clear()
    dispatcher.submit([b"a"])
    await asyncio.sleep(0)
    assert guard.requests == [[b"a"]]
    guard.gate.set()


async def test_a_busy_guard_gets_half_empty_requests(guard: Guard, dispatcher: Dispatcher) -> None:
    guard.gate.clear()
    futures = []
    for n in range(10):
        futures += dispatcher.submit([bytes([n])])
        await asyncio.sleep(0)
    assert [len(request) for request in guard.requests] == [1, 1]
    guard.gate.set()
    await asyncio.gather(*futures)
    assert [len(request) for request in guard.requests] == [1, 1, 4, 4]


async def test_an_outage_loses_or_reorders_rows_or_floods_the_guard(
    guard: Guard, dispatcher: Dispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    guard.away = True
    dispatcher.held = lambda: "(content.events/0 from 7)"
    rows = [bytes([n]) for n in range(20)]
    futures = dispatcher.submit(rows)
    await guard.was_asked(8)
    assert dispatcher.outage == "away"
    assert not any(future.done() for future in futures)
    guard.most_running = 0
    await guard.was_asked(12)
    assert guard.most_running == 1, "more than one request probes"
    guard.away = False
    done = await asyncio.wait_for(asyncio.gather(*futures), 10)
    assert [judged.answer for judged in done] == [safe(row) for row in rows]
    assert dispatcher.outage is None
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(said) == 2
    assert "content.events/0 from 7" in said[0]
    assert "back" in said[1]


async def test_the_revision_is_not_waited_for_through_an_outage(
    guard: Guard, dispatcher: Dispatcher
) -> None:
    guard.away = True
    asking = [asyncio.create_task(dispatcher.revision()) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in asking)
    guard.away = False
    assert await asyncio.wait_for(asyncio.gather(*asking), 10) == ["g@1"] * 3


async def test_a_fault_of_the_guard_leaves_its_callers_waiting(
    guard: Guard, dispatcher: Dispatcher
) -> None:
    def broken(row: bytes) -> Answer:
        raise ZeroDivisionError

    guard.judge_row = broken
    with pytest.raises(ZeroDivisionError):
        await answers(dispatcher, [b"a"])
