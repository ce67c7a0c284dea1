"""Sign-in by a real issuer: who is let in, and what is not believed."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import time
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey
from sqlalchemy import select

from issuers import SECRET, Issuer, sign_in, to_callback
from qwarden.review.people import users
from qwarden.review.store import schema
from qwarden.review.store.database import Database
from signing_in import Clock, Service

pytestmark = pytest.mark.parts


async def me(browser: httpx.AsyncClient, **headers: str) -> Any:
    answer = await browser.get("/v1/me", headers=headers)
    return answer.json() if answer.status_code == 200 else answer.status_code


async def count(database: Database, table: Any = schema.sessions) -> int:
    async with database.reading() as tx:
        return len((await tx.execute(select(table))).all())


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_a_person_of_the_issuer_s_is_let_in_with_what_it_says_of_them(
    service: Service,
) -> None:
    async with service.browser() as browser:
        back = await sign_in(browser, "anna")
        assert (back.status_code, back.headers["location"]) == (303, "/")
        anna = await me(browser)
        assert (anna["name"], anna["roles"]) == ("anna", ["lead"])
        assert (anna["tenants"], anna["languages"]) == (["demo"], ["en", "pt"])
        assert not anna["is_tool"]
        changed = await browser.post("/v1/post", headers={"X-CSRF-Token": anna["csrf"]})
        assert changed.status_code == 200
        assert "qw_oidc" not in browser.cookies
    async with service.browser() as elsewhere:
        await sign_in(elsewhere, "anna")
        assert (await me(elsewhere))["user_id"] == anna["user_id"]


async def test_claims_that_only_userinfo_has_are_read_there(
    database: Database, issuers: Issuer, parts_home: Any, packages: Any
) -> None:
    with Issuer(parts_home, packages, "http://review.test/oidc/callback", conform=True) as strict:
        strict.account("anna", roles=["lead"], tenants=["demo"], languages=["en"])
        service = Service(database, environ=strict.environ, clock=Clock())
        async with service.browser() as browser:
            await sign_in(browser, "anna")
            assert (await me(browser))["roles"] == ["lead"]
        await service.door.close()


@pytest.mark.parametrize(
    "wrong",
    [
        "unsigned",
        "shared_secret",
        "another_key",
        "audience",
        "audience_with_azp",
        "no_audience",
        "issuer",
        "nonce",
        "no_nonce",
        "no_end",
        "over",
        "nothing",
        "garbage",
    ],
)
async def test_an_id_token_that_proves_nothing_signs_nobody_in(
    service: Service, issuer: Issuer, wrong: str
) -> None:
    async with service.browser() as browser:
        issuer.say(wrong=wrong)
        refused = await sign_in(browser, "anna")
        assert refused.status_code == 401
        assert "does not prove who you are" in refused.text
        assert await me(browser) == 401
        assert await count(service.database) == 0
        assert await count(service.database, schema.users) == 0
        issuer.say(wrong="none")  # signed anew by the same hand, and right
        assert (await sign_in(browser, "anna")).status_code == 303


async def test_an_id_token_is_over_when_it_says_so(database: Database, issuer: Issuer) -> None:
    clock = Clock()
    service = Service(database, environ=issuer.environ, clock=clock)
    async with service.browser() as browser:
        back = await to_callback(browser, "anna")
        clock.ahead_s = 60 + 31
        refused = await browser.get(back)
    assert refused.status_code == 401
    assert await count(database) == 0
    await service.door.close()


async def test_an_answer_is_good_once_and_only_where_it_was_asked_for(service: Service) -> None:
    async with service.browser() as browser, service.browser() as thief:
        back = await to_callback(browser, "anna")
        secret = browser.cookies["qw_oidc"]
        for stolen in (back, back.replace("state=", "state=0"), f"{back}&state=", "/oidc/callback"):
            assert (await thief.get(stolen)).status_code == 401
        await thief.get("/oidc/start")
        not_theirs = await thief.get(back)
        assert not_theirs.status_code == 401
        assert "not begun here" in not_theirs.text  # the code is not even shown to the issuer
        assert await count(service.database) == 0
        assert (await browser.get(back)).status_code == 303
        assert (await browser.get(back)).status_code == 401  # the browser has given its secret up
        headers = {"cookie": f"qw_oidc={secret}"}
        async with service.browser() as replaying:  # and the issuer its code
            assert (await replaying.get(back, headers=headers)).status_code == 401
            assert await me(replaying) == 401
        assert (await me(browser))["name"] == "anna"
        assert await count(service.database) == 1


async def test_another_issuer_s_answer_is_not_taken(service: Service) -> None:
    async with service.browser() as browser:
        back = await to_callback(browser, "anna")
        assert "&iss=" in back
        mixed = httpx.URL(back).copy_set_param("iss", "http://127.0.0.1:1")
        assert (await browser.get(mixed)).status_code == 401
        assert await count(service.database) == 0


async def test_a_person_without_a_role_is_told_so_and_nothing_is_kept(
    service: Service, issuer: Issuer
) -> None:
    issuer.account("nobody", roles=["billing"])
    async with service.browser() as browser:
        refused = await sign_in(browser, "nobody")
        assert refused.status_code == 403
        assert "no role" in refused.text
        assert await count(service.database, schema.users) == 0
        assert await me(browser) == 401


async def test_a_role_that_is_gone_is_gone_at_the_next_sign_in(
    service: Service, issuer: Issuer
) -> None:
    async with service.browser() as browser, service.browser() as other:
        await sign_in(browser, "anna")
        issuer.account("anna", roles=["reviewer"], tenants=["other"], languages=["*"])
        await sign_in(other, "anna")
        for each in (browser, other):
            anna = await me(each)
            assert (anna["roles"], anna["tenants"]) == (["reviewer"], ["other"])
        issuer.account("anna", roles=[])
        assert (await sign_in(other, "anna")).status_code == 403
        assert (await me(browser), await me(other)) == (401, 401)
        assert await count(service.database) == 0


async def test_a_session_asks_the_issuer_again_within_the_time_that_was_set(
    database: Database, issuer: Issuer
) -> None:
    clock = Clock()
    service = Service(
        database, environ={**issuer.environ, "QWARDEN_OIDC__SESSION_S": "900"}, clock=clock
    )
    async with service.browser() as browser:
        await sign_in(browser, "anna")
        headers = {"cookie": f"qw_session={browser.cookies['qw_session']}"}
        clock.ahead_s = 890
        assert (await browser.get("/v1/me", headers=headers)).status_code == 200
        clock.ahead_s = 901
        assert (await browser.get("/v1/me", headers=headers)).status_code == 401
    await service.door.close()


async def test_who_was_removed_here_is_not_let_in_by_the_issuer(service: Service) -> None:
    async with service.browser() as browser:
        await sign_in(browser, "anna")
        anna = await me(browser)
        async with service.database.writing() as tx:
            await users.remove(tx, anna["user_id"], actor="service", now=service.clock())
        assert await me(browser) == 401
        assert (await sign_in(browser, "anna")).status_code == 403


@pytest.mark.parametrize("kid", [None, "the same"])
async def test_an_issuer_with_new_keys_is_believed_at_once_and_its_old_ones_no_more(
    service: Service, issuer: Issuer, kid: str | None
) -> None:
    issuer.say(kid=kid)
    issuer.stop()
    issuer.start()
    old = issuer.access_token()
    async with service.browser() as browser:
        await sign_in(browser, "anna")
        assert (await me(browser, **bearer(old)))["name"] == "tool"
        issuer.stop()
        issuer.start()
        async with service.browser() as another:
            assert (await sign_in(another, "anna")).status_code == 303
            assert await me(another, **bearer(old)) == 401
        assert (await me(browser))["name"] == "anna"
    issuer.say(kid=None)


async def test_while_the_issuer_is_away_a_sentence_says_so_and_others_work_on(
    service: Service, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    token = issuer.access_token()
    async with service.browser() as browser, service.browser() as newcomer:
        await sign_in(browser, "anna")
        back = await to_callback(newcomer, "anna")
        issuer.stop()
        async with service.browser() as third:
            fresh = Service(service.database, environ=issuer.environ, clock=Clock())
            async with fresh.browser() as cold:
                assert (await cold.get("/oidc/start")).status_code == 503
                assert await me(cold, **bearer(token)) == 503
            await fresh.door.close()
            answer = await newcomer.get(back)
            assert answer.status_code == 503
            assert "try again in a moment" in answer.text
            assert answer.headers["retry-after"]
            assert (await me(browser))["name"] == "anna"
            assert (await me(third, **bearer(token)))["name"] == "tool"  # its keys are known
        issuer.start()
        assert (await sign_in(newcomer, "anna")).status_code == 303
    assert not [each for each in caplog.records if each.exc_info]
    assert SECRET not in caplog.text


async def test_a_wrong_secret_is_ours_to_mend_and_the_log_says_how(
    database: Database, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    environ = {**issuer.environ, "QWARDEN_OIDC__CLIENT_SECRET": "wrong"}
    service = Service(database, environ=environ, clock=Clock())
    async with service.browser() as browser:
        refused = await sign_in(browser, "anna")
    assert refused.status_code == 503
    assert "QWARDEN_OIDC__CLIENT_SECRET" in caplog.text
    await service.door.close()


async def test_who_turns_back_at_the_issuer_s_form_is_told_to_begin_anew(service: Service) -> None:
    async with service.browser() as browser:
        assert (await browser.get("/v1/sign-in")).json() == {"oidc": True}
        start = await browser.get("/oidc/start")
        state = httpx.URL(start.headers["location"]).params["state"]
        said = "<b>quoted by nobody</b>"
        query = {"state": state, "error": "access_denied", "error_description": said}
        refused = await browser.get("/oidc/callback", params=query)
    assert refused.status_code == 401
    assert "quoted" not in refused.text


async def test_a_program_is_let_in_by_a_token_for_this_service_alone(
    service: Service, issuer: Issuer
) -> None:
    own, theirs = issuer.access_token(), issuer.access_token("https://other.test/api")
    async with service.browser() as browser:
        tool = await me(browser, **bearer(own))
        assert (tool["name"], tool["roles"], tool["is_tool"]) == ("tool", ["reviewer"], True)
        assert tool["csrf"] is None
        assert (await browser.post("/v1/post", headers=bearer(own))).status_code == 200
        assert await me(browser, **bearer(theirs)) == 401
        issuer.account("tool", roles=["billing"], tenants=[], languages=[])
        assert await me(browser, **bearer(issuer.access_token())) == 403
    assert service.changed == ["tool"]
    assert await count(service.database, schema.users) == 1


@pytest.mark.parametrize("silent", ["roles", "tenants", "languages"])
async def test_a_token_that_does_not_say_what_one_may_do_takes_it_away(
    service: Service, issuer: Issuer, silent: str
) -> None:
    claims = {"roles": ["reviewer"], "tenants": ["demo"], "languages": ["en"]}
    issuer.account("tool", **claims)
    async with service.browser() as browser:
        before = await me(browser, **bearer(issuer.access_token()))
        issuer.account("tool", **{name: each for name, each in claims.items() if name != silent})
        refused = await browser.get("/v1/me", headers=bearer(issuer.access_token()))
        assert refused.status_code == 401
        assert "claims" in refused.json()["detail"]
        async with service.database.reading() as tx:
            known = await users.get(tx, before["user_id"])
    assert known is not None
    assert known.roles == {"reviewer"}
    assert known.tenants == {"demo"}
    assert known.languages == {"en"}


@pytest.mark.parametrize("wrong", ["no_time", "later"])
async def test_a_token_that_hides_when_it_was_made_is_believed(
    service: Service, issuer: Issuer, wrong: str
) -> None:
    """One from a time to come would make all that is said until then old."""
    issuer.say(wrong=wrong)
    async with service.browser() as browser:
        assert await me(browser, **bearer(issuer.access_token())) == 401
    assert await count(service.database, schema.users) == 0


async def test_a_program_s_token_is_over_when_it_says_so(
    database: Database, issuer: Issuer
) -> None:
    clock = Clock()
    service = Service(database, environ=issuer.environ, clock=clock)
    token = issuer.access_token()
    async with service.browser() as browser:
        assert (await me(browser, **bearer(token)))["name"] == "tool"
        clock.ahead_s = 60 + 31
        assert await me(browser, **bearer(token)) == 401
    await service.door.close()


@pytest.mark.parametrize(
    "wrong",
    [
        "unsigned",
        "shared_secret",
        "another_key",
        "audience",
        "no_audience",
        "issuer",
        "no_end",
        "over",
        "garbage",
    ],
)
async def test_a_program_s_token_that_proves_nothing_is_not_believed(
    service: Service, issuer: Issuer, wrong: str
) -> None:
    issuer.say(wrong=wrong)
    async with service.browser() as browser:
        assert await me(browser, **bearer(issuer.access_token())) == 401
        issuer.say(wrong="none")  # signed anew by the same hand, and right
        assert (await me(browser, **bearer(issuer.access_token())))["name"] == "tool"
    assert await count(service.database, schema.users) == 1


async def test_a_program_s_token_that_was_changed_on_its_way_is_not_believed(
    service: Service, issuer: Issuer
) -> None:
    token = issuer.access_token()
    header, claims, signature = token.split(".")
    plain = json.loads(base64.urlsafe_b64decode(claims + "=="))
    more = base64.urlsafe_b64encode(json.dumps({**plain, "roles": ["admin"]}).encode())
    changed = {
        "claims": f"{header}.{more.rstrip(b'=').decode()}.{signature}",
        "key": jwt.encode({"alg": "RS256", "kid": "?"}, plain, RSAKey.generate_key(2048)),
        "cut": token[:-4],
        "nested": base64.urlsafe_b64encode(b"[" * 20_000).decode() + ".a.b",
        "nothing": "",
    }
    async with service.browser() as browser:
        assert (await me(browser, **bearer(token)))["roles"] == ["reviewer"]
        for how, each in changed.items():
            assert await me(browser, **bearer(each)) == 401, how


async def test_an_id_token_opens_nothing_as_an_access_token(
    service: Service, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert service.door.issuer is not None
    seen: list[str] = []
    redeem = service.door.issuer._redeem

    async def watched(*what: Any) -> Any:
        tokens = await redeem(*what)
        seen.append(str(tokens["id_token"]))
        return tokens

    monkeypatch.setattr(service.door.issuer, "_redeem", watched)
    async with service.browser() as browser:
        await sign_in(browser, "anna")
    async with service.browser() as program:
        assert await me(program, **bearer(seen[0])) == 401


async def test_those_who_wait_for_an_issuer_that_hangs_do_not_wait_for_one_another(
    database: Database, issuer: Issuer
) -> None:
    token = issuer.access_token()
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # takes connections and says nothing
        port = hanging.getsockname()[1]
        environ = {
            **issuer.environ,
            "QWARDEN_OIDC__ISSUER": f"http://127.0.0.1:{port}",
            "QWARDEN_OIDC__TIMEOUT_S": "0.5",
        }
        service = Service(database, environ=environ, clock=Clock())
        async with service.browser() as browser:
            began = time.monotonic()
            answers = await asyncio.gather(*(me(browser, **bearer(token)) for _ in range(30)))
            assert time.monotonic() - began < 5  # one after the other they would take 15 s
        await service.door.close()
    assert answers == [503] * 30


async def test_made_up_tokens_do_not_keep_the_issuer_busy(
    service: Service, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert service.door.issuer is not None
    asked: list[str] = []
    ask = service.door.issuer._ask

    async def watched(method: str, url: str, **what: Any) -> httpx.Response:
        asked.append(url)
        return await ask(method, url, **what)

    monkeypatch.setattr(service.door.issuer, "_ask", watched)
    key = RSAKey.generate_key(2048)
    async with service.browser() as browser:
        for number in range(50):
            forged = jwt.encode({"alg": "RS256", "kid": str(number)}, {"sub": "x"}, key)
            assert await me(browser, **bearer(forged)) == 401
    assert len(asked) <= 4  # addresses and keys, once and once anew
