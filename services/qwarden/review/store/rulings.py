"""What people and tools say of items, and what was said before."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Row, and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.decision import By, Decision, decode_decision
from qwarden.contracts.verdict import decode_verdict
from qwarden.review.identity import new_id
from qwarden.review.person import Person
from qwarden.review.refusals import Conflict, Forbidden, Invalid, NotFound, Stale
from qwarden.review.ruling import (
    MOST_REVIEWER,
    NO_DECISION_IN_TIME,
    Said,
    ToolSaid,
    check_place,
    checked,
    code_of,
    last_of,
)
from qwarden.review.store import audit, decisions, effects, leases, quality
from qwarden.review.store.audit import Act
from qwarden.review.store.decisions import Target
from qwarden.review.store.effects import Case, Ruler, Settled
from qwarden.review.store.leases import Lease
from qwarden.review.store.schema import audit as log
from qwarden.review.store.schema import decisions as decided
from qwarden.review.store.schema import escalations, items, ledger, rulings, users
from qwarden.review.store.scope import is_open
from qwarden.settings import Review

TOOL = "tool"
"""The kind of a ruling by a tool on what nobody had open; the others are of their item's kind."""

_SILENT = ("golden", "second")
"""Kinds of items that are only compared: nothing is ever published for them."""
_TOKEN_BYTES = 24
_CAME = (Act.CLAIMED.value, Act.HANDED_OVER.value, Act.TOOK_BACK.value)
"""How somebody comes to hold an item."""


@dataclass(frozen=True, slots=True)
class Ruled:
    """What was written. `count`: of what the item stood for, whatever is published of it;
    `decisions`: the ids of what is published, none where it is only compared."""

    ruling_id: str
    take_back_until: float
    count: int
    decisions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mine:
    """One of a person's own rulings. `take_back_until`: None where it is too late."""

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
    """What was decided of equal content; `pseudonym`: None for a breach."""

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
    return await _rule(tx, person, item, ruler, said, ruling_id=new_id(now), now=now, limits=limits)


async def breach(tx: AsyncConnection, item: Row[Any], now: float, limits: Review) -> Ruled | None:
    """Decides what the policy says where nobody has in time (`on_breach`: allow or block), at once;
    the item, of kind `review`, stays open. None where a person has decided all of it, or a breach
    has before."""
    targets = (await decisions.of_items(tx, [item]))[item.item_id]
    if not targets:
        return None
    said = await _as_the_policy_says(tx, targets, item.on_breach)
    told = [(target, said[target.verdict_id]) for target in targets]
    case = effects.case_of(item, told, told[0][1], new_id(now))
    settled = await effects.settle(tx, [case], Ruler(By.BREACH), now, limits)
    return _ruled(case, settled) if case.ruling_id in settled.made else None


async def for_tool(
    tx: AsyncConnection, tool: Person, told: ToolSaid, now: float, limits: Review
) -> Ruled:
    """What somebody else's review tool says: of the open item of a verdict, or anew of one that
    nobody has open. What is sent again with one `decision_key` gets the first answer.

    Raises `Forbidden`, `Invalid`, `NotFound`, and `Conflict` where a person holds the item, the
    content is gone, or another decision is the last.
    """
    if not (tool.is_tool and tool.decides):
        raise Forbidden(
            "Only a tool's token with the role of a reviewer decides here; people claim an item."
        )
    said = checked(told.said)
    if told.reviewer is not None and len(told.reviewer) > MOST_REVIEWER:
        raise Invalid(f"The reviewer's pseudonym has over {MOST_REVIEWER} characters; shorten it.")
    target = await _known(tx, tool, told)
    item, others = await _locked_items_about(tx, target)
    chain = (await decisions.locked_chains(tx, [target.chain]))[target.chain]
    ruling_id = _named(tool, told) or new_id(now)
    before = await _answered(tx, ruling_id, said)
    if before is not None:
        return before
    why = (await decisions.gone(tx, [target.verdict_id])).get(target.verdict_id)
    if why is not None:
        raise Conflict(f"{why} Nothing is to be decided of it any more.")
    for each in (item, *others):
        await _check_is_free(tx, each, now)
    if item is None or told.supersedes is not None:
        check_place(chain, target.edit, told.supersedes)
    ruler = Ruler(By.PERSON, tool.user_id, told.reviewer or tool.pseudonym)
    if item is not None:
        return await _rule(tx, tool, item, ruler, said, ruling_id=ruling_id, now=now, limits=limits)
    case = await _case_of_verdict(tx, target, said, ruling_id)
    settled = await effects.settle(tx, [case], ruler, now, limits)
    await _log_decided(tx, tool, case, settled, now)
    return _ruled(case, settled)


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
    opened = await effects.undo(tx, [ruling], now)
    await quality.undone(tx, ruling_id)
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
            rulings.c.kind.not_in(_SILENT),
        )
        .order_by(rulings.c.decided_at.desc())
        .limit(limit)
    )
    return [
        Past(row.decided_at, row.action, row.reason, row.clause, row.pseudonym)
        for row in await tx.execute(wanted)
    ]


