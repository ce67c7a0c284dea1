"""What a person decided, in the moderator: what else might be done with equal content."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from qwarden import settings, telemetry
from qwarden.bootstrap import limits_of
from qwarden.contracts import topics
from qwarden.contracts.escalation import escalation_of, is_evidence
from qwarden.contracts.verdict import Action, Basis, Verdict
from qwarden.control.overrides import Overridden
from qwarden.delivery.owed import Owed
from qwarden.guard.answer import Answer, Failure
from qwarden.guard.row import Row
from qwarden.moderator import verdicts
from qwarden.outcomes.source import Source
from qwarden.policy.file import PolicyFile
from qwarden.policy.policy import BY_OVERRIDE, Policy
from qwarden.policy.quotas import Share
from qwarden.policy.sources import load
from qwarden.policy.tenants import Freezes, Tenant
from unit.builders import (
    KEY,
    REVISION,
    SAFE,
    THOUGHT,
    UNSAFE,
    assessment,
    case,
    event,
    source,
    unanswered,
)
from unit.moderating import Finished, door_of, moderator_of

LIMITS = limits_of(settings.load({"QWARDEN_CONTENT_KEY": "ab" * 32}))
HOUSE = """
name: house
language: de
rules:
- {name: gentle, when: {safety: Controversial}, then: disclaim, ground: terms, clause: tone,
   text: {en: Some may find this harsh., de: Das mag hart klingen.}}
- {name: harsh, when: {safety: Unsafe}, then: block, ground: terms, clause: tone,
   text: {en: This was too harsh., de: Das war zu hart.}}
