"""Who asks: a browser with a session's cookie, or a program with a token; and how both come in."""

from __future__ import annotations

import hmac
import html
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from qwarden.review.http.served import Served, served_of
from qwarden.review.people import links, sessions, tokens, users
from qwarden.review.people.claims import Said
from qwarden.review.people.limits import Limits
from qwarden.review.people.oidc import Issuer
from qwarden.review.people.secret import API_TOKEN
from qwarden.review.people.sessions import Begun
from qwarden.review.person import Person
from qwarden.review.refusals import Forbidden, NotFound, NotSignedIn, Refusal, TooOften
from qwarden.settings import Settings

COOKIE = "qw_session"
"""HttpOnly: no script reads it. SameSite=Lax: no other site's page sends it along with anything but
a visit."""
CSRF = "X-CSRF-Token"
"""The header that a browser sends with what changes something: no other site's page can read what
is to stand in it."""
_AWAY = "qw_oidc"
"""The cookie of a browser that is at the issuer."""
_AWAY_S = 600
"""How long one may take there: long enough to look for a second factor."""
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_TOOLS_TIMES = 10
"""A tool speaks for many people."""


class Door:
    """What one process remembers of who comes in: how often, and what the issuer has published."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.issuer = (
            None
            if settings.oidc is None
            else Issuer(settings.oidc, settings.review.public_url, clock=clock)
        )
        self._limits = settings.review
        self._clock = clock
        self._requests = Limits()
        self._sign_ins = Limits()
        self._failures = Limits()

    def admit(self, person: Person) -> None:
        """One request. Raises TooOften."""
        a_minute = self._limits.requests_a_minute * (_TOOLS_TIMES if person.is_tool else 1)
        wait_s = self._requests.wait_s(person.user_id, a_minute, self._clock())
        if wait_s:
            raise TooOften(
                f"{a_minute} requests a minute are enough for one; wait {wait_s:.1f} s",
                retry_after_s=wait_s,
            )

    def admit_sign_in(self, address: str) -> None:
        """One try to sign in. Raises TooOften."""
        a_minute = self._limits.sign_ins_a_minute
        wait_s = self._sign_ins.wait_s(address, a_minute, self._clock())
        if wait_s:
            raise TooOften(
                f"{a_minute} sign-ins a minute are enough from one address; wait {wait_s:.0f} s",
                retry_after_s=wait_s,
            )

    def admit_failure(self, address: str) -> None:
        """One request that did not prove who asks. Raises TooOften. Who proves it is let in all the
        same: a whole office may have one address."""
        a_minute = self._limits.requests_a_minute
        wait_s = self._failures.wait_s(address, a_minute, self._clock())
        if wait_s:
            raise TooOften(
                f"{a_minute} requests a minute that prove nothing are enough from one address; "
                f"sign in, or wait {wait_s:.1f} s",
                retry_after_s=wait_s,
            )

    async def close(self) -> None:
        if self.issuer is not None:
            await self.issuer.close()


@dataclass(frozen=True, slots=True)
class Caller:
    """`csrf`: what a browser's session sends in `CSRF`; None for a program."""

    person: Person
    csrf: str | None


async def caller_of(request: Request) -> Caller:
    """Who asks, as the database knows them now. Raises NotSignedIn, Forbidden for a browser that
    does not send its session's `CSRF` with what changes something, and TooOften."""
    door = door_of(request)
    try:
        caller = await _proven(request, door)
    except NotSignedIn:
        door.admit_failure(_address(request))
        raise
    door.admit(caller.person)
    return caller


async def _proven(request: Request, door: Door) -> Caller:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme:
        if scheme.lower() != "bearer":
            raise NotSignedIn("send a token as: Authorization: Bearer TOKEN")
        return Caller(await _bearer(served_of(request), door, credentials.strip()), None)
    session = await _session(request)
    if session is None:
        raise NotSignedIn("sign in first, or send a token as: Authorization: Bearer TOKEN")
    _check(request, session)
    return Caller(session.person, session.csrf)


async def person_of(caller: Annotated[Caller, Depends(caller_of)]) -> Person:
    """Who asks, for routes that need no more. Raises what `caller_of` does."""
    return caller.person


def door_of(request: Request) -> Door:
    return cast(Door, request.state.door)


router = APIRouter()


class SignIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: Annotated[str, Field(min_length=1, max_length=100)]
    """What stands behind the # of a sign-in link."""


class Ways(BaseModel):
    """How people sign in here."""

    oidc: bool
    """With OpenID Connect, beside links."""


@router.get("/v1/sign-in")
async def ways(request: Request) -> Ways:
    """How people sign in here, for who has not yet."""
    return Ways(oidc=door_of(request).issuer is not None)


@router.post("/v1/sessions", status_code=204)
async def sign_in(body: SignIn, request: Request) -> Response:
    """Spends a sign-in link and sets the session's cookie."""
    served = served_of(request)
    _admit_sign_in(request)
    now = served.clock()
    async with served.database.writing() as tx:
        user_id = await links.spend(tx, body.token, now=now)
        begun = await sessions.begin(
            tx, user_id, by="link", lasts_s=served.limits.session_s, now=now
        )
    return _with_cookie(Response(status_code=204), begun, served)


