"""What goes to people: escalations, and the evidence kept beside verdicts."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

import msgspec

from qwarden.contracts.event import Event, Message, Report
from qwarden.contracts.values import one_of
from qwarden.contracts.verdict import Action, Basis, Verdict


class Kind(enum.StrEnum):
    """Why a record is on `moderation.review`."""

    REVIEW = "review"
    """A person is to decide."""
    CLOSE = "close"
    """What stands open for this content is to be closed: it was deleted or edited, or its verdict
    was superseded. No content."""


class Content(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person needs to see. One field, so that sealing it later changes no contract."""

    messages: list[Message]
    context: str | None = None
    link: str | None = None
    reports: list[Report] = []
    metadata: dict[str, Any] = {}


class Escalation(msgspec.Struct, frozen=True, kw_only=True):
    """A record of `moderation.review`: a verdict on its way to a person, or what closes one."""

    schema_version: Literal[1] = 1
    kind: Kind
    """`review`: a person is to decide. `close`: what stands open for this content is to be closed,
    since it was deleted or edited, or its verdict was superseded."""
    verdict: Verdict
    content: Content | None
    """Null where `kind` is `close`; so is all that follows."""
    queue: str | None = None
    """Who is asked."""
    harm: int | None = None
    """How bad it is to be late, from 1 to 10."""
    sla_s: int | None = None
    """Within how many seconds a person is to decide."""
    meanwhile: Annotated[str, one_of("show", "hide")] | None = None
    """What the platform does with the content until then."""
    on_breach: Annotated[str, one_of("raise", "allow", "block")] | None = None
    """What happens when that time is over."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """A record of `moderation.evidence`: a verdict with its content, for appeals and undo.

    Every verdict whose action is not `allow`, every degraded or expired one, and a sample of the
    rest, what people decided too, by hash of the `verdict_id`, with the rate in force in the header
    `qw-sample-rate`.
    """

    schema_version: Literal[1] = 1
    verdict: Verdict
    content: Content


_SAMPLED = frozenset({Basis.GUARD, Basis.HUMAN})
"""On what basis content is allowed of which a sample is enough: the guard has judged it, or a
person."""


def content_of(event: Event) -> Content:
    """The event's content as it was sent, the turns that the guard does not see included."""
    messages = event.messages
    if messages is None:
        messages = [Message(role="user", content=event.text or "")]
    return Content(
        messages=messages,
        context=event.context,
        link=event.link,
        reports=event.reports,
        metadata=event.metadata,
    )


def escalation_of(verdict: Verdict) -> Kind | None:
    """As what this verdict goes to `moderation.review`, if it does."""
    if verdict.action is Action.REVIEW:
        return Kind.REVIEW
    if verdict.basis is Basis.WITHDRAWN or verdict.edit > 0 or verdict.supersedes is not None:
        return Kind.CLOSE
    return None


def must_be_kept(verdict: Verdict) -> bool:
    """Whether this verdict goes to `moderation.evidence` whatever the sample's rate."""
    if verdict.basis is Basis.WITHDRAWN:
        return False
    return verdict.action is not Action.ALLOW or verdict.basis not in _SAMPLED


def is_evidence(verdict: Verdict, sample_rate: float) -> bool:
    """Whether this verdict goes to `moderation.evidence`."""
    if verdict.basis in _SAMPLED and verdict.action is Action.ALLOW:
        return is_sampled(verdict.verdict_id, sample_rate)
    return must_be_kept(verdict)


def is_sampled(verdict_id: str, rate: float) -> bool:
    """Whether the sample takes this verdict: the same answer for the same id everywhere."""
    return int(verdict_id[:8], 16) < rate * 2**32
