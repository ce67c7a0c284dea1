"""What follows from rulings: decisions in their chains, overrides, and what is published of both.
And how that is undone as long as nobody has heard of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.control import Override
from qwarden.contracts.decision import By, Decision
from qwarden.review.identity import new_id
from qwarden.review.refusals import Conflict, Invalid
from qwarden.review.ruling import Link, Said, Unneeded, place_of
from qwarden.review.store import closing, decisions, joining, ledger, outbox, overrides
from qwarden.review.store.decisions import Chain, Target, in_parts
from qwarden.review.store.overrides import Standing
from qwarden.review.store.schema import decisions as decided
from qwarden.review.store.schema import escalations, items, rulings
from qwarden.review.store.schema import outbox as waiting
from qwarden.settings import Review

_TOO_LATE = (
    "It is on its way to those who act on it and cannot be taken back any more; decide anew, which "
    "supersedes it."
)
_RESTED_ON = (
    "A later decision on the same content rests on it: take that one back first, or decide anew, "
    "which supersedes it."
)


@dataclass(frozen=True, slots=True)
class Ruler:
    """Who rules. `reviewer`: the pseudonym in the records; both are None for a breach."""

    by: By
    user_id: str | None = None
    reviewer: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A ruling to be written, of an item or of a verdict that nobody has open. `targets`: the
    verdicts that get a decision, each with what is said of it. `held_s`: since the claim."""

    ruling_id: str
    kind: str
    tenant: str
    language: str
    category: str
    content_hash: str | None
    said: Said
    targets: Sequence[tuple[Target, Said]]
    item: Row[Any] | None = None
    held_s: float | None = None


@dataclass(slots=True)
class Settled:
    """What was written. `made`: the decisions of each ruling, by its id; `overriding`: the rulings
    that have set an override."""

    publish_at: float
    made: dict[str, list[Decision]] = field(default_factory=dict)
    overriding: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Changes:
    """What rulings change of overrides. `begun`: the rulings that set one; `contents`: those
    changed, by tenant; `replaced`: what stood before, by ruling."""

    begun: set[str] = field(default_factory=set)
    contents: dict[str, set[str]] = field(default_factory=dict)
    replaced: dict[str, Standing] = field(default_factory=dict)
    messages: list[tuple[str | None, outbox.Message]] = field(default_factory=list)

    def add(self, case: Case, before: Standing | None, message: outbox.Message) -> None:
        assert case.content_hash is not None
        self.contents.setdefault(case.tenant, set()).add(case.content_hash)
        if before is not None:
            self.replaced[case.ruling_id] = before
        self.messages.append((case.ruling_id, message))


def case_of(
    item: Row[Any],
    targets: Iterable[tuple[Target, Said]],
    said: Said,
    ruling_id: str,
    held_s: float | None = None,
) -> Case:
    """The ruling on an item."""
    return Case(
        ruling_id=ruling_id,
        kind=item.kind,
        tenant=item.tenant,
        language=item.language,
        category=item.category,
        content_hash=item.content_hash,
        said=said,
        targets=list(targets),
        item=item,
        held_s=held_s,
    )