- {name: rest, then: allow}
"""
DECISION = "5b0f6c3d9a4e4b7c8d1e2f3a4b5c6d7e"


def house(text: str = HOUSE) -> Policy:
    return load({"house": text}).policies["house"]


def overridden(
    action: Action = Action.BLOCK,
    ground: str | None = "terms",
    clause: str | None = "tone",
    decision: str = DECISION,
) -> Overridden:
    return Overridden(action, ground, clause, decision)


ALLOWED = Overridden(Action.ALLOW, None, None, DECISION)


def said(
    answer: Answer, override: Overridden, policy: Policy | None = None, **fields: Any
) -> Verdict:
    made = case(**fields)
    acts = msgspec.structs.replace(made, overrides=(override,), policy=policy or made.policy)
    (verdict,) = verdicts.judged(acts, [answer], KEY.id)
    return verdict


def test_what_the_guard_says_is_lost_behind_a_decision() -> None:
    verdict = said(assessment(UNSAFE, ("Violent", 0.9)), ALLOWED)
    assert (verdict.safety, verdict.categories) == ("Unsafe", ["Violent"])
    assert (verdict.action, verdict.basis, verdict.notice) == (Action.ALLOW, Basis.HUMAN, None)
    assert verdict.guard is not None
    assert verdict.decision == DECISION


@pytest.mark.parametrize(
    ("override", "language", "text"),
    [
        (overridden(), "en", "This was too harsh."),
        (overridden(Action.DISCLAIM), "en", "Some may find this harsh."),
        (overridden(Action.DISCLAIM), "de", "Das mag hart klingen."),
        (overridden(), "fr", "Das war zu hart."),
        (overridden(ground="law"), "en", None),
        (overridden(clause="nobody's"), "en", None),
    ],
)
def test_a_user_is_told_what_another_rule_says(
    override: Overridden, language: str, text: str | None
) -> None:
    """That of the clause which a person named, and rather of one that does the same."""
    for frozen in (False, True):
        policy = house().standing(serial=3, frozen=frozen)
        notice = said(assessment(SAFE), override, policy, language=language).notice
        assert notice is not None
        assert (notice.ground, notice.clause) == (override.ground, override.clause)
        assert notice.text == text


def test_a_block_without_a_clause_is_none() -> None:
    verdict = said(assessment(SAFE), overridden(ground=None, clause=None))
    assert (verdict.action, verdict.notice) == (Action.BLOCK, None)


def test_a_rule_is_taken_for_a_person() -> None:
    rules = [{"name": BY_OVERRIDE, "then": "allow"}]
    with pytest.raises(ValidationError, match=r"rules.0.name"):
        PolicyFile.model_validate({"name": "house", "rules": rules})


def test_another_decision_has_the_version_of_the_one_before() -> None:
    """As has the same one under a freeze, or of another policy."""
    plain = house()
    made = [
        said(assessment(SAFE), override, policy)
        for policy in (plain, plain.standing(serial=0, frozen=True), house(HOUSE + "\n"))
        for override in (
            ALLOWED, overridden(), overridden(Action.DISCLAIM), overridden(decision="2" * 32),
        )
    ]  # fmt: skip
    versions = [each.policy.version for each in made if each.policy is not None]
    assert versions[:4] == versions[8:]
    assert len({*versions, plain.version}) == 9
    assert len({each.verdict_id for each in made}) == 8
    assert all(len(each) == 12 for each in versions)


@pytest.mark.parametrize("failure", list(Failure))
def test_what_the_guard_cannot_say_makes_a_decision_void(failure: Failure) -> None:
    """A dead letter neither, where the guard refuses it."""
    verdict = said(unanswered(failure), overridden())
    assert (verdict.action, verdict.basis, verdict.cause) == (
        Action.BLOCK, Basis.HUMAN, failure.value,
    )  # fmt: skip
    assert verdict.safety is None


def test_people_are_asked_about_what_they_decided() -> None:
    """And evidence is kept of all that they allowed."""
    for override, is_kept in ((overridden(), True), (ALLOWED, False)):
        verdict = said(assessment(UNSAFE), override)
        assert (escalation_of(verdict), verdict.meanwhile) == (None, None)
        assert is_evidence(verdict, 0.0) == is_kept
        assert is_evidence(verdict, 1.0)
    assert escalation_of(said(assessment(UNSAFE), ALLOWED, edit=1)) == "close"


# In the moderator.


class Guard:
    """Finds all unsafe, once it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.was_asked = asyncio.Event()
        self.up = asyncio.Event()
        self.up.set()

    async def revision(self) -> str:
        return REVISION

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        turns = [Row.from_json(row).conversation.turns[-1].content for row in rows]
        self.asked += turns
        self.was_asked.set()
        await self.up.wait()
        return [assessment(UNSAFE, ("Violent", 0.9)) for _ in rows]

    async def close(self) -> None: ...


class House:
    """A moderator of two tenants with one policy, and what people have decided."""

    def __init__(self, text: str = HOUSE, *, relay: bool = False) -> None:
        self.guard, self.is_away = Guard(), False
        self.decided: dict[tuple[str, str], Overridden] = {}
        policy = house(text)
        known = [
            Tenant(name, {"house": policy}, policy, name, relay=relay, fresh_horizon_s=1e12)
            for name in ("demo", "other")
        ]
        self.moderator = moderator_of(
            self.guard, door_of(known), limits=LIMITS, is_away=lambda: self.is_away
        )
        self.moderator.present.override_of = lambda tenant, content: self.decided.get(
            (tenant, content)
        )
        self.finished = Finished()

    def decide(self, override: Overridden | None, tenant: str = "demo", **fields: Any) -> None:
        """Of the content of an event like this, its first task."""
        content = case(**fields).questions[0].content_hash.hex()
        if override is None:
            del self.decided[tenant, content]
        else:
            self.decided[tenant, content] = override

    def freeze(self, is_frozen: bool = True) -> None:
        tenants = self.moderator.tenants
        frozen = Freezes({"demo": (9, is_frozen)})
        self.moderator.enforce(tenants.with_policies(tenants.policies(), frozen, frozenset()))

    def handling(self, *values: bytes) -> asyncio.Task[None]:
        self.finished = Finished()
        sources: list[Source] = [source(value, offset=at) for at, value in enumerate(values)]
        return asyncio.create_task(self.moderator.handle(sources, self.finished))

    async def judged(self, *values: bytes) -> list[list[dict[str, Any]]]:
        """The verdicts of each record."""
        await asyncio.wait_for(self.handling(*values), 10)
        return [verdicts_of(self.finished[at]) for at in range(len(values))]


