"""Second reviews, disagreements and what they tell of people and of what is automatic."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from deciding import PLAIN, arrive, claim, decide, items_of, take_back
from escalated import NOW, escalation, evidence, identity, open_item, person, put_items, verdict
from qwarden.review.agreement import LEAST_PAIRS, wilson
from qwarden.review.identity import new_id
from qwarden.review.person import Person, Role
from qwarden.review.refusals import Conflict, Forbidden
from qwarden.review.store import leases, quality
from qwarden.review.store.asking import stranded
from qwarden.review.store.database import Database
from qwarden.review.store.quality import Accuracy, Quality
from qwarden.review.store.schema import audit, checks, decisions, rulings
from qwarden.review.store.turns import Wanted

SECOND = PLAIN.model_copy(update={"second_share": 1.0})
SAMPLE = PLAIN.model_copy(update={"sample_share": 1.0})


async def someone(database: Database, name: str, *roles: Role, **fields: Any) -> Person:
    async with database.writing() as tx:
        return await person(tx, name, *roles, **fields)


async def figures(database: Database, of: Person) -> Quality:
    async with database.reading() as tx:
        return await quality.figures(tx, of, 30, NOW + 1)


async def all_checks(database: Database) -> list[Any]:
    async with database.reading() as tx:
        return list(await tx.execute(select(checks).order_by(checks.c.check_id)))


async def published(database: Database) -> int:
    async with database.reading() as tx:
        return (await tx.execute(select(func.count()).select_from(decisions))).scalar_one()


# The second reviewer.


async def test_the_second_reviewer_is_another_one(database: Database) -> None:
    ada = await someone(database, "ada")
    await someone(database, "ben")
    await arrive(database, [escalation(verdict(1))])
    await decide(database, ada, "block", SECOND)
    (second,) = await items_of(database, "second")
    assert await claim(database, ada, SECOND) is None
    with pytest.raises(Forbidden):
        await claim(database, ada, SECOND, wanted=Wanted(item_id=second.item_id))


async def test_a_second_review_looks_like_an_item_that_has_just_come(database: Database) -> None:
    ada = await someone(database, "ada")
    await someone(database, "ben")
    await arrive(database, [escalation(verdict(1), harm=7, sla_s=7200)])
    (first,) = await items_of(database, "review")
    await decide(database, ada, "block", SECOND, NOW + 50)
    (second,) = await items_of(database, "second")
    alike = (
        "tenant", "queue", "language", "category", "rule", "task", "subject", "verdict_id", "harm",
        "reach", "count", "role", "on_breach", "returned",
    )  # fmt: skip
    for name in alike:
        assert getattr(second, name) == getattr(first, name), name
    assert second.arrived_at == NOW + 50
    assert second.breach_at - second.arrived_at == first.breach_at - first.arrived_at
    assert second.due_at - second.arrived_at == pytest.approx(first.due_at - first.arrived_at)


async def test_two_who_agree_trouble_no_lead(database: Database) -> None:
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    await someone(database, "lead", Role.LEAD)
    await arrive(database, [escalation(verdict(1))])
    await decide(database, ada, "block", SECOND)
    before = await published(database)
    await decide(database, ben, "block", SECOND)
    (check,) = await all_checks(database)
    assert (check.kind, check.user_id, check.against) == ("second", ben.user_id, ada.user_id)
    assert (check.said, check.expected) == ("block", "block")
    assert await items_of(database, "disagreement") == []
    assert await published(database) == before
    async with database.reading() as tx:
        logged = (await tx.execute(select(audit).where(audit.c.act == "checked"))).one()
    assert json.loads(logged.about)["expected"] == "block"


async def test_two_who_disagree_are_told_apart_by_a_third_who_leads(database: Database) -> None:
    ada, ben = await someone(database, "ada"), await someone(database, "ben", Role.LEAD)
    carla = await someone(database, "carla", Role.LEAD)
    await arrive(database, [escalation(verdict(1))])
    await decide(database, ada, "block", SECOND)
    await decide(database, ben, "allow", SECOND)
    (item,) = await items_of(database, "disagreement")
    assert (item.queue, item.role) == ("quality", "lead")
    assert item.verdict_id == verdict(1).verdict_id
    assert await claim(database, ada, SECOND) is None
    assert await claim(database, ben, SECOND) is None
    before = await published(database)
    await decide(database, carla, "allow", SECOND)
    assert await published(database) == before + 1
    # A lead's word is not checked again.
    assert await items_of(database, "second") == []


async def test_the_only_lead_of_a_team_decides_their_own_disagreement(database: Database) -> None:
    ada, ben = await someone(database, "ada", Role.LEAD), await someone(database, "ben")
    await arrive(database, [escalation(verdict(1))])
    await decide(database, ada, "block", SECOND)
    await decide(database, ben, "allow", SECOND)
    lease = await claim(database, ada, SECOND)
    assert lease is not None
    assert lease.item_id == (await items_of(database, "disagreement"))[0].item_id


@pytest.mark.parametrize(
    "other",
    [
        None,
        {"languages": ("de",)},
        {"tenants": ("other",)},
        {"is_tool": True},
        {"roles": (Role.AUDITOR,)},
    ],
)
async def test_nobody_s_second_review_is_opened(
    database: Database, other: dict[str, Any] | None
) -> None:
    """A second review that nobody could take would wait for ever."""
    ada = await someone(database, "ada")
    if other is not None:
        fields = {name: value for name, value in other.items() if name != "roles"}
        await someone(database, "ben", *other.get("roles", ()), **fields)
    await arrive(database, [escalation(verdict(1))])
    await decide(database, ada, "block", SECOND)
    assert await items_of(database, "second") == []


async def test_an_urgent_second_look_is_decided_for_nobody(database: Database) -> None:
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    carla = await someone(database, "carla")
    await arrive(database, [escalation(verdict(1))])
    await decide(database, ada, "allow", SECOND)
    before = await published(database)
    held = await claim(database, ben, SECOND)
    assert held is not None
    async with database.writing() as tx:
        await leases.send_to_urgent(
            tx, ben, held.item_id, held.token, "threat_to_life", NOW + 1, SECOND
        )
    assert await claim(database, ada, SECOND) is None
    await decide(database, carla, "block", SECOND, NOW + 2)
    assert await published(database) == before + 1
    async with database.reading() as tx:
        made = list(await tx.execute(select(decisions.c.value, decisions.c.supersedes)))
    (last,) = [json.loads(each.value) for each in made if each.supersedes is not None]
    assert last["action"] == "block"


async def test_what_is_urgent_is_not_decided_twice(database: Database) -> None:
    ada = await someone(database, "ada")
    await someone(database, "ben")
    async with database.writing() as tx:
        await put_items(tx, [open_item(1, queue="urgent")])
    await decide(database, ada, "block", SECOND)
    assert await items_of(database, "second") == []


async def test_the_second_review_of_what_is_taken_back_ends(database: Database) -> None:
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    await arrive(database, [escalation(verdict(1))])
    first = await decide(database, ada, "block", SECOND)
    held = await claim(database, ben, SECOND)
    assert held is not None
    await take_back(database, ada, first)
    (second,) = await items_of(database, "second", "closed")
    assert (second.item_id, second.holder) == (held.item_id, None)


async def test_a_check_of_what_is_taken_back_counts_nothing(database: Database) -> None:
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    await someone(database, "lead", Role.LEAD)
    await arrive(database, [escalation(verdict(1))])
    first = await decide(database, ada, "block", SECOND)
    await decide(database, ben, "allow", SECOND)
    assert len(await items_of(database, "disagreement")) == 1
    await take_back(database, ada, first)
    assert await all_checks(database) == []
    assert await items_of(database, "disagreement") == []


async def test_a_second_opinion_that_is_taken_back_asks_no_lead(database: Database) -> None:
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    await someone(database, "lead", Role.LEAD)
    await arrive(database, [escalation(verdict(1))])
    await decide(database, ada, "block", SECOND)
    other = await decide(database, ben, "allow", SECOND)
    await take_back(database, ben, other)
    assert await all_checks(database) == []
    assert await items_of(database, "disagreement") == []
    assert len(await items_of(database, "second")) == 1


async def test_what_a_lead_has_decided_on_stays(database: Database) -> None:
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    lead = await someone(database, "lead", Role.LEAD)
    await arrive(database, [escalation(verdict(1))])
    await decide(database, ada, "block", SECOND)
    other = await decide(database, ben, "allow", SECOND)
    await decide(database, lead, "block", SECOND)
    with pytest.raises(Conflict):
        await take_back(database, ben, other)
    assert len(await all_checks(database)) == 1


async def test_an_item_that_nobody_can_take_is_counted(database: Database) -> None:
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    await arrive(database, [escalation(verdict(1))])
    await decide(database, ada, "block", SECOND)
    await decide(database, ben, "allow", SECOND)
    async with database.reading() as tx:
        assert (await stranded(tx))["disagreement"] == 1
    await someone(database, "lead", Role.LEAD)
    async with database.reading() as tx:
        assert (await stranded(tx))["disagreement"] == 0


# Samples.


async def test_a_sample_of_what_is_automatic_is_looked_at(database: Database) -> None:
    ada = await someone(database, "ada")
    records = [
        evidence(verdict(1, action="allow", categories=[], safety="Safe")),
        evidence(verdict(2, action="block")),
        evidence(verdict(3, action="disclaim")),
        evidence(verdict(4, action="allow", basis="human")),
        evidence(verdict(5, action="block", basis="quota")),
        evidence(verdict(6)),
    ]
    await arrive(database, records, SAMPLE)
    await arrive(database, records, SAMPLE)
    opened = await items_of(database, "sample")
    assert {each.verdict_id for each in opened} == {verdict(n).verdict_id for n in (1, 2, 3)}
    assert {(each.queue, each.harm) for each in opened} == {("quality", 1)}
    before = await published(database)
    await decide(database, ada, "allow", SAMPLE, wanted=Wanted(item_id=verdict(1).verdict_id))
    assert await published(database) == before
    await decide(database, ada, "allow", SAMPLE, wanted=Wanted(item_id=verdict(2).verdict_id))
    assert await published(database) == before + 1
    found = {each.expected: each for each in await all_checks(database)}
    assert (found["allow"].said, found["allow"].rate) == ("allow", 0.01)
    assert (found["block"].said, found["block"].rate) == ("allow", 1.0)


async def test_samples_do_not_pile_up(database: Database) -> None:
    few = SAMPLE.model_copy(update={"samples_open": 3})
    for batch in range(3):
        records = [evidence(verdict((batch, n), action="block")) for n in range(2)]
        await arrive(database, records, few)
    assert len(await items_of(database, "sample")) == 3


# Quality.


async def _ruled(database: Database, rows: list[dict[str, Any]]) -> None:
    async with database.writing() as tx:
        for row in rows:
            await tx.execute(
                insert(rulings).values(
                    **{
                        "ruling_id": new_id(NOW),
                        "kind": "review",
                        "tenant": "acme",
                        "language": "en",
                        "category": "PII",
                        "action": "block",
                        "categories": "[]",
                        "reason": "illegal",
                        "overrides": False,
                        "by": "person",
                        "decided_at": NOW,
                        "publish_at": NOW,
                        **row,
                    }
                )
            )


async def _checked(database: Database, count: int, **fields: Any) -> None:
    rows = [
        {
            "check_id": new_id(NOW),
            "kind": "second",
            "ruling_id": identity("r"),
            "tenant": "acme",
            "language": "en",
            "category": "PII",
            "at": NOW,
            "against": None,
            "rate": None,
            **fields,
        }
        for _ in range(count)
    ]
    async with database.writing() as tx:
        await tx.execute(insert(checks).inline(), rows)


async def test_kappa_is_of_people_s_answers_beside_one_another(database: Database) -> None:
    """20 both block, 15 both allow, 5 and 10 apart: 0.4, for either of the two."""
    lead = await someone(database, "lead", Role.LEAD)
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    await _ruled(database, [{"user_id": ada.user_id}] * 2 + [{"user_id": None, "by": "breach"}])
    for count, said, expected in (
        (20, "block", "block"),
        (5, "block", "allow"),
        (10, "allow", "block"),
        (15, "allow", "allow"),
    ):
        await _checked(
            database, count, user_id=ben.user_id, against=ada.user_id, said=said, expected=expected
        )
    found = await figures(database, lead)
    by_name = {each.pseudonym: each for each in found.reviewers}
    assert set(by_name) == {ada.pseudonym, ben.pseudonym}
    for each in by_name.values():
        assert each.kappa == pytest.approx(0.4)
        assert each.agreed == pytest.approx(0.7)
        assert each.pairs == 50
    assert (by_name[ada.pseudonym].decisions, by_name[ben.pseudonym].decisions) == (2, 0)
    (category,) = found.categories
    assert (category.category, category.pairs) == ("PII", 50)
    assert category.kappa == pytest.approx(0.4)


async def test_golden_items_count_for_who_decided_them(database: Database) -> None:
    lead, ada = await someone(database, "lead", Role.LEAD), await someone(database, "ada")
    golden_id = identity("golden")
    await _checked(
        database,
        3,
        kind="golden",
        user_id=ada.user_id,
        against=golden_id,
        said="allow",
        expected="allow",
    )
    await _checked(
        database,
        1,
        kind="golden",
        user_id=ada.user_id,
        against=golden_id,
        said="block",
        expected="allow",
    )
    (one,) = (await figures(database, lead)).reviewers
    assert (one.goldens, one.golden_right, one.pairs) == (4, 3, 4)


def _kappas(found: Quality) -> list[float | None]:
    return [each.kappa for each in found.reviewers] + [each.kappa for each in found.categories]


async def test_a_few_answers_have_no_kappa(database: Database) -> None:
    lead = await someone(database, "lead", Role.LEAD)
    ada, ben = await someone(database, "ada"), await someone(database, "ben")
    await _checked(
        database,
        LEAST_PAIRS - 1,
        user_id=ben.user_id,
        against=ada.user_id,
        said="allow",
        expected="allow",
    )
    found = await figures(database, lead)
    assert _kappas(found) == [None, None, None]
    await _checked(
        database, 1, user_id=ben.user_id, against=ada.user_id, said="allow", expected="allow"
    )
    found = await figures(database, lead)
    assert _kappas(found) == [1.0, 1.0, 1.0]


async def test_error_rates_weigh_what_was_seldom_looked_at(database: Database) -> None:
    lead, ada = await someone(database, "lead", Role.LEAD), await someone(database, "ada")
    of: dict[str, Any] = {"kind": "sample", "user_id": ada.user_id, "expected": "allow"}
    await _checked(database, 90, **of, said="allow", rate=0.1)
    await _checked(database, 10, **of, said="block", rate=0.1)
    await _checked(database, 50, **of, said="allow", rate=0.001, language="de")
    await _checked(database, 50, **of, said="block", rate=0.001, language="de")
    found = {
        (each.action, each.language, each.category): each
        for each in (await figures(database, lead)).errors
    }
    english = found["allow", "en", None]
    alone = wilson(10, 100)
    assert alone is not None
    assert (english.reviewed, english.wrong) == (100, 10)
    assert (english.share, english.low, english.high) == pytest.approx((0.1, alone.low, alone.high))
    both = found["allow", None, None]
    assert (both.reviewed, both.wrong) == (200, 60)
    assert both.share == pytest.approx((100 + 50_000) / (1000 + 100_000))
    assert found["allow", None, "PII"].share == both.share
    assert set(found) == {
        ("allow", None, None), ("allow", "en", None), ("allow", "de", None), ("allow", None, "PII"),
    }  # fmt: skip


async def test_a_lead_sees_no_other_tenant_s_figures(database: Database) -> None:
    lead = await someone(database, "lead", Role.LEAD, tenants=("other",))
    ada = await someone(database, "ada")
    await _ruled(database, [{"user_id": ada.user_id}])
    await _checked(database, 40, user_id=ada.user_id, said="allow", expected="allow")
    await _checked(
        database, 40, kind="sample", user_id=ada.user_id, said="allow", expected="allow", rate=1.0
    )
    found = await figures(database, lead)
    assert (found.reviewers, found.categories, found.errors) == ([], [], [])


async def test_old_answers_are_not_in_the_figures(database: Database) -> None:
    lead, ada = await someone(database, "lead", Role.LEAD), await someone(database, "ada")
    old = NOW - 31 * 86_400
    await _ruled(database, [{"user_id": ada.user_id, "decided_at": old}])
    await _checked(database, 40, user_id=ada.user_id, said="allow", expected="allow", at=old)
    found = await figures(database, lead)
    assert (found.reviewers, found.categories) == ([], [])


async def test_accuracy_is_how_often_people_restrict_what_the_guard_named(
    database: Database,
) -> None:
    ada = await someone(database, "ada")
    mine = {"user_id": ada.user_id}
    await _ruled(
        database,
        [{**mine, "action": "block"}] * 3
        + [{**mine, "action": "disclaim"}]
        + [{**mine, "action": "allow"}]
        + [
            {**mine, "action": "allow", "taken_back_at": NOW},
            {**mine, "action": "allow", "tenant": "other"},
            {**mine, "action": "allow", "kind": "golden"},
            {**mine, "action": "allow", "bulk_id": identity("bulk")},
            {**mine, "action": "allow", "category": "Violent"},
            {"user_id": None, "action": "allow", "by": "breach"},
        ],
    )
    told = wilson(4, 5)
    assert told is not None
    async with database.reading() as tx:
        found = await quality.accuracy(tx, "acme", ["PII", "Unethical Acts"])
    assert found == {
        "PII": Accuracy(5, 4, told.share, told.low, told.high),
        "Unethical Acts": Accuracy(0, 0, None, None, None),
    }
