"""Live views: nobody waits for a page that does not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from qwarden.review.http import live
from qwarden.review.http.live import Live
from qwarden.review.people import users
from qwarden.review.person import Person, Role
from qwarden.review.refusals import TooOften
from qwarden.review.store.changes import Mark
from qwarden.review.store.database import Database
from review_api.desk import Desk, claimed, decided, open_desk
from review_api.test_blindness import add_golden
from reviewing import escalations


async def begun(view: Live, person: Person) -> AsyncIterator[bytes]:
    """A page that has asked and reads what it wants."""
    stream = view.follow(person)
    assert (await anext(stream)).startswith(b"retry")
    return stream


async def test_a_page_that_does_not_read_fills_the_memory(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_WAITING", 5)
    ann_is = await desk.add("ann")
    ann = await desk.client_of(ann_is)
    await desk.take(escalations(20))
    stream = await begun(desk.live, ann_is)
    await desk.live.look()
    for _ in range(8):
        await claimed(ann)
        await desk.live.look()
    assert not desk.live._pages, "it is still kept"
    read = [each async for each in stream]
    assert 0 < len(read) <= 5 + 1
    await desk.live.look()


async def test_an_act_that_commits_late_is_never_told(desk: Desk) -> None:
    """A transaction has taken its number in the log before another, and commits after a look."""
    ann_is, ben_is = await desk.add("ann"), await desk.add("ben")
    ann = await desk.client_of(ann_is)
    await desk.take(escalations(2))
    stream = await begun(desk.live, ben_is)
    await desk.live.look()
    await claimed(ann)
    # As if the look before had seen a later number already.
    assert desk.live._mark is not None
    desk.live._mark = Mark(desk.live._mark.number + 5, desk.live._mark.item_id)
    await desk.live.look()
    told = [await asyncio.wait_for(anext(stream), 5) for _ in range(2)]
    assert any(each.startswith(b"event: item") for each in told)


@pytest.mark.parametrize("how", ["removed", "other_tenants", "no_lead"])
async def test_an_open_page_outlives_the_rights_of_its_person(desk: Desk, how: str) -> None:
    mia = await desk.add("mia", Role.LEAD)
    ann_is = await desk.add("ann")
    ann = await desk.client_of(ann_is)
    await desk.take(escalations(2))
    stream, other = await begun(desk.live, mia), await begun(desk.live, ann_is)
    await desk.live.look()
    async with desk.database.writing() as tx:
        by: dict[str, Any] = {"actor": "test", "now": desk.clock()}
        if how == "removed":
            await users.remove(tx, mia.user_id, **by)
        elif how == "other_tenants":
            await users.change(tx, mia.user_id, tenants=["other"], **by)
        else:
            await users.change(tx, mia.user_id, roles=["reviewer"], **by)
    await claimed(ann)
    await desk.live.look()
    assert not [each async for each in stream if each.startswith(b"event: item")]
    told = [await asyncio.wait_for(anext(other), 5) for _ in range(2)]
    assert any(each.startswith(b"event: item") for each in told), "others are not told any more"


async def test_somebody_hears_of_another_one_s_golden_item(database: Database) -> None:
    async with open_desk(database, QWARDEN_REVIEW__GOLDEN_SHARE="1") as desk:
        await add_golden(desk)
        ann_is, ben_is = await desk.add("ann"), await desk.add("ben")
        ann = await desk.client_of(ann_is)
        await desk.take(escalations(1))
        streams = {each.name: await begun(desk.live, each) for each in (ann_is, ben_is)}
        await desk.live.look()
        golden, other = await claimed(ann), await claimed(ann)
        await desk.live.look()
        await decided(ann, golden)
        await decided(ann, other)
        await desk.live.look()
        desk.live.end()
        told = {name: b"".join([each async for each in stream]) for name, stream in streams.items()}
        assert told["ann"].count(golden["item"]["item_id"].encode()) == 3
        assert golden["item"]["item_id"].encode() not in told["ben"]
        assert told["ben"].count(other["item"]["item_id"].encode()) == 2


async def test_the_queues_count_another_one_s_golden_item(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_OVERVIEW_S", 0)
    async with open_desk(database, QWARDEN_REVIEW__GOLDEN_SHARE="1") as desk:
        await add_golden(desk)
        ann_is, ben_is = await desk.add("ann"), await desk.add("ben")
        ann = await desk.client_of(ann_is)
        await desk.take(escalations(2))
        streams = [await begun(desk.live, each) for each in (ann_is, ben_is)]
        await claimed(ann)
        await desk.live.look()
        desk.live.end()
        for stream, count in zip(streams, (3, 2), strict=True):
            told = [each async for each in stream if each.startswith(b"event: queues")]
            assert f'"open":{count}'.encode() in told[-1]


async def test_a_service_that_ends_waits_for_its_pages(desk: Desk) -> None:
    ann = await desk.add("ann")
    stream = await begun(desk.live, ann)
    desk.live.end()
    assert [each async for each in stream] == []
    with pytest.raises(TooOften):
        desk.live.follow(ann)


async def test_more_pages_than_there_is_room_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_PAGES", 1)
    ann = await desk.add("ann")
    stream = await begun(desk.live, ann)
    refused = await (await desk.client_of(ann)).get("/v1/live")
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0
    desk.live.end()
    assert [each async for each in stream] == []
