"""How queues stand and what is in them, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from escalated import NOW, open_item, person, put_items
from qwarden.review.person import Person, Role
from qwarden.review.refusals import Invalid
from qwarden.review.store import queues, schema
from qwarden.review.store.database import Database
from qwarden.review.store.queues import Filter, QueueRow, Unserved

AT = NOW + 100


async def who(database: Database, name: str, *roles: Role, **fields: Any) -> Person:
    async with database.writing() as tx:
        return await person(tx, name, *roles, **fields)


async def has(database: Database, *rows: dict[str, Any]) -> None:
    async with database.writing() as tx:
        for row in rows:
            await put_items(tx, [row])


async def test_an_overview_counts_what_is_none_of_ones_business(database: Database) -> None:
    one = await who(database, "one", tenants=("acme",))
    lead = await who(database, "lead", Role.LEAD)
    held = {"holder": one.user_id, "lease": "x"}
    await has(
        database,
        open_item(1, language="pt"),
        open_item(2, category="PII", breached_at=NOW, **held, leased_until=AT + 1),
        open_item(3, **held, leased_until=AT),
        open_item(4, tenant="other"),
        open_item(5, role="lead"),
        open_item(6, state="decided", ended_at=NOW),
        open_item(7, queue="harm"),
    )
    async with database.reading() as tx:
        general, harm = (
            QueueRow(
                "general", 3, 1, 1, NOW + 1, NOW + 3601, {"en": 2, "pt": 1}, {"": 2, "PII": 1}
            ),
            QueueRow("harm", 1, 0, 0, NOW + 7, NOW + 3607, {"en": 1}, {"": 1}),
        )
        assert await queues.overview(tx, one, AT) == [general, harm]
        everything = await queues.overview(tx, lead, AT)
    assert [(each.queue, each.open) for each in everything] == [("general", 5), ("harm", 1)]


async def test_others_see_a_golden_item_come_and_go(database: Database) -> None:
    one, two = await who(database, "one"), await who(database, "two")
    held = {"holder": one.user_id, "lease": "x", "leased_until": AT + 1}
    await has(database, open_item(1), open_item(2, kind="golden", golden_id="2" * 32, **held))
    async with database.reading() as tx:
        for who_looks, count in ((one, 2), (two, 1)):
            assert [each.open for each in await queues.overview(tx, who_looks, AT)] == [count]
            page = await queues.page(tx, who_looks, Filter(), None, 10)
            assert len(page.items) == count


async def test_pages_leave_items_out_or_repeat_them(database: Database) -> None:
    one = await who(database, "one")
    rows = [
        open_item(
            number,
            due_at=NOW + number // 4,
            holder=one.user_id if number % 3 == 0 else None,
            queue="harm" if number % 2 else "general",
        )
        for number in range(30)
    ]
    await has(database, *reversed(rows))
    for of, wanted in (
        (Filter(), rows),
        (Filter(queue="harm"), [row for row in rows if row["queue"] == "harm"]),
    ):
        for limit in (1, 4, 7, len(wanted), 100):
            seen, after = [], None
            async with database.reading() as tx:
                while True:
                    page = await queues.page(tx, one, of, after, limit)
                    seen += [row.item_id for row in page.items]
                    if page.next is None:
                        break
                    after = page.next
            assert seen == [row["item_id"] for row in wanted]


@pytest.mark.parametrize(
    ("of", "numbers"),
    [
        (Filter(), [1, 2, 3, 4]),
        (Filter(tenant="other"), []),
        (Filter(language="pt"), [2]),
        (Filter(category="PII"), [3]),
        (Filter(rule="r"), [4]),
        (Filter(subject="a\0b\\0"), [1]),
        (Filter(state="decided"), [7]),
        (Filter(state="closed"), [9, 8]),
    ],
)
async def test_a_page_shows_what_was_not_asked_for(
    database: Database, of: Filter, numbers: list[int]
) -> None:
    one = await who(database, "one", tenants=("acme",))
    await has(
        database,
        open_item(1, subject="a\0b\\0"),
        open_item(2, language="pt"),
        open_item(3, category="PII"),
        open_item(4, rule="r"),
        open_item(5, tenant="other"),
        open_item(6, role="lead"),
        open_item(7, state="decided", ended_at=NOW),
        open_item(8, state="closed", ended_at=NOW),
        open_item(9, state="closed", ended_at=NOW + 1),
    )
    async with database.reading() as tx:
        page = await queues.page(tx, one, of, None, 50)
        assert [int(row.item_id, 16) for row in page.items] == numbers
        seen, after = [], None
        while True:
            page = await queues.page(tx, one, of, after, 1)
            seen += [int(row.item_id, 16) for row in page.items]
            if page.next is None:
                break
            after = page.next
        assert seen == numbers


@pytest.mark.parametrize("after", ["", "x", "-", "now-00"])
async def test_a_page_begins_where_none_has_ended(database: Database, after: str) -> None:
    one = await who(database, "one")
    async with database.reading() as tx:
        with pytest.raises(Invalid):
            await queues.page(tx, one, Filter(), after, 10)


async def test_a_language_that_nobody_reads_waits_unseen(database: Database) -> None:
    await who(database, "one", tenants=("acme",), languages=("en", "fi"))
    await who(database, "two", tenants=("other",), languages=("pt",))
    await who(database, "auditor", Role.AUDITOR)
    await who(database, "tool", Role.LEAD, is_tool=True)
    gone = await who(database, "gone")
    async with database.writing() as tx:
        users = schema.users
        await tx.execute(
            update(users).where(users.c.user_id == gone.user_id).values(is_active=False)
        )
    await has(
        database,
        open_item(1, language="en"),
        open_item(2, language="pt"),
        open_item(3, language="pt"),
        open_item(4, language="und"),
        open_item(5, language="pt", tenant="other"),
        open_item(6, language="fi", tenant="other"),
        open_item(7, language="de", state="decided"),
    )
    async with database.reading() as tx:
        assert await queues.unserved(tx) == [
            Unserved("acme", "pt", 2),
            Unserved("other", "fi", 1),
        ]
