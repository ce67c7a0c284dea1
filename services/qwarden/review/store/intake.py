"""Escalations, closings and evidence, as they come, into items and the ledger.

Whatever the order in which records come, however often and in whatever batches, what stands in the
end is the same (`tests/property/test_review_intake.py`):
- A verdict opens nothing where its event was withdrawn or has a higher edit, where another verdict
  has taken its place, or where a person has decided what stands over it; the last is set aside,
  and opened where that decision is taken back.
- Open escalations of one tenant and queue with equal content are one item with a count.
- An item whose last escalation is closed is closed, also while somebody holds it.

Transactions about one event stand in line: each takes the event's row first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, bindparam, case, literal, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.decision import By
from qwarden.contracts.escalation import Escalation, Evidence, Kind
from qwarden.contracts.verdict import Basis, Verdict
from qwarden.review.identity import new_id
from qwarden.review.order import LEAST_HARM, MOST_HARM, due_of
from qwarden.review.person import primary
from qwarden.review.store import ledger, samples
from qwarden.review.store.among import among
from qwarden.review.store.closing import DECIDED_BEFORE, DELETED, EDITED, Ended, close
from qwarden.review.store.conflict import insert
from qwarden.review.store.joining import on_breach_of
from qwarden.review.store.schema import decisions, escalations, events, items, superseded
from qwarden.settings import Review

_AT_ONCE = 500
"""Records that are written together: SQLite takes 32,766 parameters in a statement."""

_QUEUE, _HARM, _SLA_S = "general", 5, 86_400
"""For an escalation that does not say how people are asked: a person looks all the same."""
_ON_BREACH = ("raise", "allow", "block")


@dataclass(frozen=True, slots=True)
class Arrived:
    """A record and when it was written, in seconds since 1970. `sample_rate`: of evidence; `key`:
    the record's, which is its event's."""

    said: Escalation | Evidence
    at: float
    sample_rate: float | None = None
    key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """How many items were `opened` and `closed`, how many escalations `joined` an open item, and
    how many verdicts the ledger has `kept`."""

    opened: int = 0
    joined: int = 0
    closed: int = 0
    kept: int = 0

    def __add__(self, other: Taken) -> Taken:
        return Taken(
            self.opened + other.opened,
            self.joined + other.joined,
            self.closed + other.closed,
            self.kept + other.kept,
        )


@dataclass(frozen=True, slots=True)
class _Asked:
    """What an escalation or a closing says, and how people are asked, whatever it leaves out."""

    verdict: Verdict
    at: float
    is_review: bool
    queue: str
    harm: int
    sla_s: int
    on_breach: str

    @classmethod
    def of(cls, said: Escalation, at: float) -> _Asked:
        return cls(
            verdict=said.verdict,
            at=at,
            is_review=said.kind == Kind.REVIEW,
            queue=said.queue or _QUEUE,
            harm=min(MOST_HARM, max(LEAST_HARM, _HARM if said.harm is None else said.harm)),
            sla_s=_SLA_S if said.sla_s is None else max(1, said.sla_s),
            on_breach=said.on_breach if said.on_breach in _ON_BREACH else "raise",
        )

    @property
    def place(self) -> tuple[str, ...]:
        """Of those that are one item: tenant, queue and content; else its own."""
        if self.verdict.content_hash is None:
            return (self.verdict.verdict_id,)
        return self.verdict.tenant, self.queue, self.verdict.content_hash

    @property
    def due_at(self) -> float:
        return due_of(self.at, self.sla_s, self.harm, self.reach)

    @property
    def reach(self) -> int:
        return self.verdict.facts.reach or 0


async def take(
    tx: AsyncConnection, records: Sequence[Arrived], now: float, limits: Review
) -> Taken:
    """Writes what these records say, as far as it is not known."""
    taken = Taken()
    for start in range(0, len(records), _AT_ONCE):
        taken += await _take(tx, records[start : start + _AT_ONCE], now, limits)
    return taken


async def _take(
    tx: AsyncConnection, records: Sequence[Arrived], now: float, limits: Review
) -> Taken:
    asked = [_Asked.of(each.said, each.at) for each in records if isinstance(each.said, Escalation)]
    standing = await _stand(tx, asked, limits)
    replaced = await _supersede(tx, asked, limits)
    closed = await close(tx, _ended(asked), replaced, now)
    wanted, decided = await _wanted(tx, asked, standing)
    opened, joined = await _open(tx, wanted, now)
    await _set_aside(tx, decided, now)
    kept = await _keep(tx, records, limits)
    await _sample(tx, records, kept, now, limits)
    return Taken(opened, joined, closed, len(kept))


async def _stand(
    tx: AsyncConnection, asked: Sequence[_Asked], limits: Review
) -> dict[tuple[str, str], tuple[int, bool]]:
    """Writes the highest edit of each event and whether it is withdrawn, and returns that as it
    stands now. From here on until the end no other transaction writes about these events."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for each in asked:
        verdict = each.verdict
        key = verdict.tenant, verdict.event_id
        row = found.setdefault(
            key,
            {"tenant": key[0], "event_id": key[1], "edit": 0, "withdrawn": False, "kept_until": 0},
        )
        row["edit"] = max(row["edit"], verdict.edit)
        row["withdrawn"] |= verdict.basis == Basis.WITHDRAWN
        row["kept_until"] = max(row["kept_until"], each.at + limits.keep_days * ledger.DAY_S)
    if not found:
        return {}
    new = insert(tx, events)
    said = new.excluded
    written = await tx.execute(
        new.on_conflict_do_update(
            index_elements=["tenant", "event_id"],
            set_={
                "edit": _greater(events.c.edit, said.edit),
                "withdrawn": or_(events.c.withdrawn, said.withdrawn),
                "kept_until": _greater(events.c.kept_until, said.kept_until),
            },
        ).returning(events.c.tenant, events.c.event_id, events.c.edit, events.c.withdrawn),
        [found[key] for key in sorted(found)],
    )
    return {(row.tenant, row.event_id): (row.edit, row.withdrawn) for row in written}


