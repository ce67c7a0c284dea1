"""Which verdicts are rejudged, and what becomes of each. Pure.

Invariants, each held by `tests/property/test_rejudge.py`:
- A verdict is rejudged only where it stands, and no person has decided: neither of it, nor of equal
  content whose decision acts in it.
- What takes its place says what the new policy says of the same scores and facts. What those do not
  tell is not guessed: the guard is asked.
- Its id is a function of the superseded id and of the new policy's version and serial, so that a
  second run makes the same record.
- Where the new policy is frozen nothing ends in `block`.
- The order in which the topic is read changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec

from qwarden.contracts.control import PolicyBody
from qwarden.contracts.refusal import Refused
from qwarden.contracts.standing import Key, standing
from qwarden.contracts.values import Instant
from qwarden.contracts.verdict import Action, Basis, Facts, Verdict, encode, verdict_id
from qwarden.guard.answer import Assessment
from qwarden.outcomes.said import (
    guard_of,
    meanwhile_of,
    notice_of,
    policy_used,
    reading_of,
    said_of,
)
from qwarden.policy.in_force import Acting, read_body
from qwarden.policy.policy import Decided, Policy, body_of, version_of
from qwarden.policy.reading import plain_of
from qwarden.policy.records import Recorded, about_of, lacking
from qwarden.policy.told import DEADLINE, Untold, told

DEFAULT_RATE = 200.0
"""Verdicts a second: what is mistaken is stopped before much of it is out, 5,000 take 25 seconds,
and consumers who act on each keep up beside what is fresh."""

SUPERSEDED, WITHDRAWN, EDITED = "superseded already", "withdrawn", "edited"
DECIDED, OUTRANKED = "decided by a person", "another verdict of its event stands"
UNREADABLE = "a verdict of its event cannot be read"
NO_ORIGIN = "its record does not name what it answers"
"""Why a verdict that was selected is left alone."""


class NotPossible(Exception):
    """What was asked for cannot be done; the message says why, and what can."""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which verdicts a person means: those of one rule of one version of a policy, written from
    `since` to before `until`."""

    version: str
    """As verdicts name it."""
    rule: str
    since: Instant
    until: Instant
    policy: str | None = None
    tenant: str | None = None

    def takes(self, recorded: Recorded, at: datetime) -> bool:
        """`at`: Kafka's time of the record."""
        by = recorded.policy
        return (
            by is not None
            and (by.version, by.rule) == (self.version, self.rule)
            and self.policy in (None, by.name)
            and self.tenant in (None, recorded.tenant)
            and self.since <= at < self.until
        )


@dataclass(frozen=True, slots=True)
class Row:
    """A verdict as it stands on its topic. `key`: its record's. `origin`: topic, partition and
    offset of what it answers."""

    verdict: Verdict
    recorded: Recorded
    offset: int
    key: bytes | None
    origin: tuple[str, int, int] | None

    @property
    def event(self) -> tuple[str, str]:
        return self.verdict.tenant, self.verdict.event_id


class Acts(msgspec.Struct, frozen=True, kw_only=True):
    """What acts on one tenant's verdicts: a policy's body by its version, the serial that the new
    verdicts name, and whether a freeze acts on it."""

    body: str
    serial: int
    frozen: bool


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a dry run has found, fixed: whoever applies it, whenever, makes the same records."""

    schema_version: Literal[1] = 1
    made_at: Instant
    by: str
    selection: Selection
    policy: str
    """The name of the policy that is undone."""
    ends: dict[int, int]
    """Of `moderation.verdicts`, by partition: what stands behind them is not undone."""
    acts: dict[str, Acts]
    """By tenant."""
    bodies: dict[str, PolicyBody]
    """By version."""
    old: PolicyBody | None
    """The policy that is undone, where it is known: it tells which facts its verdicts hold."""
    selected: int
    """How many verdicts stood."""
    hash: str = ""
    """Of all this, and of every verdict with its new word."""

    def policies(self) -> dict[str, Policy]:
        """What acts, by tenant. Raises `NotPossible` for a body that may not act."""
        return {
            tenant: self._policy(self.bodies[acts.body]).standing(
                serial=acts.serial, frozen=acts.frozen
            )
            for tenant, acts in self.acts.items()
        }

    def old_policy(self) -> Policy | None:
        return None if self.old is None else self._policy(self.old)

    def _policy(self, body: PolicyBody) -> Policy:
        try:
            return read_body(body)
        except ValueError as error:
            raise NotPossible(f"the plan cannot be used: {error}; make another one") from None


@dataclass(frozen=True, slots=True)
class Change:
    """What takes a verdict's place, and the policy that says how people are asked."""

    row: Row
    verdict: Verdict
    policy: Policy


