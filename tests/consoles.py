"""The console in Chromium, as people have it in front of them: signed in, and watched for whatever
their browser complains of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Page

from qwarden.review.person import Person, Role
from reviewing import Reviewing

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
WAIT_MS = 60_000
"""As long as the tests wait for the service: a browser beside other work on two cores is slow, not
wrong. It stays under the 300 s of a test, so that what fails says which condition never came."""


@dataclass
class Console:
    """The console of one service, with people of one tenant: tests that share a service see
    nothing of each other."""

    service: Reviewing
    browser: Browser
    tenant: str
    complaints: list[str] = field(default_factory=list)
    _open: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def person(self, name: str, *roles: Role, **more: Any) -> Person:
        """One who works for this tenant."""
        return await self.service.add(
            f"{name} of {self.tenant}", *roles, tenants=[self.tenant], **more
        )

    async def page(
        self, person: Person, *, width: int = 1440, height: int = 900, **context: Any
    ) -> Page:
        """A browser of this person's own, signed in by a link, at the desk."""
        own = await self.browser.new_context(
            viewport={"width": width, "height": height}, **{"locale": "en-GB", **context}
        )
        self._open.push_async_callback(own.close)
        page = await own.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(f"{error.name}: {error}"))
        await page.goto(await self.service.link_of(person))
        await page.wait_for_url(lambda url: "sign-in" not in url)
        await page.wait_for_selector("#main[data-view] > *")
        return page

    async def reviewer(self, name: str = "Ann", **context: Any) -> Page:
        """A new reviewer's page."""
        return await self.page(await self.person(name), **context)

    async def close(self) -> None:
        await self._open.aclose()

    def _hear(self, message: ConsoleMessage) -> None:
        # A refusal of the service (409, 204 …) is told by the network, not by a mistake of ours.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)


@asynccontextmanager
async def opened(service: Reviewing, browser: Browser, tenant: str) -> AsyncIterator[Console]:
    """A console whose pages must not complain: no error of a script, nothing that the content
    security policy had to stop."""
    console = Console(service, browser, tenant)
    try:
        yield console
    finally:
        await console.close()
    assert not console.complaints, console.complaints
