"""What happens, as it happens: Server-Sent Events for the pages that are open.

One look a second serves all of them. A page that does not take what it is sent is dropped, and its
browser comes back; so is one whose person has other rights than it began with, and every one after
a while, so that who was signed out sees no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden import telemetry
from qwarden.review.http.access import Reader
from qwarden.review.http.served import Served
from qwarden.review.people import users
from qwarden.review.person import Person, Role
from qwarden.review.refusals import TooOften
from qwarden.review.store import changes, queues
from qwarden.review.store.changes import Mark

router = APIRouter(prefix="/v1", tags=["live"])

_QUIET_S = 15.0
"""After so long a comment goes out: proxies end what is silent for a minute, and a page that is
gone is noticed."""
_PAGE_S = 600.0
"""How long a page follows before its browser comes back: what one may see is looked up then."""
_WAITING = 500
"""Events that a page may be behind: half a minute of fifty busy reviewers."""
_PAGES = 1000
"""Of one process; each takes some 20 KB."""
_OVERVIEW_S = 2.0
"""How often the queues are counted at most, while they change all the time."""
_LATE = 300
"""Acts below the last that are looked at again: a transaction has its number before it commits."""


class _Page:
    """One that follows. `events`: what it has not been sent; None ends it."""

    __slots__ = ("events", "person")

    def __init__(self, person: Person) -> None:
        self.person = person
        self.events: asyncio.Queue[bytes | None] = asyncio.Queue(_WAITING + 1)

    def tell(self, event: bytes) -> bool:
        """Whether it goes on."""
        if self.events.qsize() >= _WAITING:
            self.events.put_nowait(None)
            return False
        self.events.put_nowait(event)
        return True


class Live:
    """The pages that follow what happens, in this process."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._pages: set[_Page] = set()
        self._mark: Mark | None = None
        self._seen: set[int] = set()
        self._overview_at = 0.0
        self._overview_due = False
        self._ended = False

    async def look(self) -> None:
        """Tells every page what is new; a round, again and again."""
        if not self._pages:
            self._mark, self._seen = None, set()
            return
        async with self._served.database.reading() as tx:
            await self._drop_changed(tx)
            now = await changes.mark(tx)
            if now != self._mark:
                touched = await self._touched(tx, now)
                own = await changes.of_one(tx, touched)
                self._mark = now
                self._overview_due = True
                for page in list(self._pages):
                    for item in touched:
                        if page.person.user_id in own.get(item.item_id, {page.person.user_id}):
                            self._tell(page, item)
            if self._overview_due and time.monotonic() - self._overview_at >= _OVERVIEW_S:
                await self._tell_queues(tx)

    def end(self) -> None:
        """Ends all of them: the process ends."""
        self._ended = True
        for page in list(self._pages):
            self._drop(page)

    def follow(self, person: Person) -> AsyncIterator[bytes]:
        """The events of one page, from now on. Raises TooOften."""
        if self._ended or len(self._pages) >= _PAGES:
            raise TooOften("too many pages follow the queue here; close some", retry_after_s=30)
        return self._events(_Page(person))

    async def _events(self, page: _Page) -> AsyncIterator[bytes]:
        until = time.monotonic() + _PAGE_S
        self._pages.add(page)
        self._overview_due = True
        telemetry.REVIEW_LIVE.set(len(self._pages))
        try:
            yield b"retry: 2000\n\n"
            while (left := until - time.monotonic()) > 0:
                event: bytes | None = b": still here\n\n"
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(_QUIET_S, left)):
                        event = await page.events.get()
                if event is None:
                    return
                yield event
        finally:
            self._pages.discard(page)
            telemetry.REVIEW_LIVE.set(len(self._pages))

    async def _touched(self, tx: AsyncConnection, now: Mark) -> Sequence[Row[Any]]:
        """The items that something has happened to since the last look; none where there was
        none."""
        after = (self._mark or now).number - _LATE
        acts = await changes.acts(tx, after)
        new = [acts[number] for number in sorted(acts.keys() - self._seen)]
        self._seen = set(acts)
        if self._mark is None or not new:
            return []
        return await changes.rows(tx, set(new[-_WAITING:]))

    def _tell(self, page: _Page, item: Row[Any]) -> None:
        person = page.person
        if not person.sees(item.tenant):
            return
        if item.role == "lead" and not person.has(Role.LEAD, Role.AUDITOR):
            return
        said = {"item_id": item.item_id, "state": item.state, "holder": item.pseudonym}
        is_told = page.tell(_event("item", said))
        if is_told and item.holder == person.user_id and item.state == "open":
            is_told = page.tell(
                _event(
                    "lease",
                    {
                        "item_id": item.item_id,
                        "token": item.lease,
                        "fence": item.fence,
                        "until": item.leased_until,
                    },
                )
            )
        if not is_told:
            self._drop(page)

    async def _tell_queues(self, tx: AsyncConnection) -> None:
        """How the queues stand, once for those who see the same."""
        self._overview_at, self._overview_due = time.monotonic(), False
        at = self._served.clock()
        told: dict[tuple[Any, ...], bytes] = {}
        with_golden = await changes.with_golden(tx)
        for page in list(self._pages):
            person = page.person
            own = person.user_id if person.user_id in with_golden else None
            sees = (person.tenants, person.roles, own)
            if sees not in told:
                rows = await queues.overview(tx, person, at)
                told[sees] = _event("queues", {"queues": rows, "now": at})
            if not page.tell(told[sees]):
                self._drop(page)

    async def _drop_changed(self, tx: AsyncConnection) -> None:
        pages = list(self._pages)
        people = await users.active(tx, {page.person.user_id for page in pages})
        for page in pages:
            if people.get(page.person.user_id) != page.person:
                self._drop(page)

    def _drop(self, page: _Page) -> None:
        self._pages.discard(page)
        if not page.events.full():
            page.events.put_nowait(None)


def _event(name: str, said: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(said) + b"\n\n"


@router.get("/live", response_class=StreamingResponse)
async def follow(request: Request, person: Reader) -> StreamingResponse:
    """`event: queues` as GET /v1/queues; `event: item` {item_id, state, holder}; `event: lease`
    {item_id, token, fence, until}, to who holds it. The stream ends now and then: come back."""
    live: Live = request.state.live
    return StreamingResponse(
        live.follow(person),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )
