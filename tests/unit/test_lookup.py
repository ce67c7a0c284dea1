"""Where an assessment comes from, and who may see it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from prometheus_client import REGISTRY

from qwarden.cache.memory import MemoryCache
from qwarden.cache.outage import SkippedWhenAway
from qwarden.cache.writer import CacheWriter
from qwarden.contracts.keys import ContentKey
from qwarden.guard.answer import Answer, Assessment, Failure, Triple, Unanswered
from qwarden.guard.row import View
from qwarden.inference.dispatch import Dispatcher, Limits
from qwarden.inference.port import GuardUnavailable, Trouble
from qwarden.outcomes.lookup import Found, Lookup, Wanted
from qwarden.policy.policy import Policy
from qwarden.policy.sources import load

KEYS = ContentKey(b"k" * 32)
LIMITS = Limits(64, 100_000, 4, 0.001, 0.01)


class Guard:
    def __init__(self) -> None:
        self.revision_now = "g@1"
        self.rows: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails = False

    async def revision(self) -> str:
        return self.revision_now

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        self.rows += rows
        await self.gate.wait()
        if self.fails:
            return [Unanswered(Failure.TOO_LONG, "", self.revision_now) for _ in rows]
        return [
            Assessment((1.0, 0.0, float(len(row))), (), None, 1, 0, self.revision_now)
            for row in rows
        ]

    async def close(self) -> None: ...


class Fixture:
    """A lookup with a guard, and a second store that stands for the shared one."""

    def __init__(self) -> None:
        self.guard = Guard()
        self.shared = MemoryCache(1000, 60)
        self.dispatcher = Dispatcher(self.guard, LIMITS)
        skipped = SkippedWhenAway(self.shared, pause_s=1)
        self.writer = CacheWriter(skipped, waiting=100, batch=10)
        self.lookup = self.process()

    def process(self) -> Lookup:
        """Another process of the same fleet: a memory of its own, the same shared store."""
        skipped = SkippedWhenAway(self.shared, pause_s=1)
        return Lookup(self.dispatcher, KEYS, MemoryCache(1000, 60), skipped, self.writer)


@pytest.fixture
async def fixture() -> Fixture:
    return Fixture()


ONE, BOTH = (View.AS_SENT,), (View.AS_SENT, View.MARKERS_BROKEN)


def wanted(text: str, scope: str = "paper", views: tuple[View, ...] = BOTH) -> Wanted:
    row = text.encode()
    return Wanted(row, KEYS.content_hash(row), views, scope)


async def places(lookup: Lookup, *rows: Wanted) -> list[str]:
    found: dict[int, Found] = {}

    def on_found(index: int, each: Found) -> None:
        assert index not in found, "one row was found twice"
        found[index] = each

    await asyncio.wait_for(lookup.find(rows, on_found), 10)
    return [found[index].place for index in range(len(rows))]


async def test_equal_rows_in_flight_are_judged_twice(fixture: Fixture) -> None:
    fixture.guard.gate.clear()
    one = asyncio.create_task(places(fixture.lookup, wanted("a"), wanted("a"), wanted("b")))
    before = looked_up("joined")
    other = asyncio.create_task(places(fixture.lookup, wanted("a")))
    await until(lambda: looked_up("joined") == before + 2 and len(fixture.guard.rows) == 2)
    fixture.guard.gate.set()
    assert await one == ["miss", "joined", "miss"]
    assert await other == ["joined"]
    assert sorted(fixture.guard.rows) == [b"a", b"b"]
    assert await places(fixture.lookup, wanted("a"), wanted("b")) == ["memory", "memory"]


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


def looked_up(place: str) -> float:
    return REGISTRY.get_sample_value("qwarden_cache_lookups_total", {"result": place}) or 0.0


class SlowShared(MemoryCache):
    """A shared store that answers when the test lets it."""

    def __init__(self) -> None:
        super().__init__(1000, 60)
        self.asked = asyncio.Event()
        self.lets_go = asyncio.Event()

    async def get_many(self, keys: Sequence[bytes]) -> list[Assessment | None]:
        self.asked.set()
        await self.lets_go.wait()
        return await super().get_many(keys)


async def test_a_search_that_is_given_up_takes_those_that_joined_it_along(
    fixture: Fixture,
) -> None:
    fixture.shared = slow = SlowShared()
    lookup = fixture.process()
    given_up = asyncio.create_task(places(lookup, wanted("a"), wanted("b")))
    await slow.asked.wait()
    before = looked_up("joined")
    joined = asyncio.create_task(places(lookup, wanted("a")))
    await until(lambda: looked_up("joined") > before)
    given_up.cancel()
    assert await joined == ["joined"]
    assert given_up.cancelled()
    assert fixture.guard.rows == [b"a"], "nobody waited for the other"
    slow.lets_go.set()
    assert await places(lookup, wanted("b")) == ["miss"]


async def test_another_process_asks_the_guard_again(fixture: Fixture) -> None:
    await places(fixture.lookup, wanted("a"))
    await fixture.writer.close(5)
    assert await places(fixture.process(), wanted("a")) == ["redis"]
    assert fixture.guard.rows == [b"a"]


async def test_one_tenant_learns_what_another_has_sent(fixture: Fixture) -> None:
    await places(fixture.lookup, wanted("a", "paper"))
    assert await places(fixture.lookup, wanted("a", "club")) == ["miss"]
    await places(fixture.lookup, wanted("b", ""))
    assert await places(fixture.lookup, wanted("b", "")) == ["memory"]


async def test_what_was_judged_in_one_view_answers_for_two(fixture: Fixture) -> None:
    assert await places(fixture.lookup, wanted("a", views=ONE), wanted("a")) == ["miss", "miss"]
    await fixture.writer.close(5)
    again = fixture.process()
    assert await places(again, wanted("a"), wanted("a", views=ONE)) == ["redis", "redis"]
    assert fixture.guard.rows == [b"a", b"a"]


async def test_a_new_guard_is_answered_for_by_the_old_one(fixture: Fixture) -> None:
    await places(fixture.lookup, wanted("a"))
    fixture.guard.revision_now = "g@2"
    assert await places(fixture.lookup, wanted("a")) == ["miss"]
    assert fixture.guard.rows == [b"a", b"a"]


async def test_an_answer_is_kept_under_the_revision_that_did_not_give_it(
    fixture: Fixture,
) -> None:
    fixture.guard.gate.clear()
    running = asyncio.create_task(places(fixture.lookup, wanted("a")))
    await until(lambda: fixture.guard.rows == [b"a"])
    fixture.guard.revision_now = "g@2"
    fixture.guard.gate.set()
    assert await running == ["miss"]
    assert await places(fixture.lookup, wanted("a")) == ["memory"]
    fixture.guard.revision_now = "g@1"
    assert await places(fixture.lookup, wanted("a")) == ["miss"]


@pytest.mark.parametrize("place", ["miss", "joined", "redis", "memory"])
async def test_a_fault_in_building_a_verdict_is_swallowed(fixture: Fixture, place: str) -> None:
    lookup = fixture.lookup
    rows = [wanted("a"), wanted("a")] if place == "joined" else [wanted("a")]
    if place in ("redis", "memory"):
        await places(lookup, wanted("a"))
        await fixture.writer.close(5)
        lookup = fixture.process() if place == "redis" else lookup

    def broken(index: int, found: Found) -> None:
        if found.place == place:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(lookup.find(rows, broken), 10)


async def test_a_failure_is_remembered(fixture: Fixture) -> None:
    fixture.guard.fails = True
    assert await places(fixture.lookup, wanted("a")) == ["miss"]
    fixture.guard.fails = False
    assert await places(fixture.lookup, wanted("a")) == ["miss"]
    await fixture.writer.close(5)
    assert len(fixture.shared._kept) == 1


# Asked for exactly.

BOUND = 0.03
EVEN: Triple = (0.0, -50.0, 0.0)
"""Half Safe, half Unsafe: beside the number of the policy."""


def policy_of(rule: str) -> Policy:
    text = (
        "name: house\nextends: default\n"
        f"rules: [{{name: x, when: {{{rule}}}, then: block, ground: law, clause: c}}]\n"
    )
    return load({"house": text}).policies["house"]


HALF = policy_of("score: {unsafe: {at_least: 0.5}}")


class Exact(Fixture):
    """A guard whose answer to an exact row is another one, and a policy beside whose number it is.
    `asked`: of each row its text and whether it was exact."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, bool]] = []
        self.held: dict[tuple[str, bool], asyncio.Event] = {}
        self.says: Callable[[str, bool], Answer] = lambda text, exact: self.answer(
            (0.0, -50.0, -0.05) if exact else EVEN
        )
        self.away = False
        self.dispatcher = Dispatcher(self, Limits(1, 100_000, 8, 0.001, 0.01))
        self.lookup = self.process()

    def process(self, bound: float = BOUND) -> Lookup:
        skipped = SkippedWhenAway(self.shared, pause_s=1)
        memory = MemoryCache(1000, 60)
        return Lookup(self.dispatcher, KEYS, memory, skipped, self.writer, exact_bound=bound)

    def answer(self, logits: Triple) -> Assessment:
        return Assessment(logits, (), None, 1, 0, "g@1")

    async def revision(self) -> str:
        return "g@1"

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        answers = []
        for row in rows:
            body = json.loads(row)
            one = body["text"], body.get("exact", False)
            self.asked.append(one)
            if self.away and one[1]:
                raise GuardUnavailable("the test says so", Trouble.AWAY)
            if one in self.held:
                await self.held[one].wait()
            answers.append(self.says(*one))
        return answers

    async def close(self) -> None: ...


