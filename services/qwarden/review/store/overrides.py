"""The overrides: what a person decided of content holds for a tenant's next events with the same
one, until its end, or until a newer decision says something else of that content."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import msgspec
from sqlalchemy import Select, and_, bindparam, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.contracts import topics
from qwarden.contracts.control import Override, Written, override_key, withdrawn, written
from qwarden.review.store import audit, conflict, outbox
from qwarden.review.store.among import in_parts
from qwarden.review.store.audit import Act
from qwarden.review.store.schema import overrides


class _About(Protocol):
    """What rulings are about: content of a tenant, with its hash where it has one."""

    @property
    def tenant(self) -> str: ...
    @property
    def content_hash(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """An override that is in force, or about to be; `until`: seconds since 1970."""

    tenant: str
    content_hash: str
    decision_id: str
    ruling_id: str
    action: str
    until: float

    @property
    def content(self) -> tuple[str, str]:
        return self.tenant, self.content_hash


async def standing(tx: AsyncConnection, tenant: str, content_hash: str) -> Standing | None:
    """What holds for a tenant's content."""
    found = await tx.execute(_of(tenant, [content_hash]))
    row = found.mappings().one_or_none()
    return None if row is None else Standing(**row)


async def locked_of(
    tx: AsyncConnection, about: Iterable[_About]
) -> dict[tuple[str, str | None], Standing]:
    """The overrides of what these rulings are about, until this transaction ends."""
    contents: dict[str, set[str]] = {}
    for each in about:
        if each.content_hash is not None:
            contents.setdefault(each.tenant, set()).add(each.content_hash)
    found: dict[tuple[str, str | None], Standing] = {}
    for tenant in sorted(contents):
        for some in in_parts(sorted(contents[tenant])):
            for content_hash, stands in (await _locked(tx, tenant, some)).items():
                found[tenant, content_hash] = stands
    return found


async def begin(
    tx: AsyncConnection, new: Sequence[Standing]
) -> list[tuple[Standing, Standing | None]]:
    """Puts these in force, in this order, and returns each with the one whose place it takes. Their
    rows are locked then, so that those of one content are put into the outbox one after another."""
    first = {each.content: each for each in reversed(new)}
    added: set[tuple[str, str]] = set()
    if first:
        written = await tx.execute(
            conflict.insert(tx, overrides)
            .on_conflict_do_nothing()
            .returning(overrides.c.tenant, overrides.c.content_hash),
            [asdict(first[content]) for content in sorted(first)],
        )
        added = {(row.tenant, row.content_hash) for row in written}
    found = []
    for each in new:
        is_added = each.content in added and first[each.content] is each
        found.append((each, None if is_added else await _replace(tx, each)))
    return found


async def end(tx: AsyncConnection, stand: Iterable[Standing]) -> None:
    """Removes those that this transaction has locked."""
    keys = [{"of": each.tenant, "what": each.content_hash} for each in stand]
    if keys:
        await tx.execute(
            delete(overrides).where(
                overrides.c.tenant == bindparam("of"),
                overrides.c.content_hash == bindparam("what"),
            ),
            keys,
        )


async def restore(
    tx: AsyncConnection, stand: Iterable[Standing], before: Sequence[Standing]
) -> None:
    """Puts those that stood before in place of these, which this transaction has locked."""
    await end(tx, stand)
    if before:
        await tx.execute(insert(overrides), [asdict(each) for each in before])


async def end_due(tx: AsyncConnection, now: float, limit: int) -> int:
    """Ends up to `limit` overrides whose time is over; returns how many."""
    found = await tx.execute(
        select(overrides)
        .where(overrides.c.until <= now)
        .order_by(overrides.c.until)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    over = [Standing(**row) for row in found.mappings()]
    await end(tx, over)
    for stands in over:
        # As of its end: what a person with a slower clock has decided meanwhile comes behind it.
        await outbox.put(tx, [(None, ends(stands))], publish_at=stands.until)
    await audit.put(
        tx,
        [
            audit.entry(
                Act.OVERRIDE_ENDED,
                actor=audit.SERVICE,
                at=now,
                tenant=stands.tenant,
                content_hash=stands.content_hash,
                decision_id=stands.decision_id,
            )
            for stands in over
        ],
    )
    return len(over)


def begins(record: Override) -> outbox.Message:
    """The record that puts an override in force."""
    return _message(written(record))


def ends(stands: Standing) -> outbox.Message:
    """The record that ends one."""
    return _message(withdrawn(override_key(stands.tenant, stands.content_hash)))


def packed(before: Standing | None) -> str | None:
    """One to be kept with the ruling that replaced it."""
    return None if before is None else msgspec.json.encode(before).decode()


def unpacked(text: str | None) -> Standing | None:
    return None if text is None else msgspec.json.decode(text, type=Standing)


def _of(tenant: str, content_hashes: Iterable[str]) -> Select[Any]:
    return select(overrides).where(
        overrides.c.tenant == tenant, overrides.c.content_hash.in_(sorted(content_hashes))
    )


async def _locked(
    tx: AsyncConnection, tenant: str, content_hashes: Iterable[str]
) -> dict[str, Standing]:
    """What holds for these contents of a tenant, by their hashes, until this transaction ends."""
    wanted = _of(tenant, content_hashes).order_by(overrides.c.content_hash).with_for_update()
    found = (await tx.execute(wanted)).mappings()
    return {row["content_hash"]: Standing(**row) for row in found}


async def _replace(tx: AsyncConnection, new: Standing) -> Standing | None:
    """Puts one in force where another one may stand; returns that."""
    while True:
        before = (await _locked(tx, new.tenant, [new.content_hash])).get(new.content_hash)
        if before is not None:
            mine = overrides.c
            is_its = and_(mine.tenant == new.tenant, mine.content_hash == new.content_hash)
            await tx.execute(update(overrides).where(is_its).values(asdict(new)))
            return before
        # Somebody has just ended it.
        added = await tx.execute(
            conflict.insert(tx, overrides).values(asdict(new)).on_conflict_do_nothing()
        )
        if added.rowcount:
            return None


def _message(record: Written) -> outbox.Message:
    return outbox.Message(topics.CONTROL, record.key, record.value, record.headers)
