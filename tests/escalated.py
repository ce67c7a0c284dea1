"""What reaches the review service, and who works there, for tests: records as moderators write
them, and people as the database knows them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.escalation import Content, Escalation, Evidence, Kind
from qwarden.contracts.event import Message
from qwarden.contracts.verdict import Action, Basis, Facts, PolicyUsed, Verdict
from qwarden.review.people import users
from qwarden.review.person import EVERY, Person, Role
from qwarden.review.store.intake import Arrived
from qwarden.review.store.schema import items

NOW = 1_790_000_000.0
CONTENT = Content(messages=[Message(role="user", content="Where can I read more about it?")])


def identity(*parts: object) -> str:
    """32 digits, the same for the same parts."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def verdict(name: object, **fields: Any) -> Verdict:
    """A verdict that asks a person; `name` gives its id, event and content."""
    return Verdict(
        **{
            "verdict_id": identity("verdict", name),
            "event_id": f"e{name}",
            "edit": 0,
            "tenant": "acme",
            "subject": f"u{name}",
            "task": "prompt",
            "safety": "Controversial",
            "scores": None,
            "categories": ["Politically Sensitive Topics"],
            "category_scores": None,
            "refusal": None,
            "language": "en",
            "content_hash": identity("content", name),
            "facts": Facts(),
            "action": Action.REVIEW,
            "basis": Basis.GUARD,
            "cause": None,
            "guard": None,
            "policy": PolicyUsed("default", "0", 0, "controversial"),
            "dropped": [],
            **fields,
        }
    )


def escalation(of: Verdict, at: float = NOW, **fields: Any) -> Arrived:
    """It asks people, in the queue `general`."""
    how = {
        "queue": "general",
        "harm": 3,
        "sla_s": 3600,
        "meanwhile": "hide",
        "on_breach": "raise",
        **fields,
    }
    return Arrived(Escalation(kind=Kind.REVIEW, verdict=of, content=CONTENT, **how), at)


def closing(of: Verdict, at: float = NOW) -> Arrived:
    return Arrived(Escalation(kind=Kind.CLOSE, verdict=of, content=None), at)


def evidence(of: Verdict, at: float = NOW, sample_rate: float = 0.01) -> Arrived:
    return Arrived(Evidence(verdict=of, content=CONTENT), at, sample_rate)


def withdrawal(name: object, **fields: Any) -> Verdict:
    nothing = ("task", "safety", "categories", "content_hash", "action", "language", "policy")
    gone = {**dict.fromkeys(nothing), "basis": Basis.WITHDRAWN, **fields}
    return verdict(name, verdict_id=identity("withdrawal", name), **gone)


async def person(
    tx: AsyncConnection,
    name: str,
    *roles: Role,
    tenants: Iterable[str] = (EVERY,),
    languages: Iterable[str] = (EVERY,),
    is_tool: bool = False,
    now: float = NOW,
) -> Person:
    """One who works here from now on; a reviewer where nothing else is said."""
    return await users.add(
        tx,
        name=name,
        roles=roles or (Role.REVIEWER,),
        tenants=tenants,
        languages=languages,
        is_tool=is_tool,
        actor="test",
        now=now,
    )


def open_item(number: int, **fields: Any) -> dict[str, Any]:
    """A row of an open item, due later the higher its number is."""
    return {
        "item_id": f"{number:032x}",
        "kind": "review",
        "tenant": "acme",
        "queue": "general",
        "language": "en",
        "category": "",
        "rule": "controversial",
        "task": "prompt",
        "subject": None,
        "content_hash": identity("content", number),
        "verdict_id": identity("verdict", number),
        "harm": 3,
        "reach": 0,
        "arrived_at": NOW + number,
        "due_at": NOW + number + 1200,
        "breach_at": NOW + number + 3600,
        "on_breach": "raise",
        "state": "open",
        "count": 1,
        "role": "reviewer",
        "fence": 0,
        "returned": 0,
        **fields,
    }


async def put_items(tx: AsyncConnection, rows: list[dict[str, Any]]) -> None:
    """Opens these items as if their escalations had come."""
    await tx.execute(insert(items).inline(), rows)
