"""What follows from rulings: decisions in their chains, overrides, and what is published of both.
`undoing` takes it back as long as nobody has heard of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.control import Override
from qwarden.contracts.decision import By, Decision
from qwarden.review.identity import new_id
from qwarden.review.refusals import Invalid
from qwarden.review.ruling import Link, Said, Unneeded, place_of
from qwarden.review.store import closing, decisions, ledger, outbox, overrides
from qwarden.review.store.among import in_parts
from qwarden.review.store.decisions import Chain, Target
from qwarden.review.store.overrides import Standing
from qwarden.review.store.schema import escalations, items, rulings
from qwarden.settings import Review


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
    standing = await overrides.locked_of(tx, cases)
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