@dataclass(frozen=True, slots=True)
class Unclear:
    """The guard is to be asked: the rule that may match or not, and why."""

    row: Row
    policy: Policy
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Same:
    """Nothing that anybody acts on would change."""

    row: Row


Word = Change | Unclear | Same


class Judge:
    """Says what becomes of verdicts. `policies`: by tenant. `old`: the policy that is undone, under
    no freeze, where it is known."""

    def __init__(self, policies: Mapping[str, Policy], old: Policy | None) -> None:
        self._policies = policies
        self._old = old
        self._named_by = {} if old is None else _named_by(old)

    def word(self, row: Row) -> Word:
        """What the verdict's own scores and facts tell."""
        policy = self._policies[row.verdict.tenant]
        carried = row.recorded.facts.metadata
        kept = {name: carried[name] for name in policy.metadata if name in carried}
        unknown = lacking(row.recorded, policy.metadata, self._named_by)
        return self._word(_with(row.recorded, kept), row, policy, unknown)

    def word_with(self, row: Row, metadata: Mapping[str, Any]) -> Word:
        """The same with all of the event's metadata."""
        policy = self._policies[row.verdict.tenant]
        plain = plain_of(metadata, policy.metadata)
        return self._word(_with(row.recorded, plain), row, policy, frozenset())

    def word_of(self, row: Row, metadata: Mapping[str, Any], assessment: Assessment) -> Word:
        """What the policy says of what the guard said when it was asked again."""
        policy = self._policies[row.verdict.tenant]
        recorded = _with(row.recorded, plain_of(metadata, policy.metadata))
        decided = policy.decide(reading_of(about_of(recorded), assessment))
        said = said_of(assessment, assessment.safety)
        old = msgspec.structs.replace(
            row.verdict,
            safety=said.safety,
            scores=said.scores,
            categories=said.categories,
            category_scores=said.category_scores,
            refusal=said.refusal,
            views=said.views,
            guard=guard_of(assessment.revision),
        )
        return self._changed(row, superseding(old, policy, decided, recorded.facts), policy)

    def _word(self, recorded: Recorded, row: Row, policy: Policy, unknown: frozenset[str]) -> Word:
        said = told(policy, recorded, unknown)
        if isinstance(said, Untold):
            return Unclear(row, policy, said.rule, said.reason)
        return self._changed(row, superseding(row.verdict, policy, said, recorded.facts), policy)

    def _changed(self, row: Row, new: Verdict, policy: Policy) -> Word:
        was = row.verdict
        alike = all(
            getattr(was, name) == getattr(new, name) for name in ("action", "meanwhile", "notice")
        )
        if alike and (new.action is not Action.REVIEW or self._asks_alike(was, new, policy)):
            return Same(row)
        return Change(row, new, policy)

    def _asks_alike(self, was: Verdict, new: Verdict, policy: Policy) -> bool:
        """Whether the same people are asked in the same way, as far as that is known."""
        if self._old is None or was.policy is None or new.policy is None:
            return False
        is_frozen = was.policy.version != self._old.version
        old = self._old.standing(serial=was.policy.serial, frozen=is_frozen)
        return old.handling_of(was.policy.rule) == policy.handling_of(new.policy.rule)


