"""The decisions: a record for each verdict that was decided about, in the chain of its tenant,
event and task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, exists, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts import topics
from qwarden.contracts.decision import By, Decision, decode_decision
from qwarden.contracts.headers import REVIEW_SERVICE, cloud_event
from qwarden.contracts.names import name_of
from qwarden.contracts.verdict import encode
from qwarden.review.ruling import Link, Said
from qwarden.review.store import outbox
from qwarden.review.store.among import in_parts
from qwarden.review.store.closing import DECIDED_BEFORE, DELETED, EDITED, ERASED, OVER
from qwarden.review.store.schema import (
    appeals,
    decisions,
    escalations,
    events,
    items,
    ledger,
    rulings,
    superseded,
)


@dataclass(frozen=True, slots=True)
class Target:
    """A verdict that is decided about."""

    tenant: str
    event_id: str
    edit: int
    task: str
    verdict_id: str
    content_hash: str | None

    @property
    def chain(self) -> Chain:
        return self.tenant, self.event_id, self.task


Chain = tuple[str, str, str]
"""Tenant, event and task."""


async def of_items(tx: AsyncConnection, which: Sequence[Row[Any]]) -> dict[str, list[Target]]:
    """The open escalations of items of kind `review`, by item, in the order of their arrival."""
    hashes = {item.item_id: item.content_hash for item in which}
    found: dict[str, list[Target]] = {item_id: [] for item_id in hashes}
    for some in in_parts(sorted(hashes)):
        wanted = (
            select(escalations)
            .where(escalations.c.item_id.in_(some), escalations.c.is_open.is_(True))
            .order_by(escalations.c.arrived_at, escalations.c.verdict_id)
        )
        for row in await tx.execute(wanted):
            found[row.item_id].append(_target(row, hashes[row.item_id]))
    return found


async def of_verdict(tx: AsyncConnection, verdict_id: str) -> list[Target]:
    """A verdict of the ledger; none where it is not there any more."""
    found = await tx.execute(select(ledger).where(ledger.c.verdict_id == verdict_id))
    return [_target(row, row.content_hash) for row in found]


async def of_appeal(tx: AsyncConnection, appeal_id: str) -> list[Target]:
    """The verdict that an appeal is about."""
    wanted = select(appeals.c.verdict_id).where(appeals.c.appeal_id == appeal_id)
    return await of_verdict(tx, (await tx.execute(wanted)).scalar_one())


async def of_ruling(tx: AsyncConnection, ruling_id: str) -> list[Decision]:
    """The decisions that a ruling became, in their order."""
    wanted = select(decisions.c.value).where(decisions.c.ruling_id == ruling_id)
    found = await tx.execute(wanted.order_by(decisions.c.decision_id))
    return [decode_decision(value) for value in found.scalars()]


async def locked_chains(tx: AsyncConnection, chains: Iterable[Chain]) -> dict[Chain, list[Link]]:
    """What was decided in each of these chains, until this transaction ends: whoever adds to one of
    them waits for it, at the ledger's rows of the event."""
    found: dict[Chain, list[Link]] = {chain: [] for chain in chains}
    for tenant, event_ids in _by_tenant(found):
        for some in in_parts(event_ids):
            await tx.execute(
                select(ledger.c.verdict_id)
                .where(ledger.c.tenant == tenant, ledger.c.event_id.in_(some))
                .order_by(ledger.c.event_id, ledger.c.verdict_id)
                .with_for_update()
            )
        for some in in_parts(event_ids):
            wanted = (
                select(decisions, rulings.c.publish_at)
                .join_from(decisions, rulings, rulings.c.ruling_id == decisions.c.ruling_id)
                .where(decisions.c.tenant == tenant, decisions.c.event_id.in_(some))
            )
            for row in await tx.execute(wanted):
                chain = found.get((tenant, row.event_id, row.task))
                if chain is not None:
                    chain.append(
                        Link(row.decision_id, row.supersedes, row.edit, row.by, row.publish_at)
                    )
    return found


async def lock_events(tx: AsyncConnection, chains: Iterable[Chain]) -> None:
    """Waits for whoever writes that one of these events was deleted or edited, and has others wait:
    what is opened again here would be missed by them. Before any item is locked, as they do."""
    for tenant, event_ids in _by_tenant(chains):
        for some in in_parts(event_ids):
            await tx.execute(
                select(events.c.edit)
                .where(events.c.tenant == tenant, events.c.event_id.in_(some))
                .order_by(events.c.event_id)
                .with_for_update()
            )