@pytest.fixture
async def exact() -> Exact:
    return Exact()


def near(text: str = "a", policy: Policy | None = HALF, scope: str = "paper") -> Wanted:
    row = json.dumps({"text": text, "views": ["as_sent"]}, separators=(",", ":")).encode()
    return Wanted(row, KEYS.content_hash(row), ONE, scope, policy)


async def unsafe(lookup: Lookup, *rows: Wanted) -> list[tuple[str, float | None]]:
    """Of each row where the answer came from, and its score of Unsafe."""
    told: dict[int, Found] = {}
    await asyncio.wait_for(lookup.find(rows, told.__setitem__), 10)
    return [
        (found.place, found.answer.scores[2] if isinstance(found.answer, Assessment) else None)
        for _, found in sorted(told.items())
    ]


EXACTLY: Any = pytest.approx(0.4875, abs=0.0001)
BOTH_TIMES = [("a", False), ("a", True)]


async def test_what_else_is_in_a_batch_decides_beside_a_threshold(exact: Exact) -> None:
    before = REGISTRY.get_sample_value("qwarden_exact_lookups_total", {"result": "miss"}) or 0
    assert await unsafe(exact.lookup, near()) == [("miss", EXACTLY)]
    assert exact.asked == BOTH_TIMES
    after = REGISTRY.get_sample_value("qwarden_exact_lookups_total", {"result": "miss"})
    assert after == before + 1