def superseding(old: Verdict, policy: Policy, decided: Decided, facts: Facts) -> Verdict:
    """The verdict that takes the place of `old`, whose assessment it has.

    A quota that stood between the old rule and its action does not stand here: that something is
    taken back is no automatic action. So what was judged has the basis `guard`, and what was not
    has that of its cause.
    """
    basis, cause = Basis.GUARD, None
    if old.safety is None:
        cause = old.cause
        basis = Basis.EXPIRED if cause == DEADLINE else Basis.DEGRADED
    guard = old.guard
    return msgspec.structs.replace(
        old,
        verdict_id=verdict_id(
            tenant=old.tenant,
            event_id=old.event_id,
            task=old.task or "",
            key_id="",  # the superseded id holds it, and that of the language's detector
            value=old.verdict_id.encode(),
            revision=guard.revision if guard else "",
            calibration=guard.calibration if guard else "",
            detector="",
            policy_version=policy.version,
            policy_serial=policy.serial,
            basis=basis,
            cause=cause or "",
        ),
        facts=facts,
        action=decided.action,
        meanwhile=meanwhile_of(decided),
        notice=notice_of(decided, old.language),
        basis=basis,
        cause=cause,
        policy=policy_used(policy, decided),
        supersedes=old.verdict_id,
    )


@dataclass(slots=True)
class Beside:
    """What the verdict topic holds of the selected verdicts' events: each verdict with its
    partition and offset, and the events of which one cannot be read."""

    verdicts: dict[tuple[str, str], list[tuple[int, int, Verdict]]]
    unreadable: set[tuple[str, str]]

    def below(self, ends: Mapping[int, int]) -> Beside:
        """What of it stands before these offsets."""
        found = {
            event: [each for each in said if each[1] < ends.get(each[0], 0)]
            for event, said in self.verdicts.items()
        }
        return Beside(found, set())


def sorted_out(
    rows: Iterable[Row], beside: Beside, decided: Collection[str] = frozenset()
) -> tuple[list[Row], Counter[str]]:
    """The rows that stand, by their ids, and how many do not, by why. `decided`: ids of verdicts
    that a person has decided on."""
    left: Counter[str] = Counter()
    stand = []
    for row in sorted(rows, key=lambda each: each.verdict.verdict_id):
        why = _why_left(row, beside, decided)
        if why is None:
            stand.append(row)
        else:
            left[why] += 1
    return stand, left


def _why_left(row: Row, beside: Beside, decided: Collection[str]) -> str | None:
    own = row.verdict
    if row.origin is None:
        return NO_ORIGIN
    if row.event in beside.unreadable:
        return UNREADABLE
    said = beside.verdicts[row.event]
    stands = standing((offset, verdict) for _, offset, verdict in said)
    if any(verdict.basis is Basis.WITHDRAWN for verdict in stands.values()):
        return WITHDRAWN
    if any(verdict.supersedes == own.verdict_id for _, _, verdict in said):
        return SUPERSEDED
    if max(verdict.edit for _, _, verdict in said) > own.edit:
        return EDITED
    if stands[Key(*row.event, own.task)].verdict_id != own.verdict_id:
        return OUTRANKED
    is_human = own.basis is Basis.HUMAN or own.verdict_id in decided
    return DECIDED if is_human else None


