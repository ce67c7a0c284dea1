"""Appeals: what a user has to say against a verdict or a decision, for a person who had no part in
it. Nothing automatic ever decides one, and no time that is over does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import CompoundSelect, Row, exists, insert, not_, or_, select, union, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.verdict import Action, Verdict, decode_verdict
from qwarden.review.identity import new_id
from qwarden.review.order import APPEALS
from qwarden.review.person import Person
from qwarden.review.refusals import Conflict, Invalid, NotFound
from qwarden.review.store import asking, audit, standing
from qwarden.review.store.asking import DECIDED
from qwarden.review.store.audit import Act
from qwarden.review.store.conflict import insert as conflicting
from qwarden.review.store.schema import (
    appeals,
    decisions,
    escalations,
    items,
    ledger,
    rulings,
)
from qwarden.review.store.scope import is_open, kept_from
from qwarden.review.store.standing import Stands
from qwarden.settings import Review

UPHELD, OVERTURNED, CLOSED = "upheld", "overturned", "closed"

_HARM = 1
"""Users are answered in the order in which they ask, the more people see it the sooner."""
MOST_STATEMENT = 8000
"""Characters of what a user says."""


@dataclass(frozen=True, slots=True)
class Opened:
    """`is_new`: false where the same was under appeal already, and this is that appeal."""

    appeal_id: str
    item_id: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class AppealRow:
    """One appeal. `decision_id`: what it is against; null for an automatic verdict. `outcome`:
    upheld, overturned, or closed since the content is gone; null while it is open. `ruling_id`:
    which decided it. `may_see`: whether who asks may look at its item: nobody who had a part in
    what it is against does."""

    appeal_id: str
    item_id: str
    tenant: str
    event_id: str
    task: str
    verdict_id: str
    decision_id: str | None
    statement: str
    made_at: float
    outcome: str | None
    ruling_id: str | None
    may_see: bool


async def open_appeal(
    tx: AsyncConnection,
    person: Person,
    *,
    tenant: str,
    statement: str,
    event_id: str | None = None,
    verdict_id: str | None = None,
    task: str | None = None,
    now: float,
    limits: Review,
) -> Opened:
    """Has people look again at what stands of an event, or of the one that a verdict is about.
    `statement`: what the user says.

    Raises `Invalid`, `NotFound` where nothing is kept or it is another tenant's, and `Conflict`
    where the content is erased or a person is to decide in any case.
    """
    _check(statement)
    stands = await _stands(tx, person, tenant, now, event_id, verdict_id=verdict_id, task=task)
    row = stands.row
    waiting = await _waiting(tx, row)
    if waiting is not None:
        return waiting
    if row.content is None:
        raise Conflict(
            "the content was erased, so nobody can look at it again; what was decided of it stays"
        )
    asked = exists().where(
        escalations.c.verdict_id == row.verdict_id, escalations.c.is_open.is_(True)
    )
    if (await tx.execute(select(asked))).scalar_one():
        raise Conflict("a person is to decide on it in any case; appeal against what they say")
    appeal_id = new_id(now)
    item = asking.row(
        "appeal",
        arrived_at=now,
        sla_s=limits.appeal_sla_s,
        harm=_HARM,
        reach=stands.verdict.facts.reach or 0,
        queue=APPEALS,
        appeal_id=appeal_id,
        **asking.about(row._mapping),
    )
    new = conflicting(tx, appeals).values(
        appeal_id=appeal_id,
        item_id=item["item_id"],
        tenant=row.tenant,
        event_id=row.event_id,
        task=row.task,
        verdict_id=row.verdict_id,
        decision_id=stands.decision.decision_id if stands.decision is not None else None,
        statement=statement.strip(),
        made_at=now,
    )
    if (await tx.execute(new.on_conflict_do_nothing())).rowcount != 1:
        meanwhile = await _waiting(tx, row)
        if meanwhile is None:
            raise Conflict("another appeal about it has just ended; look at its outcome first")
        return meanwhile
    await tx.execute(insert(items).values(item))
    await asking.exclude(tx, item["item_id"], await _had_part(tx, row, stands.verdict), DECIDED)
    await audit.write(
        tx,
        Act.APPEALED,
        actor=person.user_id,
        at=now,
        tenant=row.tenant,
        item_id=item["item_id"],
        appeal_id=appeal_id,
        verdict_id=row.verdict_id,
        decision_id=stands.decision.decision_id if stands.decision is not None else None,
    )
    return Opened(appeal_id, item["item_id"], is_new=True)


async def of_event(
    tx: AsyncConnection, person: Person, tenant: str, event_id: str
) -> list[AppealRow]:
    """The appeals about an event, the latest first. Raises `NotFound` for another one's tenant."""
    if not person.sees(tenant):
        raise NotFound("there is no such event among yours")
    may_see = not_(kept_from(person, appeals.c.item_id)).label("may_see")
    its = appeals.c.tenant == tenant, appeals.c.event_id == event_id
    wanted = select(appeals, may_see).where(*its)
    found = await tx.execute(wanted.order_by(appeals.c.made_at.desc(), appeals.c.appeal_id))
    names = [each.name for each in fields(AppealRow)]
    return [AppealRow(**{name: getattr(row, name) for name in names}) for row in found]


