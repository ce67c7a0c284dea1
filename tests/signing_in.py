"""The routes of sign-in on a database, with a clock that a test moves, and people who sign in."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI
from starlette.types import Receive, Scope, Send

from qwarden import settings
from qwarden.policy.tenants import Tenants
from qwarden.review.http import auth
from qwarden.review.http.errors import answer_errors
from qwarden.review.http.served import Served
from qwarden.review.people import links, tokens, users
from qwarden.review.person import Person
from qwarden.review.store.database import Database


@dataclass
class Clock:
    """Goes as the machine's does, and jumps where a test says so."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@dataclass
class Still:
    """Stands until a test moves it."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def _no_policies() -> Tenants:
    raise AssertionError("who signs in needs no policy")


class Service:
    """The routes of sign-in, and one of each method beside them: `changed` has who used those."""

    def __init__(
        self,
        database: Database,
        url: str = "http://review.test",
        environ: Mapping[str, str] | None = None,
        *,
        clock: Clock | Still,
    ) -> None:
        self.database = database
        self.url = url
        self.clock = clock
        self.changed: list[str] = []
        self.settings = settings.load(
            {
                "QWARDEN_CONTENT_KEY": secrets.token_hex(32),
                "QWARDEN_REVIEW__PUBLIC_URL": url,
                **(environ or {}),
            }
        )
        self.door = auth.Door(self.settings, clock=clock)
        served = Served(self.settings, database, _no_policies, clock)
        self._state = {"served": served, "door": self.door}
        self._api = FastAPI()
        self._api.include_router(auth.router)
        answer_errors(self._api)

        async def who(caller: Annotated[auth.Caller, Depends(auth.caller_of)]) -> dict[str, object]:
            person = caller.person
            return {
                "user_id": person.user_id,
                "name": person.name,
                "roles": sorted(person.roles),
                "tenants": sorted(person.tenants),
                "languages": sorted(person.languages),
                "is_tool": person.is_tool,
                "csrf": caller.csrf,
            }

        async def change(person: Annotated[Person, Depends(auth.person_of)]) -> None:
            self.changed.append(person.name)

        self._api.add_api_route("/v1/me", who)
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            self._api.add_api_route(f"/v1/{method.lower()}", change, methods=[method])

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The service as a server has it."""
        await self._api({**scope, "state": dict(self._state)}, receive, send)

    def browser(self) -> httpx.AsyncClient:
        """One with cookies of its own, which reaches this service and what is on this machine."""
        return httpx.AsyncClient(
            mounts={self.url: httpx.ASGITransport(self.app)}, base_url=self.url, timeout=20
        )

    async def person(self, name: str = "Anna", *, is_tool: bool = False) -> Person:
        async with self.database.writing() as tx:
            return await users.add(
                tx,
                name=name,
                roles=["reviewer"],
                tenants=["demo"],
                languages=["*"],
                is_tool=is_tool,
                actor="service",
                now=self.clock(),
            )

    async def link(self, person: Person) -> str:
        """The token of a new sign-in link."""
        async with self.database.writing() as tx:
            return await links.make(
                tx,
                person.user_id,
                actor="service",
                now=self.clock(),
                limits=self.settings.review,
            )

    async def token(self, person: Person) -> dict[str, str]:
        """The header with a new token."""
        async with self.database.writing() as tx:
            token = await tokens.make(tx, person.user_id, "cli", actor="service", now=self.clock())
        return {"authorization": f"Bearer {token}"}
