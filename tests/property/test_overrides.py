"""Overrides: each is kept as it was written, and acts for one tenant's content alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from qwarden.contracts.control import Override
from qwarden.contracts.decision import ACTIONS
from qwarden.contracts.refusal import Refused
from qwarden.contracts.verdict import Action, Basis
from qwarden.control.overrides import Overridden, Overrides
from qwarden.guard.answer import Answer, Failure
from qwarden.moderator import verdicts
from qwarden.moderator.case import Case
from qwarden.policy.policy import BY_OVERRIDE, Decided
from qwarden.policy.sources import BUILT_IN
from unit.builders import (
    CONTROVERSIAL,
    KEY,
    SAFE,
    THOUGHT,
    UNSAFE,
    assessment,
    case,
    unanswered,
)

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
# The names and the hashes are bytes beside each other: some begin as others end.
TENANTS = st.sampled_from(["", "a", "a0", "demo", "té", "\0", "a" + "\0" * 16])
HASHES = st.sampled_from(["00" * 16, "ff" * 16, "61" * 16, "0061" * 8, "61" + "00" * 15])


@st.composite
def written(draw: st.DrawFn) -> Override:
    action = draw(st.sampled_from(ACTIONS))
    says_why = draw(st.booleans())
    return Override(
        tenant=draw(TENANTS), content_hash=draw(HASHES), action=action, categories=[],
        ground=draw(st.sampled_from(["law", "terms"])) if says_why else None,
        clause=draw(st.text(max_size=8)) if says_why else None,
        decision_id=draw(st.text(max_size=40)), until=AT, at=AT, by="r-7",
    )  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.one_of(written(), st.tuples(TENANTS, HASHES)), max_size=30), TENANTS, HASHES)
def test_an_override_is_kept_otherwise_than_in_a_table_of_them(
    records: list[Override | tuple[str, str]], tenant: str, content_hash: str
) -> None:
    kept, table = Overrides(), dict[tuple[str, str], Override]()
    for each in records:
        if isinstance(each, Override):
            kept.put(each)
            table[each.tenant, each.content_hash] = each
        else:
            kept.remove(*each)
            table.pop(each, None)
    assert len(kept) == len(table)
    for name in [*table, (tenant, content_hash)]:
        said, found = table.get(name), kept.of(*name)
        expected = None if said is None else (
            said.action, said.ground, said.clause, said.decision_id
        )  # fmt: skip
        assert (None if found is None else tuple(msgspec.structs.astuple(found))) == expected


GOOD = Override(
    tenant="demo", content_hash="ab" * 16, action="block", categories=[], ground="law", clause="1",
    decision_id="d", until=AT, at=AT, by="r-7",
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"ground": "mood"}, "'mood' is no ground"),
        ({"action": "review"}, "people are not sent what they have decided"),
        ({"action": "burn"}, "'burn' is not a valid Action"),
        ({"content_hash": "AB" * 16}, "its content hash is no verdict's"),
        ({"content_hash": "ab" * 15}, "its content hash is no verdict's"),
        ({"content_hash": "ab" * 17}, "its content hash is no verdict's"),
        ({"content_hash": "xy" * 16}, "its content hash is no verdict's"),
        ({"content_hash": "a b" * 8}, "its content hash is no verdict's"),
    ],
)
def test_an_override_that_no_verdict_can_have_is_kept_or_ends_another(
    change: dict[str, str], why: str
) -> None:
    kept = Overrides()
    kept.put(GOOD)
    with pytest.raises(ValueError, match=why):
        kept.put(msgspec.structs.replace(GOOD, **change))
    name = change.get("content_hash", "cd" * 16)
    kept.remove("demo", name)
    assert kept.of("demo", name) is None
    assert kept.of("demo", "ab" * 16) == Overridden(Action.BLOCK, "law", "1", "d")
    assert len(kept) == 1


ANSWERS: st.SearchStrategy[Answer] = st.sampled_from(
    [
        assessment(SAFE),
        assessment(CONTROVERSIAL, ("Violent", 0.7)),
        assessment(UNSAFE, ("PII", 0.9)),
        unanswered(Failure.TOO_LONG),
        unanswered(Failure.NO_ANSWER),
        unanswered(Failure.REFUSED),
        unanswered(Failure.CRASHED),
    ]
)
OVERRIDDEN = st.builds(
    Overridden,
    st.sampled_from([Action(each) for each in ACTIONS]),
    st.sampled_from([None, "law", "terms"]),
    st.sampled_from([None, "violence", "no rule's"]),
    st.sampled_from(["1" * 32, "2" * 32]),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    fields: dict[str, Any] = {"event_id": draw(st.sampled_from(["e1", "e2"]))}
    if draw(st.booleans()):
        fields |= {"text": ..., "messages": THOUGHT}
    made = case(policy=draw(st.sampled_from(sorted(BUILT_IN))), **fields)
    assert made.policy is not None
    policy = made.policy.standing(serial=draw(st.integers(0, 2)), frozen=draw(st.booleans()))
    found = tuple(draw(st.one_of(st.none(), OVERRIDDEN)) for _ in made.questions)
    return msgspec.structs.replace(made, policy=policy, overrides=found if any(found) else ())


def blocks_nothing(decided: Decided, basis: Basis) -> Decided:
    """A quota that is used up."""
    return Decided(Action.REVIEW, decided.rule, decided.handling or BUILT_IN["default"].fallback)


def said_of(case: Case, how: str, answers: list[Answer]) -> verdicts.Verdicts | None:
    """What is said of it; None where it waits or is refused."""
    if how == "expired":
        return verdicts.expired(case, KEY.id, blocks_nothing)
    if how == "outage":
        return verdicts.in_outage(case, KEY.id, blocks_nothing)
    try:
        return verdicts.judged(case, answers, KEY.id, blocks_nothing)
    except Refused:
        return None


HOW = st.sampled_from(["judged", "judged", "outage", "expired"])


@pytest.mark.long
@settings(max_examples=examples(300))
@given(cases(), HOW, st.data())
def test_what_a_person_decided_is_not_what_is_done(
    given_case: Case, how: str, data: st.DataObject
) -> None:
    """Whatever the policy, a freeze, a quota and the guard say. What nobody decided is as if nobody
    had decided anything."""
    answers = [data.draw(ANSWERS) for _ in given_case.questions]
    bare = msgspec.structs.replace(given_case, overrides=())
    said, without = (said_of(each, how, answers) for each in (given_case, bare))
    if said is None:
        overrides = [given_case.override_of(each) for each in given_case.questions]
        assert None in overrides
        assert without is None
        return
    for at, (question, own) in enumerate(zip(given_case.questions, said, strict=True)):
        override = given_case.override_of(question)
        if override is None:
            assert own.decision is None
            assert own.basis is not Basis.HUMAN
            assert without is None or own == without[at]
            continue
        assert own.policy is not None
        assert (own.basis, own.action) == (Basis.HUMAN, override.action)
        assert (own.decision, own.policy.rule) == (override.decision_id, BY_OVERRIDE)
        assert own.meanwhile is None
        if without is not None:
            plain = without[at]
            kept = ("safety", "scores", "categories", "cause", "guard", "facts", "content_hash")
            assert all(getattr(own, name) == getattr(plain, name) for name in kept)
            assert plain.policy is not None
            assert (own.policy.name, own.policy.serial) == (plain.policy.name, plain.policy.serial)
            assert own.policy.version != plain.policy.version
            assert own.verdict_id != plain.verdict_id


@pytest.mark.long
@settings(max_examples=examples(300))
@given(cases(), cases(), HOW, HOW, st.data())
def test_two_verdicts_of_one_id_do_different_things(
    one: Case, other: Case, how: str, how_other: str, data: st.DataObject
) -> None:
    """Of equal content and answers, so that it is the overrides and the policies that differ."""
    answers = [data.draw(ANSWERS) for _ in range(2)]
    by_id: dict[str, tuple[Any, ...]] = {}
    for each, in_which_way in ((one, how), (other, how_other)):
        for said in said_of(each, in_which_way, answers[: len(each.questions)]) or ():
            if said.basis is Basis.QUOTA:
                continue  # What a quota leaves of an action is its own test.
            does = (said.safety, said.categories, said.action, said.decision)
            assert by_id.setdefault(said.verdict_id, does) == does
