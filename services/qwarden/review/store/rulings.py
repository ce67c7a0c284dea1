"""What people say of items, taking it back, and what was said before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.decision import By, Decision, decode_decision
from qwarden.review.identity import new_id
from qwarden.review.person import Person
from qwarden.review.refusals import Conflict, NotFound, Stale
from qwarden.review.ruling import Said, checked, code_of, last_of
from qwarden.review.store import audit, checking, decisions, effects, leases, undoing
from qwarden.review.store.audit import Act
from qwarden.review.store.decisions import Target
from qwarden.review.store.effects import Case, Ruler, Settled
from qwarden.review.store.leases import Lease
from qwarden.review.store.schema import audit as log
from qwarden.review.store.schema import decisions as decided
from qwarden.review.store.schema import items, ledger, rulings, users
from qwarden.settings import Review

SILENT = ("golden", "second")
"""Kinds of items that are only compared: nothing is ever published for them."""
_CAME = (Act.CLAIMED.value, Act.HANDED_OVER.value, Act.TOOK_BACK.value)
"""How somebody comes to hold an item."""


@dataclass(frozen=True, slots=True)
class Ruled:
    """What was written. `count`: of what the item stood for, whatever is published of it;
    `decisions`: the ids of what is published, none where it is only compared; `is_new`: false for
    what was said before, and its answer was lost."""

    ruling_id: str
    take_back_until: float
    count: int
    decisions: tuple[str, ...]
    is_new: bool = field(default=True, compare=False)  # the answer is the same


@dataclass(frozen=True, slots=True)
class RulingRow:
    """One of a person's own rulings. `take_back_until`: null where it is too late."""

    ruling_id: str
    item_id: str | None
    action: str
    reason: str
    clause: str | None
    decided_at: float
    take_back_until: float | None
    count: int


@dataclass(frozen=True, slots=True)
class Past:
    """A decision on equal content; `pseudonym`: null for a breach."""

    at: float
    action: str
    reason: str
    clause: str | None
    pseudonym: str | None


async def decide(
    tx: AsyncConnection,
    person: Person,
    item_id: str,
    token: str,
    said: Said,
    now: float,
    limits: Review,
) -> Ruled:
    """Ends an item that this person holds. What follows waits in the outbox, for `take_back_s`.
    What the same person says again, since the answer was lost, gets the first answer.

    Raises `Invalid` for what cannot be meant, and as `leases.check` does.
    """
    said = checked(said)
    try:
        item = await leases.check(tx, person, item_id, token, now)
    except Stale:
        before = await _said_before(tx, person, item_id, said)
        if before is None:
            raise
        return before
    ruler = Ruler(By.PERSON, person.user_id, person.pseudonym)
    return await rule(tx, person, item, ruler, said, ruling_id=new_id(now), now=now, limits=limits)


async def take_back(
    tx: AsyncConnection, person: Person, ruling_id: str, now: float, limits: Review
) -> Lease | None:
    """As if it had not been said: nothing of it is published, what it replaced stands again, and
    its item is open and this person's again. None where nothing is left of its content, or somebody
    else holds what it is part of now.

    Raises `NotFound` where it is not this person's, and `Conflict` where it is too late or a later
    decision rests on it.
    """
    wanted = select(rulings).where(rulings.c.ruling_id == ruling_id).with_for_update()
    ruling = (await tx.execute(wanted)).one_or_none()
    if ruling is None or ruling.user_id != person.user_id:
        raise NotFound("There is no such decision of yours.")
    if ruling.taken_back_at is not None:
        raise Conflict("It is taken back already.")
    opened = await undoing.undo(tx, [ruling], now)
    await checking.undone(tx, ruling_id)
    await audit.write(
        tx,
        Act.TOOK_BACK,
        actor=person.user_id,
        at=now,
        tenant=ruling.tenant,
        item_id=ruling.item_id,
        ruling_id=ruling_id,
    )
    lies = opened.get(ruling.item_id)
    return None if lies is None else await _held_again(tx, person, lies, now, limits)


