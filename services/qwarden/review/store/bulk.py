"""What a lead decides of many items at once: looked at first, within a limit, and undone as one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts.decision import By
from qwarden.review.identity import new_id
from qwarden.review.person import Person, Role
from qwarden.review.refusals import Conflict, Forbidden, Invalid, NotFound
from qwarden.review.ruling import Said, checked, code_of
from qwarden.review.store import appeals, audit, decisions, effects, leases, undoing
from qwarden.review.store.audit import Act
from qwarden.review.store.effects import Ruler
from qwarden.review.store.schema import items, rulings
from qwarden.review.store.scope import is_open, seen_by
from qwarden.settings import Review

_SHOWN = 20
"""Items of a preview: what one looks over."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Open escalations of which all that is given is true; something must be."""

    tenant: str | None = None
    queue: str | None = None
    language: str | None = None
    category: str | None = None
    rule: str | None = None
    subject: str | None = None
    content_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """`count`: the items, `held` of them by somebody; `decisions`: the escalations that they stand
    for, each of which would get one; `sample`: the first of them in due order; `preview`: what
    `decide` knows them by."""

    count: int
    decisions: int
    held: int
    sample: Sequence[Row[Any]]
    preview: str


@dataclass(frozen=True, slots=True)
class DecidedInBulk:
    """`skipped`: those that somebody held."""

    bulk_id: str
    decided: int
    skipped: int
    take_back_until: float


async def preview(
    tx: AsyncConnection, lead: Person, which: Filter, now: float, limits: Review
) -> Preview:
    """What a decision in bulk would be about. Raises as `decide` does."""
    found = await _found(tx, lead, which, now, limits)
    in_order = sorted(found, key=lambda item: (item.due_at, item.item_id))
    return Preview(
        len(found),
        _stood_for(found),
        sum(leases.is_held(item, now) for item in found),
        in_order[:_SHOWN],
        _Token.of(which, found, now).text,
    )


async def decide(
    tx: AsyncConnection,
    lead: Person,
    which: Filter,
    previewed: str,
    said: Said,
    now: float,
    limits: Review,
) -> DecidedInBulk:
    """Decides every item of a preview that nobody holds; what has come since is left out.

    Raises `Forbidden`, `Invalid` for what cannot be meant, or would be more than `bulk_items`
    decisions, and `Conflict` where the items are not those of the preview any more, or stand for
    others.
    """
    said = checked(said)
    token = _Token.read(previewed)
    found = await _found(tx, lead, which, token.at, limits, lock=True)
    present = _Token.of(which, found, token.at)
    if present != token:
        raise Conflict(
            f"The preview was of {token.count} decisions, and now it would be {present.count}, or "
            "others than then; look at a new preview."
        )
    free = [item for item in found if not leases.is_held(item, now)]
    if not free:
        raise Conflict(f"None of the {len(found)} items is free; wait for those who hold them.")
    targets = await decisions.of_items(tx, free)
    ids = sorted(new_id(now) for _ in free)
    cases = [
        effects.case_of(item, [(target, said) for target in targets[item.item_id]], said, ruling_id)
        for ruling_id, item in zip(ids, free, strict=True)
    ]
    bulk_id = new_id(now)
    ruler = Ruler(By.PERSON, lead.user_id, lead.pseudonym)
    settled = await effects.settle(tx, cases, ruler, now, limits, bulk_id=bulk_id)
    await effects.end_items(tx, cases, now)
    await appeals.keep_off(tx, lead.user_id, ids)
    entries = [
        audit.entry(
            Act.DECIDED_IN_BULK,
            actor=lead.user_id,
            at=now,
            tenant=case.tenant,
            item_id=item.item_id,
            bulk_id=bulk_id,
            ruling_id=case.ruling_id,
            action=said.action,
            reason=code_of(said.reason),
            ground=said.ground,
            overrides=said.override,
        )
        for case, item in zip(cases, free, strict=True)
    ]
    await audit.put(tx, entries)
    return DecidedInBulk(bulk_id, len(free), len(found) - len(free), settled.publish_at)


async def undo(tx: AsyncConnection, lead: Person, bulk_id: str, now: float) -> tuple[int, int]:
    """Takes back all that was decided in one go; returns how many decisions that were, and how many
    items are open again: those whose content is gone are not.

    Raises `NotFound` where it is not this lead's, and `Conflict` where it is too late for any of
    it.
    """
    wanted = (
        select(rulings)
        .where(rulings.c.bulk_id == bulk_id, rulings.c.taken_back_at.is_(None))
        .order_by(rulings.c.ruling_id)
        .with_for_update()
    )
    found = (await tx.execute(wanted)).all()
    if not found or found[0].user_id != lead.user_id:
        raise NotFound("There is no such decision in bulk of yours that stands.")
    opened = await undoing.undo(tx, found, now)
    await audit.put(
        tx,
        [
            audit.entry(
                Act.UNDID_BULK,
                actor=lead.user_id,
                at=now,
                tenant=ruling.tenant,
                item_id=ruling.item_id,
                bulk_id=bulk_id,
                ruling_id=ruling.ruling_id,
            )
            for ruling in found
        ],
    )
    return len(found), len(opened)


@dataclass(frozen=True, slots=True)
class _Token:
    """A preview in few characters: when it was, how many decisions it was of, and a hash of the
    items and of what was asked for."""

    at: float
    count: int
    hashed: str

    @classmethod
    def of(cls, which: Filter, found: Sequence[Row[Any]], at: float) -> _Token:
        parts = [asdict(which), sorted(item.item_id for item in found)]
        written = msgspec.json.encode(parts, order="sorted")
        person = b"qwarden.preview"
        hashed = hashlib.blake2b(written, digest_size=16, person=person).hexdigest()
        return cls(at, _stood_for(found), hashed)

    @classmethod
    def read(cls, text: str) -> _Token:
        try:
            at, count, hashed = text.split("-")
            return cls(float.fromhex(at), int(count), hashed)
        except (ValueError, OverflowError):
            raise Invalid("That is no preview; ask for one first, and send its token.") from None

    @property
    def text(self) -> str:
        # `0x1.9p+30`: no minus in a time after 1970.
        return f"{self.at.hex()}-{self.count}-{self.hashed}"


async def _found(
    tx: AsyncConnection,
    lead: Person,
    which: Filter,
    at: float,
    limits: Review,
    *,
    lock: bool = False,
) -> list[Row[Any]]:
    """The items, of those that had come by then."""
    if not lead.has(Role.LEAD):
        raise Forbidden("A lead decides in bulk.")
    conditions: list[ColumnElement[bool]] = [
        items.c[name] == value for name, value in asdict(which).items() if value is not None
    ]
    if not conditions:
        raise Invalid("Name what the items have in common, such as their queue and rule.")
    conditions += [is_open, seen_by(lead), items.c.kind == "review", items.c.arrived_at <= at]
    counted = select(func.coalesce(func.sum(items.c.count), 0)).where(*conditions)
    count = (await tx.execute(counted)).scalar_one()
    if count > limits.bulk_items:
        raise Invalid(
            f"That would be {count} decisions, and at most {limits.bulk_items} are made at once; "
            "say more closely which, or decide items that stand for many by themselves."
        )
    wanted: Select[Any] = select(items).where(*conditions).order_by(items.c.item_id)
    return list(await tx.execute(wanted.with_for_update() if lock else wanted))


def _stood_for(found: Sequence[Row[Any]]) -> int:
    """How many escalations these items are."""
    return sum(item._mapping["count"] for item in found)
