"""The undo: what it may say that nobody has decided, and what may stand again behind it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from aiokafka import ConsumerRecord

from qwarden.cache.memory import MemoryCache
from qwarden.contracts import topics
from qwarden.contracts.escalation import Content
from qwarden.contracts.event import Message
from qwarden.contracts.standing import standing
from qwarden.contracts.verdict import Action, Basis, PolicyUsed, Verdict, encode
from qwarden.guard.answer import Answer, Assessment, Triple
from qwarden.guard.row import Row as Asked
from qwarden.inference.dispatch import Dispatcher, Limits
from qwarden.outcomes.lookup import Lookup
from qwarden.outcomes.said import said_of
from qwarden.policy.in_force import Acting
from qwarden.policy.policy import Policy
from qwarden.policy.records import Recorded
from qwarden.policy.sources import BUILT_IN, load
from qwarden.policy.tenants import Freezes, Tenants
from qwarden.rejudge import contents
from qwarden.rejudge.acting import _Work
from qwarden.rejudge.contents import Door
from qwarden.rejudge.planning import (
    NO_ORIGIN,
    UNREADABLE,
    Beside,
    Change,
    Judge,
    NotPossible,
    Plan,
    Row,
    Same,
    Selection,
    Unclear,
    hash_of,
    old_policy,
    planned,
    policies_for,
    sorted_out,
)
from qwarden.settings import Kafka
from unit.builders import (
    KEY,
    REVISION,
    SAFE,
    UNSAFE,
    admission,
    assessment,
    assessment_of_views,
    verdict,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SELECTION = Selection(version="0" * 12, rule="wrong", since=NOW, until=NOW)
EVENTS = topics.CONTENT


def policy_of(text: str) -> Policy:
    return load({"house": f"name: house\nextends: default\n{text}"}).policies["house"]


def said(identity: str, serial: int = 0, **fields: Any) -> Verdict:
    used = {"name": "forum", "version": "0" * 12, "serial": serial, "rule": "wrong"}
    return verdict(identity * 32, **{"policy": used} | fields)


def row_of(own: Verdict) -> Row:
    recorded = msgspec.json.decode(encode(own), type=Recorded)
    return Row(own, recorded, 0, None, (EVENTS, 0, 7))


UNJUDGED: dict[str, Any] = dict.fromkeys(("safety", "scores", "categories"))


@pytest.mark.parametrize(
    ("cause", "basis", "action"),
    [("deadline", Basis.EXPIRED, Action.ALLOW), ("no_answer", Basis.DEGRADED, Action.BLOCK)],
)
def test_what_a_quota_had_braked_is_undone_by_another_key_or_still_called_braked(
    cause: str, basis: Basis, action: Action
) -> None:
    policy = policy_of("on_expired: allow\non_unjudged: block\n")
    braked = said("a", action="review", basis="quota", cause=cause, **UNJUDGED)
    word = Judge({"demo": policy}, None).word(row_of(braked))
    assert isinstance(word, Change)
    new = word.verdict
    assert (new.basis, new.cause, new.action) == (basis, cause, action)


@pytest.mark.parametrize("serials", [{}, {"forum": 45}, {"forum": 60}])
def test_what_was_outranked_stands_again_behind_an_undo(serials: dict[str, int]) -> None:
    """By a policy that was never activated, since the tenant may not use the old one any more."""
    before, wrong = said("b", 40, action="block"), said("c", 50, action="block")
    fields: dict[str, Any] = {"scores": {"safe": 1.0, "controversial": 0.0, "unsafe": 0.0}}
    rows = [row_of(said("c", 50, action="block", **fields)), row_of(said("d", 30, event_id="e2"))]
    now = Acting(admission().tenants, {}, {}, frozenset(), {})
    for some in (rows, rows[::-1]):
        policies = policies_for(some, now, serials)
        assert policies["demo"].serial == max(50, *serials.values(), 0)
        word = Judge(policies, None).word(rows[0])
        assert isinstance(word, Change)
        stands = standing([(9, before), (0, wrong), (1, word.verdict)])
        assert [each.action for each in stands.values()] == [Action.ALLOW]


class Noisy:
    """A guard that is over the policy's number in a batch, and under it where it looks exactly."""

    async def revision(self) -> str:
        return "g@1"

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        logits: tuple[Triple, Triple] = ((0.0, -50.0, 0.01), (0.0, -50.0, -0.01))
        return [
            Assessment(logits[Asked.from_json(row).exact], (), None, 1, 0, "g@1") for row in rows
        ]

    async def close(self) -> None: ...


