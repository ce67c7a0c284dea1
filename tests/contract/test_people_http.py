"""Who is let in, over HTTP: links, cookies, tokens, forged requests and haste."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from qwarden.review.person import Person
from qwarden.review.store.database import Database
from signing_in import Service, Still


@pytest.fixture
async def service(database: Database) -> AsyncIterator[Service]:
    made = Service(database, clock=Still())
    yield made
    await made.door.close()


async def signed_in(service: Service, browser: httpx.AsyncClient, person: Person) -> str:
    """Returns the session's CSRF token."""
    answer = await browser.post("/v1/sessions", json={"token": await service.link(person)})
    assert answer.status_code == 204
    me = (await browser.get("/v1/me")).json()
    assert me["name"] == person.name
    csrf: str = me["csrf"]
    return csrf


async def test_who_only_fetches_the_link_s_page_spends_nothing(service: Service) -> None:
    token = await service.link(await service.person())
    async with service.browser() as browser:
        for method in ("GET", "HEAD"):
            prefetched = await browser.request(method, f"/v1/sessions?token={token}")
            assert prefetched.status_code == 405
        signed = await browser.post("/v1/sessions", json={"token": token})
        assert signed.status_code == 204
        again = await browser.post("/v1/sessions", json={"token": token})
    assert again.status_code == 401
    assert again.json()["code"] == "not_signed_in"
    assert token not in again.text


async def test_a_form_of_another_site_signs_nobody_in_here(service: Service) -> None:
    token = await service.link(await service.person())
    async with service.browser() as browser:
        for kind in ("text/plain", "application/x-www-form-urlencoded", None):
            headers = {} if kind is None else {"content-type": kind}
            forged = await browser.post(
                "/v1/sessions", content=f'{{"token": "{token}"}}', headers=headers
            )
            assert forged.status_code == 422
            assert token not in forged.text
        assert not browser.cookies


@pytest.mark.parametrize(("url", "is_secure"), [("http://r.test", False), ("https://r.test", True)])
async def test_no_script_and_no_other_site_gets_the_cookie(
    database: Database, url: str, is_secure: bool
) -> None:
    service = Service(database, url, clock=Still())
    token = await service.link(await service.person())
    async with service.browser() as browser:
        answer = await browser.post("/v1/sessions", json={"token": token})
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith("qw_session=")
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "path=/" in cookie
    assert ("secure" in cookie) == is_secure


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_page_elsewhere_cannot_act_with_somebody_s_cookie(
    service: Service, method: str
) -> None:
    anna, ben = await service.person("Anna"), await service.person("Ben")
    path = f"/v1/{method.lower()}"
    async with service.browser() as browser, service.browser() as other:
        csrf = await signed_in(service, browser, anna)
        stolen = await signed_in(service, other, ben)
        for forged in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": stolen}, {"X-CSRF-Token": "é"}):
            raw = [(key.encode(), value.encode()) for key, value in forged.items()]
            answer = await browser.request(method, path, headers=raw)
            assert answer.status_code == 403
        assert service.changed == []
        own = await browser.request(method, path, headers={"X-CSRF-Token": csrf})
        assert own.status_code == 200
    assert service.changed == ["Anna"]


async def test_nobody_is_let_in_without_a_word(service: Service) -> None:
    tool = await service.token(await service.person("tool", is_tool=True))
    async with service.browser() as browser:
        for headers in (
            {},
            {"authorization": "Bearer"},
            {"authorization": "Bearer qw_nothing"},
            {"authorization": "Basic dXNlcjpwYXNz"},
            {"authorization": tool["authorization"][:-1]},
            {"cookie": "qw_session=nothing"},
            {"cookie": "qw_session="},
        ):
            for method, path in (("GET", "/v1/me"), ("POST", "/v1/post")):
                refused = await browser.request(method, path, headers=headers)
                assert refused.status_code == 401
                assert refused.json()["code"] == "not_signed_in"
        assert service.changed == []
        known = await browser.post("/v1/post", headers=tool)
    assert known.status_code == 200
    assert service.changed == ["tool"]


async def test_a_cookie_does_not_stand_in_for_a_token_that_is_over(service: Service) -> None:
    anna = await service.person()
    async with service.browser() as browser:
        await signed_in(service, browser, anna)
        refused = await browser.get("/v1/me", headers={"authorization": "Bearer qw_over"})
    assert refused.status_code == 401


@pytest.mark.long
async def test_who_signs_out_is_out_and_an_old_cookie_does_no_harm(service: Service) -> None:
    anna = await service.person()
    async with service.browser() as browser:
        csrf = await signed_in(service, browser, anna)
        kept = browser.cookies["qw_session"]
        assert (await browser.delete("/v1/sessions")).status_code == 403
        assert (await browser.get("/v1/me")).status_code == 200
        out = await browser.delete("/v1/sessions", headers={"X-CSRF-Token": csrf})
        assert out.status_code == 204
        assert not browser.cookies
        browser.cookies.set("qw_session", kept)
        assert (await browser.get("/v1/me")).status_code == 401
        assert (await browser.delete("/v1/sessions")).status_code == 204


