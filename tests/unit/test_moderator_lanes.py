"""The handler's lanes: what it judges now, what it puts on the backlog, and what it answers while
the guard is away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from qwarden import settings
from qwarden.bootstrap import limits_of
from qwarden.contracts import headers, topics
from qwarden.delivery.key_order import KeyOrder
from qwarden.delivery.owed import Decide, Owed, decided, size_of
from qwarden.guard.answer import Answer
from qwarden.outcomes.source import Source
from qwarden.policy.policy import Policy
from qwarden.policy.sources import load
from qwarden.policy.tenants import Freezes, Tenant
from unit.builders import REVISION, SAFE, assessment, event
from unit.moderating import Finished, door_of, moderator_of

ANSWERS = """
name: answers
extends: default
on_outage: review
"""
HOUR = 3600.0
LIMITS = limits_of(settings.load({"QWARDEN_CONTENT_KEY": "ab" * 32}))


HOLDS = ANSWERS.replace("name: answers", "name: holds").replace("on_outage: review", "")


def policy(text: str = ANSWERS, name: str = "answers") -> Policy:
    return load({name: text}).policies[name]


class Away:
    """A guard that is away until it is let in."""

    def __init__(self) -> None:
        self.asked = 0
        self.was_asked = asyncio.Event()
        self.up = asyncio.Event()
        self.up.set()

    async def revision(self) -> str:
        return REVISION

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        self.asked += len(rows)
        self.was_asked.set()
        await self.up.wait()
        return [assessment(SAFE) for _ in rows]

    async def close(self) -> None: ...


class Lanes:
    """A moderator of two tenants, one of whose settings the test chooses."""

    def __init__(self, demo: Tenant, *others: Tenant) -> None:
        self.guard = Away()
        self.is_away = False
        self.moderator = moderator_of(
            self.guard, door_of([demo, *others]), limits=LIMITS, is_away=lambda: self.is_away
        )
        self.finished = Finished()

    def handling(self, *records: Source) -> asyncio.Task[None]:
        self.finished = Finished()
        return asyncio.create_task(self.moderator.handle(records, self.finished))

    async def topics_of(self, *records: Source) -> list[str]:
        """Where the first message of each record goes."""
        await asyncio.wait_for(self.handling(*records), 10)
        return [self.finished[index][0].topic for index in range(len(records))]


def record(
    *, age_s: float = 0, topic: str = topics.CONTENT, offset: int = 5,
    carried: tuple[headers.Header, ...] = (), **fields: object,
) -> Source:  # fmt: skip
    at = int((time.time() - age_s) * 1000)
    return Source(topic, 2, offset, at, b"k", event(**fields), carried)


def tenant(name: str = "demo", of: Policy | None = None) -> Tenant:
    used = of or policy(HOLDS, "holds")
    return Tenant(name, {used.name: used}, used, name)


async def test_new_content_waits_behind_what_is_stale() -> None:
    lanes = Lanes(tenant())
    assert await lanes.topics_of(record(age_s=HOUR), record()) == [topics.BACKLOG, topics.VERDICTS]
    ((relayed,), _) = (lanes.finished[0], lanes.finished[1])
    assert (relayed.key, relayed.value) == (b"k", event())
    assert headers.header(relayed.headers, headers.ORIGIN) == "content.events/2/5"


async def test_a_late_record_dead_letters_since_its_lane_does_not_take_it() -> None:
    """With its origin it is larger than it was; one byte too large, and it is judged in place."""
    lanes = Lanes(replace(tenant(), tokens_a_minute=1), tenant("answers", policy()))
    late = (record(age_s=HOUR), record(age_s=HOUR))
    assert await lanes.topics_of(*late) == [topics.BACKLOG, topics.BACKLOG]
    size = size_of(lanes.finished[0][0])
    lanes.moderator.relays.backlog_bytes = size
    assert await lanes.topics_of(*late) == [topics.BACKLOG, topics.BACKLOG]
    lanes.moderator.relays.backlog_bytes = size - 1
    assert await lanes.topics_of(*late) == [topics.VERDICTS, topics.VERDICTS]
    # Over its tenant's quota too; and in an outage it waits, as where nothing is relayed.
    assert await lanes.topics_of(record(), record()) == [topics.VERDICTS, topics.VERDICTS]
    lanes.is_away = True
    lanes.guard.up.clear()
    lanes.guard.was_asked.clear()
    waiting = lanes.handling(record(text="another text, which is longer than those before it"))
    await lanes.guard.was_asked.wait()
    assert not lanes.finished
    lanes.guard.up.set()
    await asyncio.wait_for(waiting, 10)
    assert lanes.finished[0][0].topic == topics.VERDICTS


async def test_what_a_producer_says_of_its_origin_is_believed() -> None:
    forged = ((headers.ORIGIN, b"content.events/0/1"), (headers.REPLAY, b"x/0/1"), ("a", b"b"))
    lanes = Lanes(tenant())
    await lanes.topics_of(record(age_s=HOUR, carried=forged), record(carried=forged))
    (relayed,) = lanes.finished[0]
    assert relayed.headers == [("a", b"b"), (headers.ORIGIN, b"content.events/2/5")]
    assert headers.header(lanes.finished[1][0].headers, headers.ORIGIN) == "content.events/2/5"


async def test_a_record_goes_round_on_the_backlog_or_forgets_where_it_stood() -> None:
    lanes = Lanes(replace(tenant(), tokens_a_minute=1))
    where = ((headers.ORIGIN, b"content.events/7/99"),)
    old = record(age_s=HOUR, topic=topics.BACKLOG, carried=where)
    bare = record(age_s=HOUR, topic=topics.BACKLOG)
    assert await lanes.topics_of(old, bare, old) == [topics.VERDICTS] * 3
    origins = [headers.header(lanes.finished[n][0].headers, headers.ORIGIN) for n in (0, 1)]
    assert origins == ["content.events/7/99", "content.backlog/2/5"]


async def test_a_tenant_that_floods_delays_the_others_or_is_lost() -> None:
    lanes = Lanes(replace(tenant(), tokens_a_minute=100), tenant("other"))
    flood = [record(event_id=f"{n}", text="x" * 100) for n in range(40)]
    calm = [record(event_id=f"{n}", tenant="other") for n in range(40)]
    seen = await lanes.topics_of(*flood, *calm)
    assert seen[:40].count(topics.VERDICTS) == 3
    assert seen[:40].count(topics.BACKLOG) == 37
    assert seen[40:] == [topics.VERDICTS] * 40


async def test_a_tenant_that_keeps_its_order_is_relayed_all_the_same() -> None:
    lanes = Lanes(replace(tenant(), relay=False, tokens_a_minute=1))
    assert await lanes.topics_of(record(age_s=HOUR), record()) == [topics.VERDICTS] * 2


async def test_a_deletion_or_a_passed_deadline_waits_on_the_backlog() -> None:
    lanes = Lanes(tenant())
    late = record(age_s=HOUR, deadline="2020-01-01T00:00:00Z")
    gone = record(age_s=HOUR, text=..., deleted=True)
    assert await lanes.topics_of(late, gone) == [topics.VERDICTS] * 2
    assert lanes.guard.asked == 0


def _basis(owed: Owed) -> tuple[str, str, str]:
    verdict = json.loads(owed[0].value)
    return verdict["basis"], verdict["cause"], verdict["action"]


async def test_a_policy_that_answers_in_an_outage_waits_for_the_guard() -> None:
    lanes = Lanes(tenant(of=policy()), tenant("holds"), replace(tenant("stays"), relay=False))
    lanes.guard.up.clear()
    running = lanes.handling(
        record(), record(tenant="holds"), record(tenant="stays"), record(topic=topics.BACKLOG),
        record(topic=topics.BACKLOG, tenant="holds"),
    )  # fmt: skip
    await asyncio.wait_for(lanes.guard.was_asked.wait(), 10)
    lanes.is_away = True
    lanes.moderator.guard_went_away()
    assert set(lanes.finished) == {0, 1, 3}
    assert _basis(lanes.finished[0]) == ("degraded", "outage", "review")
    assert [message.topic for message in lanes.finished[0]] == [
        topics.VERDICTS, topics.REVIEW, topics.EVIDENCE,
    ]  # fmt: skip
    assert [message.topic for message in lanes.finished[1]] == [topics.BACKLOG]
    assert _basis(lanes.finished[3]) == ("degraded", "outage", "review")
    lanes.guard.up.set()
    lanes.is_away = False
    await asyncio.wait_for(running, 10)
    assert _basis(lanes.finished[2])[0] == _basis(lanes.finished[4])[0] == "guard"


async def test_what_comes_in_an_outage_is_asked_of_a_guard_that_is_away() -> None:
    lanes = Lanes(tenant(of=policy()), tenant("holds"))
    lanes.is_away = True
    seen = await lanes.topics_of(record(), record(tenant="holds"))
    assert seen == [topics.VERDICTS, topics.BACKLOG]
    assert lanes.guard.asked == 0


async def test_content_is_answered_unjudged_where_no_policy_says_so() -> None:
    lanes = Lanes(tenant(), tenant("other"))
    lanes.guard.up.clear()
    running = lanes.handling(record(), record(tenant="other"))
    await asyncio.wait_for(lanes.guard.was_asked.wait(), 10)
    lanes.is_away = True
    lanes.moderator.guard_went_away()
    assert not lanes.finished
    lanes.guard.up.set()
    await asyncio.wait_for(running, 10)
    assert len(lanes.finished) == 2


@pytest.mark.parametrize("on_outage", ["block", "disclaim", "Allow"])
def test_a_policy_blocks_what_it_has_not_seen_because_of_an_outage(on_outage: str) -> None:
    with pytest.raises(ValueError, match="on_outage"):
        policy(ANSWERS.replace("on_outage: review", f"on_outage: {on_outage}"))


async def test_a_block_that_waits_behind_its_key_is_sent_under_a_freeze() -> None:
    acting = policy(HOLDS + "on_expired: block\n", "holds")
    lanes = Lanes(Tenant("demo", {"holds": acting}, acting, "demo", relay=False))
    lanes.guard.up.clear()
    order: KeyOrder[Owed | Decide] = KeyOrder()
    places = [order.enter(b"key"), order.enter(b"key")]
    released: list[Owed | Decide] = []

    def finish(index: int, owed: Owed | Decide, /) -> None:
        released.extend(order.finish(places[index], owed))

    waits = record(event_id="waits", offset=5, text="first")
    late = record(event_id="late", offset=6, text="second", deadline="2020-01-01T00:00:00Z")
    running = asyncio.create_task(lanes.moderator.handle([waits, late], finish))
    await lanes.guard.was_asked.wait()
    assert not released
    tenants = lanes.moderator.tenants
    frozen = Freezes({"demo": (9, True)})
    lanes.moderator.enforce(tenants.with_policies(tenants.policies(), frozen, frozenset()))
    lanes.guard.up.set()
    await running
    sent = []
    for owed in released:
        verdict = json.loads(decided(owed)[0].value)
        sent.append((verdict["event_id"], verdict["action"], verdict["policy"]["serial"]))
    assert sent == [("waits", "allow", 9), ("late", "review", 9)]