async def test_an_undo_acts_on_what_a_batch_has_moved_over_a_number_of_the_policys() -> None:
    over = (
        "{name: x, when: {score: {unsafe: {at_least: 0.5}}}, then: block, ground: law, clause: c}"
    )
    policy = policy_of(f"rules: [{over}]\n")
    row = row_of(said("a", action="block", basis="degraded", cause="outage", **UNJUDGED))
    plan = planned(SELECTION, [row], {"demo": policy}, None, ends={}, at=NOW, by="me")
    dispatcher = Dispatcher(Noisy(), Limits(64, 100_000, 4, 0.001, 0.01))

    async def begin() -> Lookup:
        return Lookup(dispatcher, KEY, MemoryCache(10, 60), None, None, exact_bound=0.03)

    limits = dict.fromkeys((topics.VERDICTS, topics.REVIEW, topics.EVIDENCE), 1_000_000)
    work = _Work(plan, Door(admission(), None), begin, limits=limits, sample_rate=0.0)
    content = Content(messages=[Message(role="user", content="How do I bake bread?")])
    ready, told = await work.ready([(Unclear(row, policy, "on_outage", "it waits"), content)])
    await dispatcher.close()
    assert told == []
    assert [change.verdict.action for change, _ in ready] == [Action.ALLOW]


class Broken(Door):
    async def content(self, row: Row, record: ConsumerRecord) -> Content | str:
        raise ValueError("a fault of ours")


async def test_a_fault_in_reading_a_record_is_called_content_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def records_of(*_: object) -> AsyncGenerator[ConsumerRecord, None]:
        yield ConsumerRecord(EVENTS, 0, 7, 0, 0, None, b"{}", None, 0, 2, ())

    async def no_partition(*_: object) -> AsyncGenerator[ConsumerRecord, None]:
        raise ValueError("there is no such partition")
        yield

    async def read() -> list[tuple[Row, Content | str]]:
        rows = [row_of(said("a"))]
        door = Broken(admission(), None)
        return [each async for each in contents._from_origins(Kafka(), rows, door)]

    monkeypatch.setattr(contents, "records_of", records_of)
    with pytest.raises(ValueError, match="a fault of ours"):
        await read()
    monkeypatch.setattr(contents, "records_of", no_partition)
    assert [why for _, why in await read()] == [contents.GONE]


# What acts.

FLAGGED: dict[str, Any] = {
    "safety": "Controversial", "scores": {"safe": 0.1, "controversial": 0.8, "unsafe": 0.1}
}  # fmt: skip


def now_with(tenants: Tenants, **faults: str) -> Acting:
    return Acting(tenants, {}, faults, frozenset(), {})


def by(name: str, identity: str = "a", serial: int = 0, **fields: Any) -> Row:
    """A verdict that a policy of this name gave."""
    used = {"name": name, "version": "0" * 12, "serial": serial, "rule": "wrong"}
    return row_of(said(identity, **{"policy": used} | fields))


def test_an_undo_is_by_a_policy_that_nobody_knows_here() -> None:
    known = admission().tenants
    with pytest.raises(NotPossible, match="the tenant 'else' is unknown; known are: demo"):
        policies_for([by("forum", tenant="else")], now_with(replace(known, strict=True)), {})
    with pytest.raises(NotPossible, match=r"'else' has no file here, and .* of the policy 'forum'"):
        policies_for([by("forum", tenant="else")], now_with(known), {})
    with pytest.raises(NotPossible, match="'strict' of the tenant 'demo' is nowhere in force"):
        lacks = replace(known, lacking=frozenset({"strict"}))
        policies_for([by("strict")], now_with(lacks), {})
    with pytest.raises(NotPossible, match="it is broken; or name a policy with --with"):
        policies_for([by("strict")], now_with(known, strict="it is broken"), {})
    assert policies_for([by("default", tenant="else")], now_with(known), {}).keys() == {"else"}


def test_another_policy_acts_than_the_tenant_may_use_or_than_was_chosen() -> None:
    now = now_with(admission(default="loose").tenants)
    rows = [by("strict", "a", 7), by("loose", "b", 9, event_id="e2")]
    nobody = row_of(verdict("c" * 32, event_id="e3", tenant="else"))
    assert nobody.verdict.policy is None
    found = policies_for([nobody, *rows], now, {"loose": 3, "strict": 4})
    assert {tenant: (each.name, each.serial) for tenant, each in found.items()} == {
        "demo": ("strict", 9)
    }
    gone = policies_for([by("forum", serial=7)], now, {})
    assert (gone["demo"].name, gone["demo"].serial) == ("loose", 7)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_chosen_policy_gives_way_to_what_acts_or_escapes_its_freeze(*, frozen: bool) -> None:
    known = admission().tenants
    frozen_by = Freezes({"demo": (20, frozen)})
    under = known.with_policies(BUILT_IN, frozen_by, frozenset())
    chosen = policy_of("on_expired: allow\n")
    rows = [by("strict", serial=7)]
    serials = {"house": 12}
    acts = policies_for(rows, now_with(under, strict="it is broken"), serials, chosen)["demo"]
    assert (acts.name, acts.serial, acts.frozen) == ("house", 20, frozen)
    acts = policies_for(rows, now_with(known), serials, chosen)["demo"]
    assert (acts.name, acts.serial, acts.frozen) == ("house", 12, False)


