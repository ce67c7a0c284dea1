"""What every route stands on: `request.state.served`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden.policy.tenants import Tenants
from qwarden.review.store.database import Database
from qwarden.settings import Review, Settings


@dataclass(frozen=True, slots=True)
class Served:
    """`tenants`: those whose policies act now. `clock`: seconds since 1970."""

    settings: Settings
    database: Database
    tenants: Callable[[], Tenants]
    clock: Callable[[], float] = time.time

    @property
    def limits(self) -> Review:
        return self.settings.review


def served_of(request: Request) -> Served:
    return cast(Served, request.state.served)


async def _writing(request: Request) -> AsyncIterator[AsyncConnection]:
    async with served_of(request).database.writing() as tx:
        yield tx


async def _reading(request: Request) -> AsyncIterator[AsyncConnection]:
    async with served_of(request).database.reading() as tx:
        yield tx


Serves = Annotated[Served, Depends(served_of)]
Writing = Annotated[AsyncConnection, Depends(_writing, scope="function")]
"""One transaction for the whole request, committed before the answer goes out."""
Reading = Annotated[AsyncConnection, Depends(_reading, scope="function")]