async def settle(
    tx: AsyncConnection,
    cases: Sequence[Case],
    ruler: Ruler,
    now: float,
    limits: Review,
    *,
    bulk_id: str | None = None,
) -> Settled:
    """Writes rulings with their decisions and overrides, and puts those into the outbox; a breach
    only where it has anything to say. The items stay as they are.

    All of it is published at one time, and never before what was said of the same event or content
    before: the clocks of two processes may differ. Raises `Invalid` for an override of what has no
    content hash.
    """
    settled = Settled(now + (limits.take_back_s if ruler.by is By.PERSON else 0.0))
    chains = await decisions.locked_chains(
        tx, [target.chain for case in cases for target, _ in case.targets]
    )
    for case in cases:
        made = _made(case, chains, ruler, now, settled)
        if made or ruler.by is By.PERSON:
            settled.made[case.ruling_id] = made
    written = [case for case in cases if case.ruling_id in settled.made]
    changes = await _override(tx, written, settled.made, ruler, now=now, limits=limits)
    settled.overriding = changes.begun
    for tenant, contents in changes.contents.items():
        settled.publish_at = max(settled.publish_at, await _latest(tx, tenant, contents))
    if written:
        values = [
            _values(each, ruler, settled, changes, now=now, bulk_id=bulk_id) for each in written
        ]
        await tx.execute(insert(rulings), values)
    said = [(ruling_id, each) for ruling_id, made in settled.made.items() for each in made]
    await decisions.write(tx, said)
    until = now + limits.keep_days * ledger.DAY_S
    verdict_ids = [each.verdict_id for _, each in said]
    await ledger.keep_on(tx, verdict_ids, until)
    keys = await ledger.keys(tx, verdict_ids)
    messages = [
        (ruling_id, decisions.message_of(each, keys.get(each.verdict_id)))
        for ruling_id, each in said
    ]
    await outbox.put(tx, [*messages, *changes.messages], publish_at=settled.publish_at)
    return settled


async def end_items(tx: AsyncConnection, cases: Sequence[Case], now: float) -> None:
    """Ends the items of cases that people have ruled on."""
    ids = sorted(case.item.item_id for case in cases if case.item is not None)
    for some in in_parts(ids):
        await tx.execute(
            update(items)
            .where(items.c.item_id.in_(some))
            .values(state="decided", ended_at=now, **closing.ENDED)
        )
        await tx.execute(
            update(escalations).where(escalations.c.item_id.in_(some)).values(is_open=False)
        )


async def undo(tx: AsyncConnection, taken_back: Sequence[Row[Any]], now: float) -> dict[str, str]:
    """Takes rulings back, which the caller has locked, as if they had not been said. Returns which
    of their items are open again, and the id of what each is part of now: what came of equal
    content since is one with it.

    Raises `Conflict` where something of them is on its way already, or a later ruling rests on one.
    """
    ids = [each.ruling_id for each in taken_back]
    if any(now >= each.publish_at for each in taken_back):
        raise Conflict(_TOO_LATE)
    made = await _made_of(tx, ids)
    chains = [(row.tenant, row.event_id, row.task) for row in made]
    await decisions.lock_events(tx, chains)
    ended = await _locked_items(tx, [each.item_id for each in taken_back if each.item_id])
    await decisions.locked_chains(tx, chains)
    await _check_nothing_follows(tx, {row.decision_id for row in made})
    await _restore_overrides(tx, taken_back)
    put = len(made) + sum(bool(each.overrides or each.replaced) for each in taken_back)
    if await outbox.withdraw(tx, ids) != put:
        raise Conflict(_TOO_LATE)
    for some in in_parts(ids):
        await tx.execute(delete(decided).where(decided.c.ruling_id.in_(some)))
        await tx.execute(
            update(rulings).where(rulings.c.ruling_id.in_(some)).values(taken_back_at=now)
        )
    verdicts: dict[str, list[str]] = {}
    for row in made:
        verdicts.setdefault(row.item_id, []).append(row.verdict_id)
    opened = await _reopen(tx, ended, verdicts, now)
    await _open_set_aside(tx, chains, now)
    return opened


# Decisions and overrides.


def _made(
    case: Case, chains: Mapping[Chain, list[Link]], ruler: Ruler, now: float, settled: Settled
) -> list[Decision]:
    """The decisions of a case, each put at the end of its chain."""
    made = []
    ids = sorted(new_id(now) for _ in case.targets)
    for decision_id, (target, said) in zip(ids, case.targets, strict=True):
        chain = chains[target.chain]
        try:
            before = place_of(chain, target.edit, ruler.by)
        except Unneeded:
            continue
        supersedes = None if before is None else before.decision_id
        settled.publish_at = max(settled.publish_at, *(link.publish_at for link in chain), 0.0)
        chain.append(Link(decision_id, supersedes, target.edit, ruler.by))
        made.append(
            decisions.decision_of(
                target,
                said,
                decision_id=decision_id,
                supersedes=supersedes,
                reviewer=ruler.reviewer,
                by=ruler.by,
                now=now,
            )
        )
    return made


