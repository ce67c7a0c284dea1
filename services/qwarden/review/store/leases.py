"""Who works on what. A person who claims an item has it alone until the lease ends; a token proves
it, and a number that grows with each claim, the fence, tells a later lease from an earlier one.
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.review.order import MOST_HARM, URGENT, due_of
from qwarden.review.people import users
from qwarden.review.person import Person, Role
from qwarden.review.refusals import Conflict, Forbidden, Invalid, NotFound, Stale
from qwarden.review.store import asking, audit, joining, unseen
from qwarden.review.store.audit import SERVICE, Act
from qwarden.review.store.closing import ENDED, end
from qwarden.review.store.conflict import insert
from qwarden.review.store.schema import exclusions, items
from qwarden.review.store.schema import users as people
from qwarden.review.store.scope import SKIPPED, is_open
from qwarden.review.store.turns import Wanted, first_in_turn
from qwarden.settings import Review

_GIVEN_BACK = "It was given back."
_TOKEN_BYTES = 24
"""192 bits, 32 characters: nobody guesses the lease of somebody else."""


class Why(enum.StrEnum):
    """What makes an item urgent."""

    THREAT_TO_LIFE = "threat_to_life"
    CHILD_ABUSE = "child_abuse"
    OTHER = "other"


class Skip(enum.StrEnum):
    """Why somebody does not want an item."""

    LANGUAGE = "language"
    """They do not read it well enough."""
    UNCLEAR = "unclear"
    INVOLVED = "involved"
    """They know who it is about."""
    DISTRESSING = "distressing"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Lease:
    """`token`: what proves it, a secret; `until`: seconds since 1970."""

    item_id: str
    token: str
    fence: int
    until: float


async def claim(
    tx: AsyncConnection, person: Person, wanted: Wanted, now: float, limits: Review
) -> Lease | None:
    """Gives this person the item that is first in turn of those that are wanted, or this one; None
    where there is nothing to do. Who claims what they hold gets a new lease for it.

    Raises Forbidden, NotFound, and Conflict, which names the holder where there is one.
    """
    if not person.decides:
        raise Forbidden("Reviewers and leads claim items; an admin can make you one.")
    if person.is_tool:
        raise Forbidden("People claim items; a tool sends its decisions to POST /v1/decisions.")
    await _room(tx, person, now, limits, beside=wanted.item_id)
    if wanted.item_id is not None:
        item = await _locked(tx, person, wanted.item_id)
        await _may_have(tx, person, item, now)
        if item.holder is not None and item.leased_until <= now:
            await _expired(tx, [item], now)
        return await _claimed(tx, person, item, now, limits)
    golden = await unseen.for_claim(tx, person, wanted, now, limits)
    if golden is not None:
        item = await _locked(tx, person, golden)
        return await _claimed(tx, person, item, now, limits)
    lease = await _claim_next(tx, person, wanted, now, limits)
    # Only now: most claims find something, and are one statement.
    if lease is None and await expire(tx, now):
        lease = await _claim_next(tx, person, wanted, now, limits)
    return lease


async def check(
    tx: AsyncConnection, person: Person, item_id: str, token: str, now: float
) -> Row[Any]:
    """The item's row, locked until the transaction ends: this person holds it under this token.

    Raises NotFound; Conflict where it is closed, with the reason; Stale where the lease is over,
    with the holder where there is one.
    """
    item = await _locked(tx, person, item_id)
    if item.state == "decided":
        raise Stale("Somebody else has decided this item; claim the next one.")
    if item.state != "open":
        raise Conflict(f"{item.ended_why} Nothing is to be decided any more; claim the next item.")
    is_own = is_held(item, now) and item.holder == person.user_id
    if is_own and secrets.compare_digest(item.lease.encode(), token.encode()):
        return item
    if is_held(item, now) and not is_own:
        other = await holder(tx, item)
        raise Stale(
            f"Your lease has ended, and {other} has this item now; claim another one.",
            holder=other,
        )
    raise Stale("Your lease of this item has ended; claim it again.")


async def renew(
    tx: AsyncConnection, person: Person, item_id: str, token: str, now: float, limits: Review
) -> float:
    """Lets a lease last `lease_s` from now; returns until when. Raises as `check` does."""
    await check(tx, person, item_id, token, now)
    until = now + limits.lease_s
    await tx.execute(update(items).where(items.c.item_id == item_id).values(leased_until=until))
    return until


async def release(
    tx: AsyncConnection, person: Person, item_id: str, token: str, now: float
) -> None:
    """Gives an item back. Raises as `check` does."""
    item = await check(tx, person, item_id, token, now)
    await _let_go(tx, [item], now)
    await _log(tx, Act.RELEASED, person, item, now, fence=item.fence)


async def skip(
    tx: AsyncConnection, person: Person, item_id: str, token: str, reason: str, now: float
) -> None:
    """Gives an item back and is not given it again, unless this person asks for it. `reason`: a
    `Skip`. Raises as `check` does, and Invalid for another reason."""
    if reason not in set(Skip):
        raise Invalid(f"Say why you skip it: {', '.join(Skip)}.")
    item = await check(tx, person, item_id, token, now)
    await _let_go(tx, [item], now)
    excluded = insert(tx, exclusions).on_conflict_do_nothing(index_elements=["item_id", "user_id"])
    await tx.execute(excluded.values(item_id=item_id, user_id=person.user_id, why=SKIPPED))
    await _log(tx, Act.SKIPPED, person, item, now, fence=item.fence, reason=reason)


async def hand_over(
    tx: AsyncConnection,
    person: Person,
    item_id: str,
    token: str,
    to_user_id: str,
    now: float,
    limits: Review,
) -> Lease:
    """Gives the item to another one, who holds it at once, under a new fence; who claims this very
    item gets its token. Raises as `check` does, and where the other may not have it."""
    item = await check(tx, person, item_id, token, now)
    other = await users.get(tx, to_user_id)
    if other is None or not other.decides or other.is_tool or other.user_id == person.user_id:
        raise Invalid("You can hand an item over to another reviewer or lead who works here.")
    if not other.sees(item.tenant) or not other.reads(item.language):
        raise Forbidden(
            f"{other.pseudonym} does not have this item's tenant or language; hand it over to "
            "somebody who has."
        )
    await _allowed(tx, other, item)
    await _room(tx, other, now, limits)
    lease = await give(tx, other, item, now, limits)
    await _log(tx, Act.HANDED_OVER, person, item, now, to=to_user_id, fence=lease.fence)
    return lease


async def send_to_urgent(
    tx: AsyncConnection,
    person: Person,
    item_id: str,
    token: str | None,
    why: str,
    now: float,
    limits: Review,
) -> str:
    """Puts an open item in front of whoever works on what cannot wait; returns the id of the item
    that it is part of now. Whoever holds it under `token` gives it back.

    Raises as `check` does where there is a token, Forbidden, NotFound, and Conflict where it is not
    open.
    """
    if not person.decides:
        raise Forbidden("Reviewers and leads send items to the urgent queue.")
    if why not in set(Why):
        raise Invalid(f"Why is it urgent? Say one of {', '.join(Why)}.")
    if token is None:
        item = await _locked(tx, person, item_id)
        _is_open(item)
    else:
        item = await check(tx, person, item_id, token, now)
    await _log(tx, Act.SENT_TO_URGENT, person, item, now, why=why)
    let_go: dict[str, Any] = {} if token is None else ENDED
    until = now + limits.urgent_sla_s
    if item.kind == "golden":
        # It stands for no content of anybody's: nobody else is to be roused for it.
        if token is not None:
            await _let_go(tx, [item], now)
        return item_id
    lies = await joining.put(
        tx,
        item,
        now,
        # What is only compared is published for nobody: now it is to act, over the first answer.
        kind="disagreement" if item.kind == "second" else item.kind,
        queue=URGENT,
        urgent_why=why,
        harm=MOST_HARM,
        due_at=min(item.due_at, due_of(now, limits.urgent_sla_s, MOST_HARM, item.reach)),
        # What was late before is given a new time: nobody would see it late again otherwise.
        breached_at=None,
        breach_at=until if item.breached_at is not None else min(item.breach_at, until),
        # A policy that lets content through when time is over did not know of this.
        on_breach="raise" if item.on_breach == "allow" else item.on_breach,
        **let_go,
    )
    await asking.offer_again(tx, lies)
    return lies


async def move(tx: AsyncConnection, lead: Person, item_id: str, queue: str, now: float) -> str:
    """Puts an open item into another queue, whose name the caller has checked; returns the id of
    the item that it is part of now. Who holds it goes on.

    Raises Forbidden, NotFound, and Conflict where it is not open.
    """
    if not lead.has(Role.LEAD):
        raise Forbidden("A lead moves items between queues.")
    item = await _locked(tx, lead, item_id)
    _is_open(item)
    await _log(tx, Act.MOVED, lead, item, now, of=item.queue, to=queue)
    return await joining.put(tx, item, now, queue=queue)


async def expire(tx: AsyncConnection, now: float) -> int:
    """Takes back every lease that has ended; returns how many."""
    over = (
        select(items)
        .where(items.c.holder.is_not(None), items.c.leased_until <= now, is_open)
        .order_by(items.c.item_id)
    )
    # Whoever has such a row locked is about to end or to begin a lease of it.
    rows = list(await tx.execute(over.with_for_update(skip_locked=True)))
    await _expired(tx, rows, now)
    return len(rows)


def is_held(item: Row[Any], now: float) -> bool:
    """Whether somebody holds an item. A lease that has ended proves nothing, whether or not
    `expire` has been there since."""
    return item.holder is not None and bool(item.leased_until > now)


async def holder(tx: AsyncConnection, item: Row[Any]) -> str:
    """What colleagues call whoever holds an item."""
    wanted = select(people.c.pseudonym).where(people.c.user_id == item.holder)
    return (await tx.execute(wanted)).scalar_one_or_none() or "somebody"


async def give(
    tx: AsyncConnection, person: Person, item: Row[Any], now: float, limits: Review
) -> Lease:
    """Leases an item, whose row the caller has locked and which this person may have, to them."""
    lease = Lease(
        item_id=item.item_id,
        token=secrets.token_urlsafe(_TOKEN_BYTES),
        fence=item.fence + 1,
        until=now + limits.lease_s,
    )
    await tx.execute(
        update(items)
        .where(items.c.item_id == item.item_id)
        .values(
            holder=person.user_id, lease=lease.token, fence=lease.fence, leased_until=lease.until
        )
    )
    return lease


async def _claim_next(
    tx: AsyncConnection, person: Person, wanted: Wanted, now: float, limits: Review
) -> Lease | None:
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    until = now + limits.lease_s
    claimed = await tx.execute(
        update(items)
        .where(items.c.item_id == first_in_turn(person, wanted))
        .values(holder=person.user_id, lease=token, leased_until=until, fence=items.c.fence + 1)
        .returning(items.c.item_id, items.c.tenant, items.c.fence)
    )
    row = claimed.one_or_none()
    if row is None:
        return None
    await _log(tx, Act.CLAIMED, person, row, now, fence=row.fence)
    return Lease(row.item_id, token, row.fence, until)


async def _room(
    tx: AsyncConnection, person: Person, now: float, limits: Review, beside: str | None = None
) -> None:
    """Raises Conflict where this person holds all that one may, not counting `beside`. Claims of
    one person stand in line."""
    if tx.dialect.name == "postgresql":
        await tx.execute(select(func.pg_advisory_xact_lock(func.hashtext(person.user_id))))
    held = select(func.count()).where(
        items.c.holder == person.user_id, items.c.leased_until > now, is_open
    )
    if beside is not None:
        held = held.where(items.c.item_id != beside)
    if (await tx.execute(held)).scalar_one() >= limits.held_items:
        raise Conflict(
            f"{person.pseudonym} holds {limits.held_items} items, which is all that one may; "
            "decide or release one first."
        )


async def _locked(tx: AsyncConnection, person: Person, item_id: str) -> Row[Any]:
    wanted = select(items).where(items.c.item_id == item_id)
    item = (await tx.execute(wanted.with_for_update())).one_or_none()
    if item is None or not person.sees(item.tenant):
        raise NotFound("There is no such item among yours; look at the queue.")
    return item


def _is_open(item: Row[Any]) -> None:
    if item.state == "decided":
        raise Conflict("This item is decided.")
    if item.state != "open":
        raise Conflict(f"{item.ended_why} Nothing is to be decided any more.")


async def _may_have(tx: AsyncConnection, person: Person, item: Row[Any], now: float) -> None:
    """Raises where this person cannot have this very item now."""
    _is_open(item)
    if is_held(item, now) and item.holder != person.user_id:
        other = await holder(tx, item)
        raise Conflict(f"{other} has this item; claim another one.", holder=other)
    if item.kind == "golden" and item.holder != person.user_id:
        raise NotFound("There is no such item among yours; look at the queue.")
    if not person.reads(item.language):
        raise Forbidden(
            f"It is in {item.language}, which is none of your languages; an admin can add it."
        )
    await _allowed(tx, person, item)


async def _allowed(tx: AsyncConnection, person: Person, item: Row[Any]) -> None:
    """Raises Forbidden where an item is for leads, or checks what this person has decided."""
    if item.role == "lead" and not person.has(Role.LEAD):
        raise Forbidden("This item is for leads.")
    excluded = select(exclusions.c.why).where(
        exclusions.c.item_id == item.item_id,
        exclusions.c.user_id == person.user_id,
        exclusions.c.why != SKIPPED,
    )
    if (await tx.execute(excluded)).first() is not None:
        raise Forbidden("This item is for somebody who has had no part in it so far.")


async def _claimed(
    tx: AsyncConnection, person: Person, item: Row[Any], now: float, limits: Review
) -> Lease:
    lease = await give(tx, person, item, now, limits)
    await _log(tx, Act.CLAIMED, person, item, now, fence=lease.fence)
    return lease


async def _expired(tx: AsyncConnection, rows: Sequence[Row[Any]], now: float) -> None:
    await _let_go(tx, rows, now, returned=items.c.returned + 1)
    await audit.put(
        tx,
        [
            audit.entry(
                Act.EXPIRED,
                actor=SERVICE,
                at=now,
                tenant=row.tenant,
                item_id=row.item_id,
                holder=row.holder,
                fence=row.fence,
            )
            for row in rows
        ],
    )


async def _let_go(tx: AsyncConnection, rows: Sequence[Row[Any]], now: float, **more: Any) -> None:
    """Gives items back to all. A golden one was made for its holder: it ends."""
    if rows:
        ids = [row.item_id for row in rows]
        await tx.execute(update(items).where(items.c.item_id.in_(ids)).values(**ENDED, **more))
    await end(tx, [(row, _GIVEN_BACK) for row in rows if row.kind == "golden"], now)


async def _log(
    tx: AsyncConnection, act: Act, person: Person, item: Row[Any], now: float, **about: Any
) -> None:
    await audit.write(
        tx,
        act,
        actor=person.user_id,
        at=now,
        tenant=item.tenant,
        item_id=item.item_id,
        **about,
    )
