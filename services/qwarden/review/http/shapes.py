"""Rows as answers show them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec
from sqlalchemy import Row as StoredRow

from qwarden.policy.policy import Policy
from qwarden.policy.tenants import Tenants
from qwarden.review.http.answers import (
    AppealOf,
    Clause,
    Earlier,
    Note,
    Original,
    Row,
    ShownKind,
    Why,
)
from qwarden.review.masking import masked_text, masked_value
from qwarden.review.store.showing import BLIND

VERDICT_FIELDS = (
    "safety", "scores", "categories", "category_scores", "views", "language", "basis", "cause",
    "guard", "policy", "facts", "dropped", "meanwhile", "notice", "refusal",
)  # fmt: skip
"""Of a verdict what people see. Not its ids: a golden item has none."""


def kind_of(kind: str) -> ShownKind:
    """As people are told it."""
    return cast(ShownKind, "review" if kind in BLIND else kind)


def row_of(item: StoredRow[Any], pseudonyms: Mapping[str, str]) -> Row:
    """An item in a list. `pseudonyms`: by user_id, its holder's among them."""
    return Row(
        item_id=item.item_id,
        kind=kind_of(item.kind),
        tenant=item.tenant,
        queue=item.queue,
        language=item.language,
        category=item.category,
        rule=item.rule,
        task=item.task,
        count=item._mapping["count"],
        arrived_at=item.arrived_at,
        due_at=item.due_at,
        breach_at=item.breach_at,
        breached=item.breached_at is not None,
        harm=item.harm,
        reach=item.reach,
        state=item.state,
        holder=None if item.holder is None else pseudonyms.get(item.holder, ""),
        leased_until=item.leased_until,
        returned=item.returned,
    )


def verdict_of(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """What people see of a verdict, with the metadata in its facts masked."""
    seen: dict[str, Any] = {name: verdict.get(name) for name in VERDICT_FIELDS}
    if metadata := metadata_of(verdict):
        seen["facts"] = {**verdict["facts"], "metadata": masked_value(metadata)}
    return seen


def metadata_of(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """What rules read of the event's metadata, as it is."""
    found: dict[str, Any] = (verdict.get("facts") or {}).get("metadata") or {}
    return found


def why_of(verdict: Mapping[str, Any], rule: str) -> Why:
    """Which policy asked for a person."""
    policy = verdict.get("policy") or {}
    return Why(policy=policy.get("name"), version=policy.get("version"), rule=rule)


def clauses_of(tenants: Tenants, tenant: str, language: str) -> list[Clause]:
    """What a tenant's policies restrict content for, each ground and clause once."""
    known = tenants.known.get(tenant)
    policies = {tenants.default.name: tenants.default} if known is None else known.policies
    found: dict[tuple[str, str], Clause] = {}
    for policy in policies.values():
        for ground, clause, text in _reasons(policy, language):
            found.setdefault((ground, clause), Clause(ground=ground, clause=clause, text=text))
    return list(found.values())


def _reasons(policy: Policy, language: str) -> list[tuple[str, str, str | None]]:
    said: list[tuple[str, str, str | None]] = []
    for rule in policy.file.rules:
        if rule.ground is not None and rule.clause is not None:
            reason = policy.by_person(rule.then, rule.ground, rule.clause).reason
            said.append((rule.ground, rule.clause, reason.text(language) if reason else None))
    return said


def queues_of(tenants: Tenants) -> set[str]:
    """The queues that policies in force send escalations to."""
    return {
        queue
        for policy in tenants.policies().values()
        for queue in (policy.fallback.queue, *(rule.queue for rule in policy.file.rules))
        if queue is not None
    }


def earlier_of(row: StoredRow[Any], decision: str | None) -> Earlier:
    """A verdict of the ledger in its subject's history."""
    verdict = msgspec.json.decode(row.verdict)
    return Earlier(
        verdict_id=row.verdict_id,
        at=row.arrived_at,
        task=row.task,
        action=row.action,
        safety=row.safety,
        categories=verdict.get("categories") or [],
        decision=decision,
    )


def note_of(row: StoredRow[Any], *, is_masked: bool) -> Note:
    """A note with who made it."""
    text = masked_text(row.text) if is_masked else row.text
    return Note(at=row.at, pseudonym=row.pseudonym or "", text=text)


def appeal_of(
    made: StoredRow[Any],
    ruling: StoredRow[Any] | None,
    verdict: Mapping[str, Any],
    at: float | None,
    *,
    is_masked: bool,
) -> AppealOf:
    """An appeal with what it is against: a ruling, or the verdict itself."""
    if ruling is not None:
        original = Original(
            action=ruling.action,
            reason=ruling.reason,
            ground=ruling.ground,
            clause=ruling.clause,
            at=ruling.decided_at,
            by=ruling.by,
        )
    else:
        notice = verdict.get("notice") or {}
        original = Original(
            action=verdict.get("action") or "",
            reason=None,
            ground=notice.get("ground"),
            clause=notice.get("clause"),
            at=at or made.made_at,
            by="automatic",
        )
    statement = masked_text(made.statement) if is_masked else made.statement
    return AppealOf(statement=statement, made_at=made.made_at, original=original)
