"""What a person's word becomes: a decision for each verdict, in one chain, and an override that
follows the last word."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import msgspec
import pytest
from sqlalchemy import select

from at_work import ALLOW, BLOCK, DISCLAIM, Work
from escalated import NOW, closing, escalation, evidence, identity, verdict, withdrawal
from qwarden.contracts import topics
from qwarden.contracts.control import override_key
from qwarden.contracts.decision import By
from qwarden.contracts.headers import REVIEW_SERVICE, cloud_event
from qwarden.contracts.verdict import Notice
from qwarden.review.refusals import Conflict, Forbidden, Invalid, NotFound, Stale
from qwarden.review.ruling import Said, ToolSaid
from qwarden.review.store import audit, breaches, goldens, intake, overrides, rulings, tools
from qwarden.review.store.audit import Act
from qwarden.review.store.database import Database
from qwarden.review.store.schema import audit as log
from qwarden.review.store.schema import escalations, items
from qwarden.review.store.schema import rulings as said_table

STRANGE = "a\\b\0c/d%"
"""An event's id as a producer may choose it."""


@pytest.fixture
async def work(database: Database) -> Work:
    return await Work.begin(database)


async def test_each_escalation_of_an_item_gets_the_decision_on_it(work: Work) -> None:
    same = identity("content", "same")
    those = [verdict(n, content_hash=same) for n in range(3)]
    those += [verdict(9, content_hash=same, event_id=STRANGE)]
    await work.comes(*those)
    ruled = await work.next_one(work.ann, BLOCK)
    assert ruled.count == 4
    made = await work.decisions()
    assert [each.decision_id for each in made] == list(ruled.decisions)
    assert {(each.event_id, each.verdict_id) for each in made} == {
        (each.event_id, each.verdict_id) for each in those
    }
    for each in made:
        assert (each.action, each.reason, each.ground, each.clause) == (
            "block", "violates_terms", "terms", "3.1",
        )  # fmt: skip
        assert (each.by, each.reviewer, each.supersedes) == (By.PERSON, work.ann.pseudonym, None)
        assert (each.content_hash, each.categories) == (same, ["Violent"])
        assert each.decided_at.timestamp() == NOW
    rows = await work.waiting()
    assert {row.publish_at for row in rows} == {NOW + work.limits.take_back_s}
    assert rows[3].key == b"acme/" + STRANGE.encode()
    about = [[name, data.decode()] for name, data in cloud_event(
        "decision", made[3].decision_id, by=REVIEW_SERVICE)]  # fmt: skip
    assert msgspec.json.decode(rows[3].headers) == about
    async with work.database.reading() as tx:
        assert [each.event_id for each in await rulings.chain(tx, "acme", STRANGE)] == [STRANGE]
        assert not (await tx.execute(select(escalations).where(escalations.c.is_open))).all()


async def test_a_decision_lies_in_another_partition_than_its_event(work: Work) -> None:
    """By the key that the producer gave, whichever way a person was asked."""
    work.limits = work.limits.model_copy(update={"sample_share": 1.0})
    sampled, keyless = evidence(verdict(2, action="block")), escalation(verdict(3), NOW + 9)
    asked = replace(escalation(verdict(1)), key=b"thread\x00\xff")
    async with work.database.writing() as tx:
        records = [asked, replace(sampled, key=b""), keyless]
        await intake.take(tx, records, work.now, work.limits)
    for _ in records:
        await work.next_one(work.ann, ALLOW)
    keys = {msgspec.json.decode(row.value)["event_id"]: row.key for row in await work.waiting()}
    assert keys == {"e1": b"thread\x00\xff", "e2": b"", "e3": b"acme/e3"}