def verdicts_of(owed: Owed) -> list[dict[str, Any]]:
    return [json.loads(each.value) for each in owed if each.topic == topics.VERDICTS]


def counted() -> list[float]:
    """How many events and verdicts the metrics have."""
    return [
        sum(sample.value for family in metric.collect() for sample in family.samples)
        for metric in (telemetry.EVENTS, telemetry.VERDICTS)
    ]


def done(verdict: dict[str, Any]) -> tuple[str, str]:
    return verdict["basis"], verdict["action"]


async def test_equal_content_of_another_tenant_gets_the_decision() -> None:
    made = House()
    made.decide(ALLOWED)
    values = [event(), event(event_id="e2"), event(tenant="other"), event(text="Another text.")]
    found = await made.judged(*values)
    assert [done(each[0]) for each in found] == [
        ("human", "allow"), ("human", "allow"), ("guard", "block"), ("guard", "block"),
    ]  # fmt: skip
    assert found[0][0]["safety"] == "Unsafe"
    assert [each[0]["decision"] for each in found] == [DECISION, DECISION, None, None]


async def test_a_withdrawn_decision_is_done_once_more() -> None:
    made = House()
    before = (await made.judged(event()))[0][0]
    made.decide(ALLOWED)
    ((decided,),) = await made.judged(event())
    made.decide(None)
    ((after,),) = await made.judged(event())
    assert (done(decided), after) == (("human", "allow"), before)
    assert decided["verdict_id"] != before["verdict_id"]


async def test_a_decision_on_an_answer_is_done_to_its_reasoning() -> None:
    made = House()
    thinks = event(text=..., messages=THOUGHT)
    made.decide(ALLOWED, text=..., messages=THOUGHT)
    ((response, thinking),) = await made.judged(thinks)
    assert (done(response), done(thinking)) == (("human", "allow"), ("guard", "block"))


async def test_a_freeze_sends_to_people_what_they_have_blocked() -> None:
    made = House()
    made.decide(overridden())
    made.freeze()
    decided, other = await made.judged(event(), event(text="Another text."))
    assert (done(decided[0]), done(other[0])) == (("human", "block"), ("guard", "review"))
    assert decided[0]["policy"]["serial"] == 9


async def test_a_quota_counts_or_brakes_what_people_decided() -> None:
    made = House(HOUSE + "quotas: {blocks_an_hour: 1}\n")
    made.moderator.present.share = lambda topic: Share(1, 1)
    made.decide(overridden())
    found = await made.judged(
        *[event(event_id=f"d{n}") for n in range(3)],
        *[event(event_id=f"g{n}", text="Another text.") for n in range(2)],
        event(event_id="d3"),
    )
    assert sorted(done(each[0]) for each in found) == [
        ("guard", "block"), *[("human", "block")] * 4, ("quota", "review"),
    ]  # fmt: skip


async def test_what_people_decided_comes_too_late() -> None:
    made = House()
    made.decide(ALLOWED)
    ((late,),) = await made.judged(event(deadline="2020-01-01T00:00:00Z"))
    assert (done(late), late["cause"], late["safety"]) == (("human", "allow"), "deadline", None)
    assert made.guard.asked == []


