"""What people do in a day, over the API."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace
from sqlalchemy import select

from qwarden.contracts.decision import decode_decision
from qwarden.contracts.verdict import Facts
from qwarden.review.person import Role
from qwarden.review.store.intake import Arrived
from qwarden.review.store.schema import audit, decisions, outbox
from review_api.desk import Desk, claimed, decided
from reviewing import TEXTS, escalations


async def acts(desk: Desk, item_id: str) -> list[str]:
    async with desk.database.reading() as tx:
        found = await tx.execute(
            select(audit.c.act).where(audit.c.item_id == item_id).order_by(audit.c.number)
        )
        return list(found.scalars())


async def test_content_is_seen_before_it_is_asked_for(desk: Desk) -> None:
    ann = await desk.client("ann")
    await desk.take(escalations(1))
    claim = await claimed(ann)
    item_id = claim["item"]["item_id"]
    seen = (await ann.get(f"/v1/items/{item_id}")).json()
    text = TEXTS["en"][0]
    for item in (claim["item"], seen):
        assert item["content"]["is_masked"]
        assert len(item["content"]["messages"][0]["content"]) == len(text)
        assert "library" not in json.dumps(item)
    revealed = (await ann.post(f"/v1/items/{item_id}/reveal")).json()["content"]
    assert not revealed["is_masked"]
    assert revealed["messages"][0]["content"] == text
    assert await acts(desk, item_id) == ["claimed", "saw", "revealed"]


async def test_words_about_content_are_seen_before_they_are_asked_for(desk: Desk) -> None:
    """What rules read of its metadata, what colleagues note, and what its author appeals with."""
    ann, ben = await desk.client("ann"), await desk.client("ben", Role.LEAD)
    tool = await desk.client("hub", is_tool=True)
    (arrived,) = escalations(1)
    facts = Facts(reach=9, metadata={"room": "WORDS", "age": 7})
    said = replace(arrived.said, verdict=replace(arrived.said.verdict, facts=facts))
    await desk.take([Arrived(said, arrived.at)])
    first = await claimed(ann)
    item_id = first["item"]["item_id"]
    note = {"text": "WORDS, they write."}
    assert (await ann.post(f"/v1/items/{item_id}/notes", json=note)).is_success
    seen = (await ann.get(f"/v1/items/{item_id}")).json()
    assert "WORDS" not in json.dumps(seen)
    assert seen["verdict"]["facts"]["reach"] == 9
    assert seen["verdict"]["facts"]["metadata"] == {"room": "•••••", "age": "•"}
    assert [each["text"] for each in seen["notes"]] == ["•••••, •••• •••••."]
    revealed = (await ann.post(f"/v1/items/{item_id}/reveal")).json()
    assert revealed["metadata"] == facts.metadata
    assert [each["text"] for each in revealed["notes"]] == [note["text"]]
    assert revealed["statement"] is None
    await decided(ann, first, "block")
    desk.clock.ahead_s += desk.settings.review.take_back_s + 1
    event = {"tenant": "acme", "event_id": arrived.said.verdict.event_id}
    assert (await tool.post("/v1/appeals", json={**event, "statement": "WORDS?"})).is_success
    appeal = await claimed(ben, queue="appeals")
    listed = (await ben.get("/v1/ledger", params=event)).json()
    made = [(await one.get("/v1/appeals", params=event)).json() for one in (ben, tool)]
    assert "WORDS" not in json.dumps([appeal, listed, made])
    assert [each["statement"] for each in made[0]["appeals"]] == ["•••••?"]
    shown = await ben.post(f"/v1/items/{appeal['item']['item_id']}/reveal")
    assert shown.json()["statement"] == "WORDS?"
    shown = await ben.post(f"/v1/ledger/{listed['rows'][0]['verdict_id']}/reveal")
    assert shown.json()["metadata"] == facts.metadata


async def test_a_decision_covers_less_than_its_item(desk: Desk) -> None:
    ann = await desk.client("ann")
    arrived = escalations(3)
    await desk.take(arrived)
    for _ in arrived:
        claim = await claimed(ann)
        said = await decided(ann, claim, "block", categories=["PII"])
        assert said["decisions"] == 1
        assert said["take_back_until"] > desk.clock()
    assert (await ann.post("/v1/claims", json={})).status_code == 204
    async with desk.database.reading() as tx:
        values = list((await tx.execute(select(decisions.c.value))).scalars())
        waiting = (await tx.execute(select(outbox))).all()
    made = [decode_decision(value) for value in values]
    assert {each.verdict_id for each in made} == {each.said.verdict.verdict_id for each in arrived}
    assert {(each.action, *each.categories) for each in made} == {("block", "PII")}
    assert len(waiting) == 3


async def test_a_queue_that_was_worked_off_is_unknown(desk: Desk) -> None:
    ann, lead = await desk.client("ann"), await desk.client("lena", Role.LEAD)
    await desk.take(escalations(1, queue="streets"))
    await decided(ann, await claimed(ann, queue="streets"))
    for queue in ("streets", "general", "urgent"):  # used, of a policy in force, ours
        assert (await ann.post("/v1/claims", json={"queue": queue})).status_code == 204
        assert (await ann.get(f"/v1/items?queue={queue}")).json()["items"] == []
        preview = await lead.post("/v1/bulk/preview", json={"queue": queue})
        assert preview.json()["count"] == 0
    for path in ("/v1/items?queue=alleys", "/v1/items?queue=alleys&state=decided"):
        assert (await ann.get(path)).status_code == 422
    assert (await lead.post("/v1/bulk/preview", json={"queue": "alleys"})).status_code == 422


async def test_what_was_taken_back_is_published(desk: Desk) -> None:
    ann, ben = await desk.client("ann"), await desk.client("ben")
    await desk.take(escalations(1))
    claim = await claimed(ann)
    said = await decided(ann, claim)
    refused = await ben.post(f"/v1/rulings/{said['ruling_id']}/take-back")
    assert refused.status_code == 404
    back = (await ann.post(f"/v1/rulings/{said['ruling_id']}/take-back")).json()
    assert back["item"]["item_id"] == claim["item"]["item_id"]
    assert back["lease"]["fence"] > claim["lease"]["fence"]
    async with desk.database.reading() as tx:
        assert (await tx.execute(select(outbox))).all() == []
    await decided(ann, back, "block")


async def test_a_page_that_was_loaded_again_loses_its_lease(desk: Desk) -> None:
    ann, ben = await desk.client("ann"), await desk.client("ben")
    await desk.take(escalations(2))
    claim = await claimed(ann)
    (held,) = (await ann.get("/v1/leases")).json()["leases"]
    assert held == {"item_id": claim["item"]["item_id"], **claim["lease"]}
    assert (await ben.get("/v1/leases")).json() == {"leases": []}


async def test_an_item_does_not_go_where_it_is_sent(desk: Desk) -> None:
    ann = await desk.client("ann")
    ben = await desk.add("ben")
    lead = await desk.client("lena", Role.LEAD)
    ben_s = await desk.client_of(ben)
    await desk.take(escalations(3))
    given = await claimed(ann)
    item_id, lease = given["item"]["item_id"], given["lease"]["token"]
    colleagues = (await ann.get(f"/v1/colleagues?item_id={item_id}")).json()["colleagues"]
    assert {each["user_id"] for each in colleagues} >= {ben.user_id}
    done = await ann.post(f"/v1/items/{item_id}/handover", json={"lease": lease, "to": ben.user_id})
    assert done.status_code == 204, done.text
    assert (await ben_s.get("/v1/leases")).json()["leases"][0]["item_id"] == item_id
    skipped = await claimed(ann)
    done = await ann.post(
        f"/v1/items/{skipped['item']['item_id']}/skip",
        json={"lease": skipped["lease"]["token"], "reason": "language"},
    )
    assert done.status_code == 204, done.text
    third = await claimed(ann)
    assert third["item"]["item_id"] not in (item_id, skipped["item"]["item_id"])
    done = await ann.post(
        f"/v1/items/{third['item']['item_id']}/urgent",
        json={"lease": third["lease"]["token"], "why": "threat_to_life", "note": "Please look."},
    )
    assert done.status_code == 200, done.text
    urgent = await claimed(lead, queue="urgent")
    assert urgent["item"]["item_id"] == done.json()["item_id"]
    seen = (await lead.post(f"/v1/items/{urgent['item']['item_id']}/reveal")).json()
    assert seen["notes"][0]["text"] == "Please look."
    moved = await lead.post(f"/v1/items/{item_id}/move", json={"queue": "quality"})
    assert moved.status_code == 200, moved.text


async def test_a_bulk_decision_cannot_be_undone(desk: Desk) -> None:
    lead, ann = await desk.client("lena", Role.LEAD), await desk.client("ann")
    await desk.take(escalations(5))
    await claimed(ann)
    of = {"queue": "general", "language": "en"}
    preview = (await lead.post("/v1/bulk/preview", json=of)).json()
    assert (preview["count"], preview["held"]) == (5, 1)
    said = {"action": "allow", "reason": "no_violation"}
    stale = await lead.post(
        "/v1/bulk", json={"preview": preview["preview"], "of": {"queue": "general"}, **said}
    )
    assert stale.status_code == 409
    done = await lead.post("/v1/bulk", json={"preview": preview["preview"], "of": of, **said})
    assert done.status_code == 200, done.text
    assert (done.json()["decided"], done.json()["skipped"]) == (4, 1)
    undone = await lead.post(f"/v1/bulk/{done.json()['bulk_id']}/undo")
    assert undone.json() == {"reopened": 4}
    async with desk.database.reading() as tx:
        assert (await tx.execute(select(outbox))).all() == []


async def test_an_appeal_goes_to_who_decided_before(desk: Desk) -> None:
    ann, ben = await desk.client("ann"), await desk.client("ben")
    tool = await desk.client("platform", is_tool=True)
    (arrived,) = escalations(1)
    await desk.take([arrived])
    await decided(ann, await claimed(ann), "block")
    desk.clock.ahead_s += desk.settings.review.take_back_s + 1
    event = {"tenant": "acme", "event_id": arrived.said.verdict.event_id}
    stated = await tool.get("/v1/statements", params={**event, "language": "de"})
    assert stated.status_code == 200, stated.text
    assert "3.2 Civic claims" in stated.json()["text"]
    made = await tool.post("/v1/appeals", json={**event, "statement": "I only asked who comes."})
    assert made.status_code == 200, made.text
    assert (await ann.post("/v1/claims", json={"queue": "appeals"})).status_code == 204
    assert (await ann.get(f"/v1/items/{made.json()['item_id']}")).status_code == 404
    claim = await claimed(ben, queue="appeals")
    assert claim["item"]["kind"] == "appeal"
    assert claim["item"]["appeal"]["statement"] == "• •••• ••••• ••• •••••."
    shown = (await ben.post(f"/v1/items/{claim['item']['item_id']}/reveal")).json()
    assert shown["statement"] == "I only asked who comes."
    assert claim["item"]["appeal"]["original"]["by"] == "person"
    assert claim["item"]["appeal"]["original"]["action"] == "block"
    await decided(ben, claim)
    found = (await tool.get("/v1/appeals", params=event)).json()["appeals"]
    assert [each["outcome"] for each in found] == ["overturned"]
    desk.clock.ahead_s += desk.settings.review.take_back_s + 1
    gone = await tool.get("/v1/statements", params=event)
    assert gone.status_code == 404


async def test_erased_content_is_still_there(desk: Desk) -> None:
    admin, ann = await desk.client("ada", Role.ADMIN), await desk.client("ann")
    lead = await desk.client("lena", Role.LEAD)
    (arrived,) = escalations(1)
    await desk.take([arrived])
    claim = await claimed(ann)
    event = {"tenant": "acme", "event_id": arrived.said.verdict.event_id}
    done = await admin.delete("/v1/contents", params=event)
    assert done.json() == {"verdicts": 1}
    late = await ann.post(
        f"/v1/items/{claim['item']['item_id']}/decide",
        json={"lease": claim["lease"]["token"], "action": "allow", "reason": "satire"},
    )
    assert late.status_code == 409
    (row,) = (await lead.get("/v1/ledger", params=event)).json()["rows"]
    assert row["content"] is None
    assert (await lead.post(f"/v1/ledger/{row['verdict_id']}/reveal")).status_code == 404
    assert (await ann.post(f"/v1/items/{claim['item']['item_id']}/reveal")).status_code == 404
    assert "library" not in repr(await desk.stored())


@pytest.mark.long
async def test_what_people_wrote_of_erased_content_is_still_there(desk: Desk) -> None:
    admin, tool = await desk.client("ada", Role.ADMIN), await desk.client("hub", is_tool=True)
    ann, ben = await desk.client("ann"), await desk.client("ben")
    other, arrived = escalations(2)
    event = {"tenant": "acme", "event_id": arrived.said.verdict.event_id}
    await desk.take([arrived])
    first = await claimed(ann)
    await ann.post(f"/v1/items/{first['item']['item_id']}/notes", json={"text": "WORDS, I read"})
    await decided(ann, first, "block")
    desk.clock.ahead_s += desk.settings.review.take_back_s + 1
    assert (await tool.post("/v1/appeals", json={**event, "statement": "WORDS, I said"})).is_success
    appeal = await claimed(ben, queue="appeals")
    await ben.post(f"/v1/items/{appeal['item']['item_id']}/notes", json={"text": "WORDS, they say"})
    await desk.take([other])
    beside = await claimed(ann, queue="general")
    await ann.post(f"/v1/items/{beside['item']['item_id']}/notes", json={"text": "Another thing."})
    assert repr(await desk.stored()).count("WORDS") == 3
    for _ in range(2):
        assert (await admin.delete("/v1/contents", params=event)).is_success
    kept = repr(await desk.stored())
    assert "WORDS" not in kept
    assert "Another thing." in kept
    async with desk.database.reading() as tx:
        erased = await tx.execute(select(audit.c.number).where(audit.c.act == "erased"))
        assert len(erased.all()) == 1, "the second time there was nothing left to erase"


async def test_the_log_is_not_whole(desk: Desk) -> None:
    auditor, ann = await desk.client("aud", Role.AUDITOR), await desk.client("ann")
    await desk.take(escalations(2))
    claim = await claimed(ann)
    await ann.get(f"/v1/items/{claim['item']['item_id']}")
    await decided(ann, claim)
    page = (await auditor.get("/v1/audit?limit=2")).json()
    assert [each["act"] for each in page["rows"]] == ["decided", "saw"]
    assert page["rows"][0]["actor"] == claim["item"]["holder"]
    rest = (await auditor.get(f"/v1/audit?after={page['next']}")).json()
    assert rest["rows"][0]["act"] == "claimed" and rest["next"] is None
    mine = await auditor.get(f"/v1/audit?actor={claim['item']['holder']}&act=saw")
    assert len(mine.json()["rows"]) == 1
    proof = (await auditor.get("/v1/audit/verify")).json()
    assert proof["broken_at"] is None and proof["rows"] == 0 and proof["unsealed"] > 0
    exported = await auditor.get("/v1/audit/export")
    assert exported.headers["content-type"] == "application/x-ndjson"


async def test_who_reads_the_ledger_leaves_no_trace(desk: Desk) -> None:
    auditor, lead = await desk.client("aud", Role.AUDITOR), await desk.client("lena", Role.LEAD)
    foreign = await desk.client("otto", Role.LEAD, tenants=["other"])
    await desk.take(escalations(1))
    event = {"tenant": "acme", "event_id": "eitem-0"}
    await foreign.get("/v1/ledger", params=event)
    (row,) = (await lead.get("/v1/ledger", params=event)).json()["rows"]
    (logged,) = (await auditor.get("/v1/audit?act=saw")).json()["rows"]
    assert logged["tenant"] == "acme"
    assert logged["about"] == {"verdict_id": row["verdict_id"]}
    assert logged["actor"] == (await lead.get("/v1/me")).json()["pseudonym"]


@pytest.mark.parametrize(
    "asked",
    [
        f"/v1/audit?after={2**63}",
        f"/v1/audit?after={'9' * 30}",
        "/v1/audit/verify?position=0",
        f"/v1/audit/verify?chained={'0' * 64}",
    ],
)
async def test_half_a_head_or_a_number_of_no_row_is_taken(desk: Desk, asked: str) -> None:
    auditor = await desk.client("aud", Role.AUDITOR)
    refused = await auditor.get(asked)
    assert refused.status_code == 422, refused.text
    assert (await auditor.get(f"/v1/audit?after={2**63 - 1}")).status_code == 200


async def test_figures_do_not_add_up(desk: Desk) -> None:
    lead, ann = await desk.client("lena", Role.LEAD), await desk.client("ann")
    await desk.take(escalations(4))
    for _ in range(3):
        await decided(ann, await claimed(ann), "block")
    skipped = await claimed(ann)
    await ann.post(
        f"/v1/items/{skipped['item']['item_id']}/skip",
        json={"lease": skipped["lease"]["token"], "reason": "unclear"},
    )
    for days, steps in ((1, 24), (7, 7)):
        found = (await lead.get(f"/v1/statistics?days={days}")).json()
        (queue,) = found["queues"]
        assert len(queue["arrived"]) == len(queue["decided"]) == steps
        assert (sum(queue["arrived"]), sum(queue["decided"])) == (4, 3)
        assert queue["sla_kept"] == 1.0 and queue["median_wait_s"] >= 0
        (one,) = found["reviewers"]
        assert (one["decided"], one["skipped"], one["per_hour"] > 0) == (3, 1, True)
    quality = (await lead.get("/v1/quality")).json()
    assert quality["reviewers"][0]["decisions"] == 3
    assert quality["errors"] == []


async def test_people_work_on_after_they_were_removed(desk: Desk) -> None:
    admin = await desk.client("ada", Role.ADMIN)
    made = await admin.post("/v1/people", json={"name": "ben", "roles": ["reviewer"]})
    assert made.status_code == 201, made.text
    ben = made.json()
    token = (await admin.post(f"/v1/people/{ben['user_id']}/tokens", json={"label": "t"})).json()
    as_ben = {"Authorization": f"Bearer {token['token']}"}
    assert (await desk.anybody.get("/v1/me", headers=as_ben)).json()["name"] == "ben"
    link = (await admin.post(f"/v1/people/{ben['user_id']}/links")).json()
    assert "/sign-in#" in link["url"]
    changed = await admin.patch(f"/v1/people/{ben['user_id']}", json={"roles": ["auditor"]})
    assert changed.status_code == 204
    assert (await desk.anybody.get("/v1/me", headers=as_ben)).json()["roles"] == ["auditor"]
    assert (await admin.delete(f"/v1/people/{ben['user_id']}")).status_code == 204
    assert (await desk.anybody.get("/v1/me", headers=as_ben)).status_code == 401
    known = (await admin.get("/v1/people")).json()["people"]
    assert {each["name"]: each["is_active"] for each in known} == {"ada": True, "ben": False}


async def test_a_browser_needs_no_token_of_its_page(desk: Desk) -> None:
    admin = await desk.client("ada", Role.ADMIN)
    ben = await desk.add("ben")
    link = (await admin.post(f"/v1/people/{ben.user_id}/links")).json()["url"]
    browser = desk.anybody
    signed = await browser.post("/v1/sessions", json={"token": link.partition("#")[2]})
    assert signed.status_code == 204, signed.text
    me = (await browser.get("/v1/me")).json()
    wish = {"masked": False, "blur": ["Violent"], "theme": "dark", "language": "de"}
    refused = await browser.put("/v1/me/preferences", json=wish)
    assert refused.status_code == 403
    done = await browser.put("/v1/me/preferences", json=wish, headers={"X-CSRF-Token": me["csrf"]})
    assert done.status_code == 204
    assert (await browser.get("/v1/me")).json()["preferences"] == wish


async def test_a_browser_runs_or_keeps_what_is_not_ours(desk: Desk) -> None:
    ann = await desk.client("ann")
    for path in ("/v1/me", "/", "/v1/nothing", "/console/js/main.js"):
        headers = (await ann.get(path)).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        caching = "no-store" if path.startswith("/v1") else "no-cache"
        assert headers.get_list("cache-control") == [caching]
