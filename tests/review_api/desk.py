"""The whole API in the test's process on a real database, with people, items, and a clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from sqlalchemy import select

from qwarden import settings as settings_module
from qwarden.policy.tenants import Tenants
from qwarden.review.http.app import app_of
from qwarden.review.http.auth import Door
from qwarden.review.http.live import Live
from qwarden.review.http.served import Served
from qwarden.review.person import Person, Role
from qwarden.review.store import intake
from qwarden.review.store.database import Database
from qwarden.review.store.intake import Arrived, Taken
from qwarden.review.store.schema import metadata
from qwarden.settings import Settings
from reviewing import hired, settings_of, token_of


class Clock:
    """Time that goes on by itself and can be moved."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@dataclass
class Desk:
    """The API; `app`: as a server has it."""

    database: Database
    settings: Settings
    clock: Clock = field(default_factory=Clock)
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def __post_init__(self) -> None:
        served = Served(self.settings, self.database, lambda: Tenants({}, False), self.clock)
        self.live = Live(served)
        self.door = Door(self.settings)
        self.app = app_of(served, self.door, self.live, is_prepared=lambda: True)
        self.anybody = self._client({})

    async def add(self, name: str, *roles: Role, **may: Any) -> Person:
        """One who works here, as `escalated.person` has it."""
        return await hired(self.database, name, *roles, now=self.clock(), **may)

    async def client_of(self, person: Person) -> httpx.AsyncClient:
        token = await token_of(self.database, person, self.clock())
        return self._client({"Authorization": f"Bearer {token}"})

    async def client(self, name: str, *roles: Role, **more: Any) -> httpx.AsyncClient:
        """A new person's API, on a terminal."""
        return await self.client_of(await self.add(name, *roles, **more))

    async def take(self, arrived: Sequence[Arrived]) -> Taken:
        """What the lanes do with records."""
        async with self.database.writing() as tx:
            return await intake.take(tx, arrived, self.clock(), self.settings.review)

    async def stored(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything that the database holds, to compare."""
        async with self.database.reading() as tx:
            return {
                table.name: sorted(
                    (tuple(row) for row in await tx.execute(select(table))), key=repr
                )
                for table in metadata.sorted_tables
            }

    async def close(self) -> None:
        for client in self.clients:
            await client.aclose()
        await self.door.close()

    def _client(self, headers: dict[str, str]) -> httpx.AsyncClient:
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://desk", headers=headers
        )
        self.clients.append(client)
        return client


@asynccontextmanager
async def open_desk(database: Database, **more: str) -> AsyncIterator[Desk]:
    """`more`: settings."""
    told = settings_of("127.0.0.1:1", "sqlite:///none", **more)
    made = Desk(database, settings_module.load(told))
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def serving(url: str, port: int) -> AsyncIterator[Desk]:
    """One on a new database and a real port."""
    database = Database.open(url, 4)
    await database.migrate()
    async with open_desk(database) as desk:
        server = uvicorn.Server(
            uvicorn.Config(desk.app, port=port, log_level="warning", lifespan="off")
        )
        task = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        try:
            yield desk
        finally:
            server.should_exit = True
            await task
    await database.close()


async def claimed(client: httpx.AsyncClient, **wanted: Any) -> dict[str, Any]:
    """The next item, or that one: `{"item", "lease"}`."""
    answer = await client.post("/v1/claims", json=wanted)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def decided(
    client: httpx.AsyncClient, of: dict[str, Any], action: str = "allow", **more: Any
) -> dict[str, Any]:
    """Decides what was claimed."""
    if action != "allow":
        more = {"ground": "terms", "clause": "3.2 Civic claims", **more}
    said = {"action": action, "reason": "in_context", **more}
    answer = await client.post(
        f"/v1/items/{of['item']['item_id']}/decide", json={"lease": of["lease"]["token"], **said}
    )
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body
