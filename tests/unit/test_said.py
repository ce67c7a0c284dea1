"""The verdict that an assessment and a decision come to: nothing that was said is left out."""

from __future__ import annotations

from typing import Any

import msgspec

from qwarden.contracts.verdict import (
    Action,
    Basis,
    CategoryScore,
    Facts,
    Guard,
    Notice,
    PolicyUsed,
    Scores,
    Verdict,
    ViewScores,
    verdict_id,
)
from qwarden.guard.answer import Safety
from qwarden.guard.conversation import Task
from qwarden.outcomes.said import Said, facts_of, handling_of, reading_of, verdict_saying
from qwarden.policy.file import Handling
from qwarden.policy.policy import Decided, Reason
from qwarden.policy.reading import Circumstances, Reading
from qwarden.policy.sources import BUILT_IN
from unit.builders import UNSAFE, assessment

LEAST: dict[str, Any] = {
    "tenant": "demo", "event_id": "e1", "task": Task.RESPONSE, "key_id": "k", "value": b"{}",
    "language": "de", "facts": Facts(origin="appeal", reach=3), "basis": Basis.GUARD,
}  # fmt: skip
SAID = Said(
    safety="Unsafe",
    scores=Scores(0.1, 0.2, 0.7),
    categories=["PII"],
    category_scores=[CategoryScore("PII", 0.6)],
    refusal=False,
    views=[ViewScores("as_sent", 0, "Unsafe", Scores(0.1, 0.2, 0.7))],
    dropped=("oldest:2",),
)
DECIDED = Decided(
    Action.REVIEW,
    "doxxing",
    Handling.model_validate(
        {"queue": "fraud", "harm": 7, "sla": "15m", "meanwhile": "hide", "on_breach": "block"}
    ),
    Reason("law", "§ 1", {"de": "Gesperrt.", "en": "Blocked."}, "en"),
)
ALL = {
    "edit": 2, "subject": "u1", "confidence": 0.4, "detector": "eld-4", "content_hash": b"\xab\x01",
    "said": SAID, "revision": "toy@1+stream@2", "answered_by": "toy@1", "cause": "quota",
    "decided": DECIDED, "used": PolicyUsed("strict", "v1", 9, "doxxing"), "dropped": ["system"],
    "decision": "d1",
}  # fmt: skip


def test_a_verdict_leaves_out_what_was_said() -> None:
    said = verdict_saying(**LEAST | ALL)
    assert msgspec.structs.asdict(said) == {
        "schema_version": 1, "verdict_id": said.verdict_id, "event_id": "e1", "edit": 2,
        "tenant": "demo", "subject": "u1", "task": "response", "safety": "Unsafe",
        "scores": SAID.scores, "categories": ["PII"], "category_scores": SAID.category_scores,
        "refusal": False, "language": "de", "language_confidence": 0.4, "views": SAID.views,
        "content_hash": "ab01", "facts": LEAST["facts"], "action": Action.REVIEW,
        "meanwhile": "hide", "notice": Notice("law", "§ 1", "Gesperrt."), "basis": Basis.GUARD,
        "cause": "quota", "guard": Guard("toy", "toy@1", "none"), "policy": ALL["used"],
        "dropped": ["system", "oldest:2"], "supersedes": None, "decision": "d1",
    }  # fmt: skip


def test_a_verdict_says_more_than_was_said() -> None:
    """Of what it may leave out, nothing stands in it that nobody gave."""
    said = verdict_saying(**LEAST | {"task": None, "language": None, "basis": Basis.WITHDRAWN})
    given = {"tenant", "event_id", "facts", "basis", "verdict_id", "schema_version"}
    left = {
        name: value
        for name, value in msgspec.structs.asdict(said).items()
        if name not in given and value is not None
    }
    assert left == {"edit": 0, "dropped": []}


def test_an_id_stands_on_other_parts_than_its_verdict() -> None:
    nothing: dict[str, Any] = {
        "tenant": "demo", "event_id": "e1", "key_id": "k", "value": b"{}", "calibration": "none",
        "revision": "", "detector": "", "policy_version": "", "policy_serial": 0, "cause": "",
        "basis": Basis.GUARD,
    }  # fmt: skip

    def expected(**parts: Any) -> str:
        return verdict_id(**nothing | parts)

    def made(**more: Any) -> Verdict:
        return verdict_saying(**LEAST | more)

    assert made().verdict_id == expected(task="response")
    assert made(task=None).verdict_id == expected(task="")
    assert made(**ALL).verdict_id == expected(
        task="response", revision="toy@1+stream@2", detector="eld-4", policy_version="v1",
        policy_serial=9, cause="quota",
    )  # fmt: skip


def test_rules_read_less_than_the_guard_said() -> None:
    about = Circumstances("demo", "response", "de", "appeal", 3, {"shop": "north"})
    said = assessment(UNSAFE, ("PII", 0.7), ("Violent", 0.2), refusal=True)
    assert reading_of(about, said) == Reading(
        about, Safety.UNSAFE, (0.018, 0.018, 0.965), ("PII", "Violent"), True
    )
    assert facts_of(about) == Facts(origin="appeal", reach=3, metadata={"shop": "north"})


def test_people_are_asked_about_what_no_rule_sends_them() -> None:
    policy, asked = BUILT_IN["default"], verdict_saying(**LEAST | ALL)
    assert handling_of(policy, asked) == policy.fallback
    replaced = msgspec.structs.replace
    assert handling_of(None, asked) is None
    assert handling_of(policy, replaced(asked, action=Action.BLOCK)) is None
    assert handling_of(policy, replaced(asked, policy=None)) is None
