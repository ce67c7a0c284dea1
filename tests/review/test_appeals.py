"""Appeals: by somebody who had no part in it, once at a time, with an outcome."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import func, select

from deciding import PLAIN, arrive, claim, decide, items_of, saying, take_back
from escalated import NOW, closing, escalation, evidence, identity, person, verdict, withdrawal
from qwarden.contracts.decision import decode_decision
from qwarden.contracts.statement import DecidedBy, Statement, What
from qwarden.contracts.verdict import Facts, Notice
from qwarden.policy.policy import Policy
from qwarden.policy.sources import load
from qwarden.policy.tenants import Tenant, Tenants
from qwarden.review.person import Person, Role
from qwarden.review.refusals import Conflict, Forbidden, Invalid, NotFound
from qwarden.review.ruling import Said, ToolSaid
from qwarden.review.statement import text_of
from qwarden.review.store import (
    appeals,
    breaches,
    bulk,
    ledger,
    retention,
    statements,
    tools,
)
from qwarden.review.store.appeals import AppealRow, Opened
from qwarden.review.store.asking import stranded
from qwarden.review.store.database import Database
from qwarden.review.store.schema import appeals as table
from qwarden.review.store.schema import audit, decisions, events
from qwarden.review.store.turns import Wanted

WORDS = "It was a joke among friends."
LATER = NOW + 3600
"""When everything that was decided is published."""


def blocked(name: object = 1, **fields: Any) -> Any:
    return verdict(
        name,
        **{"action": "block", "notice": Notice("terms", "content policy", "Against it."), **fields},
    )


async def someone(database: Database, name: str, *roles: Role, **fields: Any) -> Person:
    async with database.writing() as tx:
        return await person(tx, name, *roles, **fields)


async def appeal(
    database: Database, by: Person, name: object = 1, now: float = LATER, **fields: Any
) -> Opened:
    about = {"tenant": "acme", "event_id": f"e{name}", "statement": WORDS, **fields}
    async with database.writing() as tx:
        return await appeals.open_appeal(tx, by, now=now, limits=PLAIN, **about)


async def of_event(database: Database, by: Person, name: object = 1) -> list[AppealRow]:
    async with database.reading() as tx:
        return await appeals.of_event(tx, by, "acme", f"e{name}")


async def test_an_appeal_against_an_automatic_block_goes_to_people(database: Database) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    ada = await someone(database, "ada")
    await arrive(database, [evidence(blocked(facts=Facts(reach=90)))])
    opened = await appeal(database, tool)
    (item,) = await items_of(database, "appeal")
    assert (item.item_id, item.appeal_id) == (opened.item_id, opened.appeal_id)
    assert (item.queue, item.on_breach, item.reach) == ("appeals", "raise", 90)
    assert item.breach_at == LATER + PLAIN.appeal_sla_s
    assert item.verdict_id == blocked().verdict_id
    async with database.reading() as tx:
        logged = (await tx.execute(select(audit).where(audit.c.act == "appealed"))).one()
    assert WORDS not in logged.about
    assert logged.item_id == opened.item_id
    await decide(database, ada, "allow", now=LATER)
    (made,) = await of_event(database, tool)
    assert (made.outcome, made.decision_id) == ("overturned", None)
    assert made.statement == WORDS


@pytest.mark.parametrize(("action", "outcome"), [("block", "upheld"), ("allow", "overturned")])
async def test_an_appeal_against_a_decision_supersedes_it(
    database: Database, action: str, outcome: str
) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    await arrive(database, [escalation(verdict(1))])
    first = await decide(database, ada, "block")
    await appeal(database, tool)
    ruled = await decide(database, ben, action, now=LATER)
    (made,) = await of_event(database, tool)
    assert made.outcome == outcome
    assert made.decision_id == first.decisions[0]
    assert made.ruling_id == ruled.ruling_id
    async with database.reading() as tx:
        of = select(decisions.c.value).where(decisions.c.ruling_id == ruled.ruling_id)
        said = decode_decision((await tx.execute(of)).scalar_one())
    assert (said.supersedes, said.action) == (first.decisions[0], action)


async def test_nobody_hears_an_appeal_against_themselves(database: Database) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    carla = await someone(database, "carla", Role.LEAD)
    twice = PLAIN.model_copy(update={"second_share": 1.0})
    await arrive(database, [escalation(verdict(1))])
    await decide(database, ada, "block", twice)
    # Ben makes the decision a second time, and so has had his say too.
    await decide(database, ben, "block", twice)
    opened = await appeal(database, tool)
    for one in (ada, ben):
        assert await claim(database, one, now=LATER) is None
        with pytest.raises(Forbidden):
            await claim(database, one, now=LATER, wanted=Wanted(item_id=opened.item_id))
        assert [each.may_see for each in await of_event(database, one)] == [False]
    eva = await someone(database, "eva", Role.AUDITOR)
    for one in (carla, eva):
        assert [each.may_see for each in await of_event(database, one)] == [True]
    await decide(database, carla, "block", now=LATER)
    # A second appeal is against her too; then there is nobody left, and that is told.
    again = await appeal(database, tool, now=LATER + 3600)
    assert again.appeal_id != opened.appeal_id
    for one in (ada, ben, carla):
        assert await claim(database, one, now=LATER + 3600) is None
    async with database.reading() as tx:
        assert (await stranded(tx))["appeal"] == 1
    await someone(database, "dora")
    async with database.reading() as tx:
        assert (await stranded(tx))["appeal"] == 0


async def test_who_set_an_override_does_not_hear_the_appeal_against_it(database: Database) -> None:
    """Their decision on equal content is what acts on this event."""
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    ada = await someone(database, "ada")
    await arrive(database, [escalation(verdict(1))])
    first = await decide(database, ada, "block")
    (decision_id,) = first.decisions
    await arrive(database, [evidence(blocked(2, basis="human", decision=decision_id))])
    opened = await appeal(database, tool, 2)
    with pytest.raises(Forbidden):
        await claim(database, ada, now=LATER, wanted=Wanted(item_id=opened.item_id))


async def test_who_confirmed_it_as_a_sample_does_not_hear_the_appeal(database: Database) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    ada = await someone(database, "ada")
    await arrive(database, [evidence(blocked())], PLAIN.model_copy(update={"sample_share": 1.0}))
    await decide(database, ada, "block")
    opened = await appeal(database, tool)
    with pytest.raises(Forbidden):
        await claim(database, ada, now=LATER, wanted=Wanted(item_id=opened.item_id))


async def test_who_decides_while_the_appeal_waits_does_not_hear_it(database: Database) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    ada = await someone(database, "ada")
    await arrive(database, [evidence(blocked())])
    opened = await appeal(database, tool)
    later = verdict(1, verdict_id=identity("later"), content_hash=identity("later"))
    await arrive(database, [escalation(later, LATER)], now=LATER)
    (review,) = await items_of(database, "review")
    await decide(database, ada, "block", now=LATER, wanted=Wanted(item_id=review.item_id))
    with pytest.raises(Forbidden):
        await claim(database, ada, now=LATER, wanted=Wanted(item_id=opened.item_id))


async def test_who_samples_while_the_appeal_waits_does_not_hear_it(database: Database) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    ada = await someone(database, "ada")
    await arrive(database, [evidence(blocked())], PLAIN.model_copy(update={"sample_share": 1.0}))
    (sample,) = await items_of(database, "sample")
    opened = await appeal(database, tool)
    await decide(database, ada, "block", now=LATER, wanted=Wanted(item_id=sample.item_id))
    with pytest.raises(Forbidden):
        await claim(database, ada, now=LATER, wanted=Wanted(item_id=opened.item_id))


@pytest.mark.parametrize("overrides", [False, True])
async def test_who_checks_while_the_appeal_waits_does_not_hear_it(
    database: Database, overrides: bool
) -> None:
    """A second review, of a decision on the event or of one that acts on it as an override."""
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    twice = PLAIN.model_copy(update={"second_share": 1.0})
    await arrive(database, [escalation(verdict(1))])
    first = await decide(database, ada, "block", twice)
    name = 1
    if overrides:
        name = 2
        alike = {"content_hash": verdict(1).content_hash, "decision": first.decisions[0]}
        await arrive(database, [evidence(blocked(2, basis="human", **alike))])
    (second,) = await items_of(database, "second")
    opened = await appeal(database, tool, name)
    await decide(database, ben, "block", twice, now=LATER, wanted=Wanted(item_id=second.item_id))
    with pytest.raises(Forbidden):
        await claim(database, ben, now=LATER, wanted=Wanted(item_id=opened.item_id))


async def test_who_decides_on_equal_content_of_another_event_hears_the_appeal(
    database: Database,
) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    ada = await someone(database, "ada")
    await arrive(database, [evidence(blocked())])
    opened = await appeal(database, tool)
    alike = verdict(2, content_hash=verdict(1).content_hash)
    await arrive(database, [escalation(alike, LATER)], now=LATER)
    (review,) = await items_of(database, "review")
    await decide(database, ada, "block", now=LATER, wanted=Wanted(item_id=review.item_id))
    assert await claim(database, ada, now=LATER, wanted=Wanted(item_id=opened.item_id))


async def test_a_lead_who_decides_in_bulk_does_not_hear_the_appeal(database: Database) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    lead = await someone(database, "lead", Role.LEAD)
    await arrive(database, [evidence(blocked())])
    opened = await appeal(database, tool)
    later = verdict(1, verdict_id=identity("later"), content_hash=identity("later"))
    await arrive(database, [escalation(later, LATER)], now=LATER)
    which = bulk.Filter(queue="general")
    async with database.writing() as tx:
        seen = await bulk.preview(tx, lead, which, LATER, PLAIN)
        await bulk.decide(tx, lead, which, seen.preview, saying("block"), LATER, PLAIN)
    with pytest.raises(Forbidden):
        await claim(database, lead, now=LATER, wanted=Wanted(item_id=opened.item_id))


async def test_one_event_has_one_open_appeal(database: Database) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    await arrive(database, [evidence(blocked())])
    first = await appeal(database, tool)
    again = await appeal(database, tool, verdict_id=blocked().verdict_id, event_id=None)
    assert (first.is_new, again.is_new) == (True, False)
    assert (again.appeal_id, again.item_id) == (first.appeal_id, first.item_id)
    assert len(await items_of(database, "appeal")) == 1


async def test_another_task_has_an_appeal_of_its_own(database: Database) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    other = blocked(1, task="response", verdict_id=identity("r"), content_hash=identity("r"))
    await arrive(database, [evidence(blocked()), evidence(other)])
    with pytest.raises(Invalid, match="prompt, response"):
        await appeal(database, tool)
    one = await appeal(database, tool, task="response")
    two = await appeal(database, tool, verdict_id=blocked().verdict_id)
    assert one.appeal_id != two.appeal_id


async def test_an_outcome_that_is_taken_back_is_open_again(database: Database) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    ada = await someone(database, "ada")
    await arrive(database, [evidence(blocked())])
    await appeal(database, tool)
    ruled = await decide(database, ada, "allow", now=LATER)
    lease = await take_back(database, ada, ruled, LATER + 1)
    assert lease is not None
    (made,) = await of_event(database, tool)
    assert (made.outcome, made.ruling_id) == (None, None)


async def test_an_appeal_whose_content_went_hangs_when_its_decision_is_taken_back(
    database: Database,
) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    await arrive(database, [escalation(verdict(1))])
    await decide(database, ada, "block")
    first = await appeal(database, tool)
    ruled = await decide(database, ben, "allow", now=LATER)
    edit = blocked(edit=1, verdict_id=identity("edit"), content_hash=identity("edited"))
    await arrive(database, [closing(edit, LATER), evidence(edit, LATER)], now=LATER)
    assert await take_back(database, ben, ruled, LATER) is None
    (made,) = await of_event(database, tool)
    assert (made.outcome, made.ruling_id) == ("closed", None)
    again = await appeal(database, tool)
    assert again.is_new and again.appeal_id != first.appeal_id


async def tells(database: Database, tool: Person, said: ToolSaid, now: float = LATER) -> Any:
    async with database.writing() as tx:
        return await tools.decide(tx, tool, said, now, PLAIN)


async def test_a_tool_decides_over_a_person_who_hears_the_appeal(database: Database) -> None:
    tool = await someone(database, "platform", is_tool=True)
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    await arrive(database, [escalation(verdict(1))])
    first = await decide(database, ada, "block")
    await appeal(database, tool)
    assert await claim(database, ben, now=LATER) is not None
    what = ToolSaid(
        saying("allow"), "acme", "e1", verdict(1).verdict_id, supersedes=first.decisions[0]
    )
    with pytest.raises(Conflict) as refused:
        await tells(database, tool, what)
    assert refused.value.holder == ben.pseudonym
    assert await tells(database, tool, what, LATER + PLAIN.lease_s + 1)


async def test_an_appeal_is_upheld_since_somebody_gave_in_before_it_was_heard(
    database: Database,
) -> None:
    tool = await someone(database, "platform", is_tool=True)
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    await arrive(database, [escalation(verdict(1))])
    first = await decide(database, ada, "block")
    await appeal(database, tool)
    what = ToolSaid(
        saying("allow"), "acme", "e1", verdict(1).verdict_id, supersedes=first.decisions[0]
    )
    await tells(database, tool, what)
    await decide(database, ben, "allow", now=LATER)
    (made,) = await of_event(database, tool)
    assert made.outcome == "overturned"


async def test_the_time_to_appeal_ends_before_what_was_decided_late_is_old(
    database: Database,
) -> None:
    day = 86_400.0
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    ada = await someone(database, "ada")
    came = escalation(verdict(1))
    await arrive(database, [came])
    decided_at = NOW + (PLAIN.keep_days - 1) * day
    ruled = await decide(database, ada, "block", now=decided_at)
    # The same verdict as evidence, by a lane that lags, and written before: it is kept no shorter.
    await arrive(database, [evidence(verdict(1), NOW - 5)], now=decided_at)
    last = decided_at + PLAIN.keep_days * day
    for now in (NOW + (PLAIN.keep_days + 1) * day, last - 1):
        async with database.writing() as tx:
            await retention.sweep(tx, now, PLAIN, 500)
    opened = await appeal(database, tool, now=last - 1)
    async with database.reading() as tx:
        against = select(table.c.decision_id).where(table.c.appeal_id == opened.appeal_id)
        assert (await tx.execute(against)).scalar_one() == ruled.decisions[0]
        assert (await tx.execute(select(func.count()).select_from(events))).scalar_one() == 1


async def test_what_nobody_has_is_not_found(database: Database) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    foreign = await someone(database, "elsewhere", Role.LEAD, is_tool=True, tenants=("other",))
    await arrive(database, [evidence(blocked())])
    for by, fields in (
        (tool, {"event_id": "nothing"}),
        (tool, {"event_id": None, "verdict_id": identity("nothing")}),
        (tool, {"task": "response"}),
        (tool, {"tenant": "other"}),
        (tool, {"tenant": "other", "event_id": None, "verdict_id": blocked().verdict_id}),
        (foreign, {}),
        (foreign, {"event_id": None, "verdict_id": blocked().verdict_id}),
        (foreign, {"tenant": "other", "event_id": None, "verdict_id": blocked().verdict_id}),
        (tool, {"now": NOW + PLAIN.keep_days * 86_400 + 1}),
    ):
        with pytest.raises(NotFound):
            await appeal(database, by, **fields)
    async with database.reading() as tx:
        with pytest.raises(NotFound):
            await appeals.of_event(tx, foreign, "acme", "e1")
    assert await items_of(database, "appeal") == []


@pytest.mark.parametrize(
    "fields",
    [
        {"event_id": None},
        {"statement": "  "},
        {"statement": "x" * 8001},
        {"event_id": "e2", "verdict_id": blocked().verdict_id},
        {"verdict_id": blocked().verdict_id, "task": "response"},
    ],
)
async def test_an_appeal_that_cannot_be_meant_is_refused(
    database: Database, fields: dict[str, Any]
) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    await arrive(database, [evidence(blocked())])
    with pytest.raises(Invalid):
        await appeal(database, tool, **fields)


async def test_what_was_erased_cannot_be_looked_at_again(database: Database) -> None:
    admin = await someone(database, "admin", Role.ADMIN)
    await arrive(database, [evidence(blocked())])
    async with database.writing() as tx:
        await ledger.erase(tx, "acme", "e1", actor=admin.user_id, now=NOW)
    with pytest.raises(Conflict, match="erased"):
        await appeal(database, admin)


async def test_an_appeal_ends_when_the_content_is_deleted(database: Database) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    await arrive(database, [evidence(blocked())])
    await appeal(database, tool)
    await arrive(database, [closing(withdrawal(1), LATER)], now=LATER)
    (made,) = await of_event(database, tool)
    assert made.outcome == "closed"
    with pytest.raises(NotFound):
        await appeal(database, tool)


async def test_what_waits_for_a_person_needs_no_appeal(database: Database) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    await arrive(database, [escalation(verdict(1))])
    with pytest.raises(Conflict):
        await appeal(database, tool)


async def test_an_appeal_is_never_decided_by_the_clock(database: Database) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    await arrive(database, [evidence(blocked())])
    await appeal(database, tool)
    late = LATER + PLAIN.appeal_sla_s + 1
    async with database.writing() as tx:
        await breaches.sweep(tx, late, PLAIN, lambda tenant: False)
    (item,) = await items_of(database, "appeal")
    assert item.queue == "urgent"
    async with database.reading() as tx:
        assert (await tx.execute(select(func.count()).select_from(decisions))).scalar_one() == 0
        assert (await tx.execute(select(table.c.outcome))).scalar_one() is None


async def test_the_verdict_that_was_taken_back_is_not_what_stands(database: Database) -> None:
    """The new one allows, and is in no ledger."""
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    await arrive(database, [evidence(blocked())])
    undo = verdict(1, verdict_id=identity("undo"), action="allow", supersedes=blocked().verdict_id)
    await arrive(database, [closing(undo)])
    with pytest.raises(NotFound):
        await appeal(database, tool)


# Statements of what is kept.


def tenants() -> Tenants:
    text = (
        "name: house\n"
        "rules:\n"
        "  - {name: law, when: {safety: Unsafe}, then: block, ground: law, clause: § 1,\n"
        "     text: {en: It is against the law., de: Das ist verboten.}}\n"
        "  - {name: unclear, when: {safety: Controversial}, then: allow}\n"
        "  - {name: otherwise, then: allow}\n"
    )
    house: Policy = load({"house": text}).policies["house"]
    return Tenants({"acme": Tenant("acme", {"house": house}, house, "acme")}, strict=False)


async def stated(
    database: Database, by: Person, name: object = 1, now: float = LATER
) -> tuple[Statement, str | None]:
    async with database.writing() as tx:
        return await statements.state(
            tx, by, "acme", f"e{name}", tenants=tenants(), redress="Complain.", now=now
        )


async def test_a_statement_follows_what_happens_to_the_content(database: Database) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    await arrive(database, [evidence(blocked(language="de"))])
    said, language = await stated(database, tool)
    assert language == "de"
    assert said.automation.decided_by == DecidedBy.AUTOMATION
    assert said.restriction.since == datetime.fromtimestamp(NOW, UTC)
    await appeal(database, tool)
    await decide(database, ada, "block", now=LATER)
    # Until it is published the decision can be taken back, and is no user's business.
    assert (await stated(database, tool, now=LATER + 1))[0] == said
    later = LATER + PLAIN.take_back_s
    confirmed, _ = await stated(database, tool, now=later)
    assert confirmed.automation.decided_by == DecidedBy.PERSON
    assert confirmed.facts.reason == saying("block").reason
    await appeal(database, tool, now=later)
    await decide(database, ben, "allow", now=later)
    with pytest.raises(NotFound, match="the last decision allows it"):
        await stated(database, tool, now=later + PLAIN.take_back_s)
    async with database.reading() as tx:
        logged = (await tx.execute(select(audit).where(audit.c.act == "stated"))).all()
    assert len(logged) == 3


async def test_an_appeal_that_is_upheld_begins_the_restriction_anew(database: Database) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    await arrive(database, [escalation(verdict(1, meanwhile="show"), meanwhile="show")])
    await decide(database, ada, "block")
    await appeal(database, tool)
    await decide(database, ben, "block", now=LATER)
    said, _ = await stated(database, tool, now=LATER + PLAIN.take_back_s)
    assert said.restriction.since == datetime.fromtimestamp(NOW, UTC)
    assert said.decided_at == datetime.fromtimestamp(LATER, UTC)


async def test_the_policy_explains_the_clause_that_a_person_named(database: Database) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    await arrive(database, [evidence(blocked(language="de"))])
    async with database.writing() as tx:
        said = Said("block", (), "illegal", "law", "§ 1")
        told = ToolSaid(said, "acme", "e1", blocked().verdict_id)
        await tools.decide(tx, tool, told, NOW, PLAIN)
    found, language = await stated(database, tool)
    assert found.ground is not None
    assert (found.ground.kind, found.ground.clause) == ("law", "§ 1")
    assert found.ground.explanation == "Das ist verboten."
    assert "Das ist verboten." in text_of(found, language)


async def test_a_breach_that_blocks_is_stated_as_one(database: Database) -> None:
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    await arrive(database, [escalation(verdict(1), meanwhile="show", on_breach="block")])
    async with database.writing() as tx:
        await breaches.sweep(tx, LATER + 3600, PLAIN, lambda tenant: False)
    found, _ = await stated(database, tool, now=LATER + 3600)
    assert found.restriction.what == What.DISABLED
    assert found.automation.decided_by == DecidedBy.DEADLINE


async def test_nothing_is_stated_to_strangers(database: Database) -> None:
    foreign = await someone(database, "elsewhere", Role.LEAD, is_tool=True, tenants=("other",))
    tool = await someone(database, "platform", Role.LEAD, is_tool=True)
    await arrive(database, [evidence(blocked())])
    for by, name in ((foreign, 1), (tool, "nothing")):
        with pytest.raises(NotFound):
            await stated(database, by, name)