async def _override(
    tx: AsyncConnection,
    cases: Sequence[Case],
    made: Mapping[str, Sequence[Decision]],
    ruler: Ruler,
    *,
    now: float,
    limits: Review,
) -> _Changes:
    """Sets the overrides that people asked for, and ends those that they have now contradicted."""
    changes = _Changes()
    if ruler.by is By.PERSON:
        heard = [case for case in cases if made[case.ruling_id]]
        records = {
            case.ruling_id: _record(case, made[case.ruling_id][0], ruler, now, limits)
            for case in heard
            if case.said.override
        }
        await _set(tx, {case.ruling_id: case for case in heard}, records, changes)
        await _end_contradicted(tx, [each for each in heard if not each.said.override], changes)
    return changes


async def _set(
    tx: AsyncConnection,
    cases: Mapping[str, Case],
    records: Mapping[str, Override],
    changes: _Changes,
) -> None:
    """Puts these in force, each of the case of its ruling."""
    new = [_standing_of(record, ruling_id) for ruling_id, record in records.items()]
    for stands, before in await overrides.begin(tx, new):
        record = records[stands.ruling_id]
        changes.begun.add(stands.ruling_id)
        changes.add(cases[stands.ruling_id], before, overrides.begins(record))


async def _end_contradicted(tx: AsyncConnection, cases: Sequence[Case], changes: _Changes) -> None:
    """Ends what stands and says something else than one of these cases."""
    standing = await _standing(tx, cases)
    ended = []
    for case in cases:
        content = case.tenant, case.content_hash
        stands = standing.get(content)
        if stands is not None and stands.action != case.said.action:
            del standing[content]
            ended.append(stands)
            changes.add(case, stands, overrides.ends(stands))
    await overrides.end(tx, ended)


def _record(case: Case, first: Decision, ruler: Ruler, now: float, limits: Review) -> Override:
    if case.content_hash is None:
        raise Invalid(
            "Nothing was judged of this content, so it has no hash to know equal content by; "
            "decide without an override."
        )
    assert ruler.reviewer is not None
    return Override(
        tenant=case.tenant,
        content_hash=case.content_hash,
        action=first.action,
        categories=first.categories,
        ground=first.ground,
        clause=first.clause,
        decision_id=first.decision_id,
        until=datetime.fromtimestamp(now + limits.override_days * ledger.DAY_S, UTC),
        at=first.decided_at,
        by=ruler.reviewer,
    )


def _standing_of(record: Override, ruling_id: str) -> Standing:
    return Standing(
        record.tenant,
        record.content_hash,
        record.decision_id,
        ruling_id,
        record.action,
        record.until.timestamp(),
    )


async def _standing(
    tx: AsyncConnection, about: Iterable[Case | Row[Any]]
) -> dict[tuple[str, str | None], Standing]:
    """The overrides of what these rulings are about, until this transaction ends."""
    contents: dict[str, set[str]] = {}
    for each in about:
        if each.content_hash is not None:
            contents.setdefault(each.tenant, set()).add(each.content_hash)
    found: dict[tuple[str, str | None], Standing] = {}
    for tenant in sorted(contents):
        for some in in_parts(sorted(contents[tenant])):
            for content_hash, stands in (await overrides.locked(tx, tenant, some)).items():
                found[tenant, content_hash] = stands
    return found


