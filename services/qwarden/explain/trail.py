"""What the topics hold of one verdict, and which verdict of its event stands. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from qwarden.contracts.dead_letter import DeadLetter, Mark
from qwarden.contracts.decision import Decision
from qwarden.contracts.escalation import Content, Escalation
from qwarden.contracts.standing import Key, standing
from qwarden.contracts.verdict import Basis, Verdict
from qwarden.policy.file import PolicyFile
from qwarden.policy.policy import Policy


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record stands. `at`: Kafka's time of it."""

    topic: str
    partition: int
    offset: int
    at: datetime

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Found:
    """A verdict as it stands on its topic, with its `qw-*` headers."""

    place: Place
    verdict: Verdict
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Escalated:
    """A record of `moderation.review`."""

    place: Place
    escalation: Escalation


@dataclass(frozen=True, slots=True)
class Kept:
    """A record of `moderation.evidence`. `sample_rate`: of the sample in force."""

    place: Place
    content: Content
    sample_rate: str | None


@dataclass(frozen=True, slots=True)
class Decided:
    """A record of `moderation.decisions`: on this verdict, or the one that acted in it."""

    place: Place
    said: Decision


@dataclass(frozen=True, slots=True)
class Refusal:
    """A dead letter of the same event, or of the same record, and what was done with it."""

    place: Place
    letter: DeadLetter
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule that acted, as its policy writes it. `source`: where the policy was found."""

    source: str
    said: dict[str, Any]
    is_frozen: bool


@dataclass(frozen=True, slots=True)
class Other:
    """Another verdict of the same event and task, a withdrawal of it, or a later edit on any task.
    `relation`: to the one that is explained."""

    found: Found
    relation: str


@dataclass(frozen=True, slots=True)
class Trail:
    """All that is known of a verdict. `copies`: how often it stands on the topic. `stands`: the id
    of the verdict that consumers keep now; None where a later edit has left them none."""

    found: Found
    copies: int
    stands: str | None
    others: tuple[Other, ...]
    escalations: tuple[Escalated, ...]
    evidence: tuple[Kept, ...]
    decisions: tuple[Decided, ...]
    refusals: tuple[Refusal, ...]


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant(timestamp_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=timestamp_ms)


def relations(found: Found, others: Iterable[Found]) -> tuple[Other, ...]:
    """The verdicts beside it that bear on it, each with how."""
    own = found.verdict
    told = []
    for other in others:
        said = other.verdict
        if said.verdict_id == own.verdict_id or not _is_beside(own, said):
            continue
        if said.basis == "withdrawn":
            relation = "the content was withdrawn: final"
        elif said.supersedes == own.verdict_id:
            relation = "supersedes it"
        elif own.supersedes == said.verdict_id:
            relation = "is superseded by it"
        elif said.edit != own.edit:
            relation = "of a later edit" if said.edit > own.edit else "of an earlier edit"
        else:
            relation = "the same content judged again: another guard, policy or basis"
        told.append(Other(other, relation))
    return tuple(told)


def standing_id(own: Verdict, event: Iterable[Found]) -> str | None:
    """The id of the verdict that consumers keep where they would keep this one, of all that its
    event has; None where a later edit has no such task."""
    kept = standing((each.place.offset, each.verdict) for each in event)
    for task in (own.task, None):
        verdict = kept.get(Key(own.tenant, own.event_id, task))
        if verdict is not None:
            return verdict.verdict_id
    return None


def rule_of(verdict: Verdict, policies: Iterable[tuple[str, Policy]]) -> Rule | None:
    """The rule that acted, where one did, and one of these policies is of the very version; each
    comes with where it was found."""
    used = verdict.policy
    if used is None or verdict.basis is Basis.HUMAN:
        return None
    for source, policy in policies:
        for frozen in (False, True):
            version = policy.standing(serial=policy.serial, frozen=frozen).version
            if (policy.name, version) == (used.name, used.version):
                return Rule(source, _written(policy.file, used.rule), frozen)
    return None


def _written(file: PolicyFile, name: str) -> dict[str, Any]:
    """A rule as its policy writes it, or what acts without one and is the policy's own key."""
    for rule in file.rules:
        if rule.name == name:
            return rule.model_dump(mode="json", exclude_defaults=True)
    keys = {name, "fallback"} & set(PolicyFile.model_fields)
    return file.model_dump(mode="json", include=keys)


def _is_beside(own: Verdict, other: Verdict) -> bool:
    if (own.tenant, own.event_id) != (other.tenant, other.event_id):
        return False
    return other.task in (own.task, None) or own.task is None or other.edit > own.edit