async def decided(tx: AsyncConnection, item: Row[Any], ruling: Row[Any]) -> None:
    """Writes the outcome: upheld where the action is that which the user appealed against, whatever
    was decided while they waited."""
    of = appeals.c.appeal_id == item.appeal_id
    appeal = (await tx.execute(select(appeals).where(of))).one()
    before = await _stood(tx, appeal)
    outcome = UPHELD if ruling.action == before else OVERTURNED
    await tx.execute(update(appeals).where(of).values(outcome=outcome, ruling_id=ruling.ruling_id))


async def undecided(tx: AsyncConnection, ruling_id: str) -> None:
    """As if the ruling on an appeal had not been made; where its item is not open again, since the
    content is gone, nobody is to decide it any more. Raises `Conflict` where the user has appealed
    anew meanwhile."""
    of = appeals.c.ruling_id == ruling_id
    appeal = (await tx.execute(select(appeals).where(of))).one_or_none()
    if appeal is None:
        return
    waits = select(exists().where(items.c.item_id == appeal.item_id, is_open))
    outcome = None if (await tx.execute(waits)).scalar_one() else CLOSED
    if outcome is None and await _waiting(tx, appeal) is not None:
        raise Conflict("there is a new appeal against it, so it cannot be taken back any more")
    await tx.execute(update(appeals).where(of).values(outcome=outcome, ruling_id=None))


async def keep_off(tx: AsyncConnection, user_id: str, ruling_ids: Sequence[str]) -> None:
    """Keeps this person, whose rulings these are, from the open appeals that they had a part in
    thereby, as `_had_part` has it: one that checks or confirms publishes nothing and is one too."""
    about = (
        select(appeals.c.item_id, ledger)
        .join(ledger, ledger.c.verdict_id == appeals.c.verdict_id)
        .where(appeals.c.item_id.in_(_near(ruling_ids)), appeals.c.outcome.is_(None))
    )
    for row in (await tx.execute(about)).all():
        if user_id in await _had_part(tx, row, decode_verdict(row.verdict)):
            await asking.exclude(tx, row.item_id, [user_id], DECIDED)


def _check(statement: str) -> None:
    if not statement.strip():
        raise Invalid("statement: say what the user has to say against it")
    if len(statement.strip()) > MOST_STATEMENT:
        raise Invalid(f"statement: at most {MOST_STATEMENT:,} characters are kept")


async def _stands(
    tx: AsyncConnection,
    person: Person,
    tenant: str,
    now: float,
    event_id: str | None,
    *,
    verdict_id: str | None,
    task: str | None,
) -> Stands:
    if not person.sees(tenant):
        raise NotFound("there is no such event among yours; check tenant and event_id")
    if verdict_id is not None:
        stands = await standing.of_verdict(tx, tenant, verdict_id, now)
        if event_id not in (None, stands.row.event_id) or task not in (None, stands.row.task):
            raise Invalid("the verdict is about another event or task; name one of the two alone")
    elif event_id is not None:
        stands = await standing.of_event(tx, tenant, event_id, task, now)
    else:
        raise Invalid("name event_id, or verdict_id")
    if stands.row.kept_until < now:
        raise NotFound("the time in which one can appeal against it is over")
    return stands


