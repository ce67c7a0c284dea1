"""Cases and answers for tests of what comes after them, each with only what the test is about."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from qwarden.contracts.decision import Decision
from qwarden.contracts.headers import Header
from qwarden.contracts.keys import ContentKey
from qwarden.contracts.verdict import Verdict
from qwarden.guard.answer import (
    Assessment,
    Entry,
    Failure,
    Triple,
    Unanswered,
    assessment_of,
)
from qwarden.guard.row import View
from qwarden.language.eld import EldDetector
from qwarden.moderator.case import Admission, Case
from qwarden.outcomes.source import Source
from qwarden.policy.sources import BUILT_IN
from qwarden.policy.tenants import Tenant, Tenants

KEY = ContentKey(b"0123456789abcdef0123456789abcdef")
REVISION = "toy@1234"

SAFE: Triple = (4.0, 0.0, 0.0)
CONTROVERSIAL: Triple = (0.0, 4.0, 0.0)
UNSAFE: Triple = (0.0, 0.0, 4.0)


def admission(
    *, max_bytes: int = 900_000, strict: bool = False, default: str = "default"
) -> Admission:
    """A door that knows the tenant `demo`, which may use all built-in policies, and to whom no
    event is too old."""
    demo = Tenant("demo", BUILT_IN, BUILT_IN[default], "demo", fresh_horizon_s=math.inf)
    return Admission(Tenants({"demo": demo}, strict), KEY, max_bytes, EldDetector())


def source(
    value: bytes | None,
    *,
    key: bytes | None = None,
    headers: tuple[Header, ...] = (),
    offset: int = 7,
) -> Source:
    return Source("content.events", 2, offset, 1_740_830_400_000, key, value, headers)


def event(**fields: Any) -> bytes:
    """The value of a good event, with these fields beside or instead of its own."""
    body = {"event_id": "e1", "tenant": "demo", "text": "How do I bake bread?"} | fields
    return json.dumps({name: value for name, value in body.items() if value is not ...}).encode()


THOUGHT = [
    {"role": "user", "content": "How do I bake bread?"},
    {"role": "assistant", "content": "Mix flour and water.", "reasoning": "They want bread."},
]
"""Messages whose answer came with its reasoning."""


def case(*, key: bytes | None = None, headers: tuple[Header, ...] = (), **fields: Any) -> Case:
    return admission().admit(source(event(**fields), key=key, headers=headers))


def assessment(
    logits: Triple = SAFE,
    *categories: tuple[str, float],
    refusal: bool | None = None,
    dropped_turns: int = 0,
) -> Assessment:
    return Assessment(logits, categories, refusal, 12, dropped_turns, REVISION)


def verdict(identity: str, **fields: Any) -> Verdict:
    """An allowed prompt of `demo`, with these fields instead of its own."""
    body = {
        "verdict_id": identity, "event_id": "e1", "edit": 0, "tenant": "demo", "subject": None,
        "task": "prompt", "safety": "Safe", "scores": None, "categories": [],
        "category_scores": None, "refusal": None, "language": None, "content_hash": None,
        "facts": {}, "action": "allow", "basis": "guard", "cause": None, "guard": None,
        "policy": None, "dropped": [],
    }  # fmt: skip
    return msgspec.convert(body | fields, Verdict)


def decision(identity: str, **fields: Any) -> Decision:
    """A person's of the same prompt, that it is allowed, with these fields instead of its own."""
    body = {
        "decision_id": identity, "tenant": "demo", "event_id": "e1", "edit": 0, "task": "prompt",
        "verdict_id": "a" * 32, "content_hash": None, "action": "allow", "categories": [],
        "reason": "in_context", "ground": None, "clause": None, "supersedes": None,
        "decided_at": "2026-03-01T12:00:00Z", "reviewer": "r7", "by": "person",
    }  # fmt: skip
    return msgspec.convert(body | fields, Decision)


def withdrawal(identity: str) -> Verdict:
    nothing = dict.fromkeys(("task", "safety", "categories", "action"))
    return verdict(identity, basis="withdrawn", **nothing)


def assessment_of_views(as_sent: Triple, markers_broken: Triple) -> Assessment:
    """Of content that holds markers of the template: judged in both views."""
    views = ((View.AS_SENT, as_sent), (View.MARKERS_BROKEN, markers_broken))
    return assessment_of([Entry(view, 0, said, (), None, 12) for view, said in views], 0, REVISION)


def unanswered(failure: Failure) -> Unanswered:
    return Unanswered(failure, "it has a reason", REVISION)
