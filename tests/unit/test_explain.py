"""`qwarden explain`: which verdict stands, how others bear on it, and what is shown of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from qwarden.contracts.escalation import Content
from qwarden.contracts.event import Message
from qwarden.contracts.verdict import Verdict
from qwarden.explain.page import as_json, page
from qwarden.explain.trail import (
    Decided,
    Found,
    Kept,
    Other,
    Place,
    Trail,
    instant,
    relations,
    rule_of,
    standing_id,
)
from qwarden.policy.file import PolicyFile
from qwarden.policy.policy import Policy
from qwarden.policy.sources import BUILT_IN
from unit.builders import decision, verdict, withdrawal

SECRET = "nobody else may read this"


def found(said: Verdict, offset: int = 5) -> Found:
    place = Place("moderation.verdicts", 0, offset, instant(1_740_830_400_000))
    return Found(place, said, {"qw-origin": "content.events/0/7"})


def said(identity: str, **fields: Any) -> Verdict:
    return verdict(identity * 32, **fields)


def used(serial: int) -> dict[str, Any]:
    policy = BUILT_IN["default"]
    return {"name": policy.name, "version": policy.version, "serial": serial, "rule": "unsafe"}


@pytest.mark.parametrize(
    ("every", "stands"),
    [
        ([said("a"), said("b")], "b"),
        ([said("a", edit=1), said("b")], "a"),
        ([said("b", basis="degraded", supersedes="a" * 32), said("a")], "b"),
        ([said("a"), said("b", task="response"), said("c", event_id="e2")], "a"),
        ([said("a"), withdrawal("f" * 32)], "f"),
        ([said("a"), said("b", task="response", edit=1)], None),
    ],
)
def test_a_verdict_that_was_replaced_is_said_to_stand(
    every: list[Verdict], stands: str | None
) -> None:
    own = next(each for each in every if each.verdict_id[0] == "a")
    kept = standing_id(own, [found(each, offset) for offset, each in enumerate(every)])
    assert kept == (stands and stands * 32)


def test_a_verdict_of_another_task_or_event_is_said_to_bear_on_it() -> None:
    own = found(said("a", supersedes="b" * 32))
    beside = [
        found(said("a")),
        found(said("b")),
        found(said("c", supersedes="a" * 32)),
        found(said("d", edit=1)),
        found(said("e")),
        found(withdrawal("f" * 32)),
        found(said("1", task="response")),
        found(said("2", event_id="e2")),
        found(said("3", tenant="other")),
        found(said("4", task="response", edit=1)),
    ]
    told = {each.found.verdict.verdict_id[0]: each.relation for each in relations(own, beside)}
    assert list(told) == ["b", "c", "d", "e", "f", "4"]
    assert told["b"] == "is superseded by it"
    assert told["c"] == "supersedes it"
    assert told["d"] == "of a later edit"
    assert "final" in told["f"]
    assert told["4"] == "of a later edit", "which has no prompt any more"


def test_a_rule_of_another_version_is_shown_as_the_one_that_acted() -> None:
    policy = BUILT_IN["default"]
    frozen = policy.standing(serial=4, frozen=True)
    other = Policy(
        PolicyFile.model_validate({"name": "default", "rules": [{"name": "x", "then": "allow"}]})
    )
    known = [("elsewhere", other), ("what is built in", policy)]
    rule = rule_of(said("a", policy=used(0)), known)
    assert rule is not None
    assert (rule.source, rule.is_frozen) == ("what is built in", False)
    assert rule.said["then"] == "block"
    under = rule_of(said("a", policy=used(4) | {"version": frozen.version}), known)
    assert under is not None
    assert under.is_frozen
    assert rule_of(said("a", policy=used(0) | {"version": "0" * 12}), known) is None
    unjudged = rule_of(said("a", policy=used(0) | {"rule": "on_unjudged"}), known)
    assert unjudged is not None
    assert set(unjudged.said) == {"on_unjudged", "fallback"}


def trail() -> Trail:
    own = found(
        said(
            "a",
            scores={"safe": 0.1, "controversial": 0.15, "unsafe": 0.75},
            safety="Unsafe",
            categories=["Violent"],
            category_scores=[{"category": "Violent", "score": 0.9}],
            event_id="e\x1b[2J",
            policy=used(3),
            action="block",
            notice={"ground": "terms", "clause": "§1", "text": "No."},
        )
    )
    content = Content(messages=[Message(role="user", content=SECRET)])
    return Trail(
        own,
        2,
        "c" * 32,
        (Other(found(said("c", supersedes="a" * 32)), "supersedes it"),),
        (),
        (Kept(own.place, content, "0.01"),),
        (Decided(own.place, decision("d" * 32)),),
        (),
    )


def test_content_is_shown_that_nobody_asked_for() -> None:
    rule = rule_of(trail().found.verdict, [("what is built in", BUILT_IN["default"])])
    hidden = "\n".join(map(str, page(trail(), rule, show=False)))
    assert SECRET not in hidden
    assert SECRET not in msgspec.json.encode(as_json(trail(), rule, show=False)).decode()
    assert SECRET in "\n".join(map(str, page(trail(), rule, show=True)))
    assert SECRET in msgspec.json.encode(as_json(trail(), rule, show=True)).decode()
    for words in (
        "basis guard", "2 times", "it does not stand: consumers keep cccc", "███", "0.750",
        "Violent", "rule unsafe", "from what is built in", "origin content.events/0/7", "No.",
        "supersedes it", "r7", "d" * 32, "sample rate 0.01",
    ):  # fmt: skip
        assert words in hidden, words
    assert "\x1b" not in hidden


def test_an_edit_that_left_no_such_task_ends_the_page() -> None:
    shown = "\n".join(page(replace(trail(), stands=None), None, show=False))
    assert "it does not stand: a later edit replaces it, and has no such task" in shown
    assert as_json(replace(trail(), stands=None), None, show=False)["stands"] is None


def test_a_rule_is_named_where_a_person_decided() -> None:
    """The policy's own version acted on it, and one of its rules has the name: neither did it."""
    human = said("a", basis="human", decision="d" * 32, policy=used(3), action="block")
    assert rule_of(human, [("what is built in", BUILT_IN["default"])]) is None
    shown = "\n".join(page(replace(trail(), found=found(human)), None, show=False))
    assert f"instead of its rules the decision {'d' * 32} acts" in shown
    assert "what it says is not known here" not in shown
    assert as_json(replace(trail(), found=found(human)), None, show=False)["rule"] is None
