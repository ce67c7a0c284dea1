"""Live views: nobody waits for a page that does not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from qwarden.review.http import live
from qwarden.review.http.live import Live
from qwarden.review.person import Person
from qwarden.review.refusals import TooOften
from qwarden.review.store.changes import Mark
from review_api.desk import Desk, claimed
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