async def chain(
    tx: AsyncConnection, tenant: str, event_id: str, task: str | None = None
) -> list[Decision]:
    """What was decided of an event, or of one task of it, the earliest first; also what still waits
    to be published."""
    wanted = select(decided.c.value).where(
        decided.c.tenant == tenant, decided.c.event_id == event_id
    )
    if task is not None:
        wanted = wanted.where(decided.c.task == task)
    found = await tx.execute(wanted.order_by(decided.c.decision_id))
    return [decode_decision(value) for value in found.scalars()]


async def of_content(
    tx: AsyncConnection, tenant: str, content_hash: str, limit: int = 20
) -> list[Past]:
    """What was decided of equal content of a tenant, the latest first."""
    wanted = (
        select(rulings, users.c.pseudonym)
        .outerjoin_from(rulings, users, users.c.user_id == rulings.c.user_id)
        .where(
            rulings.c.tenant == tenant,
            rulings.c.content_hash == content_hash,
            rulings.c.taken_back_at.is_(None),
            rulings.c.kind.not_in(SILENT),
        )
        .order_by(rulings.c.decided_at.desc())
        .limit(limit)
    )
    return [
        Past(row.decided_at, row.action, row.reason, row.clause, row.pseudonym)
        for row in await tx.execute(wanted)
    ]


async def mine(tx: AsyncConnection, person: Person, now: float, limit: int) -> list[RulingRow]:
    """This person's own rulings that stand, the latest first."""
    wanted = (
        select(rulings, items.c.count)
        .outerjoin_from(rulings, items, items.c.item_id == rulings.c.item_id)
        .where(rulings.c.user_id == person.user_id, rulings.c.taken_back_at.is_(None))
        .order_by(rulings.c.decided_at.desc())
        .limit(limit)
    )
    return [
        RulingRow(
            row.ruling_id,
            row.item_id,
            row.action,
            row.reason,
            row.clause,
            row.decided_at,
            row.publish_at if now < row.publish_at else None,
            1 if row.item_id is None else row._mapping[items.c.count],
        )
        for row in await tx.execute(wanted)
    ]


async def rule(
    tx: AsyncConnection,
    person: Person,
    item: Row[Any],
    ruler: Ruler,
    said: Said,
    *,
    ruling_id: str,
    now: float,
    limits: Review,
) -> Ruled:
    """Ends an item, whose row the caller has locked."""
    targets = [(target, said) for target in await _targets(tx, item, said)]
    held_s = None if person.is_tool else await _held_s(tx, item, now)
    case = effects.case_of(item, targets, said, ruling_id, held_s)
    settled = await effects.settle(tx, [case], ruler, now, limits)
    await effects.end_items(tx, [case], now)
    await log_decided(tx, person, case, settled, now)
    written = (await tx.execute(select(rulings).where(rulings.c.ruling_id == ruling_id))).one()
    await checking.after(tx, item, written, person, now, limits)
    return ruled(case, settled)


async def _said_before(
    tx: AsyncConnection, person: Person, item_id: str, said: Said
) -> Ruled | None:
    """What was answered to this person, if it was they who decided the item. Raises `Stale` where
    they had said something else."""
    wanted = (
        select(rulings, items.c.count)
        .join_from(rulings, items, items.c.item_id == rulings.c.item_id)
        .where(
            rulings.c.item_id == item_id,
            rulings.c.user_id == person.user_id,
            rulings.c.taken_back_at.is_(None),
            items.c.state == "decided",
        )
    )
    row = (await tx.execute(wanted)).one_or_none()
    if row is None:
        return None
    # Nothing that is only compared overrides, and nothing in the answer tells that.
    overrides = said.override if row.kind in SILENT else row.overrides
    if replace(said_in(row), override=overrides) != said:
        raise Stale("You have decided this item already; take that back to decide it anew.")
    made = await decisions.of_ruling(tx, row.ruling_id)
    ids = tuple(each.decision_id for each in made)
    return Ruled(row.ruling_id, row.publish_at, row._mapping[items.c.count], ids, is_new=False)