def test_the_policy_that_is_undone_is_taken_for_another() -> None:
    house, strict = policy_of(""), BUILT_IN["strict"]
    frozen = house.standing(serial=4, frozen=True)
    for version in (house.version, frozen.version):
        chosen = msgspec.structs.replace(SELECTION, version=version)
        found = old_policy(chosen, [strict, frozen])
        assert found is not None
        assert (found.name, found.version, found.frozen) == ("house", house.version, False)
    assert old_policy(SELECTION, [strict, house]) is None


# What becomes of a verdict.

PAID = (
    "rules: [{name: paid, when: {metadata: {paid: true}}, then: block, ground: law, clause: c}, "
    "{name: ask, when: {safety: [Unsafe, Controversial]}, then: review, ground: law, clause: c, "
    "queue: q, harm: 3, sla: 1d, meanwhile: hide, on_breach: raise}]\n"
)


def asked_by(policy: Policy, rule: str, **fields: Any) -> Row:
    """A verdict of this policy that went to people by this rule."""
    used = {"name": policy.name, "version": policy.version, "serial": 0, "rule": rule}
    decided = policy.handling_of(rule)
    assert decided is not None
    notice = {"ground": "terms", "clause": "1", "text": None}
    own = said("a", **FLAGGED, policy=used, action="review", meanwhile=decided.meanwhile,
               notice=notice, **fields)  # fmt: skip
    return row_of(own)


def asking(queue: str, on_breach: str = "raise") -> Policy:
    return policy_of(
        "rules: [{name: ask, then: review, when: {safety: Controversial}, ground: terms, "
        f"clause: '1', queue: {queue}, harm: 3, sla: 1d, meanwhile: hide, "
        f"on_breach: {on_breach}}}]\n"
    )


def test_people_are_asked_again_who_are_asked_already_or_not_at_all() -> None:
    old, same, other = asking("first"), asking("first"), asking("second")
    row = asked_by(old, "ask")
    assert isinstance(Judge({"demo": same}, old).word(row), Same)
    assert isinstance(Judge({"demo": other}, old).word(row), Change), "others are asked"
    assert isinstance(Judge({"demo": same}, None).word(row), Change), "who was is not known"
    frozen = old.standing(serial=0, frozen=True)
    under = msgspec.structs.replace(row.verdict, policy=used_by(frozen, "ask"))
    assert isinstance(Judge({"demo": same}, old).word(row_of(under)), Same)
    blocks = asking("first", on_breach="block")
    held = used_by(blocks.standing(serial=0, frozen=True), "ask")
    under = msgspec.structs.replace(row.verdict, policy=held)
    assert isinstance(Judge({"demo": blocks}, blocks).word(row_of(under)), Change), (
        "a freeze has kept it open when its time was over"
    )
    nobody = msgspec.structs.replace(row.verdict, policy=None)
    assert isinstance(Judge({"demo": same}, old).word(row_of(nobody)), Change)


def used_by(policy: Policy, rule: str) -> PolicyUsed:
    return PolicyUsed(policy.name, policy.version, policy.serial, rule)


def test_what_the_guard_says_now_is_written_beside_what_it_said_then() -> None:
    row = row_of(said("a", action="block", basis="degraded", cause="outage", **UNJUDGED))
    policy = policy_of("")
    word = Judge({"demo": policy}, None).word_of(row, {}, assessment(UNSAFE, ("PII", 0.75)))
    assert isinstance(word, Change)
    new = word.verdict
    assert (new.safety, new.categories, new.action) == ("Unsafe", ["PII"], Action.BLOCK)
    assert (new.basis, new.cause, new.supersedes) == (Basis.GUARD, None, "a" * 32)
    assert new.guard is not None and new.guard.revision == REVISION
    known = said("a", guard={"model": "m", "revision": "m@1"})
    (other,) = (
        each.verdict
        for each in [Judge({"demo": policy}, None).word_of(row_of(known), {}, assessment(UNSAFE))]
        if isinstance(each, Change)
    )
    assert other.verdict_id == new.verdict_id, "one id for what the same guard says of one record"


