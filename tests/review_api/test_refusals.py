"""What is refused: with a sentence, with nothing changed, and with nothing learned."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from qwarden.review.http import errors
from qwarden.review.http.app import MOST_BYTES
from qwarden.review.person import Role
from qwarden.review.store import showing
from review_api.desk import Desk, claimed, decided
from reviewing import escalations

NOBODY = "0" * 32


async def assert_refused(
    desk: Desk, answer: httpx.Response, status: int, code: str, before: Any
) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    assert body["code"] == code
    assert len(body["detail"]) > 20, "no sentence"
    assert await desk.stored() == before, "something has changed"
    return body


# What is refused changes nothing, so that one desk does for all of a kind.

UNDECIDED: list[tuple[dict[str, Any], str]] = [
    ({}, "action"),
    ({"action": "allow"}, "reason"),
    ({"action": "allow", "reason": "   "}, "reason"),
    ({"action": "block", "reason": "spam"}, "clause"),
    ({"action": "block", "reason": "spam", "ground": "terms"}, "clause"),
    ({"action": "disclaim", "reason": "borderline", "clause": "2"}, "ground"),
    ({"action": "block", "reason": "spam", "ground": "taste", "clause": "2"}, "ground"),
    ({"action": "review", "reason": "unsure"}, "action"),
    ({"action": "allow", "reason": "satire", "clause": "2"}, "clause"),
    ({"action": "allow", "reason": "x" * 501}, "reason"),
    (
        {"action": "block", "reason": "a", "ground": "law", "clause": "1", "categories": ["?"]},
        "categor",
    ),
    ({"action": "allow", "reason": "satire", "severity": 3}, "severity"),
]
"""What is no decision, and what the answer speaks of."""


async def test_a_decision_without_what_it_needs_is_taken(desk: Desk) -> None:
    ann = await desk.client("ann")
    await desk.take(escalations(1))
    of = await claimed(ann)
    before = await desk.stored()
    for said, word in UNDECIDED:
        body = {"lease": of["lease"]["token"], **said}
        answer = await ann.post(f"/v1/items/{of['item']['item_id']}/decide", json=body)
        refused = await assert_refused(desk, answer, 422, "invalid", before)
        assert word in refused["detail"].lower(), said
    assert (await decided(ann, of))["decisions"] == 1


BROKEN: list[dict[str, Any]] = [
    {"content": b"{"},
    {"content": b"\xff\xfe"},
    {"content": b'{"queue": "' + b"x" * MOST_BYTES + b'"}'},
    {"json": []},
    {"json": {"queue": ["general"]}},
    {"json": {"queue": "no-such-queue"}},
    {"json": {"queue": "General!"}},
    {"json": {"item_id": "e1"}},
    {"json": {"tenant": ""}},
    {"json": {"whose": "mine"}},
    {"json": {"category": "\0"}},
    {"json": {"rule": "a\0"}},
    {"content": b'{"tenant": "\\ud800"}'},
]


async def test_a_broken_body_claims_something(desk: Desk) -> None:
    ann = await desk.client("ann")
    await desk.take(escalations(2))
    before = await desk.stored()
    for send in BROKEN:
        answer = await ann.post("/v1/claims", **send)
        too_large = len(send.get("content", b"")) > MOST_BYTES
        status, code = (413, "too_large") if too_large else (422, "invalid")
        if send.get("content") == b"\xff\xfe":
            status = answer.status_code
            assert status in (400, 422)
        await assert_refused(desk, answer, status, code, before)
    await claimed(ann)


TENANTS: list[tuple[str, Callable[[str], str], dict[str, Any] | None]] = [
    ("GET", lambda item: f"/v1/items/{item}", None),
    ("POST", lambda item: f"/v1/items/{item}/reveal", None),
    ("POST", lambda item: "/v1/claims", {"item_id": "ITEM"}),
    ("POST", lambda item: f"/v1/items/{item}/renew", {"lease": "LEASE"}),
    ("POST", lambda item: f"/v1/items/{item}/release", {"lease": "LEASE"}),
    ("POST", lambda item: f"/v1/items/{item}/skip", {"lease": "LEASE", "reason": "other"}),
    ("POST", lambda item: f"/v1/items/{item}/urgent", {"why": "other"}),
    ("POST", lambda item: f"/v1/items/{item}/move", {"queue": "urgent"}),
    ("POST", lambda item: f"/v1/items/{item}/notes", {"text": "Is it ours?"}),
    ("POST", lambda item: f"/v1/items/{item}/handover", {"lease": "LEASE", "to": NOBODY}),
    (
        "POST",
        lambda item: f"/v1/items/{item}/decide",
        {"lease": "LEASE", "action": "allow", "reason": "satire"},
    ),
    (
        "POST",
        lambda item: "/v1/appeals",
        {"tenant": "acme", "event_id": "eitem-0", "statement": "?"},
    ),
    ("GET", lambda item: "/v1/statements?tenant=acme&event_id=eitem-0", None),
    ("DELETE", lambda item: "/v1/contents?tenant=acme&event_id=eitem-0", None),
]


async def test_a_foreign_tenants_item_can_be_reached(desk: Desk) -> None:
    ann = await desk.client("ann")
    other = await desk.client("otto", *Role, tenants=["other"])
    await desk.take(escalations(1))
    of = await claimed(ann)
    item, token = of["item"]["item_id"], of["lease"]["token"]
    before = await desk.stored()
    for method, path, body in TENANTS:
        said = None
        if body is not None:
            said = {name: {"ITEM": item, "LEASE": token}.get(str(value), value)
                    for name, value in body.items()}  # fmt: skip
        answer = await other.request(method, path(item), json=said)
        refused = await assert_refused(desk, answer, 404, "not_found", before)
        unknown = await other.request(method, path(NOBODY), json=said)
        if item in path(item):
            assert unknown.json() == refused, "a foreign item does not sound like none"


async def test_a_foreign_tenants_content_is_listed(desk: Desk) -> None:
    other = await desk.client("otto", *Role, tenants=["other"])
    await desk.take(escalations(2))
    assert (await other.get("/v1/items")).json() == {"items": [], "next": None}
    assert (await other.get("/v1/queues")).json()["queues"] == []
    found = await other.get("/v1/ledger?tenant=acme&event_id=eitem-0")
    assert found.json() == {"rows": []}
    assert (await other.post("/v1/claims", json={})).status_code == 204
    preview = await other.post("/v1/bulk/preview", json={"tenant": "acme"})
    assert preview.json()["count"] == 0


async def test_a_foreign_tenants_people_and_worries_are_told(desk: Desk) -> None:
    """Who decides there, and an appeal that nobody is left to hear."""
    ann_is = await desk.add("ann", tenants=["acme"])
    ann = await desk.client_of(ann_is)
    auditor = await desk.client("aud", Role.AUDITOR, tenants=["acme"])
    tool = await desk.client("hub", is_tool=True, tenants=["acme"])
    other = await desk.client("otto", *Role, tenants=["other", "third"])
    tess = await desk.add("tess", tenants=["third"])
    everywhere = await desk.add("eve", languages=["de"])
    for client, known in ((ann, {everywhere}), (other, {tess, everywhere})):
        told = (await client.get("/v1/colleagues")).json()["colleagues"]
        assert {each["user_id"] for each in told} == {each.user_id for each in known}
    await desk.take(escalations(1))
    await decided(ann, await claimed(ann), "block")
    desk.clock.ahead_s += desk.settings.review.take_back_s + 1
    event = {"tenant": "acme", "event_id": "eitem-0", "statement": "?"}
    assert (await tool.post("/v1/appeals", json=event)).is_success
    for client, count in ((auditor, 1), (other, 0)):
        assert (await client.get("/v1/quality")).json()["stranded"]["appeal"] == count


NOT_THEIRS: list[tuple[tuple[Role, ...], str, str]] = [
    ((Role.REVIEWER,), "POST", "/v1/bulk/preview"),
    ((Role.REVIEWER,), "GET", "/v1/quality"),
    ((Role.REVIEWER,), "GET", "/v1/statistics"),
    ((Role.REVIEWER,), "GET", "/v1/audit"),
    ((Role.REVIEWER,), "GET", "/v1/audit/verify"),
    ((Role.REVIEWER,), "GET", "/v1/audit/export"),
    ((Role.REVIEWER,), "GET", "/v1/people"),
    ((Role.REVIEWER,), "GET", "/v1/goldens"),
    ((Role.REVIEWER,), "GET", "/v1/ledger?tenant=acme&event_id=eitem-0"),
    ((Role.REVIEWER, Role.LEAD), "DELETE", "/v1/contents?tenant=acme&event_id=eitem-0"),
    ((Role.LEAD,), "POST", "/v1/people"),
    ((Role.AUDITOR,), "POST", "/v1/claims"),
    ((Role.AUDITOR,), "POST", "/v1/decisions"),
    ((Role.ADMIN,), "GET", "/v1/items"),
    ((Role.ADMIN,), "POST", "/v1/claims"),
    ((Role.ADMIN,), "GET", "/v1/live"),
]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/people": {"name": "me too", "roles": ["admin"]},
    "/v1/bulk/preview": {"tenant": "acme"},
    "/v1/decisions": {
        "tenant": "acme", "event_id": "eitem-0", "verdict_id": NOBODY,
        "action": "allow", "reason": "satire",
    },
}  # fmt: skip


async def test_a_role_reaches_what_it_has_no_right_to(desk: Desk) -> None:
    kinds = {roles for roles, _, _ in NOT_THEIRS}
    by_roles = {roles: await desk.client("-".join(roles), *roles) for roles in kinds}
    await desk.take(escalations(1))
    before = await desk.stored()
    for roles, method, path in NOT_THEIRS:
        body = BODIES.get(path, {}) if method == "POST" else None
        answer = await by_roles[roles].request(method, path, json=body)
        await assert_refused(desk, answer, 403, "forbidden", before)


async def test_something_can_be_had_without_signing_in(desk: Desk) -> None:
    open_to_all = {("/v1/sessions", "post"), ("/v1/sessions", "delete"), ("/v1/sign-in", "get")}
    for path, operations in desk.app.api.openapi()["paths"].items():
        for method in operations:
            if (path, method) in open_to_all:
                continue
            address = path.replace("{item_id}", NOBODY).replace("{", "").replace("}", "")
            answer = await desk.anybody.request(method, address)
            assert answer.status_code == 401, (method, path, answer.text)
            assert answer.json()["code"] == "not_signed_in"


async def test_a_decision_under_a_lease_that_is_over_stands(desk: Desk) -> None:
    ann, ben = await desk.client("ann"), await desk.client("ben")
    await desk.take(escalations(1))
    first = await claimed(ann)
    desk.clock.ahead_s += desk.settings.review.lease_s + 1
    second = await claimed(ben, item_id=first["item"]["item_id"])
    before = await desk.stored()
    answer = await ann.post(
        f"/v1/items/{first['item']['item_id']}/decide",
        json={"lease": first["lease"]["token"], "action": "allow", "reason": "satire"},
    )
    body = await assert_refused(desk, answer, 409, "stale_lease", before)
    assert body["holder"] == second["item"]["holder"]
    await decided(ben, second)


async def test_a_tool_decides_what_a_person_holds(desk: Desk) -> None:
    ann = await desk.client("ann")
    tool = await desk.client("their tool", is_tool=True)
    (arrived,) = escalations(1)
    await desk.take([arrived])
    of = await claimed(ann)
    verdict = arrived.said.verdict
    said = {
        "tenant": "acme", "event_id": verdict.event_id, "verdict_id": verdict.verdict_id,
        "action": "block", "reason": "spam", "ground": "terms", "clause": "3.2",
        "decision_key": "k1",
    }  # fmt: skip
    before = await desk.stored()
    body = await assert_refused(
        desk, await tool.post("/v1/decisions", json=said), 409, "conflict", before
    )
    assert body["holder"] == of["item"]["holder"]
    await assert_refused(desk, await ann.post("/v1/decisions", json=said), 403, "forbidden", before)
    await ann.post(
        f"/v1/items/{of['item']['item_id']}/release", json={"lease": of["lease"]["token"]}
    )
    first = await tool.post("/v1/decisions", json=said)
    assert first.status_code == 200, first.text
    assert len(first.json()["decisions"]) == 1
    again = await tool.post("/v1/decisions", json=said)
    assert again.json() == first.json(), "a retry decides twice"


async def test_an_error_of_ours_tells_content_to_the_log(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*args: Any) -> None:
        raise RuntimeError("canary-3f61 is what the row said")

    ann = await desk.client("ann")
    monkeypatch.setattr(showing, "item", broken)
    with caplog.at_level(logging.DEBUG):
        answer = await ann.get(f"/v1/items/{NOBODY}")
    assert answer.status_code == 500
    assert answer.json()["code"] == "failed"
    assert "canary" not in answer.text + caplog.text
    assert "RuntimeError" in caplog.text, "nobody can find it"


def test_a_sentence_quotes_what_was_sent() -> None:
    error = {"type": "string_too_long", "loc": ("body", "reason"), "msg": "too long", "input": "c"}
    assert errors.sentence_of([error]) == "reason: too long"
