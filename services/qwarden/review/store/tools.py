"""What other review tools say, by their tokens: of what people have open, or of any verdict."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import Row, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.decision import By
from qwarden.review.identity import new_id
from qwarden.review.person import Person
from qwarden.review.refusals import Conflict, Forbidden, Invalid, NotFound
from qwarden.review.ruling import MOST_REVIEWER, Said, ToolSaid, check_place, checked
from qwarden.review.store import decisions, effects, leases
from qwarden.review.store.decisions import Target
from qwarden.review.store.effects import Case, Ruler
from qwarden.review.store.rulings import SILENT, Ruled, log_decided, rule, ruled, said_in
from qwarden.review.store.schema import escalations, items, ledger, rulings
from qwarden.review.store.scope import is_open
from qwarden.settings import Review

_TOOL = "tool"
"""The kind of a ruling on what nobody had open; the others are of their item's kind."""


async def decide(
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
        return await rule(tx, tool, item, ruler, said, ruling_id=ruling_id, now=now, limits=limits)
    case = await _case_of_verdict(tx, target, said, ruling_id)
    settled = await effects.settle(tx, [case], ruler, now, limits)
    await log_decided(tx, tool, case, settled, now)
    return ruled(case, settled)


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
    published = items.c.kind.not_in((*SILENT, "review"))
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
    if item is None or not leases.is_held(item, now):
        return
    holder = await leases.holder(tx, item)
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
    if said_in(row) != said:
        raise Conflict(
            "Something else was decided under this decision_key; a new decision needs a new one."
        )
    made = await decisions.of_ruling(tx, ruling_id)
    ids = tuple(each.decision_id for each in made)
    return Ruled(ruling_id, row.publish_at, max(1, len(ids)), ids, is_new=False)


async def _case_of_verdict(tx: AsyncConnection, target: Target, said: Said, ruling_id: str) -> Case:
    """The ruling on a verdict that nobody has open."""
    wanted = select(ledger).where(ledger.c.verdict_id == target.verdict_id)
    row = (await tx.execute(wanted)).one()
    return Case(
        ruling_id=ruling_id,
        kind=_TOOL,
        tenant=row.tenant,
        language=row.language,
        category=row.category,
        content_hash=row.content_hash,
        said=said,
        targets=[(target, said)],
    )