async def test_a_decision_without_a_lease_changes_nothing(work: Work) -> None:
    await work.comes(verdict(1))
    lease = await work.claims(work.ann)
    with pytest.raises(Stale) as refused:
        await work.decides(work.ben, lease, BLOCK)
    assert refused.value.holder == work.ann.pseudonym
    with pytest.raises(Invalid):
        await work.decides(work.ann, lease, replace(BLOCK, clause=" "))
    work.now += work.limits.lease_s + 1
    with pytest.raises(Stale):
        await work.decides(work.ann, lease, BLOCK)
    assert await work.waiting() == []
    again = await work.claims(work.ben, lease.item_id)
    await work.decides(work.ben, again, ALLOW)
    with pytest.raises(Stale, match="Somebody else"):
        await work.decides(work.ann, again, ALLOW)
    assert len(await work.decisions()) == 1


async def test_who_decides_again_after_a_lost_answer_is_told_that_somebody_else_did(
    work: Work,
) -> None:
    same = identity("content", "same")
    await work.comes(verdict(1, content_hash=same), verdict(2, content_hash=same))
    lease = await work.claims(work.ann)
    said = replace(BLOCK, override=True)
    ruled = await work.decides(work.ann, lease, said)
    waits = await work.waiting()
    again = await work.decides(work.ann, lease, said)
    assert again == ruled
    assert (ruled.is_new, again.is_new) == (True, False), "it is counted once"
    assert (ruled.count, await work.waiting()) == (2, waits)
    for other in (ALLOW, BLOCK):
        with pytest.raises(Stale, match="You have decided"):
            await work.decides(work.ann, lease, other)
    anew = await work.takes_back(work.ann, ruled.ruling_id)
    assert anew is not None
    with pytest.raises(Stale, match="claim it again"):
        await work.decides(work.ann, lease, said)
    assert (await work.decides(work.ann, anew, ALLOW)).ruling_id != ruled.ruling_id


async def test_a_decision_that_is_only_compared_shows_when_it_is_sent_again(work: Work) -> None:
    golden = b'{"tenant": "acme", "queue": "general", "action": "allow", "text": "Good day."}'
    await work.comes(verdict(1))
    async with work.database.writing() as tx:
        await goldens.add(tx, [golden], actor="test", now=NOW)
    work.limits = work.limits.model_copy(update={"golden_share": 1.0})
    lease = await work.claims(work.ann)
    said = replace(BLOCK, override=True)
    ruled = await work.decides(work.ann, lease, said)
    assert ruled.decisions == () and await work.decides(work.ann, lease, said) == ruled


async def test_a_decision_supersedes_the_last_one_of_its_chain_alone(work: Work) -> None:
    first = verdict(1)
    await work.comes(first)
    one = await work.next_one(work.ann, BLOCK)
    await work.comes(verdict(1, verdict_id=identity("edited"), edit=1))
    other = identity("content", "another")
    answer = {"task": "response", "content_hash": other, "edit": 1}
    await work.comes(verdict(1, verdict_id=identity("answer"), **answer))
    for _ in range(2):
        await work.next_one(work.ben, ALLOW)
    _, *later = await work.decisions()
    assert {(each.task, each.supersedes) for each in later} == {
        ("prompt", one.decisions[0]), ("response", None),
    }  # fmt: skip


async def test_two_verdicts_of_one_event_in_an_item_are_one_chain(work: Work) -> None:
    await work.comes(verdict(1), verdict(1, verdict_id=identity("again")))
    await work.next_one(work.ann, DISCLAIM)
    first, second = await work.decisions()
    assert (first.supersedes, second.supersedes) == (None, first.decision_id)


async def test_nothing_is_published_before_what_it_supersedes(work: Work) -> None:
    """The second decision comes from a process whose clock is behind."""
    await work.comes(verdict(1))
    await work.next_one(work.ann, replace(BLOCK, override=True))
    work.now -= 20
    await work.comes(verdict(1, verdict_id=identity("edited"), edit=1))
    await work.next_one(work.ben, replace(ALLOW, override=True))
    rows = await work.waiting()
    assert [row.topic for row in rows] == [topics.DECISIONS, topics.CONTROL] * 2
    assert [row.publish_at for row in rows] == [NOW + 30] * 4


