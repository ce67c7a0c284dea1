"""Rows to requests: what an outage, a bad row or a busy guard may not do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import pytest

from qwarden.guard.answer import Answer, Assessment, Failure, Unanswered
from qwarden.inference.dispatch import Dispatcher, Limits
from qwarden.inference.port import GuardFailed, GuardUnavailable, Trouble
from qwarden.inference.trials import KNOWN_GOOD

LIMITS = Limits(
    rows_a_request=4,
    bytes_a_request=100,
    requests_in_flight=2,
    backoff_s=0.001,
    max_backoff_s=0.004,
    suspects_in_flight=2,
    probe_s=7.0,
    alone_s=9.0,
    alone_1000_tokens_s=3.0,
)


def safe(row: bytes) -> Answer:
    return Assessment((1.0, 0.0, 0.0), (), None, len(row), 0, "g@1")


def no_answer(row: bytes) -> Answer:
    return Unanswered(Failure.NO_ANSWER, "not a number", "g@1")


def failed(reason: str = "INTERNAL") -> GuardUnavailable:
    return GuardUnavailable(reason, Trouble.FAILED)


BUSY = GuardUnavailable("its queue is full", Trouble.BUSY)
AWAY = GuardUnavailable("away")

Fault = Callable[[list[bytes]], BaseException | None]


class Guard:
    """A guard whose requests are answered when and as the test says."""

    def __init__(self) -> None:
        self.judge_row: Callable[[bytes], Answer] = safe
        self.fault: Fault = lambda rows: None
        self.requests: list[list[bytes]] = []
        self.timeouts: list[float | None] = []
        self.running = 0
        self.most_running = 0
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.held_back: dict[bytes, asyncio.Event] = {}
        """Requests that hold one of these rows wait for its event."""
        self.asked = asyncio.Condition()

    @property
    def rows(self) -> list[list[bytes]]:
        """The requests that were no probes."""
        return [request for request in self.requests if request != [KNOWN_GOOD]]

    @property
    def probes(self) -> int:
        return self.requests.count([KNOWN_GOOD])

    async def was_asked(self, times: int) -> None:
        async with asyncio.timeout(10), self.asked:
            await self.asked.wait_for(lambda: len(self.requests) >= times)

    async def revision(self) -> str:
        if self.away:
            raise GuardUnavailable("away")
        return "g@1"

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        self.requests.append(list(rows))
        self.timeouts.append(timeout_s)
        async with self.asked:
            self.asked.notify_all()
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            for row in rows:
                if row in self.held_back:
                    await self.held_back[row].wait()
            await self.gate.wait()
            if self.away:
                raise GuardUnavailable("away")
            fault = self.fault(list(rows))
            if fault is not None:
                raise fault
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


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not check():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


# Packing.


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


# The guard is away.


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
    assert len(guard.rows) == 2, "rows are sent into an outage"
    guard.away = False
    done = await asyncio.wait_for(asyncio.gather(*futures), 10)
    assert [judged.answer for judged in done] == [safe(row) for row in rows]
    assert dispatcher.outage is None
    sent = [row for request in guard.rows[2:] for row in request]
    assert sent == rows, "the rows overtook each other"
    assert len(said(caplog)) == 2
    assert "content.events/0 from 7" in said(caplog)[0]
    assert "back" in said(caplog)[1]


async def test_every_client_of_a_guard_that_went_asks_for_it_at_the_same_moment(
    guard: Guard,
) -> None:
    asked: list[float] = []

    def chance() -> float:
        asked.append(0.5)
        return asked[-1]

    dispatcher = Dispatcher(guard, LIMITS, chance)
    guard.away = True
    dispatcher.submit([b"a"])
    await guard.was_asked(5)
    assert len(asked) - guard.probes in (0, 1), "a wait before a probe is not jittered"
    await dispatcher.close()


async def test_a_guard_without_rows_that_wait_stays_away_for_ever(
    guard: Guard, dispatcher: Dispatcher
) -> None:
    guard.away = True
    [future] = dispatcher.submit([b"a"])
    await guard.was_asked(2)
    future.cancel()
    guard.away = False
    await until(lambda: dispatcher.outage is None)


async def test_the_revision_is_not_waited_for_through_an_outage(
    guard: Guard, dispatcher: Dispatcher
) -> None:
    guard.away = True
    asking = [asyncio.create_task(dispatcher.revision()) for _ in range(3)]
    await guard.was_asked(3)
    assert guard.most_running == 1
    assert not any(task.done() for task in asking)
    guard.away = False
    assert await asyncio.wait_for(asyncio.gather(*asking), 10) == ["g@1"] * 3
    assert dispatcher.outage is None


async def test_a_row_that_was_out_when_the_guard_went_is_held_against_it(
    guard: Guard, dispatcher: Dispatcher
) -> None:
    times = 0

    def fault(rows: list[bytes]) -> BaseException | None:
        nonlocal times
        if rows != [b"a"]:
            return None
        times += 1
        # First a failure, which makes it a suspect, then only outages; each probe comes back.
        return failed() if times == 1 else AWAY if times < 12 else None

    guard.fault = fault
    assert await answers(dispatcher, [b"a"]) == [safe(b"a")]
    assert times == 12


async def test_a_failure_counts_though_the_guard_went_while_its_proof_was_out(
    guard: Guard, dispatcher: Dispatcher
) -> None:
    """The known good conversation was answered by a guard that others found dying."""
    guard.judge_row = lambda row: no_answer(row) if row == b"bad" else safe(row)
    go_on = asyncio.Event()
    guard.held_back[KNOWN_GOOD] = go_on
    guard.fault = lambda rows: AWAY if rows == [b"other"] and not go_on.is_set() else None
    [bad] = dispatcher.submit([b"bad"])
    await guard.was_asked(2)
    [other] = dispatcher.submit([b"other"])
    await until(lambda: dispatcher.outage is not None)
    probed = guard.probes
    go_on.set()
    await asyncio.wait_for(asyncio.gather(bad, other), 10)
    assert probed == 1
    # Together once more, as if the first had not been; then twice alone.
    assert sum(b"bad" in request for request in guard.rows) == 4


async def test_a_failure_in_an_outage_counts_once_the_guard_is_back(
    guard: Guard, dispatcher: Dispatcher
) -> None:
    proof, alone, back = asyncio.Event(), asyncio.Event(), asyncio.Event()
    guard.held_back[KNOWN_GOOD] = proof
    guard.fault = lambda rows: (
        failed() if rows == [b"bad"] else AWAY if rows == [b"other"] and not back.is_set() else None
    )
    [bad] = dispatcher.submit([b"bad"])
    await until(lambda: guard.probes == 1)
    guard.held_back = {b"bad": alone, KNOWN_GOOD: back}
    proof.set()
    await until(lambda: guard.rows == [[b"bad"]] * 2)
    [other] = dispatcher.submit([b"other"])
    await until(lambda: guard.probes == 2)
    alone.set()
    await until(lambda: guard.running == 1)
    back.set()
    await asyncio.wait_for(asyncio.gather(bad, other), 10)
    assert guard.rows.count([b"bad"]) == 4


# The guard is busy.


async def test_a_full_queue_is_taken_for_an_outage_or_held_against_rows(
    guard: Guard, dispatcher: Dispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = 12
    outages = []

    def fault(rows: list[bytes]) -> BaseException | None:
        nonlocal refusals
        outages.append(dispatcher.outage)
        refusals -= 1
        return BUSY if refusals >= 0 else None

    guard.fault = fault
    rows = [bytes([n]) for n in range(40)]
    assert await answers(dispatcher, rows) == [safe(row) for row in rows]
    assert set(outages) == {None}
    assert guard.probes == 0
    assert [each for each in said(caplog) if "busy" in each] == said(caplog)[:1]
    assert "2 requests in flight again" in said(caplog)[-1], "it never grew again"
    assert len(said(caplog)) == 2


async def test_a_guard_that_is_full_is_asked_without_a_pause(guard: Guard) -> None:
    dispatcher = Dispatcher(guard, replace(LIMITS, backoff_s=30, max_backoff_s=60))
    guard.fault = lambda rows: BUSY
    dispatcher.submit([bytes([n]) for n in range(40)])
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(guard.requests) == 2
    assert dispatcher.outage is None
    await dispatcher.close()


async def test_a_probe_that_meets_a_full_queue_settles_a_failure(
    guard: Guard, dispatcher: Dispatcher
) -> None:
    guard.judge_row = lambda row: no_answer(row) if row == b"bad" else safe(row)
    guard.fault = lambda rows: (
        BUSY if rows == [KNOWN_GOOD] and guard.probes % 3 and guard.probes < 30 else None
    )
    [answer] = await answers(dispatcher, [b"bad"])
    assert isinstance(answer, Unanswered)
    assert guard.probes == 9, "each of the three failures needs one that was answered"
    assert dispatcher.outage is None


async def test_a_queue_that_stays_full_after_a_failure_is_called_an_outage(guard: Guard) -> None:
    """Its engine is stuck for longer than a probe may take: what it has runs out of time, and all
    else is refused. It is asked for less, and who failed meanwhile is held to nothing."""
    dispatcher = Dispatcher(guard, replace(LIMITS, probe_s=0.0))
    stuck = True
    guard.fault = lambda rows: (
        None if not stuck else BUSY if rows == [KNOWN_GOOD] else failed("DEADLINE_EXCEEDED")
    )
    [future] = dispatcher.submit([b"a"])
    await until(lambda: guard.probes > 20 or dispatcher.outage is not None)
    assert dispatcher.outage is None
    assert guard.rows == [[b"a"]], "it was tried again, or given up, before its failure was proven"
    stuck = False
    assert (await asyncio.wait_for(future, 10)).answer == safe(b"a")
    await dispatcher.close()


# A row fails.


async def test_a_bad_row_takes_those_beside_it_with_it_or_is_tried_for_ever(
    guard: Guard, dispatcher: Dispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    guard.fault = lambda rows: failed() if b"bad" in rows else None
    rows = [b"a", b"bad", b"c", b"d", b"e"]
    got = await answers(dispatcher, rows)
    assert [got[n] for n in (0, 2, 3, 4)] == [safe(rows[n]) for n in (0, 2, 3, 4)]
    bad = got[1]
    assert isinstance(bad, Unanswered)
    assert bad.failure is Failure.NO_ANSWER
    assert bad.revision == "g@1", "its verdict must name the guard that gave no answer"
    assert "INTERNAL" in bad.reason
    assert [request for request in guard.rows if b"bad" in request] == [
        rows[:4],
        [b"bad"],
        [b"bad"],
    ]
    assert guard.probes == 3, "each failure is followed by the known good conversation"
    assert dispatcher.outage is None
    assert len(said(caplog)) == 2
    assert "4 rows are tried alone" in said(caplog)[0]
    assert "given up" in said(caplog)[1]


async def test_an_answer_that_is_none_is_believed_at_once(
    guard: Guard, dispatcher: Dispatcher
) -> None:
    guard.judge_row = lambda row: no_answer(row) if row == b"bad" else safe(row)
    first, bad = await answers(dispatcher, [b"a", b"bad"])
    assert first == safe(b"a")
    assert isinstance(bad, Unanswered)
    assert bad.failure is Failure.NO_ANSWER
    assert guard.rows == [[b"a", b"bad"], [b"bad"], [b"bad"]]


async def test_a_row_that_failed_for_the_moment_is_given_up(
    guard: Guard, dispatcher: Dispatcher
) -> None:
    guard.judge_row = lambda row: (
        no_answer(row) if row == b"a" and len(guard.rows) < 3 else safe(row)
    )
    assert await answers(dispatcher, [b"a"]) == [safe(b"a")]
    assert len(guard.rows) == 3


@pytest.mark.parametrize("failure", [Failure.REFUSED, Failure.TOO_LONG, Failure.CRASHED])
async def test_what_the_engine_has_found_out_is_tried_again(
    guard: Guard, dispatcher: Dispatcher, failure: Failure
) -> None:
    found = Unanswered(failure, "why", "g@1")
    guard.judge_row = lambda row: found
    assert await answers(dispatcher, [b"a"]) == [found]
    assert guard.requests == [[b"a"]]


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_wrong_number_of_answers_gives_a_row_the_answer_of_another(count: int) -> None:
    class Miscounting(Guard):
        async def judge(
            self, rows: Sequence[bytes], *, timeout_s: float | None = None
        ) -> list[Answer]:
            got = await super().judge(rows, timeout_s=timeout_s)
            return [got[0]] * count if len(rows) > 1 else got

    dispatcher = Dispatcher(Miscounting(), LIMITS)
    assert await answers(dispatcher, [b"a", b"bb"]) == [safe(b"a"), safe(b"bb")]
    await dispatcher.close()


async def test_a_guard_that_fails_on_everything_drains_the_rows_into_verdicts(
    guard: Guard, dispatcher: Dispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    broken = True
    guard.fault = lambda rows: failed() if broken else None
    rows = [bytes([n]) for n in range(20)]
    futures = dispatcher.submit(rows)
    await guard.was_asked(30)
    assert dispatcher.outage == "INTERNAL"
    assert not any(future.done() for future in futures)
    broken = False
    done = await asyncio.wait_for(asyncio.gather(*futures), 10)
    assert [judged.answer for judged in done] == [safe(row) for row in rows]
    assert all(len(request) > 1 for request in guard.rows), "an outage made suspects"
    assert len(said(caplog)) == 2


async def test_a_guard_that_has_no_answer_to_anything_is_believed(
    guard: Guard, dispatcher: Dispatcher
) -> None:
    guard.judge_row = no_answer
    [future] = dispatcher.submit([b"a"])
    await guard.was_asked(9)
    assert dispatcher.outage is not None
    assert "known good conversation" in dispatcher.outage
    guard.judge_row = safe
    assert (await asyncio.wait_for(future, 10)).answer == safe(b"a")


async def test_a_long_row_alone_gets_no_more_time_than_a_short_one(guard: Guard) -> None:
    dispatcher = Dispatcher(guard, replace(LIMITS, bytes_a_request=10_000))
    guard.judge_row = lambda row: safe(row) if row == KNOWN_GOOD else no_answer(row)
    await answers(dispatcher, [b"a" * 3, b"b" * 6000])
    by_row = {
        request[0][:1]: timeout
        for request, timeout in zip(guard.requests, guard.timeouts, strict=True)
        if len(request) == 1 and request != [KNOWN_GOOD]
    }
    assert by_row == {b"a": pytest.approx(9.003), b"b": pytest.approx(9 + 6)}
    assert {
        timeout
        for request, timeout in zip(guard.requests, guard.timeouts, strict=True)
        if request == [KNOWN_GOOD]
    } == {7.0}
    await dispatcher.close()


async def test_a_suspect_that_waits_out_its_deadline_stalls_those_behind_it(guard: Guard) -> None:
    dispatcher = Dispatcher(guard, replace(LIMITS, requests_in_flight=1))
    # In company it fails; alone it does not come back.
    guard.fault = lambda rows: failed() if b"bad" in rows and len(rows) > 1 else None
    futures = dispatcher.submit([b"bad", b"a", b"b", b"c"])
    guard.held_back[b"bad"] = asyncio.Event()
    guard.held_back[b"bad"].set()
    await guard.was_asked(2)
    guard.held_back[b"bad"].clear()
    async with asyncio.timeout(10):
        # Those that stood beside it, and those that came later.
        done = await asyncio.gather(*futures[1:], *dispatcher.submit([b"d", b"e"]))
    assert [judged.answer for judged in done] == [
        safe(row) for row in (b"a", b"b", b"c", b"d", b"e")
    ]
    assert not futures[0].done()
    guard.held_back[b"bad"].set()
    assert (await asyncio.wait_for(futures[0], 10)).answer == safe(b"bad")
    await dispatcher.close()


async def test_who_failed_alone_is_tried_again_before_those_that_never_were(guard: Guard) -> None:
    dispatcher = Dispatcher(guard, replace(LIMITS, suspects_in_flight=1))
    guard.fault = lambda rows: failed() if b"bad" in rows else None
    await answers(dispatcher, [b"bad", b"a", b"b", b"c"])
    assert guard.rows[1:] == [[b"bad"], [b"a"], [b"b"], [b"c"], [b"bad"]]
    await dispatcher.close()


# A caller leaves, or must know.


async def test_a_row_that_nobody_waits_for_fails_those_beside_it(
    guard: Guard, dispatcher: Dispatcher
) -> None:
    guard.gate.clear()
    futures = dispatcher.submit([b"a", b"b"])
    futures[0].cancel()
    guard.gate.set()
    assert (await asyncio.wait_for(futures[1], 10)).answer == safe(b"b")


async def test_a_fault_of_the_guard_leaves_its_callers_waiting(
    guard: Guard, dispatcher: Dispatcher
) -> None:
    def broken(row: bytes) -> Answer:
        raise ZeroDivisionError

    guard.judge_row = broken
    with pytest.raises(ZeroDivisionError):
        await answers(dispatcher, [b"a"])


async def test_a_guard_that_only_a_new_start_mends_is_waited_for(
    guard: Guard, dispatcher: Dispatcher
) -> None:
    guard.away = True
    futures = dispatcher.submit([bytes([n]) for n in range(20)])
    await guard.was_asked(3)
    guard.away = False
    guard.fault = lambda rows: GuardFailed("start it anew")
    done = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 10)
    assert all(isinstance(each, GuardFailed) for each in done)


async def test_a_failure_whose_proof_raises_leaves_its_caller_waiting(
    guard: Guard, dispatcher: Dispatcher
) -> None:
    guard.judge_row = lambda row: no_answer(row) if row == b"bad" else safe(row)
    guard.fault = lambda rows: GuardFailed("start it anew") if rows == [KNOWN_GOOD] else None
    with pytest.raises(GuardFailed):
        await answers(dispatcher, [b"bad"])


async def test_a_close_waits_for_the_guard(guard: Guard, dispatcher: Dispatcher) -> None:
    guard.gate.clear()
    dispatcher.submit([bytes([n]) for n in range(20)])
    await guard.was_asked(2)
    await asyncio.wait_for(dispatcher.close(), 10)
    assert guard.running == 0