async def _supersede(tx: AsyncConnection, asked: Sequence[_Asked], limits: Review) -> set[str]:
    """Writes whose place these verdicts take, also for what comes later; returns those."""
    rows = {
        each.verdict.supersedes: {
            "verdict_id": each.verdict.supersedes,
            "kept_until": each.at + limits.keep_days * ledger.DAY_S,
        }
        for each in asked
        if each.verdict.supersedes is not None
    }
    if rows:
        new = insert(tx, superseded).on_conflict_do_nothing(index_elements=["verdict_id"])
        await tx.execute(new.inline(), [rows[each] for each in sorted(rows)])
    return set(rows)


def _ended(asked: Iterable[_Asked]) -> Iterable[Ended]:
    """The events whose content is gone by what these records say, each once."""
    ended: dict[tuple[str, str], Ended] = {}
    for each in asked:
        verdict = each.verdict
        key = verdict.tenant, verdict.event_id
        if verdict.basis == Basis.WITHDRAWN:
            ended[key] = Ended(*key, below=None, why=DELETED)
        elif verdict.edit > 0:
            known = ended.get(key, Ended(*key, below=0, why=EDITED))
            if known.below is not None:
                ended[key] = replace(known, below=max(known.below, verdict.edit))
    return ended.values()


async def _wanted(
    tx: AsyncConnection,
    asked: Iterable[_Asked],
    standing: dict[tuple[str, str], tuple[int, bool]],
) -> tuple[list[_Asked], list[_Asked]]:
    """The escalations that a person is to decide, and those that one has decided already, each
    once."""
    open_: dict[str, _Asked] = {}
    for each in asked:
        verdict = each.verdict
        edit, withdrawn = standing[verdict.tenant, verdict.event_id]
        if each.is_review and not withdrawn and verdict.edit >= edit:
            known = open_.get(verdict.verdict_id)
            if known is None or each.at < known.at:
                open_[verdict.verdict_id] = each
    if not open_:
        return [], []
    replaced = await tx.execute(
        select(superseded.c.verdict_id).where(superseded.c.verdict_id.in_(open_))
    )
    for row in replaced:
        del open_[row.verdict_id]
    decided = await _decided(tx, [each.verdict for each in open_.values()])
    wanted: list[_Asked] = []
    aside: list[_Asked] = []
    for each in open_.values():
        (aside if _about(each.verdict) in decided else wanted).append(each)
    return wanted, aside