def policies_for(
    rows: Iterable[Row], now: Acting, serials: Mapping[str, int], chosen: Policy | None = None
) -> dict[str, Policy]:
    """By tenant, what acts on its rows: the policy of the same name as it acts on the tenant now,
    or the tenant's default where it may not use that name any more. `chosen` acts instead of
    either, under the same freeze. `serials`: by policy the offset of what says which version acts.
    Each has a serial no lower than any that the policy it replaces has given or gives now, so that
    what it says does not give way to what the superseded verdict outranked.

    Raises `NotPossible` where what acts is not known here.
    """
    found: dict[str, Policy] = {}
    least: dict[str, int] = {}
    for row in rows:
        tenant, used = row.verdict.tenant, row.verdict.policy
        if used is None:
            continue
        least[tenant] = max(least.get(tenant, 0), used.serial, serials.get(used.name, 0))
        if tenant in found:
            continue
        try:
            known = now.tenants.of(tenant, event_id=row.verdict.event_id)
        except Refused as refused:
            raise NotPossible(refused.reason) from None
        policy = known.policies.get(used.name, known.default)
        if chosen is not None:
            serial = max(policy.serial, serials.get(chosen.name, 0))
            found[tenant] = chosen.standing(serial=serial, frozen=policy.frozen)
            continue
        if tenant not in now.tenants.known and policy.name != used.name:
            raise NotPossible(
                f"the tenant {tenant!r} has no file here, and its verdicts are of the policy "
                f"{used.name!r}; set QWARDEN_POLICY__PATH as the services have it, or name a "
                "policy with --with"
            )
        if policy.name in now.tenants.lacking:
            raise NotPossible(
                f"the policy {policy.name!r} of the tenant {tenant!r} is nowhere in force; put it "
                "there with: qwarden policy activate FILE, or name one with --with"
            )
        if policy.name in now.faults:
            raise NotPossible(f"{now.faults[policy.name]}; or name a policy with --with")
        found[tenant] = policy
    return {
        tenant: policy.standing(serial=max(policy.serial, least[tenant]), frozen=policy.frozen)
        for tenant, policy in found.items()
    }


def old_policy(selection: Selection, known: Iterable[Policy]) -> Policy | None:
    """Which of the known policies, under no freeze, gave the selected verdicts."""
    for policy in known:
        plain = policy.standing(serial=0, frozen=False)
        if selection.version in _named_by(plain):
            return plain
    return None


def planned(
    selection: Selection,
    rows: Sequence[Row],
    policies: Mapping[str, Policy],
    old: Policy | None,
    *,
    ends: Mapping[int, int],
    at: datetime,
    by: str,
) -> Plan:
    """The plan for these rows."""
    acts = {
        tenant: Acts(body=version_of(policy.file), serial=policy.serial, frozen=policy.frozen)
        for tenant, policy in sorted(policies.items())
    }
    bodies = {version_of(policy.file): _body(policy, at, by) for policy in policies.values()}
    plan = Plan(
        made_at=at,
        by=by,
        selection=selection,
        policy=rows[0].recorded.policy.name if rows and rows[0].recorded.policy else "",
        ends=dict(sorted(ends.items())),
        acts=acts,
        bodies=bodies,
        old=None if old is None else _body(old, at, by),
        selected=len(rows),
    )
    return msgspec.structs.replace(plan, hash=hash_of(plan, rows))


def hash_of(plan: Plan, rows: Iterable[Row]) -> str:
    """32 hexadecimal digits of a plan and of each row with its word."""
    judge = Judge(plan.policies(), plan.old_policy())
    hashed = hashlib.blake2b(digest_size=16, person=b"qwarden.rejudge")
    hashed.update(encode(msgspec.structs.replace(plan, hash="")))
    for own, word in sorted((row.verdict.verdict_id, _written(judge.word(row))) for row in rows):
        hashed.update(f"\n{own} {word}".encode())
    return hashed.hexdigest()


def _written(word: Word) -> str:
    if isinstance(word, Change):
        return word.verdict.verdict_id
    return "the guard is asked" if isinstance(word, Unclear) else "the same"


def _named_by(policy: Policy) -> dict[str, frozenset[str]]:
    names = frozenset(policy.metadata)
    return {version_of(policy.file, frozen=frozen): names for frozen in (False, True)}


def _body(policy: Policy, at: datetime, by: str) -> PolicyBody:
    return PolicyBody(
        policy=policy.name,
        version=version_of(policy.file),
        body=json.loads(body_of(policy.file)),
        at=at,
        by=by,
    )


def _with(recorded: Recorded, metadata: Mapping[str, Any]) -> Recorded:
    facts = msgspec.structs.replace(recorded.facts, metadata=dict(metadata))
    return msgspec.structs.replace(recorded, facts=facts)