def test_all_that_the_guard_says_now_or_what_rules_read_of_the_event_is_lost() -> None:
    fields: dict[str, Any] = UNJUDGED | {"task": "response", "action": "block", "cause": "outage"}
    row = row_of(said("a", basis="degraded", **fields))
    views = assessment_of_views(UNSAFE, SAFE)
    answer = replace(views, categories=(("PII", 0.75),), refusal=True)
    told = said_of(answer, answer.safety)
    for metadata, action in (({"paid": True, "other": 1}, "block"), ({"paid": False}, "review")):
        word = Judge({"demo": policy_of(PAID)}, None).word_of(row, metadata, answer)
        assert isinstance(word, Change)
        new = word.verdict
        assert (new.action, new.facts.metadata) == (action, {"paid": metadata["paid"]})
        assert (new.scores, new.category_scores) == (told.scores, told.category_scores)
        assert (new.refusal, new.views) == (told.refusal, told.views)
        assert None not in (new.scores, new.category_scores, new.refusal, new.views)


def test_the_guard_is_asked_of_what_the_undone_policy_would_have_kept() -> None:
    """A verdict of one that read the name, without it, is of an event that did not have it."""
    policy = policy_of(PAID)
    row = row_of(said("a", **FLAGGED, policy=used_by(policy, "paid")))
    assert isinstance(Judge({"demo": policy}, None).word(row), Unclear)
    assert isinstance(Judge({"demo": policy}, BUILT_IN["strict"]).word(row), Unclear)
    assert not isinstance(Judge({"demo": policy}, policy).word(row), Unclear)


def test_a_verdict_whose_record_or_event_nobody_can_read_is_undone() -> None:
    rows = [row_of(said("a")), row_of(said("b", event_id="e2")), row_of(said("c", event_id="e3"))]
    rows[0] = replace(rows[0], origin=None)
    beside = Beside({rows[2].event: [(0, 0, rows[2].verdict)]}, {rows[1].event})
    stand, left = sorted_out(rows, beside)
    assert [row.verdict.verdict_id[0] for row in stand] == ["c"]
    assert left == {NO_ORIGIN: 1, UNREADABLE: 1}


def test_what_came_after_the_plan_counts_in_it() -> None:
    own, later = said("a"), said("b")
    event = row_of(own).event
    beside = Beside({event: [(0, 4, own), (0, 5, later), (1, 0, later)]}, {event})
    assert beside.below({0: 5}) == Beside({event: [(0, 4, own)]}, set())


# The plan.


def plan_of(rows: list[Row], policy: Policy, old: Policy | None = None) -> Plan:
    return planned(SELECTION, rows, {"demo": policy}, old, ends={1: 3, 0: 9}, at=NOW, by="me")


def test_a_plan_that_somebody_has_changed_is_applied() -> None:
    plan = plan_of([row_of(said("a"))], policy_of(""), BUILT_IN["strict"])
    assert (plan.policy, plan.selected, list(plan.ends)) == ("forum", 1, [0, 1])
    undone = plan.old_policy()
    assert undone is not None and undone.version == BUILT_IN["strict"].version
    (version,) = plan.bodies
    broken = msgspec.structs.replace(plan.bodies[version], body={"rules": []})
    with pytest.raises(NotPossible, match=r"the plan cannot be used: .*; make another one"):
        msgspec.structs.replace(plan, bodies={version: broken}).policies()


def test_a_plan_forgets_a_freeze_or_the_serial_under_which_it_was_made() -> None:
    frozen = policy_of("").standing(serial=9, frozen=True)
    acts = plan_of([row_of(said("a"))], frozen).policies()["demo"]
    assert (acts.serial, acts.frozen, acts.version) == (9, True, frozen.version)


def test_a_plan_of_nothing_names_a_policy() -> None:
    empty = plan_of([], policy_of(""))
    assert (empty.policy, empty.selected, empty.old_policy()) == ("", 0, None)
    nobody = row_of(verdict("c" * 32))
    assert plan_of([nobody], policy_of("")).policy == ""


def test_a_plans_hash_hides_what_the_guard_is_asked_or_what_stays() -> None:
    """Each kind of word is in it: a change, a question, and what stays as it is."""
    policy = policy_of(
        "rules: [{name: paid, when: {metadata: {paid: true}}, then: block, ground: law, clause: c}]"
        "\n"
    )
    safe: dict[str, Any] = {"scores": {"safe": 1.0, "controversial": 0.0, "unsafe": 0.0}}
    row = row_of(said("a", action="block", **safe))
    asked, stays, changes = (
        row,
        row_of(said("a", facts={"metadata": {"paid": False}}, **safe)),
        row_of(said("a", action="block", facts={"metadata": {"paid": False}}, **safe)),
    )
    plan = plan_of([], policy)
    judge = Judge(plan.policies(), None)
    words = [type(judge.word(each)) for each in (asked, stays, changes)]
    assert words == [Unclear, Same, Change]
    assert len({hash_of(plan, [each]) for each in (asked, stays, changes)}) == 3