async def _latest(tx: AsyncConnection, tenant: str, contents: Iterable[str]) -> float:
    """When the last of what was ruled of these contents is published."""
    latest = 0.0
    for some in in_parts(sorted(contents)):
        wanted = select(func.max(rulings.c.publish_at)).where(
            rulings.c.tenant == tenant,
            rulings.c.content_hash.in_(some),
            rulings.c.taken_back_at.is_(None),
        )
        latest = max(latest, (await tx.execute(wanted)).scalar_one() or 0.0)
    return latest


def _values(
    case: Case,
    ruler: Ruler,
    settled: Settled,
    changes: _Changes,
    *,
    now: float,
    bulk_id: str | None,
) -> dict[str, Any]:
    """The row of a ruling."""
    item, said = case.item, case.said
    return {
        "ruling_id": case.ruling_id,
        "item_id": None if item is None else item.item_id,
        "kind": case.kind,
        "tenant": case.tenant,
        "language": case.language,
        "category": case.category,
        "content_hash": case.content_hash,
        "action": said.action,
        "categories": json.dumps(said.categories),
        "reason": said.reason,
        "ground": said.ground,
        "clause": said.clause,
        "overrides": case.ruling_id in changes.begun,
        "user_id": ruler.user_id,
        "by": ruler.by.value,
        "fence": None if item is None or case.held_s is None else item.fence,
        "waited_s": None if item is None else max(0.0, now - item.arrived_at),
        "held_s": case.held_s,
        "decided_at": now,
        "publish_at": settled.publish_at,
        "bulk_id": bulk_id,
        "replaced": overrides.packed(changes.replaced.get(case.ruling_id)),
    }


# Taking back.


async def _made_of(tx: AsyncConnection, ruling_ids: Sequence[str]) -> list[Row[Any]]:
    """The decisions of rulings, each with its item."""
    found: list[Row[Any]] = []
    for some in in_parts(ruling_ids):
        wanted = select(decided, rulings.c.item_id).join_from(
            decided, rulings, rulings.c.ruling_id == decided.c.ruling_id
        )
        found += await tx.execute(wanted.where(decided.c.ruling_id.in_(some)))
    return found


async def _check_nothing_follows(tx: AsyncConnection, decision_ids: set[str]) -> None:
    for some in in_parts(sorted(decision_ids)):
        wanted = select(decided.c.decision_id).where(decided.c.supersedes.in_(some))
        if set((await tx.execute(wanted)).scalars()) - decision_ids:
            raise Conflict(_RESTED_ON)


async def _restore_overrides(tx: AsyncConnection, taken_back: Sequence[Row[Any]]) -> None:
    """Puts back what these rulings have changed of their contents' overrides."""
    changing = [each for each in taken_back if each.replaced or each.overrides]
    if not changing:
        return
    found = await _standing(tx, changing)
    await _check_nobody_agrees(tx, changing, [each.ruling_id for each in taken_back])
    stand = dict(found)
    # The latest first: each one finds what it has left.
    for ruling in sorted(changing, key=lambda each: str(each.ruling_id), reverse=True):
        content = ruling.tenant, ruling.content_hash
        left = stand.pop(content, None)
        if (left.ruling_id if left else None) != (ruling.ruling_id if ruling.overrides else None):
            raise Conflict(_RESTED_ON)
        before = overrides.unpacked(ruling.replaced)
        if before is not None:
            stand[content] = before
    await overrides.restore(tx, found.values(), list(stand.values()))


async def _check_nobody_agrees(
    tx: AsyncConnection, changing: Sequence[Row[Any]], with_them: Sequence[str]
) -> None:
    """Raises `Conflict` where a person has ruled on the same content since: that may agree with
    what these have set, and not with what would stand again. The outbox knows the order, whatever
    the clocks say; nothing later leaves it before these do."""
    own = select(func.min(waiting.c.number)).where(waiting.c.ruling_id.in_(with_them))
    first = (await tx.execute(own)).scalar_one()
    contents: dict[str, set[str]] = {}
    for ruling in changing:
        contents.setdefault(ruling.tenant, set()).add(ruling.content_hash)
    later = (
        select(rulings.c.ruling_id)
        .join_from(rulings, waiting, waiting.c.ruling_id == rulings.c.ruling_id)
        .where(
            rulings.c.by == By.PERSON.value,
            rulings.c.ruling_id.not_in(with_them),
            waiting.c.number > first,
        )
        .limit(1)
    )
    for tenant, hashes in contents.items():
        for some in in_parts(sorted(hashes)):
            same = rulings.c.tenant == tenant, rulings.c.content_hash.in_(some)
            if (await tx.execute(later.where(*same))).first() is not None:
                raise Conflict(_RESTED_ON)