async def gone(tx: AsyncConnection, verdict_ids: Iterable[str]) -> dict[str, str]:
    """Which of these verdicts are of content that is not there any more, and why."""
    found: dict[str, str] = {}
    is_its = (events.c.tenant == ledger.c.tenant) & (events.c.event_id == ledger.c.event_id)
    for some in in_parts(sorted(verdict_ids)):
        wanted = (
            select(
                ledger.c.verdict_id,
                ledger.c.edit,
                ledger.c.content.is_(None).label("is_erased"),
                events.c.edit.label("highest"),
                events.c.withdrawn,
            )
            .outerjoin_from(ledger, events, is_its)
            .where(ledger.c.verdict_id.in_(some))
        )
        found |= dict.fromkeys(some, OVER)
        for row in await tx.execute(wanted):
            del found[row.verdict_id]
            if row.withdrawn:
                found[row.verdict_id] = DELETED
            elif row.highest is not None and row.highest > row.edit:
                found[row.verdict_id] = EDITED
            elif row.is_erased:
                found[row.verdict_id] = ERASED
    return found


async def replaced(tx: AsyncConnection, verdict_ids: Iterable[str]) -> set[str]:
    """Which of these verdicts others have taken the place of."""
    found: set[str] = set()
    for some in in_parts(sorted(verdict_ids)):
        wanted = select(superseded.c.verdict_id).where(superseded.c.verdict_id.in_(some))
        found |= set((await tx.execute(wanted)).scalars())
    return found


async def set_aside(tx: AsyncConnection, chains: Iterable[Chain]) -> list[Row[Any]]:
    """The items of these events, locked, that were not opened since a person had decided, where
    nothing that one has decided stands any more."""
    mine = escalations.c
    is_decided = exists().where(
        decisions.c.tenant == mine.tenant,
        decisions.c.event_id == mine.event_id,
        decisions.c.task == mine.task,
        decisions.c.edit == mine.edit,
        decisions.c.by == By.PERSON.value,
    )
    found: list[Row[Any]] = []
    for tenant, event_ids in _by_tenant(chains):
        for some in in_parts(event_ids):
            wanted = (
                select(items)
                .join_from(items, escalations, mine.item_id == items.c.item_id)
                .where(
                    mine.tenant == tenant,
                    mine.event_id.in_(some),
                    items.c.state == "closed",
                    items.c.ended_why == DECIDED_BEFORE,
                    ~is_decided,
                )
                .order_by(items.c.item_id)
            )
            found += await tx.execute(wanted.with_for_update(of=items))
    return found


def target_of(said: Decision) -> Target:
    """What a decision was about."""
    return _target(said, said.content_hash)


def decision_of(
    target: Target,
    said: Said,
    *,
    decision_id: str,
    supersedes: str | None,
    reviewer: str | None,
    by: By,
    now: float,
) -> Decision:
    """The record for one verdict."""
    return Decision(
        decision_id=decision_id,
        tenant=target.tenant,
        event_id=target.event_id,
        edit=target.edit,
        task=target.task,
        verdict_id=target.verdict_id,
        content_hash=target.content_hash,
        action=said.action,
        categories=list(said.categories),
        reason=said.reason,
        ground=said.ground,
        clause=said.clause,
        supersedes=supersedes,
        decided_at=datetime.fromtimestamp(now, UTC),
        reviewer=reviewer,
        by=by,
    )


async def write(tx: AsyncConnection, made: Sequence[tuple[str, Decision]]) -> None:
    """Writes decisions, each with its ruling."""
    if not made:
        return
    await tx.execute(
        insert(decisions),
        [
            {
                "decision_id": said.decision_id,
                "ruling_id": ruling_id,
                "tenant": said.tenant,
                "event_id": said.event_id,
                "edit": said.edit,
                "task": said.task,
                "verdict_id": said.verdict_id,
                "supersedes": said.supersedes,
                "by": said.by.value,
                "value": encode(said),
            }
            for ruling_id, said in made
        ],
    )


async def reopen(tx: AsyncConnection, verdict_ids: Iterable[str]) -> None:
    """Opens the escalations of these verdicts again."""
    for some in in_parts(sorted(verdict_ids)):
        await tx.execute(
            update(escalations).where(escalations.c.verdict_id.in_(some)).values(is_open=True)
        )


def message_of(said: Decision, key: bytes | None) -> outbox.Message:
    """The record as it is published. `key`: the event's; None where its producer gave none."""
    return outbox.Message(
        topics.DECISIONS,
        name_of(said.tenant, said.event_id).encode() if key is None else key,
        encode(said),
        cloud_event("decision", said.decision_id, by=REVIEW_SERVICE),
    )


def _target(of: Row[Any] | Decision, content_hash: str | None) -> Target:
    return Target(of.tenant, of.event_id, of.edit, of.task, of.verdict_id, content_hash)


def _by_tenant(chains: Iterable[Chain]) -> list[tuple[str, list[str]]]:
    """The events of each tenant, in one order for everybody: so nobody waits in a circle."""
    found: dict[str, set[str]] = {}
    for tenant, event_id, _ in chains:
        found.setdefault(tenant, set()).add(event_id)
    return [(tenant, sorted(found[tenant])) for tenant in sorted(found)]