async def mine(tx: AsyncConnection, person: Person, now: float, limit: int) -> list[Mine]:
    """This person's own rulings that stand, the latest first."""
    wanted = (
        select(rulings, items.c.count)
        .outerjoin_from(rulings, items, items.c.item_id == rulings.c.item_id)
        .where(rulings.c.user_id == person.user_id, rulings.c.taken_back_at.is_(None))
        .order_by(rulings.c.decided_at.desc())
        .limit(limit)
    )
    return [
        Mine(
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


async def _rule(
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
    """Ends a locked item."""
    targets = [(target, said) for target in await _targets(tx, item, said)]
    held_s = None if person.is_tool else await _held_s(tx, item, now)
    case = effects.case_of(item, targets, said, ruling_id, held_s)
    settled = await effects.settle(tx, [case], ruler, now, limits)
    await effects.end_items(tx, [case], now)
    await _log_decided(tx, person, case, settled, now)
    written = (await tx.execute(select(rulings).where(rulings.c.ruling_id == ruling_id))).one()
    await quality.after(tx, item, written, person, now, limits)
    return _ruled(case, settled)


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
    overrides = said.override if row.kind in _SILENT else row.overrides
    if replace(_said_in(row), override=overrides) != said:
        raise Stale("You have decided this item already; take that back to decide it anew.")
    made = await decisions.of_ruling(tx, row.ruling_id)
    ids = tuple(each.decision_id for each in made)
    return Ruled(row.ruling_id, row.publish_at, row._mapping[items.c.count], ids)


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
    if item.holder not in (None, person.user_id) and item.leased_until > now:
        return None
    lease = Lease(
        item_id, secrets.token_urlsafe(_TOKEN_BYTES), item.fence + 1, now + limits.lease_s
    )
    await tx.execute(
        update(items)
        .where(items.c.item_id == item_id)
        .values(
            holder=person.user_id, lease=lease.token, fence=lease.fence, leased_until=lease.until
        )
    )
    return lease


async def _as_the_policy_says(
    tx: AsyncConnection, targets: Sequence[Target], action: str
) -> dict[str, Said]:
    """What a breach says of each of these verdicts that the ledger has: ground and clause are those
    of its rule."""
    ids = [target.verdict_id for target in targets]
    if action == "allow":
        return dict.fromkeys(ids, Said(action, reason=NO_DECISION_IN_TIME))
    said: dict[str, Said] = {}
    for some in decisions.in_parts(ids):
        wanted = select(ledger.c.verdict_id, ledger.c.verdict).where(ledger.c.verdict_id.in_(some))
        for row in await tx.execute(wanted):
            verdict = decode_verdict(row.verdict)
            said[row.verdict_id] = Said(
                action,
                tuple(verdict.categories or ()),
                NO_DECISION_IN_TIME,
                verdict.notice.ground if verdict.notice else None,
                verdict.notice.clause if verdict.notice else None,
            )
    return said


async def _log_decided(
    tx: AsyncConnection, person: Person, case: Case, settled: Settled, now: float
) -> None:
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


def _ruled(case: Case, settled: Settled) -> Ruled:
    return Ruled(
        case.ruling_id,
        settled.publish_at,
        1 if case.item is None else case.item._mapping["count"],
        tuple(each.decision_id for each in settled.made[case.ruling_id]),
    )


# What tools say.


async def _known(tx: AsyncConnection, tool: Person, told: ToolSaid) -> Target:
    for target in await decisions.of_verdict(tx, told.verdict_id):
        if (
            tool.sees(target.tenant)
            and (target.tenant, target.event_id) == (told.tenant, told.event_id)
            and told.task in (None, target.task)
        ):
            return target
    raise NotFound(
        "The ledger has no such verdict of this tenant and event: it was allowed and not sampled, "
        "its time is over, or it is none of yours."
    )


async def _locked_items_about(
    tx: AsyncConnection, target: Target
) -> tuple[Row[Any] | None, list[Row[Any]]]:
    """The open item of a verdict, if there is one, and the others whose decisions would be in the
    same chain."""
    asked = select(escalations.c.item_id).where(
        escalations.c.tenant == target.tenant,
        escalations.c.event_id == target.event_id,
        escalations.c.task == target.task,
        escalations.c.is_open.is_(True),
    )
    said = select(ledger.c.verdict_id).where(
        ledger.c.tenant == target.tenant,
        ledger.c.event_id == target.event_id,
        ledger.c.task == target.task,
    )
    published = items.c.kind.not_in((*_SILENT, "review"))
    wanted = select(items).where(
        is_open,
        or_(items.c.item_id.in_(asked), and_(items.c.verdict_id.in_(said), published)),
    )
    found = list(await tx.execute(wanted.order_by(items.c.item_id).with_for_update()))
    its = asked.where(escalations.c.verdict_id == target.verdict_id)
    item_id = (await tx.execute(its)).scalar_one_or_none()
    item = next((each for each in found if each.item_id == item_id), None)
    return item, [each for each in found if each is not item]


async def _check_is_free(tx: AsyncConnection, item: Row[Any] | None, now: float) -> None:
    if item is None or item.holder is None or item.leased_until <= now:
        return
    wanted = select(users.c.pseudonym).where(users.c.user_id == item.holder)
    holder = (await tx.execute(wanted)).scalar_one_or_none() or "somebody"
    raise Conflict(
        f"{holder} looks at this item now; wait for that decision, or send yours again later.",
        holder=holder,
    )


def _named(tool: Person, told: ToolSaid) -> str | None:
    """The id of the ruling that a tool's own name for it stands for: the same one each time."""
    if told.decision_key is None:
        return None
    parts = json.dumps([tool.user_id, told.tenant, told.verdict_id, told.decision_key])
    person = b"qwarden.decision"
    return hashlib.blake2b(parts.encode(), digest_size=16, person=person).hexdigest()


async def _answered(tx: AsyncConnection, ruling_id: str, said: Said) -> Ruled | None:
    """What was answered before to what is sent again."""
    found = await tx.execute(select(rulings).where(rulings.c.ruling_id == ruling_id))
    row = found.one_or_none()
    if row is None:
        return None
    if row.taken_back_at is not None:
        raise Conflict("That decision was taken back; send a new one with another decision_key.")
    if _said_in(row) != said:
        raise Conflict(
            "Something else was decided under this decision_key; a new decision needs a new one."
        )
    made = await decisions.of_ruling(tx, ruling_id)
    ids = tuple(each.decision_id for each in made)
    return Ruled(ruling_id, row.publish_at, max(1, len(ids)), ids)


def _said_in(row: Row[Any]) -> Said:
    return Said(
        row.action,
        tuple(json.loads(row.categories)),
        row.reason,
        row.ground,
        row.clause,
        row.overrides,
    )


async def _case_of_verdict(tx: AsyncConnection, target: Target, said: Said, ruling_id: str) -> Case:
    """The ruling on a verdict that nobody has open."""
    wanted = select(ledger).where(ledger.c.verdict_id == target.verdict_id)
    row = (await tx.execute(wanted)).one()
    return Case(
        ruling_id=ruling_id,
        kind=TOOL,
        tenant=row.tenant,
        language=row.language,
        category=row.category,
        content_hash=row.content_hash,
        said=said,
        targets=[(target, said)],
    )