async def _locked_items(tx: AsyncConnection, item_ids: Sequence[str]) -> list[Row[Any]]:
    found: list[Row[Any]] = []
    for some in in_parts(sorted(item_ids)):
        wanted = select(items).where(items.c.item_id.in_(some), items.c.state == "decided")
        found += await tx.execute(wanted.order_by(items.c.item_id).with_for_update())
    return found


async def _reopen(
    tx: AsyncConnection, ended: Sequence[Row[Any]], verdicts: dict[str, list[str]], now: float
) -> dict[str, str]:
    """Opens items with those of their verdicts whose content is still there, if any; returns the id
    of what each is part of now. `verdicts`: what was decided, by item."""
    about = {item.item_id: _about(item, verdicts) for item in ended}
    reviews = [item.item_id for item in ended if item.kind == "review"]
    asked = [each for item_id in reviews for each in about[item_id]]
    # What people check or users appeal against stands all the same.
    gone = dict.fromkeys(await decisions.replaced(tx, asked), closing.SUPERSEDED)
    gone |= await decisions.gone(tx, [each for some in about.values() for each in some])
    opened: dict[str, str] = {}
    whole: list[Row[Any]] = []
    for item in ended:
        left = [each for each in about[item.item_id] if each not in gone]
        if about[item.item_id] and not left:
            why = gone[about[item.item_id][0]]
            closed = update(items).where(items.c.item_id == item.item_id)
            await tx.execute(closed.values(state="closed", ended_why=why))
        elif item.kind != "review" or len(left) == item._mapping["count"]:
            whole.append(item)
        else:
            shown = item.verdict_id if item.verdict_id in left else left[0]
            opened[item.item_id] = await joining.put(
                tx, item, now, ended_at=None, count=len(left), verdict_id=shown
            )
    await decisions.reopen(tx, [each for each in asked if each not in gone])
    return opened | await _open_whole(tx, whole, now)


async def _open_set_aside(tx: AsyncConnection, chains: Iterable[Chain], now: float) -> None:
    """Opens what came while these decisions stood."""
    aside = await decisions.set_aside(tx, chains)
    ids = [item.verdict_id for item in aside]
    gone = (await decisions.gone(tx, ids)).keys() | await decisions.replaced(tx, ids)
    left = [item for item in aside if item.verdict_id not in gone]
    await decisions.reopen(tx, [item.verdict_id for item in left])
    for item in left:
        await joining.put(tx, item, now, ended_at=None, ended_why=None)


def _about(item: Row[Any], verdicts: dict[str, list[str]]) -> list[str]:
    if item.kind == "review":
        return verdicts.get(item.item_id, [])
    return [] if item.verdict_id is None else [item.verdict_id]


async def _open_whole(tx: AsyncConnection, whole: Sequence[Row[Any]], now: float) -> dict[str, str]:
    """Opens items as they were; all at once, where nothing of equal content has come since."""
    ids = [item.item_id for item in whole]
    try:
        async with tx.begin_nested():
            for some in in_parts(ids):
                opened = update(items).where(items.c.item_id.in_(some))
                await tx.execute(opened.values(state="open", ended_at=None))
        return {item_id: item_id for item_id in ids}
    except IntegrityError:
        return {item.item_id: await joining.put(tx, item, now, ended_at=None) for item in whole}
