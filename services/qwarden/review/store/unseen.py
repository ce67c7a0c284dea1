"""Golden items given to people among the others, unseen, so that what they say of them is measured.

What one gets looks like the item that would have come next: its times, harm, reach, rule and policy
are that one's. Each person gets each golden item once at most, and nobody the ones they added.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from sqlalchemy import Row, Select, exists, literal, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.verdict import Basis, Facts, decode_verdict, encode
from qwarden.review.golden import RULE, Shown
from qwarden.review.order import URGENT
from qwarden.review.person import Person
from qwarden.review.sampling import takes
from qwarden.review.store import asking
from qwarden.review.store.conflict import insert
from qwarden.review.store.schema import exclusions, goldens, is_free, items, ledger, rulings, users
from qwarden.review.store.scope import is_open, of_languages, of_tenants
from qwarden.review.store.turns import Wanted
from qwarden.settings import Review

_CHOICE = 100
"""Golden items that one is chosen from."""

_HARM, _SLA_S = 3, 86_400.0
"""Of one that comes to an empty queue: as the built-in policy `default` sends them."""

_CLOCKS_APART_S = 5.0
"""How far those of two processes may be: one still takes back what the other would give anew."""

_RECENT = 1000
"""Verdicts that are looked through for a tenant's latest: in the order of an index, however many
are kept and however few of them are the tenant's."""

_GIVEN = "given"


async def for_claim(
    tx: AsyncConnection, person: Person, wanted: Wanted, now: float, limits: Review
) -> str | None:
    """The id of a golden item to give this person instead of the next one, or None; nobody else can
    claim it, and the caller has this one claim it in the same transaction.

    Which claims get one is told by a hash of the person, the next item and the golden one: a share
    `golden_share` of them, the same whenever it is asked, so that nobody can fish for one.
    """
    if limits.golden_share <= 0 or wanted.item_id is not None:
        return None
    golden = await _choose(tx, person, wanted, now, limits)
    if golden is None or await _is_urgent(tx):
        return None
    model = await _next(tx, golden.queue, wanted.rule)
    if model is None and wanted.rule is not None:
        return None
    stands_in_for = "" if model is None else model.item_id
    name = f"golden/{person.user_id}/{stands_in_for}/{golden.golden_id}"
    if not takes(name, limits.golden_share):
        return None
    return await _open(tx, person, golden, model, now)


async def _choose(
    tx: AsyncConnection, person: Person, wanted: Wanted, now: float, limits: Review
) -> Row[Any] | None:
    """The golden item that this person gets next, of those that fit: each in an order of its own,
    so that nobody knows from a colleague what comes."""
    of = goldens.c
    conditions = [
        of.retired_at.is_(None),
        of.added_by != person.user_id,
        ~exists().where(
            exclusions.c.item_id == of.golden_id, exclusions.c.user_id == person.user_id
        ),
        ~exists().where(items.c.golden_id == of.golden_id, is_open),
        of.golden_id.not_in(_just_decided(now, limits)),
        of_tenants(person, of.tenant),
        of_languages(person, of.language),
    ]
    for column, value in (
        (of.queue, wanted.queue),
        (of.language, wanted.language),
        (of.category, wanted.category),
        (of.tenant, wanted.tenant),
    ):
        if value is not None:
            conditions.append(column == value)
    # Not what they show: contents are large, and most claims get a real item.
    names = ("golden_id", "tenant", "queue", "language", "category", "task", "added_by")
    found = await tx.execute(
        select(*(of[name] for name in names)).where(*conditions).limit(_CHOICE)
    )
    return min(found, key=lambda row: _rank(person, row.golden_id), default=None)


def _just_decided(now: float, limits: Review) -> Select[Any]:
    """Those that may be taken back, and are open again then: of each only one can be."""
    since = now - limits.take_back_s - _CLOCKS_APART_S
    return (
        select(items.c.golden_id)
        .join_from(rulings, items, items.c.item_id == rulings.c.item_id)
        .where(rulings.c.decided_at > since, items.c.golden_id.is_not(None))
    )


def _rank(person: Person, golden_id: str) -> bytes:
    return hashlib.blake2b(f"{person.user_id}/{golden_id}".encode(), digest_size=8).digest()


async def _is_urgent(tx: AsyncConnection) -> bool:
    """Whether something cannot wait until somebody's eye was tested."""
    waiting = select(items.c.item_id).where(is_free, items.c.queue == URGENT).limit(1)
    return (await tx.execute(waiting)).first() is not None


