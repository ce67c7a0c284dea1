"""The moderator's brakes: what a verdict and its escalation say when a quota is used up."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from prometheus_client import REGISTRY

from qwarden.contracts import topics
from qwarden.delivery.owed import Owed
from qwarden.guard.answer import Answer, Failure
from qwarden.guard.row import Row
from qwarden.inference.memory import MemoryGuard
from qwarden.outcomes.source import Source
from qwarden.policy.policy import Policy
from qwarden.policy.quotas import Share
from qwarden.policy.sources import load
from qwarden.policy.tenants import Freezes, Tenant
from unit.builders import (
    CONTROVERSIAL,
    REVISION,
    SAFE,
    UNSAFE,
    assessment,
    event,
    source,
    unanswered,
)
from unit.moderating import door_of, moderator_of, owed_by

HOUSE = """
name: house
rules:
  - {name: bad, when: {safety: Unsafe}, then: block, ground: law, clause: "7", text: {en: "No."}}
  - {name: rough, when: {safety: Controversial}, then: review, ground: terms, clause: "3",
     text: {en: "Mind."}, queue: rough, harm: 2, sla: 2h, meanwhile: show, on_breach: block}
  - {name: fine, then: allow}
fallback: {queue: all, harm: 6, sla: 1h, meanwhile: hide, on_breach: raise}
on_unjudged: block
on_expired: block
quotas:
  blocks_an_hour: 4
  queues: {rough: {an_hour: 4, overflow: OVERFLOW}, all: {an_hour: 1, overflow: allow}}
