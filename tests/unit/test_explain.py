"""`qwarden explain`: which verdict stands, how others bear on it, and what is shown of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from qwarden.contracts.dead_letter import Mark, Origin, dead_letter
from qwarden.contracts.escalation import Content, Escalation, Kind
from qwarden.contracts.event import Message, Part
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.contracts.verdict import Verdict
from qwarden.explain.page import as_json, page
from qwarden.explain.trail import (
    Decided,
    Escalated,
    Found,
    Kept,
    Other,
    Place,
    Refusal,
    Rule,
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


# What one page has, and another has not.

AT = instant(1_740_830_400_000)


def bare(own: Verdict, **more: Any) -> Trail:
    """A verdict of which the topics hold nothing else."""
    fields: dict[str, Any] = {"stands": own.verdict_id, "copies": 1} | dict.fromkeys(
        ("others", "escalations", "evidence", "decisions", "refusals"), ()
    )
    return Trail(found(own), **(fields | more))


def shown(trail: Trail, rule: Rule | None = None, *, show: bool = False) -> str:
    return "\n".join(page(trail, rule, show=show))


JUDGED: dict[str, Any] = {
    "safety": "Safe", "scores": {"safe": 1.0, "controversial": 0.0, "unsafe": 0.0}
}  # fmt: skip
SCORES = {"safe": 0.5, "controversial": 0.25, "unsafe": 0.25}


@pytest.mark.parametrize(
    ("fields", "words", "others"),
    [
        ({}, ["nothing was judged", "no policy was asked", "no guard answered"], ["the guard:"]),
        (JUDGED, ["the guard: Safe, no category\n", "no category was decoded"], ["refusal"]),
        (JUDGED | {"refusal": True}, ["Safe, no category, a refusal\n"], []),
        (JUDGED | {"refusal": False}, ["Safe, no category, no refusal\n"], []),
        (JUDGED | {"safety": None}, ["nothing was judged"], []),
        ({"safety": "Safe", "scores": None}, ["nothing was judged"], []),
        (JUDGED | {"category_scores": []}, [], ["no category was decoded"]),
        ({"task": None, "action": None}, ["task all", "  no action: basis guard\n"], []),
        ({"cause": "outage"}, ["basis guard, cause outage\n"], []),
        ({"subject": "u1"}, ["edit 0, task prompt, of u1\n"], []),
        ({}, ["edit 0, task prompt\n", "language not known\n"], [", of ", "facts", "times"]),
        ({"language": "de", "language_confidence": 0.256}, ["de, detected (0.26 ahead)"], []),
        ({"language": "de"}, ["  language de\n"], ["detected"]),
        ({"facts": {"reach": 7}}, ['  facts: {"reach": 7}'], []),
        ({"dropped": ["system", "tool"]}, ["not seen by the guard: system, tool"], []),
        (
            {"views": [{"name": "as_sent", "piece": 1, "safety": "Safe", "scores": SCORES}]},
            ["  view as_sent, piece 2: Safe\n    safe "],
            [],
        ),
        ({"guard": {"model": "m", "revision": "m@1"}}, ["guard m, revision m@1"], ["no guard"]),
        ({"meanwhile": "hide"}, [], ["until a person decides"]),
        (
            {"policy": used(3), "meanwhile": "hide"},
            ["until a person decides: hide", "neither on the control topic, nor built in"],
            ["the user is told"],
        ),
        (
            {"policy": used(3), "notice": {"ground": "law", "clause": "1", "text": None}},
            ["the user is told (law, 1): -"],
            [],
        ),
        ({"supersedes": "b" * 32}, [f"\nsupersedes {'b' * 32}"], ["other verdicts"]),
    ],
)
def test_a_page_leaves_out_what_is_known_or_tells_what_is_not(
    fields: dict[str, Any], words: list[str], others: list[str]
) -> None:
    whole = shown(bare(said("a", **fields)))
    assert "  it stands: no other verdict takes its place\n" in whole
    for each in words:
        assert each in whole
    for each in others:
        assert each not in whole


def test_a_probability_has_another_bar_than_its_number() -> None:
    scores = {"safe": 0.5, "controversial": 1.0, "unsafe": 0.0}
    whole = shown(bare(said("a", safety="Safe", scores=scores)))
    bars = [line.split()[1] for line in whole.splitlines() if "░" in line or "█" in line]
    assert bars == ["█" * 20 + "░" * 20, "█" * 40, "░" * 40]


def test_a_rule_is_shown_without_what_it_asks_for() -> None:
    rule = Rule("a file", {"then": "block", "when": {"safety": ["Unsafe"]}}, is_frozen=True)
    whole = shown(bare(said("a", policy=used(0))), rule)
    assert "  from a file, under a freeze\n" in whole
    assert '    then: "block"\n    when:\n      safety: ["Unsafe"]\n' in whole
    assert "under a freeze" not in shown(
        bare(said("a", policy=used(0))), replace(rule, is_frozen=False)
    )


def escalated(identity: str, content: Content | None, kind: Kind = Kind.REVIEW) -> Escalated:
    asked: dict[str, Any] = {"queue": "second", "harm": 5, "sla_s": 60, "meanwhile": "hide",
                             "on_breach": "raise"}  # fmt: skip
    return Escalated(
        Place("moderation.review", 0, 8, AT),
        Escalation(kind=kind, verdict=said(identity), content=content, **asked),
    )


CONTENT = Content(
    messages=[
        Message(role="user", content=[Part(type="text", text="one"), Part(type="text", text=None)]),
        Message(role="assistant", content="two"),
    ]
)


def test_content_is_taken_from_another_verdict_or_not_found_where_only_people_have_it() -> None:
    own, other = escalated("a", CONTENT), escalated("b", CONTENT)
    closed = escalated("a", None, Kind.CLOSE)
    for kept in ((other,), (closed,), (other, closed), ()):
        whole = shown(bare(said("a"), escalations=kept), show=True)
        assert "one" not in whole and "its content is kept" not in whole
    hidden = shown(bare(said("a"), escalations=(other, own)))
    assert hidden.endswith("\n\nits content is kept; --show shows it")
    whole = shown(bare(said("a"), escalations=(other, closed, own)), show=True)
    assert "user: one" in whole and "assistant: two" in whole
    assert "queue second, harm 5, within 60 s, meanwhile hide, on breach raise; verdict bb" in whole
    assert f"close, by {'a' * 32}" in whole


def test_what_stands_beside_a_verdict_is_not_told() -> None:
    refused = Refused(ErrorClass.NOT_JSON, "it is no JSON", event_id="e1", tenant="demo")
    letter = dead_letter(
        refused, origin=Origin("content.events", 0, 7, 0), key=None, value=b"{", headers=(),
        consumer="c@h", max_bytes=100,
    )  # fmt: skip
    mark = Mark(partition=0, offset=3, what="dropped", at=AT, by="ann")
    refusal = Refusal(Place("moderation.dead-letters", 0, 3, AT), letter, (mark,))
    others = (
        Other(found(said("b", policy=used(2))), "of an earlier edit"),
        Other(found(said("c", action=None)), "of a later edit"),
    )
    evidence = (Kept(Place("moderation.evidence", 1, 2, AT), CONTENT, None),)
    known = bare(said("a"), others=others, refusals=(refusal,), evidence=evidence)
    whole = shown(known)
    assert "\n\nother verdicts of this event\n" in whole
    version = BUILT_IN["default"].version
    assert f"{'b' * 32} edit 0 allow (guard, default {version}): of an earlier edit" in whole
    assert f"{'c' * 32} edit 0 - (guard, no policy): of a later edit" in whole
    assert "\nevidence at moderation.evidence/1/2\n" in whole
    assert (
        "dead letter 0/3 of content.events/0/7: not_json: it is no JSON\n  dropped by ann" in whole
    )
    told = as_json(known, None, show=False)
    assert told["dead_letters"][0]["marks"] == (mark,)
    assert [each["relation"] for each in told["others"]] == [
        "of an earlier edit",
        "of a later edit",
    ]
    assert (
        as_json(bare(said("a"), escalations=(escalated("a", CONTENT),)), None, show=True)[
            "escalations"
        ][0]["queue"]
        == "second"
    )


def test_what_a_record_carried_is_kept_from_its_page() -> None:
    own = replace(found(said("a")), headers={})
    assert "origin" not in shown(replace(bare(said("a")), found=own))
    assert "\n  origin content.events/0/7" in shown(bare(said("a")))