@pytest.mark.parametrize(
    "policy",
    [None, policy_of("safety: [Unsafe]"), policy_of("score: {unsafe: {at_least: 0.54}}")],
    ids=["nobody reads it", "it has no number", "it is far"],
)
async def test_every_answer_is_asked_for_twice(exact: Exact, policy: Policy | None) -> None:
    assert await unsafe(exact.lookup, near(policy=policy)) == [("miss", 0.5)]
    assert exact.asked == [("a", False)]


async def test_a_guard_that_no_batch_moves_is_asked_twice(exact: Exact) -> None:
    assert await unsafe(exact.process(bound=0.0), near()) == [("miss", 0.5)]
    assert exact.asked == [("a", False)]


@pytest.mark.parametrize(("at_least", "times"), [(0.53, 2), (0.4692, 2), (0.532, 1), (0.468, 1)])
async def test_the_bound_holds_on_one_side_only(exact: Exact, at_least: float, times: int) -> None:
    await unsafe(
        exact.lookup, near(policy=policy_of(f"score: {{unsafe: {{at_least: {at_least}}}}}"))
    )
    assert len(exact.asked) == times


async def test_an_exact_answer_is_asked_for_again_at_each_hit(exact: Exact) -> None:
    await unsafe(exact.lookup, near())
    assert await unsafe(exact.lookup, near()) == [("memory", EXACTLY)]
    await exact.writer.close(5)
    other = exact.process()
    assert await unsafe(other, near()) == [("redis", EXACTLY)]
    assert exact.asked == BOTH_TIMES