async def test_an_override_is_set_and_ended_by_the_last_word(work: Work) -> None:
    content = identity("content", "same")

    async def said_of(name: object, said: Said) -> None:
        await work.comes(verdict(name, content_hash=content, verdict_id=identity(name)))
        await work.next_one(work.ann, said)
        work.now += 60

    async def stands() -> str | None:
        async with work.database.reading() as tx:
            found = await overrides.standing(tx, "acme", content)
        return found.action if found else None

    await said_of(1, BLOCK)
    assert (await stands(), await work.overrides()) == (None, [])
    await said_of(2, replace(BLOCK, override=True))
    assert await stands() == "block"
    await said_of(3, BLOCK)  # it agrees
    assert await stands() == "block"
    await said_of(4, replace(ALLOW, override=True))
    assert await stands() == "allow"
    await said_of(5, DISCLAIM)  # it contradicts, and sets none
    assert await stands() is None
    set_, other, ended = await work.overrides()
    assert set_ is not None and other is not None and ended is None
    decision = (await work.decisions())[1]
    assert (set_.action, set_.clause, set_.categories) == ("block", "3.1", ["Violent"])
    assert set_.decision_id == decision.decision_id
    assert set_.until.timestamp() == decision.decided_at.timestamp() + 30 * 86_400
    assert {row.key for row in await work.waiting() if row.topic == topics.CONTROL} == {
        override_key("acme", content).encode()
    }


async def logged_override(work: Work, ruling_id: str) -> bool:
    """What the audit log says of a ruling."""
    async with work.database.reading() as tx:
        rows = (await tx.execute(select(log.c.about).where(log.c.act == Act.DECIDED))).scalars()
        about = [msgspec.json.decode(row) for row in rows]
    (said,) = [each for each in about if each["ruling_id"] == ruling_id]
    return bool(said["overrides"])


async def test_an_override_on_a_sample_that_agrees_is_not_set(work: Work) -> None:
    work.limits = work.limits.model_copy(update={"sample_share": 1.0})
    async with work.database.writing() as tx:
        await intake.take(tx, [evidence(verdict(1, action="block"))], work.now, work.limits)
    ruled = await work.next_one(work.ann, replace(BLOCK, override=True))
    (record,) = await work.overrides()
    assert record is not None and (record.decision_id,) == ruled.decisions
    assert await logged_override(work, ruled.ruling_id)
    assert await work.takes_back(work.ann, ruled.ruling_id) is not None
    assert await work.waiting() == []


async def test_an_override_of_a_lead_who_sides_with_the_first_is_not_set(work: Work) -> None:
    work.limits = work.limits.model_copy(update={"second_share": 1.0})
    await work.comes(verdict(1))
    first = await work.next_one(work.ann, BLOCK)
    second = await work.next_one(work.ben, replace(ALLOW, override=True))
    assert not await logged_override(work, second.ruling_id)
    ruled = await work.next_one(work.lead, replace(BLOCK, override=True))
    (record,) = await work.overrides()
    assert record is not None and (record.decision_id,) == ruled.decisions
    *_, last = await work.decisions()
    assert (last.supersedes, last.action) == (first.decisions[0], "block")


async def test_an_override_is_set_against_what_was_decided_since(work: Work) -> None:
    work.limits = work.limits.model_copy(update={"sample_share": 1.0})
    blocked = verdict(1, action="block")
    async with work.database.writing() as tx:
        await intake.take(tx, [evidence(blocked)], work.now, work.limits)
        what = ToolSaid(ALLOW, "acme", "e1", blocked.verdict_id)
        await tools.decide(tx, work.tool, what, work.now, work.limits)
    lease = await work.claims(work.ann)
    with pytest.raises(Conflict, match="decide without one"):
        await work.decides(work.ann, lease, replace(BLOCK, override=True))
    assert (await work.decides(work.ann, lease, BLOCK)).decisions == ()
    assert await work.overrides() == []