async def _targets(tx: AsyncConnection, item: Row[Any], said: Said) -> Sequence[Target]:
    """What a decision is published for.

    An appeal has one, whatever is said. A sample and a disagreement have some only where another
    action is named than the one that stands, automatic or decided first, or an override is, which
    follows from a decision; and nobody has decided since. What is only compared has none, ever.

    Raises `Conflict` for an override where somebody has.
    """
    match item.kind:
        case "review":
            return (await decisions.of_items(tx, [item]))[item.item_id]
        case "appeal":
            return await decisions.of_appeal(tx, item.appeal_id)
        case "sample":
            wanted = select(ledger.c.action).where(ledger.c.verdict_id == item.verdict_id)
            if (await tx.execute(wanted)).scalar_one_or_none() == said.action and not said.override:
                return []
            targets = await decisions.of_verdict(tx, item.verdict_id)
            return await _still(tx, targets, set(), said)
        case "disagreement":
            wanted = select(rulings.c.action).where(rulings.c.ruling_id == item.ruling_id)
            if (await tx.execute(wanted)).scalar_one() == said.action and not said.override:
                return []
            first = await decisions.of_ruling(tx, item.ruling_id)
            of = {each.decision_id for each in first}
            return await _still(tx, [decisions.target_of(each) for each in first], of, said)
        case _:
            return []


async def _still(
    tx: AsyncConnection, targets: Sequence[Target], decision_ids: set[str], said: Said
) -> list[Target]:
    """Those over which nothing stands that people have said, but one of these decisions."""
    chains = await decisions.locked_chains(tx, [target.chain for target in targets])
    still = []
    for target in targets:
        last = last_of(chains[target.chain], target.edit)
        if last is None or last.by != By.PERSON or last.decision_id in decision_ids:
            still.append(target)
    if said.override and not still:
        raise Conflict(
            "Somebody has decided on this content since, and an override has to follow from what "
            "stands; decide without one."
        )
    return still


async def _held_s(tx: AsyncConnection, item: Row[Any], now: float) -> float | None:
    """How long the holder has had the item, in seconds."""
    wanted = select(func.max(log.c.at)).where(log.c.item_id == item.item_id, log.c.act.in_(_CAME))
    since: float | None = (await tx.execute(wanted)).scalar_one()
    return None if since is None else max(0.0, now - since)


async def _held_again(
    tx: AsyncConnection, person: Person, item_id: str, now: float, limits: Review
) -> Lease | None:
    """A lease of an item that was opened again, unless somebody else holds it."""
    wanted = select(items).where(items.c.item_id == item_id).with_for_update()
    item = (await tx.execute(wanted)).one()
    if leases.is_held(item, now) and item.holder != person.user_id:
        return None
    return await leases.give(tx, person, item, now, limits)


async def log_decided(
    tx: AsyncConnection, person: Person, case: Case, settled: Settled, now: float
) -> None:
    """Says in the audit log that this one decided."""
    await audit.write(
        tx,
        Act.DECIDED,
        actor=person.user_id,
        at=now,
        tenant=case.tenant,
        item_id=None if case.item is None else case.item.item_id,
        ruling_id=case.ruling_id,
        action=case.said.action,
        reason=code_of(case.said.reason),
        ground=case.said.ground,
        overrides=case.ruling_id in settled.overriding,
        decisions=len(settled.made[case.ruling_id]),
    )


def ruled(case: Case, settled: Settled) -> Ruled:
    """What was written of a case."""
    return Ruled(
        case.ruling_id,
        settled.publish_at,
        1 if case.item is None else case.item._mapping["count"],
        tuple(each.decision_id for each in settled.made[case.ruling_id]),
    )


def said_in(row: Row[Any]) -> Said:
    """What a ruling's row says."""
    return Said(
        row.action,
        tuple(json.loads(row.categories)),
        row.reason,
        row.ground,
        row.clause,
        row.overrides,
    )
