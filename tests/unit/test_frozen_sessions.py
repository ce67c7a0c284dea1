"""Running sessions while policies and freezes come into force."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

from qwarden.contracts import topics
from qwarden.policy.tenants import Freezes, Tenants
from streamers import exchange
from unit.test_streamer import BAD, Bench, Record, bench


def frozen(tenants: Tenants, *, at: int, frozen: bool) -> Tenants:
    freezes = Freezes({"demo": (at, frozen)})
    return tenants.with_policies(tenants.policies(), freezes, frozenset())


def records(session: str, first: int) -> list[Record]:
    chunks = exchange(session, BAD)
    return [Record(first + n, json.dumps(each).encode()) for n, each in enumerate(chunks)]


def said(made: Bench, topic: str) -> list[dict[str, Any]]:
    return [
        json.loads(message.value)
        for each in made.delivery.published
        for message in each.owed
        if message.topic == topic
    ]


async def verdicts(made: Bench, count: int) -> list[dict[str, Any]]:
    """So many, as soon as they are there."""
    async with asyncio.timeout(20):
        while len(found := said(made, topics.VERDICTS)) < count:
            await made.settle()
    return found


async def test_a_session_that_began_before_a_freeze_blocks_under_it() -> None:
    """Both its signal and its verdict, whose serial is that of the freeze."""
    async with bench() as made:
        made.begin()
        first, *rest = records("s", 0)
        await made.give(first)
        before = made.streamer.tenants
        made.streamer.enforce(frozen(before, at=7, frozen=True))
        await made.give(*rest)
        _, response = await verdicts(made, 2)
        (signal,) = said(made, topics.SIGNALS)
        assert (signal["action"], response["action"]) == ("review", "review")
        expected = before.default.standing(serial=7, frozen=True)
        for each in (signal, response):
            assert (each["policy"]["version"], each["policy"]["serial"]) == (expected.version, 7)
        (escalation,) = said(made, topics.REVIEW)
        assert escalation["on_breach"] != "block"


async def test_a_session_that_began_under_a_freeze_never_blocks_again() -> None:
    async with bench() as made:
        made.begin()
        made.streamer.enforce(frozen(made.streamer.tenants, at=7, frozen=True))
        first, *rest = records("s", 0)
        await made.give(first)
        made.streamer.enforce(frozen(made.streamer.tenants, at=9, frozen=False))
        await made.give(*rest)
        _, response = await verdicts(made, 2)
        assert response["action"] == "block"
        assert response["policy"]["serial"] == 9


async def test_a_running_session_changes_its_policy_in_the_middle() -> None:
    """It keeps the one with which it began; the next one has the new one."""
    async with bench() as made:
        made.begin()
        before = made.streamer.tenants
        first, *rest = records("s", 0)
        await made.give(first)
        made.streamer.enforce(
            replace(before, default=before.default.standing(serial=5, frozen=False))
        )
        await made.give(*rest)
        await made.give(*records("next", 20))
        found = await verdicts(made, 4)
        serials = {each["event_id"]: each["policy"]["serial"] for each in found}
        assert serials == {"s": 0, "next": 5}