async def test_an_override_of_another_tenant_is_left_alone(work: Work) -> None:
    content = identity("content", "same")
    await work.comes(verdict(1, content_hash=content))
    await work.next_one(work.ann, replace(BLOCK, override=True))
    await work.comes(verdict(2, content_hash=content, tenant="other"))
    await work.next_one(work.ann, ALLOW)
    async with work.database.reading() as tx:
        assert await overrides.standing(tx, "acme", content) is not None
    assert len(await work.overrides()) == 1


async def test_what_has_no_hash_is_decided_and_never_overridden(work: Work) -> None:
    await work.comes(verdict(1, content_hash=None))
    lease = await work.claims(work.ann)
    with pytest.raises(Invalid, match="without an override"):
        await work.decides(work.ann, lease, replace(BLOCK, override=True))
    await work.decides(work.ann, lease, BLOCK)
    assert len(await work.waiting()) == 1


async def test_an_override_ends_at_its_time_once(work: Work) -> None:
    await work.comes(verdict(1))
    await work.next_one(work.ann, replace(BLOCK, override=True))
    until = NOW + work.limits.override_days * 86_400
    for now, ended in ((until - 1, 0), (until, 1), (until, 0)):
        async with work.database.writing() as tx:
            assert await overrides.end_due(tx, now, 10) == ended
    last = (await work.waiting())[-1]
    assert (last.value, last.publish_at) == (None, until)
    assert last.key == override_key("acme", verdict(1).content_hash or "").encode()
    async with work.database.reading() as tx:
        acts = (await tx.execute(select(log.c.act).where(log.c.item_id.is_(None)))).scalars().all()
    assert acts.count(Act.OVERRIDE_ENDED) == 1


# Breaches.


async def breached(work: Work, name: object, on_breach: str) -> rulings.Ruled | None:
    async with work.database.writing() as tx:
        wanted = select(items).where(items.c.verdict_id == verdict(name).verdict_id)
        item = (await tx.execute(wanted.with_for_update())).one()
        assert item.on_breach == on_breach
        return await breaches.decide(tx, item, work.now, work.limits)


async def test_a_breach_is_published_at_once_and_a_person_supersedes_it(work: Work) -> None:
    said = verdict(1, notice=Notice("law", "§ 7", "Not here."))
    await work.comes(said, on_breach="block")
    assert await breached(work, 1, "block") is not None
    assert await breached(work, 1, "block") is None  # of this verdict it has been
    (row,) = await work.waiting()
    assert row.publish_at == NOW
    (decision,) = await work.decisions()
    assert (decision.by, decision.reviewer) == (By.BREACH, None)
    assert (decision.action, decision.ground, decision.clause) == ("block", "law", "§ 7")
    assert decision.categories == said.categories
    ruled = await work.next_one(work.ann, ALLOW)
    assert (await work.decisions())[1].supersedes == decision.decision_id
    work.now += 5
    lease = await work.takes_back(work.ann, ruled.ruling_id)
    assert lease is not None
    assert [each.by for each in await work.decisions()] == [By.BREACH]


async def test_a_breach_never_follows_a_person(work: Work) -> None:
    await work.comes(verdict(1), on_breach="allow", queue="one")
    await work.comes(verdict(1, verdict_id=identity("again")), on_breach="allow", queue="two")
    await work.next_one(work.ann, BLOCK)
    async with work.database.writing() as tx:
        item = (await tx.execute(select(items).where(items.c.state == "open"))).one()
        assert await breaches.decide(tx, item, work.now + 9999, work.limits) is None
    # An edit is another matter, and still nothing of a person's is superseded.
    await work.comes(verdict(1, verdict_id=identity("edited"), edit=1), on_breach="allow")
    async with work.database.writing() as tx:
        item = (await tx.execute(select(items).where(items.c.state == "open"))).one()
        assert await breaches.decide(tx, item, work.now + 9999, work.limits) is not None
    assert [each.supersedes for each in await work.decisions()] == [None, None]