@router.delete("/v1/sessions", status_code=204)
async def sign_out(request: Request) -> Response:
    """Ends this browser's session, where it still has one."""
    served = served_of(request)
    session = await _session(request)
    if session is not None:
        _check(request, session)
        async with served.database.writing() as tx:
            await sessions.end(tx, request.cookies[COOKIE], now=served.clock())
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, httponly=True, samesite="lax", secure=_is_secure(served))
    return answer


@router.get("/oidc/start", include_in_schema=False)
async def depart(request: Request) -> Response:
    """Sends the browser to the issuer."""
    try:
        _admit_sign_in(request)
        departure = await _issuer(request).depart()
    except Refusal as refusal:
        return _page(refusal)
    answer = RedirectResponse(departure.url, status_code=303)
    answer.set_cookie(
        _AWAY,
        departure.secret,
        max_age=_AWAY_S,
        path="/oidc",
        httponly=True,
        samesite="lax",
        secure=_is_secure(served_of(request)),
    )
    return answer


@router.get("/oidc/callback", include_in_schema=False)
async def arrive(request: Request) -> Response:
    """Takes the browser back from the issuer and sets the session's cookie."""
    served = served_of(request)
    try:
        _admit_sign_in(request)
        issuer = _issuer(request)
        now = served.clock()
        said = await issuer.arrive(request.cookies.get(_AWAY), request.query_params, now=now)
        person = await _learned(served, issuer, said, now)
        lasts_s = min(issuer.session_s, served.limits.session_s)
        async with served.database.writing() as tx:
            begun = await sessions.begin(tx, person.user_id, by="oidc", lasts_s=lasts_s, now=now)
    except Refusal as refusal:
        answer: Response = _page(refusal)
    else:
        answer = _with_cookie(RedirectResponse("/", status_code=303), begun, served)
    answer.delete_cookie(
        _AWAY, path="/oidc", httponly=True, samesite="lax", secure=_is_secure(served)
    )
    return answer


async def _bearer(served: Served, door: Door, token: str) -> Person:
    now = served.clock()
    if token.startswith(API_TOKEN) or door.issuer is None:
        async with served.database.reading() as tx:
            person = await tokens.find(tx, token, now=now)
        if person is None:
            raise NotSignedIn("this token is not known, is over, or was revoked")
        return person
    said = await door.issuer.caller(token, now=now)
    async with served.database.reading() as tx:
        known = await users.of_issuer(tx, door.issuer.name, said)
    return known or await _learned(served, door.issuer, said, now)


async def _learned(served: Served, issuer: Issuer, said: Said, now: float) -> Person:
    async with served.database.writing() as tx:
        person = await users.learn(tx, issuer.name, said, now=now)
    if person is None:  # after the commit: sessions of theirs have ended with it
        raise Forbidden(
            "the sign-in service gives you no role here; ask who runs it for reviewer, lead, "
            "auditor or admin"
        )
    return person


async def _session(request: Request) -> sessions.Session | None:
    token = request.cookies.get(COOKIE)
    if not token:
        return None
    served = served_of(request)
    async with served.database.reading() as tx:
        return await sessions.find(tx, token, now=served.clock())


def _check(request: Request, session: sessions.Session) -> None:
    sent = request.headers.get(CSRF, "").encode()
    if request.method not in _SAFE and not hmac.compare_digest(sent, session.csrf.encode()):
        raise Forbidden(f"send {CSRF} with what changes something; GET /v1/me has it")


def _issuer(request: Request) -> Issuer:
    issuer = door_of(request).issuer
    if issuer is None:
        raise NotFound("nobody signs in that way here; ask an admin for a sign-in link")
    return issuer


def _admit_sign_in(request: Request) -> None:
    door_of(request).admit_sign_in(_address(request))


def _address(request: Request) -> str:
    return "" if request.client is None else request.client.host


def _is_secure(served: Served) -> bool:
    return served.limits.public_url.startswith("https://")


def _with_cookie(answer: Response, begun: Begun, served: Served) -> Response:
    answer.set_cookie(
        COOKIE,
        begun.token,
        max_age=round(begun.expires_at - served.clock()),
        path="/",
        httponly=True,
        samesite="lax",
        secure=_is_secure(served),
    )
    return answer


def _page(refusal: Refusal) -> HTMLResponse:
    """For a person in a browser that the issuer has sent here: no script of ours runs yet."""
    retry_after_s = getattr(refusal, "retry_after_s", None)
    return HTMLResponse(
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>Not signed in</title><h1>Not signed in</h1><p>{html.escape(str(refusal))}</p>"
        "<p><a href=/oidc/start>Sign in anew</a></p></html>",
        refusal.status,
        None if retry_after_s is None else {"Retry-After": str(max(1, round(retry_after_s)))},
    )