async def _decided(
    tx: AsyncConnection, verdicts: Sequence[Verdict]
) -> set[tuple[str, str, str, int]]:
    """What of these a person has decided: it stands over later verdicts too. Whoever takes it back
    at this moment is waited for, or waits, and then finds what was set aside."""
    if not verdicts:
        return set()
    mine = decisions.c
    wanted = select(mine.tenant, mine.event_id, mine.task, mine.edit).where(
        mine.by == By.PERSON.value,
        among(decisions, ((each.tenant, each.event_id) for each in verdicts)),
    )
    found = await tx.execute(wanted.order_by(mine.decision_id).with_for_update())
    return {tuple(row) for row in found}


def _about(verdict: Verdict) -> tuple[str, str, str, int]:
    return verdict.tenant, verdict.event_id, verdict.task or "", verdict.edit


async def _open(tx: AsyncConnection, wanted: Sequence[_Asked], now: float) -> tuple[int, int]:
    """Opens items, or joins open ones with equal content; returns how many of each."""
    groups: dict[tuple[str, ...], list[_Asked]] = {}
    for each in sorted(wanted, key=lambda each: (each.at, each.verdict.verdict_id)):
        groups.setdefault(each.place, []).append(each)
    ids = {place: new_id(now) for place in groups}
    new = await _escalate(tx, groups, ids)
    groups = {
        place: still
        for place, group in groups.items()
        if (still := [each for each in group if each.verdict.verdict_id in new])
    }
    if not groups:
        return 0, 0
    joined = await _put(tx, {ids[place]: groups[place] for place in sorted(groups)})
    if joined:
        await tx.execute(
            update(escalations)
            .where(escalations.c.item_id == bindparam("ours"))
            .values(item_id=bindparam("theirs")),
            [{"ours": ours, "theirs": theirs} for ours, theirs in joined.items()],
        )
    opened = len(groups) - len(joined)
    return opened, len(new) - opened


async def _set_aside(tx: AsyncConnection, decided: Sequence[_Asked], now: float) -> None:
    """Keeps each as a closed item of its own, to be opened where its decision is taken back."""
    groups: dict[tuple[str, ...], list[_Asked]] = {
        (each.verdict.verdict_id,): [each] for each in decided
    }
    ids = {place: new_id(now) for place in groups}
    new = await _escalate(tx, groups, ids, is_open=False)
    rows = [
        _item(ids[place], group) | {"state": "closed", "ended_at": now, "ended_why": DECIDED_BEFORE}
        for place, group in groups.items()
        if new.issuperset(place)
    ]
    if rows:
        await tx.execute(insert(tx, items).inline(), rows)


async def _escalate(
    tx: AsyncConnection,
    groups: dict[tuple[str, ...], list[_Asked]],
    ids: dict[tuple[str, ...], str],
    *,
    is_open: bool = True,
) -> set[str]:
    """Writes the escalations with the items that they may open; returns those that are new."""
    rows = [
        {
            "verdict_id": each.verdict.verdict_id,
            "item_id": ids[place],
            "tenant": each.verdict.tenant,
            "event_id": each.verdict.event_id,
            "task": each.verdict.task or "",
            "edit": each.verdict.edit,
            "is_open": is_open,
            "arrived_at": each.at,
        }
        for place, group in groups.items()
        for each in group
    ]
    if not rows:
        return set()
    new = insert(tx, escalations).on_conflict_do_nothing(index_elements=["verdict_id"])
    written = await tx.execute(
        new.returning(escalations.c.verdict_id),
        sorted(rows, key=lambda row: str(row["verdict_id"])),
    )
    return set(written.scalars())


_one_of_content = text("state = 'open' AND kind = 'review' AND content_hash IS NOT NULL")
"""The condition of the index of that name, which a conflict has to name."""