async def test_a_breach_ends_no_override(work: Work) -> None:
    content = identity("content", "same")
    await work.comes(verdict(1, content_hash=content))
    await work.next_one(work.ann, replace(BLOCK, override=True))
    await work.comes(verdict(2, content_hash=content), on_breach="allow")
    assert await breached(work, 2, "allow") is not None
    async with work.database.reading() as tx:
        assert await overrides.standing(tx, "acme", content) is not None


# Tools.


def told(said: Said = BLOCK, name: object = 1, **more: str) -> ToolSaid:
    of = verdict(name)
    fields = {"tenant": "acme", "event_id": of.event_id, "verdict_id": of.verdict_id, **more}
    return ToolSaid(said, **fields)


async def tells(work: Work, what: ToolSaid) -> rulings.Ruled:
    async with work.database.writing() as tx:
        return await tools.decide(tx, work.tool, what, work.now, work.limits)


async def test_a_tool_decides_what_nobody_holds(work: Work) -> None:
    await work.comes(verdict(1))
    lease = await work.claims(work.ann)
    with pytest.raises(Conflict) as refused:
        await tells(work, told())
    assert refused.value.holder == work.ann.pseudonym
    work.now += work.limits.lease_s + 1
    ruled = await tells(work, told(reviewer="their-17"))
    (decision,) = await work.decisions()
    assert (decision.by, decision.reviewer) == (By.PERSON, "their-17")
    assert ruled.decisions == (decision.decision_id,)
    with pytest.raises(Stale):
        await work.decides(work.ann, lease, BLOCK)


async def test_a_tool_decides_by_another_verdict_what_a_person_holds(work: Work) -> None:
    allowed = verdict(1, action="allow")
    async with work.database.writing() as tx:
        await intake.take(tx, [evidence(allowed)], work.now, work.limits)
    await work.comes(verdict(1, verdict_id=identity("again")), verdict(2))
    lease = await work.claims(work.ann)
    with pytest.raises(Conflict) as refused:
        await tells(work, told(verdict_id=allowed.verdict_id))
    assert refused.value.holder == work.ann.pseudonym
    assert await tells(work, told(event_id="e2", verdict_id=verdict(2).verdict_id))
    assert (await work.decides(work.ann, lease, ALLOW)).decisions


async def test_a_tool_names_what_it_supersedes(work: Work) -> None:
    await work.comes(verdict(1))
    first = await tells(work, told())
    with pytest.raises(Conflict, match=first.decisions[0]):
        await tells(work, told(ALLOW))
    with pytest.raises(Conflict, match=first.decisions[0]):
        await tells(work, told(ALLOW, supersedes=identity("another")))
    second = await tells(work, told(ALLOW, supersedes=first.decisions[0]))
    assert (await work.decisions())[1].supersedes == first.decisions[0]
    with pytest.raises(Conflict, match=second.decisions[0]):
        await tells(work, told(supersedes=first.decisions[0]))


async def test_what_a_tool_sends_again_is_one_decision(work: Work) -> None:
    await work.comes(verdict(1))
    first = await tells(work, told(decision_key="their-1"))
    again = await tells(work, told(decision_key="their-1"))
    assert again == first
    assert (first.is_new, again.is_new) == (True, False), "it is counted once"
    with pytest.raises(Conflict, match="decision_key"):
        await tells(work, told(ALLOW, decision_key="their-1"))
    assert len(await work.decisions()) == 1
    async with work.database.writing() as tx:
        assert (
            await rulings.take_back(tx, work.tool, first.ruling_id, work.now, work.limits)
            is not None
        )
    with pytest.raises(Conflict, match="taken back"):
        await tells(work, told(decision_key="their-1"))


