"""Claims and leases on the real databases: many at once, and who is refused what."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text, update

from databases import Databases
from escalated import NOW, identity, open_item, person, put_items
from qwarden.review.person import Person, Role
from qwarden.review.refusals import Conflict, Forbidden, Invalid, NotFound, Refusal, Stale
from qwarden.review.store import breaches, leases, schema, turns
from qwarden.review.store.asking import stranded
from qwarden.review.store.database import Database
from qwarden.review.store.leases import Lease
from qwarden.review.store.turns import Wanted
from qwarden.settings import Review

LIMITS = Review(golden_share=0, held_items=1000)
AT = NOW + 100
items = schema.items


async def who(database: Database, name: str, *roles: Role, **fields: Any) -> Person:
    async with database.writing() as tx:
        return await person(tx, name, *roles, **fields)


async def has(database: Database, *rows: dict[str, Any]) -> list[str]:
    async with database.writing() as tx:
        await put_items(tx, list(rows))
    return [row["item_id"] for row in rows]


async def claim(
    database: Database, one: Person, at: float = AT, limits: Review = LIMITS, **wanted: Any
) -> Lease | None:
    async with database.writing() as tx:
        return await leases.claim(tx, one, Wanted(**wanted), at, limits)


async def claimed(database: Database, one: Person, at: float = AT, **wanted: Any) -> Lease:
    lease = await claim(database, one, at, **wanted)
    assert lease is not None
    return lease


async def row_of(database: Database, item_id: str) -> Any:
    async with database.reading() as tx:
        return (await tx.execute(select(items).where(items.c.item_id == item_id))).one()


async def acts(database: Database, item_id: str) -> list[str]:
    async with database.reading() as tx:
        wanted = select(schema.audit.c.act).where(schema.audit.c.item_id == item_id)
        return list((await tx.execute(wanted.order_by(schema.audit.c.number))).scalars())


@pytest.mark.parts  # twenty people and as many items as they can take
async def test_two_of_many_claimers_get_one_item(database: Database) -> None:
    count = 100 if database.dialect == "postgresql" else 40
    people = [await who(database, f"r{n}") for n in range(20)]
    await has(database, *(open_item(n, queue=f"q{n % 3}") for n in range(count)))
    got: list[tuple[str, str]] = []

    async def works(one: Person) -> None:
        while lease := await claim(database, one):
            got.append((lease.item_id, one.user_id))

    await asyncio.gather(*(works(one) for one in people))
    assert len(got) == count
    assert max(Counter(item_id for item_id, _ in got).values()) == 1
    async with database.reading() as tx:
        rows = await tx.execute(select(items.c.item_id, items.c.holder))
        assert sorted(got) == sorted((row.item_id, row.holder) for row in rows)
        logged = select(func.count()).where(schema.audit.c.act == "claimed")
        assert (await tx.execute(logged)).scalar_one() == count


async def test_a_person_holds_more_than_one_may_by_claiming_at_once(database: Database) -> None:
    one = await who(database, "one")
    await has(database, *(open_item(n) for n in range(12)))
    limits = Review(golden_share=0, held_items=3)

    async def tries() -> Lease | Refusal | None:
        try:
            return await claim(database, one, limits=limits)
        except Conflict as refusal:
            return refusal

    got = await asyncio.gather(*(tries() for _ in range(8)))
    assert sum(isinstance(each, Lease) for each in got) == 3
    refused = [each for each in got if isinstance(each, Conflict)]
    assert len(refused) == 5
    assert "decide or release one first" in str(refused[0])


async def test_one_is_given_what_is_none_of_theirs(database: Database) -> None:
    one = await who(database, "one", tenants=("acme",), languages=("en",))
    theirs, *_ = await has(
        database,
        open_item(9, language="und"),
        open_item(1, tenant="other"),
        open_item(2, language="pt"),
        open_item(3, role="lead"),
        open_item(4),
        open_item(5, kind="golden", golden_id=identity("g"), content_hash=None),
        open_item(6, state="decided"),
    )
    async with database.writing() as tx:
        await tx.execute(
            insert(schema.exclusions).values(
                item_id=f"{4:032x}", user_id=one.user_id, why="decided"
            )
        )
    lease = await claimed(database, one)
    assert lease.item_id == theirs
    assert await claim(database, one) is None
    for number, refusal in ((1, NotFound), (2, Forbidden), (3, Forbidden), (4, Forbidden)):
        with pytest.raises(refusal):
            await claim(database, one, item_id=f"{number:032x}")
    with pytest.raises(NotFound):
        await claim(database, one, item_id=f"{5:032x}")
    with pytest.raises(Conflict):
        await claim(database, one, item_id=f"{6:032x}")
    with pytest.raises(NotFound):
        await claim(database, one, item_id=f"{77:032x}")


async def test_somebody_who_does_not_decide_claims(database: Database) -> None:
    auditor = await who(database, "auditor", Role.AUDITOR, Role.ADMIN)
    await has(database, open_item(1))
    with pytest.raises(Forbidden):
        await claim(database, auditor)


async def test_a_tool_claims(database: Database) -> None:
    """And would decide what a person is to decide: an appeal."""
    tool = await who(database, "tool", Role.LEAD, is_tool=True)
    await has(database, open_item(1, queue="appeals", kind="appeal"))
    ways: tuple[dict[str, Any], ...] = ({}, {"queue": "appeals"}, {"item_id": f"{1:032x}"})
    for wanted in ways:
        with pytest.raises(Forbidden, match="decisions"):
            await claim(database, tool, **wanted)
    assert (await row_of(database, f"{1:032x}")).holder is None


@pytest.mark.parametrize(
    ("wanted", "number"),
    [({"queue": "harm"}, 3), ({"language": "pt"}, 2), ({"category": "PII"}, 4),
     ({"rule": "r"}, 5), ({"tenant": "other"}, 6), ({}, 1), ({"queue": "none"}, None)],
)  # fmt: skip
async def test_one_is_given_something_else_than_is_wanted(
    database: Database, wanted: dict[str, Any], number: int | None
) -> None:
    one = await who(database, "one")
    await has(
        database,
        open_item(1),
        open_item(2, language="pt"),
        open_item(3, queue="harm"),
        open_item(4, category="PII"),
        open_item(5, rule="r"),
        open_item(6, tenant="other"),
    )
    lease = await claim(database, one, **wanted)
    assert (lease and int(lease.item_id, 16)) == number


async def test_a_skipped_item_comes_again_or_can_be_had_no_more(database: Database) -> None:
    one, other = await who(database, "one"), await who(database, "other")
    (item_id,) = await has(database, open_item(1))
    lease = await claimed(database, one)
    async with database.writing() as tx:
        with pytest.raises(Invalid):
            await leases.skip(tx, one, item_id, lease.token, "  ", AT)
    async with database.writing() as tx:
        await leases.skip(tx, one, item_id, lease.token, "unclear", AT)
    assert await claim(database, one) is None
    assert (await claimed(database, one, item_id=item_id)).fence == 2
    assert await claim(database, other) is None
    async with database.reading() as tx:
        rows = (await tx.execute(select(schema.audit.c.about))).scalars()
        assert not any("too long" in about for about in rows), "a person's words are in the log"


async def test_what_everybody_has_skipped_waits_unseen(database: Database) -> None:
    one, other = await who(database, "one"), await who(database, "other", languages=("en",))
    await who(database, "pt", languages=("pt",))
    await who(database, "tool", is_tool=True)
    sent, raised, last = await has(database, *(open_item(number) for number in range(1, 4)))
    for who_skips, reviews in ((one, 0), (other, 3)):
        for _ in range(3):
            lease = await claimed(database, who_skips)
            async with database.writing() as tx:
                await leases.skip(tx, who_skips, lease.item_id, lease.token, "unclear", AT)
        assert await claim(database, who_skips) is None
        async with database.reading() as tx:
            assert (await stranded(tx))["review"] == reviews
    async with database.writing() as tx:
        await leases.send_to_urgent(tx, one, sent, None, "other", AT, LIMITS)
        await tx.execute(update(items).where(items.c.item_id == raised).values(breach_at=AT))
        await breaches.sweep(tx, AT, LIMITS, lambda tenant: False)
        assert (await stranded(tx))["review"] == 1
    for who_skipped, item_id in ((one, sent), (other, raised)):
        assert (await claimed(database, who_skipped)).item_id == item_id
    assert (await claimed(database, one, item_id=last)).item_id == last


async def test_a_lease_that_is_over_proves_something_before_anybody_took_it_back(
    database: Database,
) -> None:
    one, other = await who(database, "one"), await who(database, "other")
    (item_id,) = await has(database, open_item(1))
    lease = await claimed(database, one)
    over = lease.until
    async with database.writing() as tx:
        assert (await leases.check(tx, one, item_id, lease.token, over - 0.001)).fence == 1
        with pytest.raises(Stale):
            await leases.check(tx, one, item_id, lease.token, over)
        with pytest.raises(Stale):
            await leases.renew(tx, one, item_id, lease.token, over, LIMITS)
    async with database.writing() as tx:
        assert await leases.expire(tx, over - 0.001) == 0
        assert await leases.expire(tx, over) == 1
        assert await leases.expire(tx, over) == 0
    row = await row_of(database, item_id)
    assert (row.holder, row.lease, row.leased_until, row.returned) == (None, None, None, 1)
    await claimed(database, other, over)
    async with database.writing() as tx:
        with pytest.raises(Stale) as refused:
            await leases.check(tx, one, item_id, lease.token, over)
    assert refused.value.holder == other.pseudonym
    assert other.pseudonym in str(refused.value)
    assert await acts(database, item_id) == ["claimed", "expired", "claimed"]


async def test_an_item_is_taken_from_its_holder(database: Database) -> None:
    one, other = await who(database, "one"), await who(database, "other")
    (item_id,) = await has(database, open_item(1))
    lease = await claimed(database, one)
    with pytest.raises(Conflict) as refused:
        await claim(database, other, item_id=item_id)
    assert refused.value.holder == one.pseudonym
    again = await claimed(database, one, item_id=item_id)
    assert again.fence == 2
    async with database.writing() as tx:
        with pytest.raises(Stale):
            await leases.check(tx, one, item_id, lease.token, AT)
        await leases.check(tx, one, item_id, again.token, AT)
        with pytest.raises(Stale):
            await leases.check(tx, other, item_id, again.token, AT)


async def test_a_closed_item_is_decided_by_who_held_it(database: Database) -> None:
    one = await who(database, "one")
    (item_id,) = await has(database, open_item(1))
    lease = await claimed(database, one)
    async with database.writing() as tx:
        await tx.execute(update(items).values(state="closed", ended_why="Its content was deleted."))
        with pytest.raises(Conflict, match=r"^Its content was deleted\."):
            await leases.check(tx, one, item_id, lease.token, AT)


async def test_an_item_is_handed_to_somebody_who_may_not_have_it(database: Database) -> None:
    one = await who(database, "one")
    (item_id,) = await has(database, open_item(1, language="pt", role="lead"))
    lead = await who(database, "lead", Role.LEAD)
    lease = await claimed(database, lead)
    nobody = {
        "gone": identity("nobody"),
        "self": lead.user_id,
        "auditor": (await who(database, "auditor", Role.AUDITOR)).user_id,
        "tool": (await who(database, "tool", Role.LEAD, is_tool=True)).user_id,
        "tenant": (await who(database, "there", Role.LEAD, tenants=("other",))).user_id,
        "language": (await who(database, "en", Role.LEAD, languages=("en",))).user_id,
        "role": one.user_id,
    }
    for why, user_id in nobody.items():
        with pytest.raises((Invalid, Forbidden)):
            async with database.writing() as tx:
                await leases.hand_over(tx, lead, item_id, lease.token, user_id, AT, LIMITS)
        assert (await row_of(database, item_id)).holder == lead.user_id, why
    other = await who(database, "other", Role.LEAD)
    (full,) = await has(database, open_item(2))
    await claimed(database, other, item_id=full)
    with pytest.raises(Conflict, match="holds 1 items"):
        async with database.writing() as tx:
            most = Review(held_items=1)
            await leases.hand_over(tx, lead, item_id, lease.token, other.user_id, AT, most)
    async with database.writing() as tx:
        given = await leases.hand_over(tx, lead, item_id, lease.token, other.user_id, AT, LIMITS)
        with pytest.raises(Stale):
            await leases.check(tx, lead, item_id, lease.token, AT)
        assert (await leases.check(tx, other, item_id, given.token, AT)).fence == 2
    assert await acts(database, item_id) == ["claimed", "handed_over"]


async def test_a_golden_item_that_is_given_back_goes_to_somebody_else(database: Database) -> None:
    one, other = await who(database, "one"), await who(database, "other")
    for number, ends in enumerate(("release", "skip", "expire", "urgent")):
        golden = open_item(
            number,
            kind="golden",
            golden_id=identity("g", number),
            holder=one.user_id,
            lease="token",
            leased_until=AT + 10,
            fence=1,
        )
        (item_id,) = await has(database, golden)
        async with database.writing() as tx:
            if ends == "release":
                await leases.release(tx, one, item_id, "token", AT)
            elif ends == "skip":
                await leases.skip(tx, one, item_id, "token", "other", AT)
            elif ends == "urgent":
                await leases.send_to_urgent(tx, one, item_id, "token", "other", AT, LIMITS)
            else:
                assert await leases.expire(tx, AT + 10) == 1
        row = await row_of(database, item_id)
        assert (row.state, row.holder, row.queue) == ("closed", None, "general"), ends
        assert await claim(database, other) is None


async def test_an_urgent_item_waits_behind_others(database: Database) -> None:
    one = await who(database, "one")
    first, last = await has(
        database, open_item(1), open_item(2, due_at=NOW + 10**6, breach_at=NOW + 10**6,
                                          on_breach="allow")
    )  # fmt: skip
    async with database.writing() as tx:
        assert await leases.send_to_urgent(tx, one, last, None, "child_abuse", AT, LIMITS) == last
    row = await row_of(database, last)
    assert (row.queue, row.urgent_why, row.harm) == ("urgent", "child_abuse", 10)
    assert row.on_breach == "raise", "what is urgent is let through when its time is over"
    assert row.breach_at == AT + LIMITS.urgent_sla_s
    assert (await claimed(database, one)).item_id == last
    assert (await claimed(database, one)).item_id == first
    assert await acts(database, last) == ["sent_to_urgent", "claimed"]
    async with database.writing() as tx:
        with pytest.raises(Invalid):
            await leases.send_to_urgent(tx, one, last, None, "boring", AT, LIMITS)


async def test_what_cannot_wait_waits_behind_what_is_late(database: Database) -> None:
    """Neither behind what lies in other queues, nor behind what was raised from them."""
    one = await who(database, "one", languages=("en", "pt"))
    late, raised, sent = await has(
        database,
        open_item(1, due_at=NOW - 10**6),
        open_item(2, due_at=NOW - 10**5, queue="urgent", language="pt"),
        open_item(3, due_at=NOW + 10**6, breach_at=NOW + 10**6),
    )
    async with database.writing() as tx:
        await leases.send_to_urgent(tx, one, sent, None, "threat_to_life", AT, LIMITS)
    assert (await row_of(database, sent)).due_at > (await row_of(database, raised)).due_at
    assert (await claimed(database, one, queue="general")).item_id == late
    assert [(await claimed(database, one)).item_id for _ in range(2)] == [sent, raised]
    assert await claim(database, one) is None


async def test_an_item_whose_holder_is_gone_waits_for_a_sweep(database: Database) -> None:
    one, other = await who(database, "one"), await who(database, "other")
    (item_id,) = await has(database, open_item(1))
    lease = await claimed(database, one)
    assert await claim(database, other, lease.until - 0.001) is None
    assert (await claimed(database, other, lease.until)).item_id == item_id
    assert await acts(database, item_id) == ["claimed", "expired", "claimed"]
    assert (await row_of(database, item_id)).returned == 1


async def test_items_of_equal_content_lie_in_one_queue(database: Database) -> None:
    lead, one = await who(database, "lead", Role.LEAD), await who(database, "one")
    same = {"content_hash": identity("same")}
    moved, there = await has(
        database,
        open_item(1, **same, count=2, harm=9, reach=7),
        open_item(2, **same, queue="harm"),
    )
    async with database.writing() as tx:
        await tx.execute(
            insert(schema.escalations),
            [
                {
                    "verdict_id": identity(number), "item_id": moved if number else there,
                    "tenant": "acme", "event_id": f"e{number}", "task": "prompt", "edit": 0,
                    "is_open": True, "arrived_at": NOW,
                }
                for number in range(3)
            ],
        )  # fmt: skip
    held = await claimed(database, one, item_id=there)
    lost = await claimed(database, lead, item_id=moved)
    async with database.writing() as tx:
        with pytest.raises(Forbidden):
            await leases.move(tx, one, moved, "harm", AT)
        assert await leases.move(tx, lead, moved, "harm", AT) == there
        row = await leases.check(tx, one, there, held.token, AT)
        assert (row._mapping["count"], row.harm, row.reach, row.arrived_at) == (3, 9, 7, NOW + 1)
        with pytest.raises(Conflict, match="joined"):
            await leases.check(tx, lead, moved, lost.token, AT)
        left = select(schema.escalations.c.item_id)
        assert set((await tx.execute(left)).scalars()) == {there}
    assert await acts(database, moved) == ["claimed", "moved", "closed"]


@pytest.mark.parts
async def test_a_claim_sorts_what_waits(databases: Databases) -> None:
    url = await databases.fresh()
    database = Database.open(url, 2)
    one = await who(database, "one", languages=("en", "pt"), tenants=("acme", "t1"))
    rows = [
        open_item(n, queue=f"q{n % 5}", language="pt" if n % 3 else "en", tenant=f"t{n % 4}")
        for n in range(20_000)
    ]
    for begin in range(0, len(rows), 1000):
        await has(database, *rows[begin : begin + 1000])
    async with database.writing() as tx:
        await tx.execute(text("ANALYZE items"))
        for wanted, *more in (
            (Wanted(),),
            (Wanted(), turns._IS_URGENT),
            (Wanted(queue="q1"),),
            (Wanted(queue="q1", language="en"),),
        ):
            compiled = turns._next(one, wanted, *more).compile(
                tx.sync_connection, compile_kwargs={"literal_binds": True}
            )
            plan = "\n".join((await tx.execute(text(f"EXPLAIN {compiled}"))).scalars())
            # The firsts of the languages are put in order, and nothing below them is.
            firsts = plan.split("LockRows")
            assert len(firsts) > 1, plan
            assert all("Sort" not in below for below in firsts[1:]), plan
            assert plan.count("Sort Key") <= 1, plan
            assert "Index Scan using items_next" in plan, plan
    await database.close()
    await databases.drop(url)
