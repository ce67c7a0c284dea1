"""Accounts: an admin of some tenants is one of those alone."""

from __future__ import annotations

from typing import Any

import pytest

from qwarden.review.person import EVERY, Person, Role
from review_api.desk import Desk


async def test_an_admin_of_one_tenant_makes_themselves_one_of_all(desk: Desk) -> None:
    ada_is = await desk.add("ada", Role.ADMIN, tenants=["acme"])
    ada = await desk.client_of(ada_is)
    before = await desk.stored()
    for said in ({"tenants": [EVERY]}, {"tenants": ["acme", "other"]}):
        refused = await ada.patch(f"/v1/people/{ada_is.user_id}", json=said)
        assert refused.status_code == 403, refused.text
    for said in ({}, {"tenants": ["other"]}):
        refused = await ada.post("/v1/people", json={"name": "ben", "roles": ["admin"], **said})
        assert refused.status_code == 403, refused.text
    assert await desk.stored() == before
    mine = {"name": "ben", "roles": ["lead"], "tenants": ["acme"]}
    assert (await ada.post("/v1/people", json=mine)).status_code == 201
    changed = await ada.patch(f"/v1/people/{ada_is.user_id}", json={"roles": ["admin", "lead"]})
    assert changed.status_code == 204


@pytest.mark.parametrize("tenants", [(EVERY,), ("other",), ("acme", "other")])
async def test_an_admin_of_one_tenant_acts_on_people_of_others(
    desk: Desk, tenants: tuple[str, ...]
) -> None:
    ada = await desk.client("ada", Role.ADMIN, tenants=["acme"])
    own = await desk.add("own", tenants=["acme"])
    foreign = await desk.add("foreign", Role.LEAD, tenants=tenants)
    await desk.client_of(foreign)

    async def statuses(of: Person) -> list[int]:
        at = f"/v1/people/{of.user_id}"
        asked: list[tuple[str, str, Any]] = [
            ("GET", f"{at}/tokens", None),
            ("POST", f"{at}/links", None),
            ("POST", f"{at}/tokens", {"label": "mine"}),
            ("DELETE", f"{at}/tokens?label=mine", None),
            ("PATCH", at, {"tenants": ["acme"]}),
            ("DELETE", at, None),
        ]
        return [
            (await ada.request(how, where, json=body)).status_code for how, where, body in asked
        ]

    listed = (await ada.get("/v1/people")).json()["people"]
    assert {each["name"] for each in listed} == {"ada", "own"}
    before = await desk.stored()
    assert await statuses(foreign) == [404] * 6
    assert await desk.stored() == before
    assert await statuses(own) == [200, 200, 201, 204, 204, 204]


async def test_an_admin_of_all_tenants_does_not_reach_everybody(desk: Desk) -> None:
    ada = await desk.client("ada", Role.ADMIN)
    ben = await desk.add("ben", tenants=["acme"])
    given = await ada.patch(f"/v1/people/{ben.user_id}", json={"tenants": [EVERY]})
    assert given.status_code == 204
    listed = (await ada.get("/v1/people")).json()["people"]
    assert {each["name"]: each["tenants"] for each in listed} == {"ada": [EVERY], "ben": [EVERY]}


@pytest.mark.parametrize("end", ["NaN", "Infinity", "-Infinity"])
async def test_a_token_ends_at_no_time(desk: Desk, end: str) -> None:
    ada = await desk.client("ada", Role.ADMIN)
    ben = await desk.add("ben")
    before = await desk.stored()
    refused = await ada.post(
        f"/v1/people/{ben.user_id}/tokens",
        content=f'{{"label": "t", "expires_at": {end}}}'.encode(),
        headers={"Content-Type": "application/json"},
    )
    assert refused.status_code == 422, refused.text
    assert "expires_at" in refused.json()["detail"]
    assert await desk.stored() == before