async def _next(tx: AsyncConnection, queue: str, rule: str | None) -> Row[Any] | None:
    """The item that is next in a queue, as people see it there, with what the ledger has of it."""
    wanted = (
        select(items, ledger.c.verdict.label("said"))
        .outerjoin(ledger, ledger.c.verdict_id == items.c.verdict_id)
        .where(is_free, items.c.queue == queue, items.c.kind == text("'review'"))
        .order_by(items.c.due_at)
        .limit(1)
    )
    if rule is not None:
        wanted = wanted.where(items.c.rule == rule)
    return (await tx.execute(wanted)).one_or_none()


async def _open(
    tx: AsyncConnection, person: Person, golden: Row[Any], model: Row[Any] | None, now: float
) -> str | None:
    """Opens the item; None where another one is getting it in this moment."""
    about = {
        name: getattr(golden, name) for name in ("tenant", "queue", "language", "category", "task")
    }
    rule = RULE if model is None else model.rule
    opened = asking.row(
        "golden",
        # A little before the other one, so that it is really the next.
        arrived_at=now if model is None else model.arrived_at - _jitter_s(golden.golden_id),
        sla_s=_SLA_S if model is None else model.breach_at - model.arrived_at,
        harm=_HARM if model is None else model.harm,
        reach=0 if model is None else model.reach,
        golden_id=golden.golden_id,
        rule=rule,
        **about,
    )
    written = await tx.execute(insert(tx, items).values(opened).on_conflict_do_nothing())
    if written.rowcount != 1:
        return None
    item_id: str = opened["item_id"]
    await _show_as(tx, golden, model)
    await asking.exclude(tx, golden.golden_id, [person.user_id], _GIVEN)
    await _keep_off(tx, item_id, golden, person)
    return item_id


def _jitter_s(golden_id: str) -> float:
    return 0.1 + 0.8 * int(golden_id[-4:], 16) / 0xFFFF


async def _show_as(tx: AsyncConnection, golden: Row[Any], model: Row[Any] | None) -> None:
    """Has the golden one show the guard, origin and reach of the other, and the policy where their
    tenant is one; where nothing waits, the guard that judges now."""
    of = goldens.c.golden_id == golden.golden_id
    stored = (await tx.execute(select(goldens.c.verdict).where(of))).scalar_one()
    shown = msgspec.json.decode(stored, type=Shown)
    if model is not None and model.said is not None:
        said = decode_verdict(model.said)
        facts = Facts(origin=said.facts.origin, reach=said.facts.reach)
        shown = msgspec.structs.replace(shown, guard=said.guard, facts=facts)
        if model.tenant == golden.tenant:
            shown = msgspec.structs.replace(
                shown, policy=said.policy, notice=said.notice, meanwhile=said.meanwhile
            )
    elif (latest := await _latest(tx, golden.tenant)) is not None:
        guard = decode_verdict(latest).guard
        shown = msgspec.structs.replace(shown, guard=guard, facts=Facts())
    await tx.execute(update(goldens).where(of).values(verdict=encode(shown)))


async def _latest(tx: AsyncConnection, tenant: str) -> bytes | None:
    """The latest verdict of a guard that is kept of this tenant, or else of another one: all are
    judged by the same in most installations."""
    recent = select(ledger).order_by(ledger.c.kept_until.desc()).limit(_RECENT).subquery()
    wanted = (
        select(recent.c.verdict)
        .where(recent.c.basis == Basis.GUARD)
        .order_by((recent.c.tenant == tenant).desc(), recent.c.arrived_at.desc())
        .limit(1)
    )
    found: bytes | None = (await tx.execute(wanted)).scalar_one_or_none()
    return found


async def _keep_off(tx: AsyncConnection, item_id: str, golden: Row[Any], person: Person) -> None:
    """Nobody can hand it over to one who has had it, or who knows the answer."""
    of = exclusions.c
    known = select(literal(item_id), of.user_id, literal(_GIVEN)).where(
        of.item_id == golden.golden_id, of.user_id != person.user_id
    )
    author = select(literal(item_id), users.c.user_id, literal(_GIVEN)).where(
        users.c.user_id == golden.added_by
    )
    for each in (known, author):
        await tx.execute(
            insert(tx, exclusions)
            .from_select(["item_id", "user_id", "why"], each)
            .on_conflict_do_nothing()
        )