async def test_a_tool_is_told_nothing_of_what_is_not_its_own(work: Work) -> None:
    await work.comes(verdict(1))
    for wrong in (
        told(tenant="other"),
        told(event_id="e2"),
        told(verdict_id=identity("unknown")),
        told(task="response"),
    ):
        with pytest.raises(NotFound):
            await tells(work, wrong)
    with pytest.raises(Forbidden):
        async with work.database.writing() as tx:
            await tools.decide(tx, work.ann, told(), work.now, work.limits)
    with pytest.raises(Invalid):
        await tells(work, told(replace(BLOCK, reason="")))
    assert await work.waiting() == []


async def test_a_tool_decides_nothing_of_content_that_is_gone(work: Work) -> None:
    await work.comes(verdict(1))
    async with work.database.writing() as tx:
        await intake.take(tx, [closing(withdrawal(1))], work.now, work.limits)
    with pytest.raises(Conflict, match="deleted"):
        await tells(work, told())


# What may be published at all.


async def test_what_is_only_compared_is_never_published(work: Work) -> None:
    await work.comes(verdict(1), verdict(2))
    golden = b'{"tenant": "acme", "queue": "general", "action": "allow", "text": "Good day."}'
    async with work.database.writing() as tx:
        await goldens.add(tx, [golden], actor="test", now=NOW)
    work.limits = work.limits.model_copy(update={"golden_share": 1.0, "second_share": 1.0})
    said = [await work.next_one(work.ann, replace(BLOCK, override=True)) for _ in range(3)]
    kinds = {"golden": 1, "review": 2}
    assert await _kinds(work, said) == kinds
    published = await work.waiting()
    work.limits = work.limits.model_copy(update={"golden_share": 0.0})
    seconds = [await work.next_one(work.ben, replace(BLOCK, override=True)) for _ in range(2)]
    assert await _kinds(work, seconds) == {"second": 2}
    # Neither have a decision or an override, and nothing about the answer tells that.
    assert len(published) == 4 and await work.waiting() == published
    assert {(each.count, each.take_back_until) for each in (*said, *seconds)} == {(1, NOW + 30)}
    assert [bool(each.decisions) for each in seconds] == [False, False]


async def _kinds(work: Work, ruled: list[rulings.Ruled]) -> Counter[str]:
    ids = [each.ruling_id for each in ruled]
    async with work.database.reading() as tx:
        found = await tx.execute(select(said_table.c.kind).where(said_table.c.ruling_id.in_(ids)))
        return Counter(found.scalars())


async def test_own_words_are_in_no_log(work: Work) -> None:
    await work.comes(verdict(1))
    ruled = await work.next_one(work.ann, replace(BLOCK, reason="Just as it says: purple canary."))
    async with work.database.reading() as tx:
        rows = (await tx.execute(select(log))).mappings().all()
    assert not any("canary" in repr(dict(row)) for row in rows)
    (row,) = (row for row in rows if row["act"] == Act.DECIDED)
    assert (row["actor"], ruled.ruling_id in row["about"]) == (work.ann.user_id, True)
    assert '"reason":"own_words"' in row["about"]
    assert row["actor"] != audit.SERVICE


async def test_the_past_of_equal_content_is_who_said_what(work: Work) -> None:
    content = identity("content", "same")
    for name, said in ((1, BLOCK), (2, ALLOW)):
        await work.comes(verdict(name, content_hash=content))
        await work.next_one(work.ann, said)
        work.now += 1
    async with work.database.reading() as tx:
        past = await rulings.of_content(tx, "acme", content)
        mine = await rulings.mine(tx, work.ann, work.now, 10)
        assert await rulings.of_content(tx, "other", content) == []
        assert await rulings.mine(tx, work.ben, work.now, 10) == []
    assert [(each.action, each.pseudonym) for each in past] == [
        ("allow", work.ann.pseudonym), ("block", work.ann.pseudonym),
    ]  # fmt: skip
    assert [(each.action, each.take_back_until, each.count) for each in mine] == [
        ("allow", NOW + 31, 1), ("block", NOW + 30, 1),
    ]  # fmt: skip