async def test_a_session_is_over_after_a_working_day(database: Database) -> None:
    clock = Still()
    service = Service(database, clock=clock)
    anna = await service.person()
    async with service.browser() as browser:
        await signed_in(service, browser, anna)
        cookie = browser.cookies["qw_session"]
        clock.now += service.settings.review.session_s - 1
        headers = {"cookie": f"qw_session={cookie}"}
        assert (await browser.get("/v1/me", headers=headers)).status_code == 200
        clock.now += 1
        assert (await browser.get("/v1/me", headers=headers)).status_code == 401


@pytest.mark.long
async def test_one_s_haste_is_told_when_to_come_again_and_hinders_no_colleague(
    database: Database,
) -> None:
    clock = Still()
    service = Service(database, environ={"QWARDEN_REVIEW__REQUESTS_A_MINUTE": "30"}, clock=clock)
    anna, ben = await service.person("Anna"), await service.person("Ben")
    tool = await service.token(await service.person("tool", is_tool=True))
    async with service.browser() as browser, service.browser() as other:
        await signed_in(service, browser, anna)
        await signed_in(service, other, ben)
        answers = [await browser.get("/v1/me") for _ in range(31)]
        assert [each.status_code for each in answers] == [200] * 29 + [429] * 2
        assert answers[-1].headers["retry-after"] == "2"
        assert answers[-1].json()["code"] == "too_often"
        assert (await other.get("/v1/me")).status_code == 200
        clock.now += 2.001
        assert (await browser.get("/v1/me")).status_code == 200
        for_tool = [await other.get("/v1/me", headers=tool) for _ in range(301)]
    assert [each.status_code for each in for_tool] == [200] * 300 + [429]


async def test_guesses_from_one_address_are_slowed_and_others_still_sign_in(
    database: Database,
) -> None:
    clock = Still()
    service = Service(database, environ={"QWARDEN_REVIEW__SIGN_INS_A_MINUTE": "5"}, clock=clock)
    token = await service.link(await service.person())
    guesser = httpx.ASGITransport(service.app, client=("10.0.0.1", 1))
    async with httpx.AsyncClient(transport=guesser, base_url=service.url) as browser:
        guesses = [await browser.post("/v1/sessions", json={"token": "x"}) for _ in range(6)]
        assert [each.status_code for each in guesses] == [401] * 5 + [429]
        assert guesses[-1].headers["retry-after"] == "12"
        late = await browser.post("/v1/sessions", json={"token": token})
        assert late.status_code == 429
    async with service.browser() as browser:
        signed = await browser.post("/v1/sessions", json={"token": token})
    assert signed.status_code == 204


@pytest.mark.parametrize(
    "wrong", [{"authorization": "Bearer qw_{}"}, {"authorization": "Bearer {}"},
              {"cookie": "qw_session={}"}]
)  # fmt: skip
async def test_wrong_tokens_and_cookies_are_tried_without_end_or_shut_others_out(
    database: Database, wrong: dict[str, str]
) -> None:
    clock = Still()
    service = Service(database, environ={"QWARDEN_REVIEW__REQUESTS_A_MINUTE": "5"}, clock=clock)
    right = await service.token(await service.person())
    guesser = httpx.ASGITransport(service.app, client=("10.0.0.1", 1))
    async with httpx.AsyncClient(transport=guesser, base_url=service.url) as client:
        guesses = [
            await client.get(
                "/v1/me", headers={name: value.format(number) for name, value in wrong.items()}
            )
            for number in range(7)
        ]
        assert [each.status_code for each in guesses] == [401] * 5 + [429] * 2
        assert guesses[-1].headers["retry-after"] == "12"
        assert (await client.get("/v1/me", headers=right)).status_code == 200
    async with service.browser() as elsewhere:
        assert (await elsewhere.get("/v1/me")).status_code == 401
    clock.now += 12.001
    async with httpx.AsyncClient(transport=guesser, base_url=service.url) as client:
        assert (await client.get("/v1/me")).status_code == 401
        assert (await client.get("/v1/me")).status_code == 429


async def test_without_an_issuer_nobody_is_sent_to_one(service: Service) -> None:
    async with service.browser() as browser:
        for path in ("/oidc/start", "/oidc/callback?code=a&state=b"):
            answer = await browser.get(path)
            assert answer.status_code == 404
            assert "sign-in link" in answer.text
        assert (await browser.get("/v1/sign-in")).json() == {"oidc": False}
