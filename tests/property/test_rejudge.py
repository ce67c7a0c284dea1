"""The undo's plan: what becomes of verdicts, whatever they say and whatever stands beside them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from qwarden.contracts.verdict import Action, Basis, Verdict, encode
from qwarden.guard.taxonomy import CATEGORIES
from qwarden.policy.file import PolicyFile
from qwarden.policy.policy import Policy, Undecided, version_of
from qwarden.policy.records import Recorded, reading_of
from qwarden.policy.sources import BUILT_IN
from qwarden.rejudge.planning import (
    DECIDED,
    EDITED,
    OUTRANKED,
    SUPERSEDED,
    WITHDRAWN,
    Beside,
    Change,
    Judge,
    Plan,
    Row,
    Same,
    Selection,
    Unclear,
    hash_of,
    planned,
    sorted_out,
)
from unit.builders import verdict, withdrawal

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ASKS = {"queue": "general", "harm": 3, "sla": "1d", "meanwhile": "hide", "on_breach": "block"}
TERMS = {"ground": "terms", "clause": "1"}
SELECTION = Selection(
    version="0" * 12, rule="wrong", since=NOW - timedelta(hours=1), until=NOW + timedelta(hours=1)
)


def rule(name: str, then: str, when: dict[str, Any]) -> dict[str, Any]:
    more = {} if then == "allow" else {**TERMS, "text": {"en": "Careful."}}
    return {"name": name, "then": then, "when": when, **more, **(ASKS if then == "review" else {})}


WHENS: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"safety": ["Unsafe"]},
        {"safety": ["Controversial"]},
        {"category": ["Violent"]},
        {"category": ["PII"], "score": {"safe": {"at_least": 0.5}}},
        {"score": {"flagged": {"at_least": 0.4}}},
        {"metadata": {"premium": [True]}},
        {"reach": {"at_least": 100}},
    ]
)
THENS = st.sampled_from([str(each) for each in Action])


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    whens = draw(st.lists(WHENS, max_size=3))
    rules = [rule(f"r{n}", draw(THENS), when) for n, when in enumerate(whens)]
    file = PolicyFile.model_validate(
        {"name": "forum", "rules": [*rules, rule("rest", draw(THENS), {})]}
    )
    return Policy(file, serial=draw(st.integers(0, 99)), frozen=draw(st.booleans()))


@st.composite
def rows(draw: st.DrawFn, name: str = "e1") -> Row:
    scores = draw(st.sampled_from([(0.95, 0.03, 0.02), (0.6, 0.3, 0.1), (0.1, 0.2, 0.7)]))
    words = ("Safe", "Controversial", "Unsafe")
    named = draw(st.lists(st.sampled_from(CATEGORIES), max_size=2, unique=True))
    judged = draw(st.integers(0, 4)) > 0
    fields: dict[str, Any] = {
        "safety": words[scores.index(max(scores))],
        "scores": dict(zip(("safe", "controversial", "unsafe"), scores, strict=True)),
        "category_scores": [{"category": each, "score": 0.5} for each in named] or None,
        "categories": named,
        "basis": draw(st.sampled_from(["guard", "quota"])),
    }
    if not judged:
        fields = {
            **dict.fromkeys(("safety", "scores", "categories")),
            "basis": "degraded",
            "cause": draw(st.sampled_from(["outage", "too_long"])),
        }
    carried = draw(st.sampled_from([{}, {"premium": True}, {"premium": False}]))
    said = verdict(
        f"{random.Random(name).getrandbits(128):032x}",
        event_id=name,
        action=draw(THENS),
        policy={"name": "forum", "version": "0" * 12, "serial": 0, "rule": "wrong"},
        facts={"metadata": carried, "reach": draw(st.sampled_from([None, 5, 500]))},
        **fields,
    )
    return row_of(said)


def row_of(said: Verdict, offset: int = 0) -> Row:
    recorded = msgspec.json.decode(encode(said), type=Recorded)
    return Row(said, recorded, offset, None, ("content.events", 0, 7))


@pytest.mark.long
@settings(max_examples=examples(300))
@given(rows(), policies())
def test_a_new_verdict_says_what_the_policy_does_not(row: Row, policy: Policy) -> None:
    word = Judge({"demo": policy}, None).word_with(row, row.verdict.facts.metadata)
    reading = reading_of(row.recorded)
    if reading is None or not isinstance(word, Change):
        return
    said = policy.decide_or_tell(reading)
    assert not isinstance(said, Undecided)
    new, used = word.verdict, word.verdict.policy
    assert used is not None
    assert (new.action, used.rule) == (said.action, said.rule)
    assert (used.version, used.serial) == (policy.version, policy.serial)
    assert (new.basis, new.supersedes) == (Basis.GUARD, row.verdict.verdict_id)
    kept = ("scores", "safety", "categories", "event_id", "edit", "task", "content_hash")
    assert all(getattr(new, name) == getattr(row.verdict, name) for name in kept)
    assert set(new.facts.metadata) <= set(policy.metadata)


@given(rows(), policies())
def test_an_undo_ends_in_a_block_under_a_freeze(row: Row, policy: Policy) -> None:
    frozen = policy.standing(serial=policy.serial, frozen=True)
    for word in (
        Judge({"demo": frozen}, None).word(row),
        Judge({"demo": frozen}, None).word_with(row, {}),
    ):
        assert not isinstance(word, Change) or word.verdict.action is not Action.BLOCK


@given(rows(), policies())
def test_what_facts_do_not_tell_is_guessed(row: Row, policy: Policy) -> None:
    """A word that facts give is the one that all of the event's metadata gives, whatever they are,
    where the facts hold what they were asked for."""
    judge = Judge({"demo": policy}, None)
    word = judge.word(row)
    if isinstance(word, Unclear):
        return
    for premium in ({}, {"premium": True}, {"premium": False}):
        metadata = row.verdict.facts.metadata or premium
        assert _meaning(judge.word_with(row, metadata)) == _meaning(word)


def _meaning(word: Change | Unclear | Same) -> object:
    if isinstance(word, Change):
        assert word.verdict.policy is not None
        return word.verdict.action, word.verdict.policy.rule, word.verdict.notice
    return type(word)


@given(rows(), policies(), policies())
def test_two_undos_of_one_verdict_have_one_id(row: Row, one: Policy, other: Policy) -> None:
    words = [Judge({"demo": policy}, None).word_with(row, {}) for policy in (one, one, other)]
    if not all(isinstance(word, Change) for word in words):
        return
    first, again, third = (word.verdict for word in words if isinstance(word, Change))
    assert first == again
    same = (one.version, one.serial) == (other.version, other.serial)
    assert (first.verdict_id == third.verdict_id) == same
    assert first.verdict_id != row.verdict.verdict_id
    revised = row_of(msgspec.structs.replace(row.verdict, verdict_id="f" * 32))
    of_another = Judge({"demo": one}, None).word_with(revised, {})
    assert isinstance(of_another, Change)
    assert of_another.verdict.verdict_id != first.verdict_id


# What is left alone.


@dataclass
class Scene:
    """Selected verdicts, what stands beside each, and what is to become of it."""

    rows: list[Row]
    beside: Beside
    decided: set[str]
    expected: dict[str, str | None]


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    found = Scene([], Beside({}, set()), set(), {})
    for number in range(draw(st.integers(0, 6))):
        row = draw(rows(f"e{number}"))
        own = row.verdict
        what = draw(
            st.sampled_from(
                [None, SUPERSEDED, WITHDRAWN, EDITED, OUTRANKED, DECIDED, "repeat", "human"]
            )
        )
        if what == "human":
            own = msgspec.structs.replace(own, basis=Basis.HUMAN, decision="d" * 32)
            row = row_of(own)
        replace = msgspec.structs.replace
        assert own.policy is not None
        others = {
            SUPERSEDED: replace(own, verdict_id="new", supersedes=own.verdict_id),
            WITHDRAWN: replace(withdrawal("gone"), event_id=own.event_id),
            EDITED: replace(own, verdict_id="later", edit=1, supersedes=None),
            OUTRANKED: replace(
                own, verdict_id="other", basis=Basis.GUARD, policy=replace(own.policy, serial=9)
            ),
            "repeat": own,
        }
        said = [own, *([others[what]] if what in others else [])]
        found.rows.append(row)
        found.beside.verdicts[row.event] = [(0, at, each) for at, each in enumerate(said)]
        if what == DECIDED:
            found.decided.add(own.verdict_id)
        found.expected[own.verdict_id] = {"repeat": None, "human": DECIDED}.get(what or "", what)
    return found


@pytest.mark.long
@given(scenes(), st.randoms(use_true_random=False))
def test_what_does_not_stand_is_undone(scene: Scene, rng: random.Random) -> None:
    shuffled = scene.rows.copy()
    rng.shuffle(shuffled)
    stand, left = sorted_out(shuffled, scene.beside, scene.decided)
    expected = [own for own, why in scene.expected.items() if why is None]
    assert [row.verdict.verdict_id for row in stand] == sorted(expected)
    reasons = [why for why in scene.expected.values() if why is not None]
    assert dict(left) == {why: reasons.count(why) for why in reasons}


@pytest.mark.long
@given(st.lists(st.integers(0, 50), min_size=1, max_size=5, unique=True), policies(), st.data())
def test_a_plan_is_another_after_it_was_written_and_read(
    numbers: list[int], policy: Policy, data: st.DataObject
) -> None:
    """Its hash does not depend on the order of the rows, and changes with any of them."""
    checked = Policy(_checked(policy), serial=policy.serial, frozen=policy.frozen)
    found = [data.draw(rows(f"e{number}")) for number in numbers]
    plan = planned(SELECTION, found, {"demo": checked}, None, ends={0: 9}, at=NOW, by="me")
    read = msgspec.json.decode(msgspec.json.encode(plan), type=Plan)
    assert read == plan
    assert hash_of(read, found[::-1]) == plan.hash
    assert hash_of(read, found[1:]) != plan.hash
    assert read.policies()["demo"].version == checked.version
    later = msgspec.structs.replace(plan, ends={0: 10})
    assert hash_of(later, found) != plan.hash


def _checked(policy: Policy) -> PolicyFile:
    """One of the policies that pass all checks: a plan's bodies must."""
    names = ("default", "strict", "loose")
    return BUILT_IN[names[int(version_of(policy.file), 16) % 3]].file


@given(rows(), st.sampled_from(["version", "rule", "policy", "tenant", "time", None]))
def test_another_verdict_than_was_meant_is_selected(row: Row, other: str | None) -> None:
    wanted = {"policy": "forum", "tenant": "demo"} | (
        {other: "another"} if other in {"version", "rule", "policy", "tenant"} else {}
    )
    selection = msgspec.structs.replace(SELECTION, **wanted)
    at = selection.until if other == "time" else selection.since
    assert selection.takes(row.recorded, at) == (other is None)