"""
SAYS: dict[str, Answer] = {
    "bad": assessment(UNSAFE),
    "rough": assessment(CONTROVERSIAL),
    "too long": unanswered(Failure.TOO_LONG),
}


def house(overflow: str = "allow") -> Policy:
    return load({"house": HOUSE.replace("OVERFLOW", overflow)}).policies["house"]


class Fixture:
    """A moderator of half of `content.events` and of no other topic."""

    def __init__(self) -> None:
        self.shares = {topics.CONTENT: Share(2, 4), topics.BACKLOG: Share(0, 4)}
        self.enforce(house())
        self.published = 0

    def enforce(self, policy: Policy) -> None:
        """Has this policy act, in a moderator that begins anew."""
        tenants = [
            Tenant(name, {"house": policy}, policy, name, fresh_horizon_s=math.inf)
            for name in ("demo", "club")
        ]
        guard = MemoryGuard(self._answer, revision=REVISION)
        self.moderator = moderator_of(guard, door_of(tenants))
        self.moderator.present.share = self.shares.__getitem__

    def _answer(self, row: bytes) -> Answer:
        return SAYS.get(Row.from_json(row).conversation.turns[-1].content, assessment(SAFE))

    async def judges(self, *records: Source) -> list[Owed]:
        return await owed_by(self.moderator, records)

    async def acts(self, *texts: str, **fields: Any) -> list[tuple[str, str, str]]:
        """Action, basis and rule of the verdict on each."""
        records = []
        for text in texts:
            self.published += 1
            records.append(source(event(event_id=f"e{self.published}", text=text, **fields)))
        verdicts = [json.loads(owed[0].value) for owed in await self.judges(*records)]
        return [(each["action"], each["basis"], each["policy"]["rule"]) for each in verdicts]


@pytest.fixture
async def fixture() -> Fixture:
    return Fixture()


def counted(quota: str) -> float:
    labels = {"quota": quota, "tenant": "demo"}
    return REGISTRY.get_sample_value("qwarden_quota_verdicts_total", labels) or 0


BLOCKED, BRAKED = ("block", "guard", "bad"), ("review", "quota", "bad")
ASKED, LET_GO = ("review", "guard", "rough"), ("allow", "quota", "rough")


async def test_a_bad_rule_blocks_everything(fixture: Fixture) -> None:
    before = counted("blocks")
    assert await fixture.acts("bad", "bad", "bad", "bad") == [BLOCKED] * 2 + [BRAKED] * 2
    assert await fixture.acts("fine") == [("allow", "guard", "fine")]
    assert await fixture.acts("bad", tenant="club") == [BLOCKED], "tenants brake each other"
    assert counted("blocks") == before + 2


async def test_people_are_not_told_what_a_quota_has_sent_them(fixture: Fixture) -> None:
    await fixture.acts("bad", "bad")
    (owed,) = await fixture.judges(source(event(text="bad")))
    assert [each.topic for each in owed] == [topics.VERDICTS, topics.REVIEW, topics.EVIDENCE]
    verdict, escalation = (json.loads(each.value) for each in owed[:2])
    assert escalation["verdict"] == verdict
    asked = {name: escalation[name] for name in ("kind", "queue", "harm", "sla_s", "on_breach")}
    assert asked == {
        "kind": "review", "queue": "all", "harm": 6, "sla_s": 3600, "on_breach": "raise"
    }  # fmt: skip
    assert verdict["meanwhile"] == escalation["meanwhile"] == "hide"
    assert verdict["notice"] == {"ground": "law", "clause": "7", "text": "No."}


async def test_a_block_and_its_braked_review_have_one_id(fixture: Fixture) -> None:
    bad = source(event(text="bad"))
    verdicts = [json.loads((await fixture.judges(bad))[0][0].value) for _ in range(4)]
    by_id: dict[str, str] = {}
    for verdict in verdicts:
        assert by_id.setdefault(verdict["verdict_id"], verdict["action"]) == verdict["action"]
    assert sorted(by_id.values()) == ["block", "review"]


async def test_a_full_queue_gets_more_or_lets_go_unmarked(fixture: Fixture) -> None:
    before = counted("queue")
    assert await fixture.acts(*["rough"] * 4) == [ASKED, ASKED, LET_GO, LET_GO]
    assert await fixture.acts("rough", tenant="club") == [LET_GO], "the queue is everybody's"
    assert counted("queue") == before + 2
    (owed,) = await fixture.judges(source(event(text="rough")))
    assert [each.topic for each in owed] == [topics.VERDICTS, topics.EVIDENCE]
    verdict = json.loads(owed[0].value)
    assert (verdict["meanwhile"], verdict["notice"]) == (None, None)


async def test_an_overflow_restricts_without_its_reason(fixture: Fixture) -> None:
    fixture.enforce(house("block"))
    await fixture.acts("rough", "rough")
    (owed,) = await fixture.judges(source(event(text="rough")))
    verdict = json.loads(owed[0].value)
    assert (verdict["action"], verdict["basis"]) == ("block", "quota")
    assert verdict["notice"] == {"ground": "terms", "clause": "3", "text": "Mind."}


async def test_a_full_queue_blocks_past_the_tenant_s_quota(fixture: Fixture) -> None:
    fixture.enforce(house("block"))
    blocked = ("block", "quota", "rough")
    assert await fixture.acts(*["rough"] * 6) == [ASKED] * 2 + [blocked] * 2 + [ASKED] * 2
    assert await fixture.acts("bad") == [BRAKED]


async def test_what_nobody_judged_is_allowed_when_a_queue_is_full(fixture: Fixture) -> None:
    acted = await fixture.acts(*["too long"] * 4)
    assert acted == [
        *[("block", "degraded", "on_unjudged")] * 2,
        *[("review", "quota", "on_unjudged")] * 2,
    ], "the second of these is over the budget of its queue"
    late = await fixture.acts("x", deadline="2020-01-01T00:00:00Z")
    assert late == [("review", "quota", "on_expired")]


async def test_a_cause_is_lost_to_a_quota(fixture: Fixture) -> None:
    await fixture.acts("bad", "bad")
    (owed,) = await fixture.judges(source(event(text="too long")))
    verdict = json.loads(owed[0].value)
    assert (verdict["basis"], verdict["cause"]) == ("quota", "too_long")
    assert verdict["safety"] is None


async def test_a_freeze_overflows_into_blocks(fixture: Fixture) -> None:
    fixture.enforce(house("block"))
    tenants = fixture.moderator.tenants
    frozen = Freezes(of={"demo": (9, True)})
    fixture.moderator.enforce(
        tenants.with_policies(
            tenants.policies() | {"default": tenants.default}, frozen, frozenset()
        )
    )
    acted = await fixture.acts(*["rough"] * 6, *["bad"] * 3)
    assert acted == [ASKED] * 6 + [("review", "guard", "bad")] * 3


async def test_a_share_is_of_another_topic_or_of_another_time(fixture: Fixture) -> None:
    """Of the backlog this moderator has no partition, and so the least share, 1."""

    def bad(event_id: str, topic: str) -> Source:
        made = source(event(event_id=event_id, text="bad"))
        return Source(topic, 0, 1, made.timestamp, None, made.value, ())

    async def blocks(*records: Source) -> list[bool]:
        owed = await fixture.judges(*records)
        return [json.loads(each[0].value)["action"] == "block" for each in owed]

    old = [bad(f"o{n}", topics.BACKLOG) for n in range(2)]
    assert await blocks(*old) == [True, False]
    assert await blocks(bad("n1", topics.CONTENT), bad("n2", topics.CONTENT)) == [True, False]
    fixture.shares[topics.CONTENT] = Share(3, 4)
    assert await blocks(bad("n3", topics.CONTENT), bad("n4", topics.CONTENT)) == [True, False]


async def test_a_file_is_braked_like_traffic(fixture: Fixture) -> None:
    fixture.moderator.present.share = None
    assert await fixture.acts(*["bad"] * 6) == [BLOCKED] * 6
    assert await fixture.acts(*["rough"] * 6) == [ASKED] * 6