async def _waiting(tx: AsyncConnection, of: Row[Any]) -> Opened | None:
    """The open appeal about an event and task."""
    wanted = select(appeals.c.appeal_id, appeals.c.item_id).where(
        appeals.c.tenant == of.tenant,
        appeals.c.event_id == of.event_id,
        appeals.c.task == of.task,
        appeals.c.outcome.is_(None),
    )
    found = (await tx.execute(wanted)).one_or_none()
    return None if found is None else Opened(found.appeal_id, found.item_id, is_new=False)


def _near(ruling_ids: Sequence[str]) -> CompoundSelect[tuple[str]]:
    """The items of all appeals that these rulings may have to do with, each way by an index: about
    what they decided, what they checked, equal content that acts by it, and what they looked at."""
    at = items.alias()
    ruled = select(at).join(rulings, rulings.c.item_id == at.c.item_id)
    ruled = ruled.where(rulings.c.ruling_id.in_(ruling_ids))
    checked = ruled.with_only_columns(at.c.ruling_id).where(at.c.ruling_id.is_not(None))
    of_event = select(appeals.c.item_id).join(
        decisions,
        (decisions.c.tenant == appeals.c.tenant)
        & (decisions.c.event_id == appeals.c.event_id)
        & (decisions.c.task == appeals.c.task),
    )
    of_content = select(items.c.item_id).join(
        rulings,
        (rulings.c.tenant == items.c.tenant) & (rulings.c.content_hash == items.c.content_hash),
    )
    return union(
        of_event.where(decisions.c.ruling_id.in_(ruling_ids)),
        of_event.where(decisions.c.ruling_id.in_(checked)),
        of_content.where(rulings.c.ruling_id.in_(checked), items.c.kind == "appeal"),
        select(items.c.item_id).where(
            is_open, items.c.verdict_id.in_(ruled.with_only_columns(at.c.verdict_id))
        ),
    )


async def _had_part(tx: AsyncConnection, row: Row[Any], verdict: Verdict) -> Sequence[str]:
    """Everybody who decided on this before: of the event and task, of equal content where that
    decision acted here, and of what checked or sampled it."""
    of = [
        (decisions.c.tenant == row.tenant)
        & (decisions.c.event_id == row.event_id)
        & (decisions.c.task == row.task)
    ]
    if verdict.decision is not None:
        of.append(decisions.c.decision_id == verdict.decision)
    chain = select(decisions.c.ruling_id).where(or_(*of))
    about = [items.c.ruling_id.in_(chain)]
    if row.content_hash is not None:
        about.append(
            (items.c.tenant == row.tenant)
            & (items.c.content_hash == row.content_hash)
            & (items.c.verdict_id == row.verdict_id)
        )
    looked_at = select(items.c.item_id).where(or_(*about))
    found = await tx.execute(
        select(rulings.c.user_id)
        .where(
            or_(rulings.c.ruling_id.in_(chain), rulings.c.item_id.in_(looked_at)),
            rulings.c.user_id.is_not(None),
            rulings.c.taken_back_at.is_(None),
        )
        .distinct()
    )
    return list(found.scalars())


async def _stood(tx: AsyncConnection, appeal: Row[Any]) -> str:
    """The action that an appeal is against: of its decision, else of the verdict."""
    if appeal.decision_id is not None:
        of = select(rulings.c.action).join(decisions, decisions.c.ruling_id == rulings.c.ruling_id)
        of = of.where(decisions.c.decision_id == appeal.decision_id)
        return str((await tx.execute(of)).scalar_one())
    verdict = await standing.verdict(tx, appeal.verdict_id)
    if verdict.action is Action.REVIEW:
        return Action.BLOCK if verdict.meanwhile == "hide" else Action.ALLOW
    return verdict.action or Action.ALLOW
