"""Golden items: given unseen, to each person once, in their share; files taken whole or not."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import msgspec
import pytest
from sqlalchemy import func, select

from deciding import PLAIN, arrive, claim, decide, items_of, saying, take_back
from escalated import NOW, escalation, open_item, person, put_items, verdict
from qwarden.contracts.verdict import Guard, PolicyUsed, decode_verdict
from qwarden.review.golden import line_of
from qwarden.review.person import Person, Role
from qwarden.review.refusals import Invalid, NotFound
from qwarden.review.store import goldens, leases, rulings, showing
from qwarden.review.store.database import Database
from qwarden.review.store.goldens import Golden
from qwarden.review.store.schema import audit, checks, decisions, items
from qwarden.review.store.schema import goldens as table
from qwarden.review.store.schema import outbox as outbox_table
from qwarden.review.store.turns import Wanted

ALWAYS = PLAIN.model_copy(update={"golden_share": 1.0})


def line(number: int = 0, **fields: Any) -> bytes:
    body = {
        "tenant": "acme",
        "queue": "general",
        "text": f"Is this the way to the library, number {number}?",
        "action": "allow",
        "language": "en",
        "category": "PII",
        **fields,
    }
    return json.dumps({name: value for name, value in body.items() if value is not ...}).encode()


async def added(database: Database, *lines: bytes, actor: str = "somebody@here") -> list[str]:
    async with database.writing() as tx:
        return await goldens.add(tx, lines, actor=actor, now=NOW)


async def someone(database: Database, name: str = "ada", *roles: Role, **fields: Any) -> Person:
    async with database.writing() as tx:
        return await person(tx, name, *roles, **fields)


async def in_use(database: Database) -> list[Golden]:
    async with database.reading() as tx:
        return await goldens.in_use(tx)


# Files.


async def test_a_golden_item_is_kept_with_its_note(database: Database) -> None:
    (golden_id,) = await added(
        database, line(language="pt-BR", note="They only ask the way."), b" "
    )
    (golden,) = await in_use(database)
    assert golden.golden_id == golden_id
    assert (golden.language, golden.category, golden.task) == ("pt", "PII", "prompt")
    assert golden.note == "They only ask the way."
    async with database.reading() as tx:
        stored = (await tx.execute(select(table))).one()
        logged = (await tx.execute(select(audit))).one()
    shown = decode_verdict(stored.verdict)
    assert (shown.language, shown.categories) == ("pt-BR", ["PII"])
    assert shown.scores is not None
    assert math.isclose(sum(msgspec.structs.astuple(shown.scores)), 1.0, abs_tol=0.002)
    assert (logged.act, logged.actor) == ("golden_added", "somebody@here")
    assert "library" not in logged.about


async def test_a_file_that_is_added_again_adds_nothing(database: Database) -> None:
    first = await added(database, line(1), line(2), line(2))
    assert len(first) == 2
    assert len(await added(database, line(1), line(3))) == 1
    assert len(await in_use(database)) == 3


async def test_one_bad_line_keeps_the_whole_file_out(database: Database) -> None:
    with pytest.raises(Invalid, match=r"^line 3: ") as refused:
        await added(database, line(1), b"", line(2, action="review"))
    assert "library" not in str(refused.value)
    assert await in_use(database) == []


async def test_two_right_answers_to_one_content_are_refused(database: Database) -> None:
    with pytest.raises(Invalid, match="line 2: the same content is there with the action allow"):
        await added(database, line(), line(action="block"))
    await added(database, line())
    with pytest.raises(Invalid, match="retire"):
        await added(database, line(action="block"))


async def test_a_lead_adds_none_to_a_foreign_tenant(database: Database) -> None:
    lead = await someone(database, "lead", Role.LEAD, tenants=("other",))
    async with database.writing() as tx:
        with pytest.raises(Invalid, match="line 1: tenant"):
            await goldens.add(tx, [line()], actor=lead.user_id, now=NOW, person=lead)


@pytest.mark.parametrize(
    "fields",
    [
        {"tenant": ...},
        {"tenant": ""},
        {"queue": "No Queue"},
        {"queue": "urgent"},
        {"action": ...},
        {"action": "review"},
        {"text": ...},
        {"text": ""},
        {"messages": [{"role": "user", "content": "Hello"}]},
        {"text": ..., "messages": []},
        {"text": ..., "messages": [{"role": "nobody", "content": "Hello"}]},
        {"text": ..., "messages": [{"role": "system", "content": "Hello"}]},
        {"language": "English"},
        {"category": "Weather"},
        {"category": "Jailbreak", "text": ..., "messages": [
            {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]},
        {"task": "response"},
        {"task": "essay"},
        {"colour": "red"},
        {"text": "x" * 1_000_000},
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_meant_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        line_of(line(**fields))


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"nothing", b'{"a": ' * 5000, b'{"text": "\\ud800"}', b"\xff"]
)
def test_what_is_no_line_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid):
        line_of(data)


# What people get.


async def test_a_claim_gets_a_golden_item_and_is_measured_by_it(database: Database) -> None:
    (golden_id,) = await added(database, line())
    ada = await someone(database)
    ruled = await decide(database, ada, "block", ALWAYS)
    async with database.reading() as tx:
        check = (await tx.execute(select(checks))).one()
        published = [
            (await tx.execute(select(func.count()).select_from(each))).scalar_one()
            for each in (decisions, outbox_table)
        ]
    assert (check.kind, check.user_id, check.against) == ("golden", ada.user_id, golden_id)
    assert (check.said, check.expected, check.ruling_id) == ("block", "allow", ruled.ruling_id)
    assert published == [0, 0]
    (golden,) = await in_use(database)
    assert (golden.given, golden.right) == (1, 0)


async def test_a_golden_item_that_is_taken_back_counts_nothing(database: Database) -> None:
    await added(database, line())
    ada = await someone(database)
    ruled = await decide(database, ada, "block", ALWAYS)
    lease = await take_back(database, ada, ruled)
    assert lease is not None
    (golden,) = await in_use(database)
    assert (golden.given, golden.right) == (0, 0)


async def test_one_that_is_taken_back_is_given_away_by_an_error(database: Database) -> None:
    """It is open again then, and only one of each is: nobody else has it while that may be."""
    await added(database, line())
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    ruled = await decide(database, ada, "block", ALWAYS)
    end = ruled.take_back_until
    for at in (NOW, end, end + 4):  # the clocks of two processes differ
        assert await claim(database, ben, ALWAYS, at) is None
    lease = await take_back(database, ada, ruled, end - 1)
    assert lease is not None
    assert await claim(database, ben, ALWAYS, end) is None, "two have it"
    async with database.writing() as tx:
        await rulings.decide(tx, ada, lease.item_id, lease.token, saying("allow"), end, ALWAYS)
    later = await claim(database, ben, ALWAYS, end + 60)
    assert later is not None
    assert later.item_id != lease.item_id


async def test_nobody_gets_a_golden_item_twice(database: Database) -> None:
    await added(database, line(1), line(2))
    await arrive(database, [escalation(verdict(number)) for number in range(3)])
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    for one, at in ((ada, NOW), (ben, NOW + 60)):
        for _ in range(2):
            await decide(database, one, "allow", ALWAYS, at)
    assert len(await items_of(database, "golden", "decided")) == 4
    assert len(await items_of(database, "review")) == 3
    await decide(database, ada, "allow", ALWAYS)
    assert len(await items_of(database, "review")) == 2


async def test_one_who_gives_it_back_gets_the_real_item_next(database: Database) -> None:
    await added(database, line())
    await arrive(database, [escalation(verdict(1))])
    ada = await someone(database)
    lease = await claim(database, ada, ALWAYS)
    assert lease is not None
    async with database.writing() as tx:
        await leases.skip(tx, ada, lease.item_id, lease.token, "other", NOW)
    (review,) = await items_of(database, "review")
    again = await claim(database, ada, ALWAYS)
    assert again is not None
    assert again.item_id == review.item_id


async def test_who_added_it_does_not_get_it(database: Database) -> None:
    lead = await someone(database, "lead", Role.LEAD)
    await added(database, line(), actor=lead.user_id)
    assert await claim(database, lead, ALWAYS) is None


@pytest.mark.parametrize(
    ("who", "wanted"),
    [
        ({"tenants": ("other",)}, {}),
        ({"languages": ("de",)}, {}),
        ({}, {"queue": "harm"}),
        ({}, {"language": "de"}),
        ({}, {"category": "Violent"}),
        ({}, {"tenant": "other"}),
        ({}, {"rule": "another-rule"}),
    ],
)
async def test_nobody_gets_one_that_they_could_not_have_asked_for(
    database: Database, who: dict[str, Any], wanted: dict[str, str]
) -> None:
    await added(database, line())
    one = await someone(database, **who)
    assert await claim(database, one, ALWAYS, wanted=Wanted(**wanted)) is None


async def test_nobody_else_can_have_it(database: Database) -> None:
    await added(database, line())
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    lease = await claim(database, ada, ALWAYS)
    assert lease is not None
    assert await claim(database, ben, ALWAYS) is None
    async with database.writing() as tx:
        await leases.expire(tx, NOW + 3600)
    assert await claim(database, ben, PLAIN, NOW + 3600) is None


async def test_what_is_urgent_is_never_kept_waiting(database: Database) -> None:
    await added(database, line())
    async with database.writing() as tx:
        await put_items(tx, [open_item(1, queue="urgent")])
    ada = await someone(database)
    lease = await claim(database, ada, ALWAYS)
    assert lease is not None
    assert lease.item_id == f"{1:032x}"


async def test_many_who_claim_at_once_get_one_golden_item_once(database: Database) -> None:
    """Two open items of equal content would give it away, and so would an error."""
    await added(database, line())
    people = [await someone(database, f"one{number}") for number in range(8)]
    async with database.writing() as tx:
        await put_items(tx, [open_item(number) for number in range(8)])
    got = await asyncio.gather(*(claim(database, one, ALWAYS) for one in people))
    assert len({lease.item_id for lease in got if lease is not None}) == 8
    assert len(await items_of(database, "golden")) == 1


@pytest.mark.parts  # 120 claims
async def test_the_share_of_golden_items_is_the_one_that_is_set(database: Database) -> None:
    """Of 120 claims 20 %, give or take 5 standard deviations of a binomial: 22."""
    share = 0.2
    limits = PLAIN.model_copy(update={"golden_share": share, "held_items": 1000})
    await added(database, *(line(number) for number in range(60)))
    async with database.writing() as tx:
        await put_items(tx, [open_item(number) for number in range(120)])
        ada = await person(tx, "ada")
        for _ in range(120):
            assert await leases.claim(tx, ada, Wanted(), NOW, limits) is not None
        golden = (
            await tx.execute(select(func.count()).where(items.c.kind == "golden"))
        ).scalar_one()
    assert abs(golden - 120 * share) < 5 * math.sqrt(120 * share * (1 - share))


async def test_whoever_asks_again_gets_no_other_answer(database: Database) -> None:
    """Whether the next claim gets one does not change by giving the item back."""
    limits = PLAIN.model_copy(update={"golden_share": 0.5})
    await added(database, line())
    async with database.writing() as tx:
        await put_items(tx, [open_item(number) for number in range(20)])
    for name in range(10):
        one = await someone(database, f"one{name}")
        got = set()
        for _ in range(3):
            lease = await claim(database, one, limits)
            assert lease is not None
            got.add(lease.item_id)
            if await items_of(database, "golden"):
                await _release(database, one, lease)
                break
            await _release(database, one, lease)
        assert len(got) == 1


async def _release(database: Database, one: Person, lease: leases.Lease) -> None:
    async with database.writing() as tx:
        await leases.release(tx, one, lease.item_id, lease.token, NOW)


async def test_it_looks_like_the_next_item_of_its_queue(database: Database) -> None:
    """Times, harm, reach, rule, policy and guard are those of what it stands before."""
    await added(database, line(category="Politically Sensitive Topics"))
    of = verdict(
        1,
        guard=Guard("Qwen3Guard-Gen-0.6B", "r1"),
        policy=PolicyUsed("house", "123456789abc", 7, "house-rule"),
    )
    await arrive(database, [escalation(of, NOW - 600, harm=7, sla_s=7200)], now=NOW - 590)
    (real,) = await items_of(database, "review")
    ada = await someone(database)
    assert await claim(database, ada, ALWAYS) is not None
    (golden,) = await items_of(database, "golden")
    alike = (
        "tenant",
        "queue",
        "language",
        "category",
        "rule",
        "task",
        "harm",
        "reach",
        "count",
        "role",
        "on_breach",
        "returned",
    )
    assert {name: getattr(golden, name) for name in alike} == {
        name: getattr(real, name) for name in alike
    }
    for name in ("arrived_at", "due_at", "breach_at"):
        assert 0 < getattr(real, name) - getattr(golden, name) < 1
    assert len(golden.item_id) == len(real.item_id)
    # An id begins with its time: it tells no other one than the item does.
    assert abs(int(golden.item_id[:12], 16) / 1000 - golden.arrived_at) < 1
    async with database.reading() as tx:
        shown = [(await showing.subject(tx, each)).verdict for each in (golden, real)]
    for name in (
        "guard",
        "policy",
        "safety",
        "categories",
        "meanwhile",
        "notice",
        "basis",
        "cause",
    ):
        assert shown[0][name] == shown[1][name], name


async def test_the_guard_s_own_verdict_is_shown_where_it_is_given(database: Database) -> None:
    own = verdict(9, safety="Unsafe", categories=["PII"], guard=Guard("Qwen3Guard-Gen-0.6B", "r1"))
    given = json.loads(msgspec.json.encode(own))
    await added(database, line(category=..., language=..., verdict=given))
    (golden,) = await in_use(database)
    assert (golden.category, golden.language) == ("PII", "en")
    ada = await someone(database)
    assert await claim(database, ada, ALWAYS) is not None
    (item,) = await items_of(database, "golden")
    async with database.reading() as tx:
        shown = (await showing.subject(tx, item)).verdict
    assert (shown["safety"], shown["guard"]["revision"]) == ("Unsafe", "r1")
    assert shown["event_id"] != own.event_id


async def test_one_that_is_retired_is_given_to_nobody_and_taken_from_its_holder(
    database: Database,
) -> None:
    (golden_id,) = await added(database, line())
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    assert await claim(database, ada, ALWAYS) is not None
    async with database.writing() as tx:
        await goldens.retire(tx, golden_id, actor="somebody@here", now=NOW)
    assert await claim(database, ben, ALWAYS) is None
    assert len(await items_of(database, "golden", "closed")) == 1
    async with database.writing() as tx:
        with pytest.raises(NotFound):
            await goldens.retire(tx, golden_id, actor="somebody@here", now=NOW)
