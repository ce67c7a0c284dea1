"""What a person said of content, or what was done because nobody did in time: the records of
`moderation.decisions`.

A decision supersedes, it never edits. Of a chain the last one acts, over every verdict of its
tenant, event, task and edit, later ones too, until a decision that supersedes it, a higher edit or
a withdrawal. A person's decision is never superseded by a breach. Records with one `decision_id`
are equal: a reader drops the second.
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal

import msgspec

from qwarden.contracts.values import Instant, one_of
from qwarden.contracts.verdict import Category
from qwarden.guard.conversation import Task

ACTIONS: tuple[str, ...] = ("allow", "disclaim", "block")
"""What can be decided, the mildest first: a person does not send content to people."""


class By(enum.StrEnum):
    """Who decided."""

    PERSON = "person"
    BREACH = "breach"
    """Nobody, within the time that the policy gives; it said what to do then."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A record of `moderation.decisions`, for one verdict."""

    schema_version: Literal[1] = 1
    decision_id: str
    """32 hexadecimal digits."""
    tenant: str
    event_id: str
    edit: int
    task: Annotated[str, one_of(*Task)]
    verdict_id: str
    """The verdict that was looked at."""
    content_hash: str | None
    """As in that verdict."""
    action: Annotated[str, one_of(*ACTIONS)]
    categories: list[Category]
    """As a person names them; empty where content is allowed."""
    reason: str
    """One of the console's codes, such as `in_context`, or a person's own words. It never quotes
    the content."""
    ground: Annotated[str, one_of("law", "terms")] | None
    """Whether content is restricted for the law or for the platform's terms; null where it is
    allowed."""
    clause: str | None
    """Which clause of them; null where content is allowed."""
    supersedes: str | None
    """The `decision_id` whose place this one takes."""
    decided_at: Instant
    reviewer: str | None
    """A pseudonym, the same for all decisions of a person; null for a breach."""
    by: By


_decoder = msgspec.json.Decoder(Decision)


def decode_decision(value: bytes) -> Decision:
    """Reads a decision; raises `msgspec.ValidationError` for what is none."""
    return _decoder.decode(value)
