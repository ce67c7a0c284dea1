"""What a user is told of a restriction, and why: a statement of reasons, with the fields of
Article 17(3) of the EU's Digital Services Act. It says nothing of what the content says.
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal

import msgspec

from qwarden.contracts.values import Instant, one_of
from qwarden.contracts.verdict import Category


class What(enum.StrEnum):
    """What a restriction does to content."""

    DISABLED = "disabled"
    """Nobody sees it."""
    WITHHELD = "withheld"
    """Nobody sees it until a person has decided."""
    LABELLED = "labelled"
    """It is seen with a notice."""


class PromptedBy(enum.StrEnum):
    """Why the content was looked at."""

    OWN_INITIATIVE = "own_initiative"
    USER_REPORT = "user_report"
    AUTHORITY = "authority"
    APPEAL = "appeal"


class DecidedBy(enum.StrEnum):
    """Who or what decided on the restriction."""

    AUTOMATION = "automation"
    PERSON = "person"
    PERSON_ON_EQUAL_CONTENT = "person_on_equal_content"
    """A person decided on the same content before; a machine has applied that."""
    DEADLINE = "deadline"
    """No person had decided in time; a machine has applied what the policy says of that."""


class Restriction(msgspec.Struct, frozen=True, kw_only=True):
    """Article 17(3)(a)."""

    what: Annotated[str, one_of(*What)]
    scope: Literal["everywhere"] = "everywhere"
    """The territory: the fleet knows one action for all of it."""
    since: Instant
    until: Literal["decided_otherwise", "decided_by_person"]
    """How long: no restriction ends by the calendar."""


class StatedFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Article 17(3)(b)."""

    prompted_by: Annotated[str, one_of(*PromptedBy)]
    """A notice of a user or an authority, an appeal, or the platform's own initiative."""
    notifier: None = None
    """Who gave notice: never known here, and so never told."""
    safety: str | None
    """As the guard judged it; null where it could not."""
    categories: list[Category]
    """As the person who decided names them, else as the guard does."""
    cause: str | None
    """Why the guard did not judge it: `deadline`, `too_long`, …; null where it did."""
    reason: str | None
    """The code or the words of the person who decided; null where nobody has."""


class Automation(msgspec.Struct, frozen=True, kw_only=True):
    """Article 17(3)(c)."""

    detected: bool
    """Whether a machine found the content, and not a notice."""
    assessed: bool
    """Whether a machine judged it."""
    decided: bool
    """Whether a machine decided, or applied what was decided for a case like it."""
    decided_by: Annotated[str, one_of(*DecidedBy)]
    guard: str | None
    """The model that judged it."""


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """Article 17(3)(d) where `kind` is `law`, (e) where it is `terms`."""

    kind: Annotated[str, one_of("law", "terms")]
    clause: str
    """The provision of the law, or the clause of the terms."""
    explanation: str | None
    """Why the content is against it, as the policy says it; null where it says nothing."""


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """The reasons for one restriction of one task of an event."""

    schema_version: Literal[1] = 1
    tenant: str
    event_id: str
    edit: int
    task: str | None
    verdict_id: str
    decision_id: str | None
    """What decided, or was decided of equal content; null where only the policy did."""
    decided_at: Instant
    restriction: Restriction
    facts: StatedFacts
    automation: Automation
    ground: Ground | None
    """Null where the policy names none: it should."""
    redress: str
    """Article 17(3)(f)."""
