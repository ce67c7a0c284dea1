"""The cells of records: those of one cell get one answer, and there are few of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from qwarden.policy.cells import Cell, Cells
from qwarden.policy.file import PolicyFile
from qwarden.policy.records import Recorded

SAFE = {"safe": 0.9, "controversial": 0.1, "unsafe": 0.0}


def cell(when: dict[str, Any], **said: Any) -> Cell:
    """Of a record with these fields, for two policies of which the second has this rule."""
    rules = [{"name": "x", "when": when, "then": "allow"}]
    files = ({"name": "older"}, {"name": "newer", "rules": rules})
    body = {"verdict_id": "0", "event_id": "e", "tenant": "c", "action": "allow", "basis": "guard"}
    judged = {"safety": "Safe", "scores": SAFE, "categories": [], "task": "prompt"}
    recorded = msgspec.convert(body | judged | said, Recorded)
    return Cells.of([PolicyFile.model_validate(each) for each in files]).cell(recorded)


def unjudged(**said: Any) -> dict[str, Any]:
    return {"safety": None, "scores": None, "categories": None} | said


def scored(unsafe: float) -> dict[str, Any]:
    return {"scores": {"safe": 0.0, "controversial": round(1 - unsafe, 3), "unsafe": unsafe}}


def facts(**said: Any) -> dict[str, Any]:
    return {"facts": said}


REACH = {"reach": {"at_least": 100, "below": 200}}
SCORE = {"score": {"unsafe": {"at_least": 0.5}}}
BOTH = {"score": {"unsafe": {"at_least": 0.5}, "flagged": {"below": 0.9}}}
PAID = {"metadata": {"paid": True}}


@pytest.mark.parametrize(
    ("when", "one", "other"),
    [
        ({}, {"safety": "Safe"}, {"safety": "Unsafe"}),
        ({}, {}, facts(origin="user_report")),
        ({"tenant": ["a", "b"]}, {"tenant": "a"}, {"tenant": "b"}),
        ({"tenant": "a"}, {"tenant": "a"}, {"tenant": "c"}),
        ({"task": "prompt"}, {"task": "prompt"}, {"task": "response"}),
        ({"language": "de"}, {"language": "de"}, {"language": "fr"}),
        (REACH, facts(reach=99), facts(reach=100)),
        (REACH, facts(reach=199), facts(reach=200)),
        (REACH, facts(), facts(reach=0)),
        (PAID, facts(metadata={"paid": True}), facts(metadata={"paid": 1})),
        (PAID, facts(metadata={"paid": True}), facts(metadata={"paid": False})),
        (PAID, facts(metadata={"paid": True}), facts()),
        ({"refusal": True}, {"refusal": True}, {"refusal": None}),
        ({"category": ["PII", "Violent"]}, {"categories": ["PII"]}, {"categories": ["Violent"]}),
        ({"category": "PII"}, {"categories": ["PII"]}, {"categories": ["Violent"]}),
        ({"category": "PII"}, {"categories": ["Violent"]}, {"categories": []}),
        (SCORE, scored(0.499), scored(0.5)),
        (BOTH, scored(0.5), scored(0.499)),
        ({}, unjudged(basis="expired"), unjudged(basis="degraded")),
        ({}, unjudged(cause="outage"), unjudged(cause="no_answer")),
        (REACH, unjudged(**facts(reach=99)), unjudged(**facts(reach=100))),
        (PAID, unjudged(**facts(origin="appeal")), unjudged(**facts(origin="authority"))),
        (SCORE, {"safety": "Safe"}, {"safety": "Unsafe"}),
    ],
)
def test_records_that_a_rule_tells_apart_get_one_answer(
    when: dict[str, Any], one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert cell(when, **one) != cell(when, **other)


@pytest.mark.parametrize(
    ("when", "one", "other"),
    [
        ({}, {"tenant": "a", "task": "prompt", "language": "de"},
         {"tenant": "b", "task": "response", "language": "fr"}),
        ({}, facts(reach=1, metadata={"paid": True}), facts(reach=2)),
        ({}, {"refusal": True, "categories": ["PII"], **scored(0.4)},
         {"refusal": False, "categories": [], **scored(0.6)}),
        ({}, {"basis": "guard"}, {"basis": "quota"}),
        ({"tenant": "a"}, {"tenant": "b"}, {"tenant": "c"}),
        (REACH, facts(reach=100), facts(reach=199)),
        (PAID, facts(metadata={"other": 1}), facts()),
        ({"category": "PII"}, {"categories": ["Violent"]},
         {"categories": ["Violent", "Jailbreak"]}),
        (SCORE, scored(0.5), scored(0.9)),
        ({}, unjudged(refusal=True), unjudged(refusal=False)),
    ],
)  # fmt: skip
def test_there_are_as_many_cells_as_records(
    when: dict[str, Any], one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert cell(when, **one) == cell(when, **other)
