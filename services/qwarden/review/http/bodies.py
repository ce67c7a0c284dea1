"""What is sent to the API. Unknown fields are refused, and so is a text that is too long."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from qwarden.guard.conversation import Task
from qwarden.policy.file import NAME
from qwarden.review.ruling import Said
from qwarden.review.store import leases

Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
"""32 hexadecimal digits."""
Tenant = Annotated[str, StringConstraints(min_length=1, max_length=256)]
EventId = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Subject = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Queue = Annotated[str, StringConstraints(pattern=NAME)]
_ONE_LINE = r"^[^\x00-\x1f\x7f]*$"
"""No control character, of which PostgreSQL keeps one in no text."""
Rule = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_ONE_LINE)]
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,8}$")]
"""A primary subtag, such as `pt`."""
Category = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=_ONE_LINE)]
ContentHash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,128}$")]
Key = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=_ONE_LINE)]
Reason = Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)]
"""One of the codes of `GET /v1/me`, or own words; never a quotation of the content."""
Note = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]
Clause = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)]
Ground = Literal["law", "terms"]
Action = Literal["allow", "disclaim", "block"]
State = Literal["open", "decided", "closed"]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Held(Body):
    """The lease under which something is done: what `POST /v1/claims` gave."""

    lease: Key


class Claim(Body):
    """The next item of those that are wanted, or this one."""

    item_id: Id | None = None
    queue: Queue | None = None
    language: Language | None = None
    category: Category | None = None
    rule: Rule | None = None
    tenant: Tenant | None = None


class HandOver(Held):
    to: Id
    """A `user_id` of `GET /v1/colleagues`."""


class Skip(Held):
    reason: leases.Skip


class ToUrgent(Body):
    lease: Key | None = None
    why: Literal["threat_to_life", "child_abuse", "other"]
    note: Note | None = None


class Move(Body):
    queue: Queue


class NewNote(Body):
    text: Note


class Says(Body):
    """What is decided, and why. Reason always; ground and clause where it restricts."""

    action: Action
    categories: Annotated[list[Category], Field(max_length=20)] = []
    reason: Reason = ""
    ground: Ground | None = None
    clause: Clause | None = None
    override: bool = False
    """Whether it holds for equal content of the tenant, for `review.override_days`."""

    @property
    def said(self) -> Said:
        """Unchecked."""
        return Said(
            action=self.action,
            categories=tuple(self.categories),
            reason=self.reason,
            ground=self.ground,
            clause=self.clause,
            override=self.override,
        )


class Decide(Says):
    lease: Key


class ToolDecision(Says):
    """What somebody else's review tool sends."""

    tenant: Tenant
    event_id: EventId
    task: Task | None = None
    verdict_id: Id
    supersedes: Id | None = None
    """The decision whose place this takes, where nothing is open any more."""
    decision_key: Key | None = None
    """Of the tool's own choice: what is sent again with it is one decision."""
    reviewer: Annotated[str, StringConstraints(max_length=100, pattern=_ONE_LINE)] | None = None
    """The pseudonym of the tool's own reviewer."""


class Set(Body):
    """Open items that all of this is true of; at least one of them."""

    tenant: Tenant | None = None
    queue: Queue | None = None
    language: Language | None = None
    category: Category | None = None
    rule: Rule | None = None
    subject: Subject | None = None
    content_hash: ContentHash | None = None


class Bulk(Says):
    preview: Key
    """Of the set that was looked at; it is refused where that has changed."""
    of: Set


class Appeal(Body):
    """Against a verdict, or against what last stands of an event."""

    tenant: Tenant
    event_id: EventId | None = None
    verdict_id: Id | None = None
    task: Task | None = None
    statement: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=8000)
    ]
    """What the user says."""
