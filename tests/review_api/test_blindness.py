"""Golden items and second reviews look like any other item, everywhere."""

from __future__ import annotations

import json
from typing import Any

from msgspec.structs import replace

from qwarden.contracts.verdict import Facts
from qwarden.review.person import Role
from qwarden.review.store.database import Database
from qwarden.review.store.intake import Arrived
from review_api.desk import Desk, claimed, decided, open_desk
from reviewing import escalations

GOLDEN = {
    "tenant": "acme",
    "queue": "general",
    "language": "en",
    "category": "Politically Sensitive Topics",
    "text": "Who comes to the meeting about the library?",
    "action": "allow",
    "note": "A question about a meeting.",
}


def shape(value: Any) -> Any:
    """What a JSON value is made of, without what it says."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in sorted(value.items())}
    if isinstance(value, list):
        return sorted({json.dumps(shape(each)) for each in value})
    return type(value).__name__


VARIES = ("views", "accuracy", "content", "subject_history", "past_decisions", "notes")
"""What differs between items of one kind, too."""


def comparable(claim: dict[str, Any]) -> Any:
    item = dict(claim["item"])
    for name in VARIES:
        item.pop(name, None)
    item["verdict"] = {**item["verdict"], "category_scores": None, "notice": None}
    return shape({**claim, "item": item})


async def add_golden(desk: Desk, **more: str) -> None:
    lead = await desk.client("lead", Role.LEAD)
    answer = await lead.post("/v1/goldens", content=json.dumps({**GOLDEN, **more}).encode())
    assert answer.status_code == 201, answer.text
    assert len(answer.json()["golden_ids"]) == 1


async def kinds(desk: Desk, item_id: str) -> str:
    from sqlalchemy import select

    from qwarden.review.store.schema import items

    async with desk.database.reading() as tx:
        found = await tx.execute(select(items.c.kind).where(items.c.item_id == item_id))
        return str(found.scalar_one())


async def test_a_golden_item_can_be_told_from_another(database: Database) -> None:
    async with open_desk(database, QWARDEN_REVIEW__GOLDEN_SHARE="1") as desk:
        await add_golden(desk)
        await desk.take(escalations(3))
        ann = await desk.client("ann")
        golden, other = await claimed(ann, queue="general"), await claimed(ann, queue="general")
        assert await kinds(desk, golden["item"]["item_id"]) == "golden"
        assert await kinds(desk, other["item"]["item_id"]) == "review"
        assert comparable(golden) == comparable(other)
        for one, two in ((golden, other), (other, golden)):
            assert one["item"]["kind"] == "review"
            assert one["item"].keys() == two["item"].keys()
            assert one["item"]["verdict"].keys() == two["item"]["verdict"].keys()
            assert one["lease"]["fence"] == two["lease"]["fence"] == 1
        assert "golden" not in json.dumps(golden), "the answer says what it is"

        def begins(claim: dict[str, Any]) -> float:
            made_at = int(claim["item"]["item_id"][:12], 16) / 1000
            return made_at - float(claim["item"]["arrived_at"])

        assert abs(begins(golden) - begins(other)) < 5, "its id tells when it was made"
        listed = (await ann.get("/v1/items?queue=general")).json()["items"]
        assert [each["item_id"] for each in listed[:2]] == [
            golden["item"]["item_id"],
            other["item"]["item_id"],
        ], "it is not where the next one was"
        said = [await decided(ann, each, "block") for each in (golden, other)]
        assert shape(said[0]) == shape(said[1])
        assert [each["decisions"] for each in said] == [1, 1]
        mine = (await ann.get("/v1/rulings")).json()
        assert len({json.dumps(shape(each)) for each in mine}) == 1
        for claim in (golden, other):
            seen = await ann.get(f"/v1/items/{claim['item']['item_id']}")
            assert seen.status_code == 200, "after the decision one of them is gone"
        back = [
            (await ann.post(f"/v1/rulings/{each['ruling_id']}/take-back")).json()
            for each in reversed(said)
        ]
        assert comparable(back[0]) == comparable(back[1])


async def test_a_golden_item_says_another_reach_than_its_row(database: Database) -> None:
    async with open_desk(database, QWARDEN_REVIEW__GOLDEN_SHARE="1") as desk:
        await add_golden(desk)
        (made,) = escalations(1)
        facts = Facts(origin="user_report", reach=5000)
        said = replace(made.said, verdict=replace(made.said.verdict, facts=facts))
        await desk.take([Arrived(said, made.at)])
        ann = await desk.client("ann")
        golden, other = (await claimed(ann))["item"], (await claimed(ann))["item"]
        assert await kinds(desk, golden["item_id"]) == "golden"
        assert golden["reach"] == other["reach"] == 5000
        assert golden["verdict"]["facts"] == other["verdict"]["facts"]


async def test_a_golden_item_in_an_empty_queue_has_no_guard(database: Database) -> None:
    async with open_desk(database, QWARDEN_REVIEW__GOLDEN_SHARE="1") as desk:
        ann, ben = await desk.client("ann"), await desk.client("ben")
        await desk.take(escalations(1))
        other = await claimed(ben)
        await decided(ben, other)
        await add_golden(desk)
        golden = (await claimed(ann))["item"]
        assert await kinds(desk, golden["item_id"]) == "golden"
        assert golden["verdict"]["guard"] == other["item"]["verdict"]["guard"] is not None
        assert golden["verdict"]["facts"] == {}


async def test_a_golden_item_cannot_come_with_a_thread_as_others_do(database: Database) -> None:
    async with open_desk(database, QWARDEN_REVIEW__GOLDEN_SHARE="1") as desk:
        await add_golden(desk, context="A thread.", link="https://forum.example/t/7")
        await desk.take(escalations(1))
        ann = await desk.client("ann")
        golden, other = await claimed(ann), await claimed(ann)
        assert await kinds(desk, golden["item"]["item_id"]) == "golden"
        for name in ("context", "link"):
            assert shape(golden["item"]["content"][name]) == shape(other["item"]["content"][name])
        shown = await ann.post(f"/v1/items/{golden['item']['item_id']}/reveal")
        assert shown.json()["content"]["link"] == "https://forum.example/t/7"


async def test_a_golden_item_that_was_let_go_is_seen_by_others(database: Database) -> None:
    async with open_desk(database, QWARDEN_REVIEW__GOLDEN_SHARE="1") as desk:
        await add_golden(desk)
        ann, ben = await desk.client("ann"), await desk.client("ben", tenants=["acme"])
        golden = await claimed(ann)
        assert await kinds(desk, golden["item"]["item_id"]) == "golden"
        await ann.post(
            f"/v1/items/{golden['item']['item_id']}/release",
            json={"lease": golden["lease"]["token"]},
        )
        listed = [each["item_id"] for each in (await ben.get("/v1/items")).json()["items"]]
        assert golden["item"]["item_id"] not in listed


async def test_a_second_review_can_be_told_from_a_first(database: Database) -> None:
    async with open_desk(database, QWARDEN_REVIEW__SECOND_SHARE="1") as desk:
        ann, ben = await desk.client("ann"), await desk.client("ben")
        await desk.client("lena", Role.LEAD)
        await desk.take(escalations(1, name="first"))
        first = await claimed(ann)
        item_id = first["item"]["item_id"]
        await ann.post(f"/v1/items/{item_id}/notes", json={"text": "I am not sure of this one."})
        await decided(ann, first, "block")
        await desk.take(escalations(1, name="other"))
        both = [await claimed(ben), await claimed(ben)]
        named = {await kinds(desk, each["item"]["item_id"]): each for each in both}
        assert set(named) == {"review", "second"}
        second, other = named["second"], named["review"]
        assert comparable(second) == comparable(other)
        assert second["item"]["kind"] == "review"
        for name in ("notes", "past_decisions", "subject_history"):
            assert second["item"][name] == [], f"{name} tells what the first one said"
        assert "block" not in json.dumps(second["item"]["past_decisions"])
        said = [await decided(ben, each, "block") for each in both]
        assert shape(said[0]) == shape(said[1])
        assert [each["decisions"] for each in said] == [1, 1]
        mine = (await ann.get(f"/v1/items/{second['item']['item_id']}")).status_code
        assert mine == 404, "the first reviewer sees that they were checked"


async def test_a_subjects_history_tells_what_the_first_reviewer_said(database: Database) -> None:
    """Two events of one author with the same content, one item: a second review of it shows the
    author's other content alone."""
    async with open_desk(database, QWARDEN_REVIEW__SECOND_SHARE="1") as desk:
        import msgspec

        from qwarden.review.store.intake import Arrived

        ann, ben = await desk.client("ann"), await desk.client("ben")
        made = escalations(3, name="same")
        alike = made[0].said.verdict.content_hash
        arrived = [
            Arrived(
                msgspec.structs.replace(
                    each.said,
                    verdict=msgspec.structs.replace(
                        each.said.verdict,
                        subject="u1",
                        content_hash=alike if number < 2 else each.said.verdict.content_hash,
                    ),
                ),
                each.at,
            )
            for number, each in enumerate(made)
        ]
        await desk.take(arrived[:2])
        first = await claimed(ann)
        assert first["item"]["count"] == 2
        await decided(ann, first, "block")
        await desk.take(arrived[2:])
        both = [await claimed(ben), await claimed(ben)]
        named = {await kinds(desk, each["item"]["item_id"]): each["item"] for each in both}
        assert [each["decision"] for each in named["review"]["subject_history"]] == ["block"] * 2
        assert [each["decision"] for each in named["second"]["subject_history"]] == [None]
