"""Leases against a list of who was given what: never two holders, fences only grow, and nothing
that has ended proves anything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from escalated import NOW, open_item, person, put_items
from examples import examples
from qwarden.review.person import Person, Role
from qwarden.review.refusals import Conflict, Refusal, Stale
from qwarden.review.store import leases, schema
from qwarden.review.store.database import Database
from qwarden.review.store.leases import Lease
from qwarden.review.store.turns import Wanted
from qwarden.settings import Review

pytestmark = pytest.mark.long

LIMITS = Review(lease_s=100, held_items=2, golden_share=0)
ITEMS = 6
T = TypeVar("T")

people = st.integers(0, 3)
numbers = st.integers(0, ITEMS - 1)
pick = st.integers(0, 10**6)


@dataclass
class Held:
    """An item as it should be."""

    queue: str
    language: str
    role: str
    due_at: float
    is_sent: bool = False
    holder: int | None = None
    token: str | None = None
    fence: int = 0
    until: float = 0.0
    returned: int = 0
    skipped: set[int] = field(default_factory=set)

    def is_held(self, now: float) -> bool:
        return self.holder is not None and self.until > now


class LeasesMachine(RuleBasedStateMachine):
    """Three reviewers, of whom one reads no Portuguese, and a lead, on six items."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = contextlib.AsyncExitStack()
        self.folder = TemporaryDirectory()
        self.now = NOW + 1000
        self.items: dict[str, Held] = {}
        self.people: list[Person] = []
        self.given: list[tuple[int, Lease]] = []

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    @initialize()
    def begin(self) -> None:
        self.tx = self.run(self._begin())

    async def _begin(self) -> AsyncConnection:
        database = Database.open(f"sqlite:///{Path(self.folder.name) / 'review.db'}", 1)
        self.stack.push_async_callback(database.close)
        await database.migrate()
        # What one test writes stands in one transaction that is never committed: it is faster.
        tx = await self.stack.enter_async_context(database.writing())
        for name, role, languages in (
            ("one", Role.REVIEWER, ("*",)),
            ("two", Role.REVIEWER, ("*",)),
            ("three", Role.REVIEWER, ("en",)),
            ("four", Role.LEAD, ("*",)),
        ):
            self.people.append(await person(tx, name, role, languages=languages))
        rows = [
            open_item(
                number,
                queue="harm" if number % 3 == 2 else "general",
                language="pt" if number % 2 else "en",
                role="lead" if number == 4 else "reviewer",
            )
            for number in range(ITEMS)
        ]
        await put_items(tx, rows)
        self.items = {
            row["item_id"]: Held(row["queue"], row["language"], row["role"], row["due_at"])
            for row in rows
        }
        return tx

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()
        self.folder.cleanup()

    async def _try(self, coroutine: Coroutine[Any, Any, T]) -> T | Refusal:
        """What comes of it; a refusal has changed nothing."""
        try:
            async with self.tx.begin_nested():
                return await coroutine
        except Refusal as refusal:
            return refusal

    def holds(self, who: int) -> int:
        return sum(item.holder == who and item.is_held(self.now) for item in self.items.values())

    def may_have(self, who: int, item: Held) -> bool:
        speaks = item.language == "en" or who != 2
        return speaks and (item.role == "reviewer" or who == 3)

    def give(self, who: int, lease: Lease) -> None:
        item = self.items[lease.item_id]
        assert not item.is_held(self.now) or item.holder == who, "two people hold one item"
        assert lease.fence == item.fence + 1, "a fence does not grow by one"
        assert lease.until == self.now + LIMITS.lease_s
        assert all(lease.token != earlier.token for _, earlier in self.given)
        item.holder, item.token, item.fence, item.until = who, lease.token, lease.fence, lease.until
        self.given.append((who, lease))

    def let_go(self, item: Held) -> None:
        item.holder, item.token = None, None

    def give_up(self) -> int:
        over = [
            item
            for item in self.items.values()
            if item.holder is not None and not item.is_held(self.now)
        ]
        for item in over:
            self.let_go(item)
            item.returned += 1
        return len(over)

    def free(self, who: int, queue: str | None) -> list[tuple[bool, bool, float, str]]:
        """What somebody can get, by its place: sent to urgent, or else there, or late."""
        return [
            (
                not (item.is_sent and item.queue == "urgent"),
                item.queue != "urgent",
                item.due_at,
                item_id,
            )
            for item_id, item in self.items.items()
            if item.holder is None
            and self.may_have(who, item)
            and who not in item.skipped
            and queue in (None, item.queue)
        ]

    @rule(s=st.sampled_from([0.5, 30, 99, 100, 101]))
    def wait(self, s: float) -> None:
        self.now += s

    @rule()
    def expire(self) -> None:
        assert self.run(leases.expire(self.tx, self.now)) == self.give_up()

    @rule(who=people, queue=st.sampled_from([None, "general", "harm", "urgent", "none"]))
    def claim_next(self, who: int, queue: str | None) -> None:
        wanted = Wanted(queue=queue)
        got = self.run(self._try(leases.claim(self.tx, self.people[who], wanted, self.now, LIMITS)))
        if self.holds(who) >= LIMITS.held_items:
            assert isinstance(got, Conflict), "one holds more than one may"
            return
        free = self.free(who, queue)
        if not free:
            self.give_up()  # whose leases are over, before there is nothing to do
            free = self.free(who, queue)
        if not free:
            assert got is None
            return
        assert isinstance(got, Lease), got
        assert got.item_id == min(free)[-1], "it is not the one that is first in turn"
        self.give(who, got)

    @rule(who=people, number=numbers)
    def claim_this(self, who: int, number: int) -> None:
        item_id = f"{number:032x}"
        item = self.items[item_id]
        wanted = Wanted(item_id=item_id)
        got = self.run(self._try(leases.claim(self.tx, self.people[who], wanted, self.now, LIMITS)))
        is_own = item.holder == who and item.is_held(self.now)
        if not is_own and self.holds(who) >= LIMITS.held_items:
            assert isinstance(got, Conflict)
        elif item.is_held(self.now) and not is_own:
            assert isinstance(got, Conflict)
            assert item.holder is not None
            assert got.holder == self.people[item.holder].pseudonym
        elif not self.may_have(who, item):
            assert isinstance(got, Refusal)
        else:
            assert isinstance(got, Lease), got
            if item.holder is not None and not item.is_held(self.now):
                item.returned += 1
            self.give(who, got)

    def one_given(self, at: int) -> tuple[int, Lease, Held, bool]:
        """A lease that was given once, and whether it proves anything now."""
        who, lease = self.given[at % len(self.given)]
        item = self.items[lease.item_id]
        return who, lease, item, item.token == lease.token and item.is_held(self.now)

    @precondition(lambda self: self.given)
    @rule(at=pick, who=people)
    def prove(self, at: int, who: int) -> None:
        owner, lease, item, proves = self.one_given(at)
        got = self.run(
            self._try(leases.check(self.tx, self.people[who], lease.item_id, lease.token, self.now))
        )
        if proves and who == owner:
            assert not isinstance(got, Refusal), got
            assert (got.item_id, got.fence) == (lease.item_id, lease.fence)
        else:
            assert isinstance(got, Stale), "a lease that is over, or another's, proves something"
            others = item.is_held(self.now) and item.holder != who
            assert (
                item.holder is None
                or not others
                or got.holder == (self.people[item.holder].pseudonym)
            )

    @precondition(lambda self: self.given)
    @rule(at=pick)
    def renew(self, at: int) -> None:
        who, lease, item, proves = self.one_given(at)
        got = self.run(
            self._try(
                leases.renew(
                    self.tx, self.people[who], lease.item_id, lease.token, self.now, LIMITS
                )
            )
        )
        assert isinstance(got, Stale) is not proves
        if proves:
            item.until = self.now + LIMITS.lease_s
            assert got == item.until

    @precondition(lambda self: self.given)
    @rule(at=pick)
    def release(self, at: int) -> None:
        who, lease, item, proves = self.one_given(at)
        got = self.run(
            self._try(
                leases.release(self.tx, self.people[who], lease.item_id, lease.token, self.now)
            )
        )
        assert isinstance(got, Stale) is not proves
        if proves:
            self.let_go(item)

    @precondition(lambda self: self.given)
    @rule(at=pick)
    def skip(self, at: int) -> None:
        who, lease, item, proves = self.one_given(at)
        got = self.run(
            self._try(
                leases.skip(
                    self.tx, self.people[who], lease.item_id, lease.token, "unclear", self.now
                )
            )
        )
        assert isinstance(got, Stale) is not proves
        if proves:
            self.let_go(item)
            item.skipped.add(who)

    @precondition(lambda self: self.given)
    @rule(at=pick, to=people)
    def hand_over(self, at: int, to: int) -> None:
        who, lease, item, proves = self.one_given(at)
        got = self.run(
            self._try(
                leases.hand_over(
                    self.tx,
                    self.people[who],
                    lease.item_id,
                    lease.token,
                    self.people[to].user_id,
                    self.now,
                    LIMITS,
                )
            )
        )
        can = who != to and self.may_have(to, item) and self.holds(to) < LIMITS.held_items
        if not (proves and can):
            assert isinstance(got, Refusal)
            assert proves or isinstance(got, Stale)
            return
        assert isinstance(got, Lease), got
        self.let_go(item)
        self.give(to, got)

    @precondition(lambda self: self.given)
    @rule(at=pick)
    def send_to_urgent(self, at: int) -> None:
        who, lease, item, proves = self.one_given(at)
        got = self.run(
            self._try(
                leases.send_to_urgent(
                    self.tx,
                    self.people[who],
                    lease.item_id,
                    lease.token,
                    "threat_to_life",
                    self.now,
                    LIMITS,
                )
            )
        )
        assert isinstance(got, Stale) is not proves
        if proves:
            item.queue, item.is_sent = "urgent", True
            item.skipped.clear()
            self.let_go(item)
            row = self.row(lease.item_id)
            assert row.due_at <= item.due_at
            assert row.breach_at <= self.now + LIMITS.urgent_sla_s
            item.due_at = row.due_at

    @rule(number=numbers, who=people)
    def move(self, number: int, who: int) -> None:
        item_id = f"{number:032x}"
        got = self.run(self._try(leases.move(self.tx, self.people[who], item_id, "harm", self.now)))
        assert isinstance(got, Refusal) is (who != 3)
        if who == 3:
            self.items[item_id].queue = "harm"

    def row(self, item_id: str) -> Any:
        wanted = select(schema.items).where(schema.items.c.item_id == item_id)
        return self.run(self._one(wanted))

    async def _one(self, wanted: Any) -> Any:
        return (await self.tx.execute(wanted)).one()

    @invariant()
    def everything_is_as_it_should_be(self) -> None:
        if not self.items:
            return
        rows = self.run(self._all())
        for row in rows:
            item = self.items[row.item_id]
            holder = None if item.holder is None else self.people[item.holder].user_id
            assert (row.holder, row.lease, row.fence, row.returned, row.queue) == (
                holder, item.token, item.fence, item.returned, item.queue,
            )  # fmt: skip
            assert (row.leased_until is None) is (row.holder is None)
            assert row.state == "open"

    async def _all(self) -> list[Any]:
        return list(await self.tx.execute(select(schema.items)))


LeasesMachine.TestCase.settings = settings(max_examples=examples(20), stateful_step_count=30)
TestLeases = LeasesMachine.TestCase