async def test_a_cached_answer_outlives_the_exact_one(exact: Exact) -> None:
    await unsafe(exact.lookup, near(policy=None))
    assert await unsafe(exact.lookup, near()) == [("miss", EXACTLY)]
    assert await unsafe(exact.lookup, near(policy=None)) == [("memory", EXACTLY)]
    await exact.writer.close(5)
    assert await unsafe(exact.process(), near(policy=None)) == [("redis", EXACTLY)]
    assert exact.asked == BOTH_TIMES


async def test_an_answer_of_a_batch_that_is_kept_late_passes_for_exact(exact: Exact) -> None:
    """Another process has kept its own over the exact one."""
    await unsafe(exact.lookup, near())
    await exact.writer.close(5)
    stale = exact.answer(EVEN)
    for key in list(exact.shared._kept):
        if key == exact.lookup._key(near(), "g@1"):
            exact.shared.put(key, stale)
    assert await unsafe(exact.process(), near()) == [("redis", EXACTLY)]
    assert exact.asked == BOTH_TIMES


async def test_one_tenant_learns_what_another_has_had_exactly(exact: Exact) -> None:
    await unsafe(exact.lookup, near())
    assert await unsafe(exact.lookup, near(scope="club")) == [("miss", EXACTLY)]
    assert exact.asked == BOTH_TIMES * 2


async def test_a_slow_row_keeps_the_exact_ones_of_its_batch_waiting(exact: Exact) -> None:
    exact.held["slow", False] = asyncio.Event()
    told: dict[int, Found] = {}
    first = asyncio.Event()

    def on_found(index: int, found: Found) -> None:
        told[index] = found
        first.set()

    finding = asyncio.create_task(exact.lookup.find([near("slow"), near("a")], on_found))
    await asyncio.wait_for(first.wait(), 10)
    assert set(told) == {1}
    exact.held["slow", False].set()
    await asyncio.wait_for(finding, 10)
    assert set(told) == {0, 1}


async def test_equal_rows_are_judged_exactly_twice(exact: Exact) -> None:
    exact.held["a", True] = asyncio.Event()
    searches = [
        asyncio.create_task(unsafe(exact.lookup, near(), near(policy=None))),
        asyncio.create_task(unsafe(exact.lookup, near())),
    ]
    while len(exact.asked) < 2:  # noqa: ASYNC110  # what is waited for has no event
        await asyncio.sleep(0)
    exact.held["a", True].set()
    assert await asyncio.gather(*searches) == [
        [("miss", EXACTLY), ("joined", 0.5)],
        [("joined", EXACTLY)],
    ]
    assert exact.asked == BOTH_TIMES


async def test_no_exact_answer_is_the_answer_of_the_batch(exact: Exact) -> None:
    says = exact.says
    exact.says = lambda text, is_exact: (
        Unanswered(Failure.TOO_LONG, "", "g@1") if is_exact else says(text, is_exact)
    )
    assert await unsafe(exact.lookup, near()) == [("miss", None)]


async def test_an_outage_has_the_answer_of_the_batch_stand(exact: Exact) -> None:
    exact.away = True
    finding = asyncio.create_task(unsafe(exact.lookup, near()))
    while exact.dispatcher.outage is None:  # noqa: ASYNC110  # as above
        await asyncio.sleep(0)
    assert not finding.done()
    exact.away = False
    assert await finding == [("miss", EXACTLY)]


async def test_a_search_that_nobody_waits_for_is_told_of_exact_answers(exact: Exact) -> None:
    exact.held["a", True] = asyncio.Event()
    told: dict[int, Found] = {}
    finding = asyncio.create_task(exact.lookup.find([near()], told.__setitem__))
    while len(exact.asked) < 2:  # noqa: ASYNC110  # as above
        await asyncio.sleep(0)
    finding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finding
    other = asyncio.create_task(unsafe(exact.lookup, near()))
    exact.held["a", True].set()
    assert (await other)[0][1] == EXACTLY
    assert told == {}