@pytest.mark.parametrize("on_outage", ["hold", "review"])
@pytest.mark.parametrize("relay", [False, True])
async def test_what_people_decided_waits_for_the_guard(*, on_outage: str, relay: bool) -> None:
    """What comes while it is away, and what was asked before it went."""
    made = House(HOUSE + f"on_outage: {on_outage}\n", relay=relay)
    made.guard.up.clear()
    asked = event(event_id="asked", text="Asked before.")
    running = made.handling(asked, event(event_id="nobody's", text="Nobody decided."))
    await asyncio.wait_for(made.guard.was_asked.wait(), 10)
    made.decide(ALLOWED, text="Asked before.")
    made.decide(overridden(), text="Comes later.")
    made.is_away = True
    made.moderator.guard_went_away()
    (answered,) = verdicts_of(made.finished[0])
    assert (done(answered), answered["cause"]) == (("human", "allow"), "outage")
    assert (1 in made.finished) == (on_outage == "review")
    made.guard.up.set()
    await asyncio.wait_for(running, 10)
    ((later,),) = await made.judged(event(event_id="later", text="Comes later."))
    assert (done(later), later["cause"], later["safety"]) == (("human", "block"), "outage", None)
    assert "Comes later." not in made.guard.asked


async def test_half_of_an_answer_is_said_without_the_guard() -> None:
    """A record whose reasoning nobody has decided about waits with both."""
    made = House()
    thinks = event(text=..., messages=THOUGHT)
    made.decide(ALLOWED, text=..., messages=THOUGHT)
    made.is_away = True
    made.guard.up.clear()
    running = made.handling(thinks)
    await asyncio.wait_for(made.guard.was_asked.wait(), 10)
    made.moderator.guard_went_away()
    assert not made.finished
    made.guard.up.set()
    await asyncio.wait_for(running, 10)
    assert [done(each) for each in verdicts_of(made.finished[0])] == [
        ("human", "allow"), ("guard", "block"),
    ]  # fmt: skip


async def test_what_waits_behind_its_key_is_sent_as_nobody_had_decided() -> None:
    made = House()
    await asyncio.wait_for(made.handling(event(), event(text="Another text.")), 10)
    made.decide(ALLOWED)
    found = [verdicts_of(made.finished[at])[0] for at in (0, 1)]
    assert [done(each) for each in found] == [("human", "allow"), ("guard", "block")]


@pytest.mark.parametrize("now", [overridden(decision="2" * 32), None])
async def test_what_waits_behind_its_key_is_sent_as_somebody_had_decided(
    now: Overridden | None,
) -> None:
    made = House()
    made.decide(ALLOWED)
    late = event(event_id="late", deadline="2020-01-01T00:00:00Z")
    await asyncio.wait_for(made.handling(event(), late), 10)
    made.decide(now)
    found = [verdicts_of(made.finished[at])[0] for at in (0, 1)]
    assert [(*done(each), each["decision"]) for each in found] == (
        [("human", "block", "2" * 32)] * 2
        if now
        else [("guard", "block", None), ("expired", "review", None)]
    )


async def test_what_nobody_can_say_otherwise_yet_is_lost_on_its_way() -> None:
    """The decision was withdrawn and the guard is away: what was said stands."""
    made = House()
    made.decide(ALLOWED)
    made.is_away = True
    await asyncio.wait_for(made.handling(event()), 10)
    made.decide(None)
    (verdict,) = verdicts_of(made.finished[0])
    assert (*done(verdict), verdict["decision"]) == ("human", "allow", DECISION)


async def test_what_a_freeze_changes_on_its_way_counts_twice() -> None:
    """In the metrics, and against its tenant's quota."""
    made = House(HOUSE + "quotas: {blocks_an_hour: 1}\n")
    made.moderator.present.share = lambda topic: Share(1, 1)
    before = counted()
    await asyncio.wait_for(made.handling(event()), 10)
    made.freeze()
    (sent,) = verdicts_of(made.finished[0])
    assert done(sent) == ("guard", "review")
    assert counted() == [each + 1 for each in before]
    made.freeze(False)
    ((after,),) = await made.judged(event(event_id="e2"))
    assert done(after) == ("guard", "block"), "the quota was not used"