async def _put(tx: AsyncConnection, groups: dict[str, list[_Asked]]) -> dict[str, str]:
    """Writes an item for each group, by its id, or adds the group to the open item that has its
    content; returns the ids of those that it did not become, with those of what they joined."""
    rows = [_item(item_id, group) for item_id, group in groups.items()]
    new = insert(tx, items)
    said, mine = new.excluded, items.c
    written = await tx.execute(
        new.on_conflict_do_update(
            index_elements=["tenant", "queue", "content_hash"],
            index_where=_one_of_content,
            set_={
                "count": mine.count + said.count,
                "harm": _greater(mine.harm, said.harm),
                "reach": _greater(mine.reach, said.reach),
                "arrived_at": _less(mine.arrived_at, said.arrived_at),
                "due_at": _less(mine.due_at, said.due_at),
                # An item whose time was over is given that of what joins it: what its policy says
                # of a breach has to be said of this one too.
                "breach_at": case(
                    (mine.breached_at.is_not(None), said.breach_at),
                    else_=_less(mine.breach_at, said.breach_at),
                ),
                "breached_at": None,
                # As `on_breach_of` has it.
                "on_breach": case(
                    (mine.on_breach == said.on_breach, mine.on_breach), else_=literal("raise")
                ),
            },
        ).returning(mine.item_id, mine.tenant, mine.queue, mine.content_hash),
        rows,
    )
    there = {(row.tenant, row.queue, row.content_hash): row.item_id for row in written}
    return {
        row["item_id"]: item_id
        for row in rows
        if row["content_hash"] is not None
        and (item_id := there[row["tenant"], row["queue"], row["content_hash"]]) != row["item_id"]
    }


def _item(item_id: str, group: Sequence[_Asked]) -> dict[str, Any]:
    """The item that these open, which have equal content; it shows the first of them."""
    first = group[0].verdict
    return {
        "item_id": item_id,
        "kind": "review",
        "tenant": first.tenant,
        "queue": group[0].queue,
        "language": primary(first.language),
        "category": first.categories[0] if first.categories else "",
        "rule": first.policy.rule if first.policy else "",
        "task": first.task or "",
        "subject": first.subject,
        "content_hash": first.content_hash,
        "verdict_id": first.verdict_id,
        "harm": max(each.harm for each in group),
        "reach": max(each.reach for each in group),
        "arrived_at": group[0].at,
        "due_at": min(each.due_at for each in group),
        "breach_at": min(each.at + each.sla_s for each in group),
        "on_breach": on_breach_of([each.on_breach for each in group]),
        "state": "open",
        "count": len(group),
        "role": "reviewer",
        "fence": 0,
        "returned": 0,
    }


async def _keep(
    tx: AsyncConnection, records: Sequence[Arrived], limits: Review
) -> list[dict[str, Any]]:
    """Puts what carries content into the ledger; returns what was not there. Of what comes as an
    escalation and as evidence the earlier one is when it arrived."""
    rows: dict[str, dict[str, Any]] = {}
    for each in records:
        said = each.said
        if isinstance(said, Escalation) and said.kind != Kind.REVIEW:
            continue
        row = ledger.entry(said.verdict, said.content, each.at, each.sample_rate, each.key, limits)
        known = rows.get(row["verdict_id"])
        if known is not None:
            until = max(known["kept_until"], row["kept_until"])
            row = min(known, row, key=lambda each: each["arrived_at"]) | {"kept_until": until}
        rows[row["verdict_id"]] = row
    return await ledger.keep(tx, rows.values())


async def _sample(
    tx: AsyncConnection,
    records: Sequence[Arrived],
    kept: Sequence[dict[str, Any]],
    now: float,
    limits: Review,
) -> None:
    """Offers what was kept to the sample, but for what is gone."""
    automatic = {
        each.said.verdict.verdict_id for each in records if isinstance(each.said, Evidence)
    }
    offered = [row for row in kept if row["verdict_id"] in automatic]
    if not offered:
        return
    known = await tx.execute(
        select(events).where(among(events, ((row["tenant"], row["event_id"]) for row in offered)))
    )
    standing = {(row.tenant, row.event_id): (row.edit, row.withdrawn) for row in known}
    still = []
    for row in offered:
        edit, withdrawn = standing.get((row["tenant"], row["event_id"]), (0, False))
        if not withdrawn and row["edit"] >= edit:
            still.append(row)
    await samples.consider(tx, still, now, limits)


def _greater(one: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((one < other, other), else_=one)


def _less(one: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((other < one, other), else_=one)
