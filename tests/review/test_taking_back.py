"""Taking back: as if it had not been said, as long as nobody has heard of it; else not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from at_work import ALLOW, BLOCK, DISCLAIM, LIMITS, Work, rows_of
from escalated import NOW, closing, escalation, evidence, identity, verdict, withdrawal
from examples import examples
from qwarden.contracts import topics
from qwarden.review.person import Person
from qwarden.review.refusals import Conflict, NotFound
from qwarden.review.ruling import Said, ToolSaid
from qwarden.review.store import (
    appeals,
    bulk,
    intake,
    leases,
    outbox,
    overrides,
    retention,
    rulings,
    schema,
    tools,
)
from qwarden.review.store.database import Database
from qwarden.review.store.turns import Wanted

_STATE = (
    schema.items,
    schema.escalations,
    schema.decisions,
    schema.outbox,
    schema.overrides,
    schema.exclusions,
    schema.appeals,
    schema.checks,
)
_OF_THE_LEASE = {"fence", "lease", "leased_until"}


@pytest.fixture
async def work(database: Database) -> Work:
    return await Work.begin(database)


async def test_it_is_over_once_it_is_published_or_about_to_be(work: Work) -> None:
    await work.comes(verdict(1), verdict(2))
    first, second = [await work.next_one(work.ann, BLOCK) for _ in range(2)]
    with pytest.raises(NotFound):
        await work.takes_back(work.ben, first.ruling_id)
    async with work.database.writing() as tx:  # a publisher whose clock is ahead
        taken = await outbox.take(tx, NOW + 31, 1)
    assert len(taken) == 1
    with pytest.raises(Conflict, match="on its way"):
        await work.takes_back(work.ann, first.ruling_id)
    async with work.database.writing() as tx:
        await outbox.done(tx, taken)
    with pytest.raises(Conflict, match="on its way"):
        await work.takes_back(work.ann, first.ruling_id)
    lease = await work.takes_back(work.ann, second.ruling_id)
    assert lease is not None
    with pytest.raises(Conflict, match="already"):
        await work.takes_back(work.ann, second.ruling_id)
    third = await work.decides(work.ann, lease, ALLOW)
    work.now += 30
    with pytest.raises(Conflict, match="on its way"):
        await work.takes_back(work.ann, third.ruling_id)
    assert len(await work.decisions()) == 1


async def test_nothing_is_taken_back_of_which_a_part_is_published(work: Work) -> None:
    await work.comes(verdict(1))
    ruled = await work.next_one(work.ann, replace(BLOCK, override=True))
    async with work.database.writing() as tx:
        await outbox.done(tx, await outbox.take(tx, NOW + 31, 1))
    (left,) = await work.waiting()
    assert (left.topic, left.is_taken) == (topics.CONTROL, False)
    with pytest.raises(Conflict, match="on its way"):
        await work.takes_back(work.ann, ruled.ruling_id)
    assert len(await work.waiting()) == 1


async def test_what_a_later_decision_rests_on_stays(work: Work) -> None:
    await work.comes(verdict(1))
    first = await work.next_one(work.ann, BLOCK)
    await work.comes(verdict(1, verdict_id=identity("edited"), edit=1))
    second = await work.next_one(work.ben, ALLOW)
    with pytest.raises(Conflict, match="later decision"):
        await work.takes_back(work.ann, first.ruling_id)
    assert len(await work.decisions()) == 2
    await work.takes_back(work.ben, second.ruling_id)
    await work.takes_back(work.ann, first.ruling_id)
    assert await work.waiting() == []


@pytest.mark.parametrize("later", [BLOCK, ALLOW, replace(ALLOW, override=True)])
async def test_an_override_that_a_later_decision_has_seen_stays(work: Work, later: Said) -> None:
    content = identity("content", "same")
    await work.comes(verdict(1, content_hash=content))
    first = await work.next_one(work.ann, replace(BLOCK, override=True))
    await work.comes(verdict(2, content_hash=content))
    second = await work.next_one(work.ben, later)
    with pytest.raises(Conflict, match="same content"):
        await work.takes_back(work.ann, first.ruling_id)
    await work.takes_back(work.ben, second.ruling_id)
    async with work.database.reading() as tx:
        stands = await overrides.standing(tx, "acme", content)
    assert stands is not None and stands.ruling_id == first.ruling_id
    await work.takes_back(work.ann, first.ruling_id)
    async with work.database.reading() as tx:
        assert await overrides.standing(tx, "acme", content) is None
    assert await work.waiting() == []


@pytest.mark.parametrize("gone", ["deleted", "edited", "erased"])
async def test_nobody_gets_an_item_whose_content_went_meanwhile(work: Work, gone: str) -> None:
    await work.comes(verdict(1))
    ruled = await work.next_one(work.ann, BLOCK)
    async with work.database.writing() as tx:
        match gone:
            case "deleted":
                await intake.take(tx, [closing(withdrawal(1))], work.now, work.limits)
            case "edited":
                edit = verdict(1, edit=1, action="allow", verdict_id=identity("edit"))
                await intake.take(tx, [closing(edit)], work.now, work.limits)
            case "erased":
                await tx.execute(schema.ledger.update().values(content=None))
    assert await work.takes_back(work.ann, ruled.ruling_id) is None
    assert await work.waiting() == []
    async with work.database.reading() as tx:
        item = (await tx.execute(select(schema.items))).one()
        open_ = schema.escalations.c.is_open
        assert not (await tx.execute(select(schema.escalations).where(open_))).all()
    assert item.state == "closed" and gone in item.ended_why


@pytest.mark.parametrize("held", [False, True])
async def test_equal_content_that_came_meanwhile_is_one_with_it(work: Work, held: bool) -> None:
    content = identity("content", "same")
    await work.comes(verdict(1, content_hash=content))
    ruled = await work.next_one(work.ann, BLOCK)
    await work.comes(verdict(2, content_hash=content))
    others = await work.claims(work.ben) if held else None
    lease = await work.takes_back(work.ann, ruled.ruling_id)
    if others is not None:
        assert lease is None
        again = await work.decides(work.ben, others, ALLOW)
    else:
        assert lease is not None
        again = await work.decides(work.ann, lease, ALLOW)
    assert again.count == 2
    assert {each.event_id for each in await work.decisions()} == {"e1", "e2"}


async def comes_again(work: Work, **fields: Any) -> str:
    """Another verdict on the first event, whose people are asked in a queue of their own."""
    of = verdict(1, **{"verdict_id": identity("again"), **fields})
    await work.comes(of, queue="severe", harm=10)
    return of.verdict_id


async def open_verdicts(work: Work) -> set[str]:
    async with work.database.reading() as tx:
        wanted = select(schema.escalations.c.verdict_id).join(
            schema.items, schema.items.c.item_id == schema.escalations.c.item_id
        )
        is_open = schema.escalations.c.is_open, schema.items.c.state == "open"
        return set((await tx.execute(wanted.where(*is_open))).scalars())


async def a_tool_blocks(work: Work, name: object) -> str:
    """Content that nobody had open; returns the ruling."""
    allowed = verdict(name, action="allow")
    async with work.database.writing() as tx:
        await intake.take(tx, [evidence(allowed)], work.now, work.limits)
        what = ToolSaid(BLOCK, "acme", allowed.event_id, allowed.verdict_id)
        return (await tools.decide(tx, work.tool, what, work.now, work.limits)).ruling_id


@pytest.mark.parametrize("content", ["equal", "another"])
async def test_what_came_while_a_decision_stood_is_lost_when_it_is_taken_back(
    work: Work, content: str
) -> None:
    await work.comes(verdict(1))
    ruled = await work.next_one(work.ann, ALLOW)
    content_hash = identity("content", 1 if content == "equal" else content)
    again = await comes_again(work, content_hash=content_hash)
    assert await open_verdicts(work) == set()
    await work.takes_back(work.ann, ruled.ruling_id)
    both_of_them = {verdict(1).verdict_id, again}
    assert await open_verdicts(work) == both_of_them
    await work.comes(verdict(1))
    await comes_again(work, content_hash=content_hash)
    assert await open_verdicts(work) == both_of_them


async def test_what_came_while_a_tool_had_decided_is_lost_when_that_is_taken_back(
    work: Work,
) -> None:
    ruling_id = await a_tool_blocks(work, 1)
    again = await comes_again(work)
    assert await open_verdicts(work) == set()
    assert await work.takes_back(work.tool, ruling_id) is None
    assert await open_verdicts(work) == {again}


async def test_a_verdict_whose_place_another_has_taken_is_opened_again(work: Work) -> None:
    await work.comes(verdict(1))
    ruled = await work.next_one(work.ann, ALLOW)
    again = await comes_again(work, supersedes=verdict(1).verdict_id)
    await work.takes_back(work.ann, ruled.ruling_id)
    assert await open_verdicts(work) == {again}


async def test_what_came_and_went_while_a_decision_stood_is_opened(work: Work) -> None:
    await work.comes(verdict(1))
    ruled = await work.next_one(work.ann, ALLOW)
    await comes_again(work)
    async with work.database.writing() as tx:
        await intake.take(tx, [closing(withdrawal(1))], work.now, work.limits)
    await work.takes_back(work.ann, ruled.ruling_id)
    assert await open_verdicts(work) == set()


async def test_an_undone_bulk_loses_what_came_meanwhile(work: Work) -> None:
    await work.comes(verdict(1))
    which = bulk.Filter(queue="general")
    async with work.database.writing() as tx:
        seen = await bulk.preview(tx, work.lead, which, work.now, work.limits)
        done = await bulk.decide(tx, work.lead, which, seen.preview, ALLOW, work.now, work.limits)
    again = await comes_again(work)
    async with work.database.writing() as tx:
        assert await bulk.undo(tx, work.lead, done.bulk_id, work.now) == (1, 1)
    assert await open_verdicts(work) == {verdict(1).verdict_id, again}


async def test_what_was_decided_late_is_deleted_before_it_can_be_taken_back(work: Work) -> None:
    await work.comes(verdict(1))
    work.now += (work.limits.keep_days + 1) * 86_400
    ruled = await work.next_one(work.ann, BLOCK)
    async with work.database.writing() as tx:
        await retention.sweep(tx, work.now + 1, work.limits, 500)
    lease = await work.takes_back(work.ann, ruled.ruling_id)
    assert lease is not None
    assert (await work.decides(work.ann, lease, ALLOW)).decisions


async def test_nobody_gets_an_item_whose_content_is_kept_no_more(work: Work) -> None:
    await work.comes(verdict(1))
    ruled = await work.next_one(work.ann, BLOCK)
    async with work.database.writing() as tx:
        await tx.execute(schema.ledger.delete())
    assert await work.takes_back(work.ann, ruled.ruling_id) is None
    async with work.database.reading() as tx:
        assert (await tx.execute(select(schema.items.c.state))).scalar_one() == "closed"


async def test_an_appeal_that_was_decided_is_open_again(work: Work) -> None:
    blocked = verdict(1, action="block")
    async with work.database.writing() as tx:
        await intake.take(tx, [evidence(blocked)], work.now, work.limits)
        opened = await appeals.open_appeal(
            tx, work.tool, tenant="acme", event_id="e1", statement="Why?", now=work.now,
            limits=work.limits,
        )  # fmt: skip
    lease = await work.claims(work.ann, opened.item_id)
    ruled = await work.decides(work.ann, lease, ALLOW)
    (decision,) = await work.decisions()
    assert (decision.verdict_id, decision.action) == (blocked.verdict_id, "allow")
    async with work.database.reading() as tx:
        before = (await tx.execute(select(schema.appeals.c.outcome))).scalar_one()
    assert before == "overturned"
    again = await work.takes_back(work.ann, ruled.ruling_id)
    assert again is not None and again.fence > lease.fence
    async with work.database.reading() as tx:
        assert (await tx.execute(select(schema.appeals.c.outcome))).scalar_one() is None
    assert await work.waiting() == []


async def test_a_sample_is_published_only_where_a_person_disagrees(work: Work) -> None:
    work.limits = work.limits.model_copy(update={"sample_share": 1.0})
    async with work.database.writing() as tx:
        for name, action in ((1, "block"), (2, "block")):
            await intake.take(tx, [evidence(verdict(name, action=action))], work.now, work.limits)
    agrees = await work.next_one(work.ann, BLOCK)
    assert (agrees.decisions, await work.waiting()) == ((), [])
    assert await work.takes_back(work.ann, agrees.ruling_id) is not None
    async with work.database.writing() as tx:
        await leases.expire(tx, NOW + 9999)
    for said in (BLOCK, ALLOW):
        await work.next_one(work.ann, said)
    assert [each.action for each in await work.decisions()] == ["allow"]


async def test_a_lead_who_sides_with_the_second_supersedes_the_first(work: Work) -> None:
    work.limits = work.limits.model_copy(update={"second_share": 1.0})
    await work.comes(verdict(1))
    first = await work.next_one(work.ann, BLOCK)
    await work.next_one(work.ben, ALLOW)
    lease = await work.claims(work.lead)
    ruled = await work.decides(work.lead, lease, ALLOW)
    *_, last = await work.decisions()
    assert (last.supersedes, last.action) == (first.decisions[0], "allow")
    assert await work.takes_back(work.lead, ruled.ruling_id) is not None
    again = await work.claims(work.lead, lease.item_id)
    agrees = await work.decides(work.lead, again, BLOCK)
    assert agrees.decisions == ()
    assert len(await work.waiting()) == 1
    assert await work.takes_back(work.lead, agrees.ruling_id) is not None


# At once.


async def both(*doing: Callable[[], Awaitable[Any]]) -> list[Any]:
    return await asyncio.gather(*(each() for each in doing), return_exceptions=True)


@pytest.mark.long
async def test_a_chain_has_one_end_though_two_decide_at_once(work: Work) -> None:
    for round_ in range(5):
        one = verdict(round_)
        two = verdict(round_, verdict_id=identity("again", round_))
        await work.comes(one, queue="one")
        await work.comes(two, queue="two")
        mine, other = await work.claims(work.ann), await work.claims(work.ben)
        found = await both(
            partial(work.decides, work.ann, mine, BLOCK),
            partial(work.decides, work.ben, other, replace(ALLOW, override=True)),
        )
        assert not [each for each in found if isinstance(each, BaseException)]
        async with work.database.reading() as tx:
            chain = await rulings.chain(tx, "acme", f"e{round_}")
        assert sorted(each.supersedes is None for each in chain) == [False, True]


@pytest.mark.long
async def test_what_is_deleted_at_that_moment_is_not_opened_again(work: Work) -> None:
    await work.comes(verdict(1))
    ruled = await work.next_one(work.ann, BLOCK)
    async with work.database.writing() as tx:
        await intake.take(tx, [closing(withdrawal(1))], work.now, work.limits)
        taking_back = asyncio.create_task(work.takes_back(work.ann, ruled.ruling_id))
        done, _ = await asyncio.wait((taking_back,), timeout=0.5)
        assert not done
    assert await taking_back is None
    async with work.database.reading() as tx:
        assert (await tx.execute(select(schema.items.c.state))).scalar_one() == "closed"


async def test_what_comes_while_a_decision_is_taken_back_is_lost(work: Work) -> None:
    for round_ in range(8):
        ruling_id = await a_tool_blocks(work, round_)
        again = verdict(round_, verdict_id=identity("again", round_))
        takes_back = partial(work.takes_back, work.tool, ruling_id)
        comes = partial(work.comes, again)
        found = await both(*((takes_back, comes) if round_ % 2 else (comes, takes_back)))
        assert found == [None, None]
        assert again.verdict_id in await open_verdicts(work)


@pytest.mark.parts  # twelve races
async def test_it_is_taken_back_or_published_and_never_both(work: Work) -> None:
    async def publishes() -> Sequence[outbox.Waiting]:
        async with work.database.writing() as tx:
            return await outbox.take(tx, NOW + 60, 100)

    outcomes = set()
    for round_ in range(12):
        await work.comes(verdict(round_))
        ruled = await work.next_one(work.ann, replace(BLOCK, override=True))
        takes_back = partial(work.takes_back, work.ann, ruled.ruling_id)
        found = await both(*((takes_back, publishes) if round_ % 2 else (publishes, takes_back)))
        taken = next(each for each in found if isinstance(each, list))
        refused = any(isinstance(each, Conflict) for each in found)
        assert refused == bool(taken)
        outcomes.add(refused)
        async with work.database.writing() as tx:
            await outbox.done(tx, taken)
        assert await work.waiting() == []
        async with work.database.writing() as tx:
            await tx.execute(schema.items.delete())
    assert outcomes  # which of the two comes first is chance


# For all that can have been said before.


class _RolledBack(Exception):
    pass


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Work]]:
    url = f"sqlite:///{tmp_path_factory.mktemp('back') / 'review.db'}"
    with asyncio.Runner() as runs:
        database = Database.open(url, 2)
        runs.run(database.migrate())
        yield runs, runs.run(Work.begin(database))
        runs.run(database.close())


_SAID = st.builds(replace, st.sampled_from((ALLOW, BLOCK, DISCLAIM)), override=st.booleans())
_EVENT = st.tuples(st.integers(0, 2), st.integers(0, 1), st.sampled_from(("one", "two")))
"""Which event, with which content, and in which queue."""


@pytest.mark.parts  # thirty stories, each of some twenty transactions: seconds
@settings(max_examples=examples(30))
@given(
    st.lists(st.tuples(_EVENT, _SAID), max_size=5), st.lists(_EVENT, min_size=1, max_size=4), _SAID
)
def test_to_decide_and_take_back_changes_nothing_but_the_lease(
    runner: tuple[asyncio.Runner, Work],
    before: list[tuple[tuple[int, int, str], Said]],
    last: list[tuple[int, int, str]],
    said: Said,
) -> None:
    runs, work = runner
    with pytest.raises(_RolledBack):
        runs.run(_there_and_back(work, before, last, said))


async def _there_and_back(
    work: Work,
    before: list[tuple[tuple[int, int, str], Said]],
    last: list[tuple[int, int, str]],
    said: Said,
) -> None:
    async with work.database.writing() as tx:
        now = NOW
        for number, (event, earlier) in enumerate(before):
            now += 7
            await _comes(tx, number, event, now)
            await _decides(tx, work.ben, earlier, now)
        for number, event in enumerate(last, len(before)):
            await _comes(tx, number, event, now)
        held = await leases.claim(tx, work.ann, Wanted(), now + 1, LIMITS)
        if held is None:  # people had decided on all of it
            raise _RolledBack
        there = await _state(tx)
        ruled = await rulings.decide(tx, work.ann, held.item_id, held.token, said, now + 2, LIMITS)
        assert await _state(tx) != there
        lease = await rulings.take_back(tx, work.ann, ruled.ruling_id, now + 31, LIMITS)
        assert lease is not None and lease.fence == held.fence + 1
        assert await _state(tx) == there
        # And all of it can be done again.
        await rulings.decide(tx, work.ann, lease.item_id, lease.token, said, now + 32, LIMITS)
        raise _RolledBack


async def _comes(tx: AsyncConnection, number: int, event: tuple[int, int, str], at: float) -> None:
    name, content, queue = event
    of = verdict(
        name,
        verdict_id=identity("verdict", number),
        content_hash=identity("content", content),
        edit=number,
    )
    await intake.take(tx, [escalation(of, at, queue=queue)], at, LIMITS)


async def _decides(tx: AsyncConnection, who: Person, said: Said, now: float) -> None:
    lease = await leases.claim(tx, who, Wanted(), now, LIMITS)
    if lease is not None:
        await rulings.decide(tx, who, lease.item_id, lease.token, said, now, LIMITS)


async def _state(tx: AsyncConnection) -> dict[str, list[dict[str, Any]]]:
    found = await rows_of(tx, _STATE)
    for row in found["items"]:
        for name in _OF_THE_LEASE:
            row.pop(name)
    return found
