"""Where an assessment comes from, and who may see it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from qwarden.cache.memory import MemoryCache
from qwarden.cache.outage import SkippedWhenAway
from qwarden.cache.writer import CacheWriter
from qwarden.contracts.keys import ContentKey
from qwarden.guard.answer import Answer, Assessment, Failure, Unanswered
from qwarden.guard.row import View
from qwarden.inference.dispatch import Dispatcher, Limits
from qwarden.outcomes.lookup import Found, Lookup, Wanted

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
    other = asyncio.create_task(places(fixture.lookup, wanted("a")))
    await asyncio.sleep(0.01)
    fixture.guard.gate.set()
    assert await one == ["miss", "joined", "miss"]
    assert await other == ["joined"]
    assert sorted(fixture.guard.rows) == [b"a", b"b"]
    assert await places(fixture.lookup, wanted("a"), wanted("b")) == ["memory", "memory"]


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
    await asyncio.sleep(0.01)
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
