"""The console's desk as docs/console.png shows it. After a change of the console, in the project's
folder: `PYTHONPATH=tests .venv/bin/python -m console.picture`.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from playwright.async_api import async_playwright

from consoles import FLAGS, WAIT_MS
from qwarden.review.people import links
from qwarden.review.person import Role
from qwarden.stack.ports import free_ports
from review_api.desk import Desk, serving
from reviewing import escalations

FILE = Path(__file__).parents[2] / "docs" / "console.png"
WIDTH, HEIGHT = 1440, 900


async def seed(desk: Desk) -> None:
    """What waits on a quiet morning, in several languages."""
    await desk.take(
        [
            *escalations(4, name="town", age_s=1500),
            *escalations(2, name="stadt", language="de", age_s=900),
            *escalations(1, name="pueblo", language="es", age_s=600),
            *escalations(3, name="market", queue="civic", harm=5, age_s=240),
        ]
    )


async def link_of(desk: Desk, name: str, *roles: Role) -> str:
    """Signs a new person in."""
    person = await desk.add(name, *roles)
    async with desk.database.writing() as tx:
        token = await links.make(
            tx, person.user_id, actor="test", now=desk.clock(), limits=desk.settings.review
        )
    return f"/sign-in#{token}"


async def draw(to: Path) -> None:
    """A reviewer at the desk who has read an item and is about to decide it."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("There is no Chromium here: install the system's package `chromium`.")
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        async with (
            serving(f"sqlite:///{folder}/review.db", port) as desk,
            async_playwright() as playwright,
        ):
            await seed(desk)
            browser = await playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
            page = await browser.new_page(
                viewport={"width": WIDTH, "height": HEIGHT}, locale="en-GB", color_scheme="light"
            )
            page.set_default_timeout(WAIT_MS)
            await page.goto(f"http://127.0.0.1:{port}{await link_of(desk, 'Ann')}")
            await page.wait_for_selector(".empty")
            await page.keyboard.press("n")
            await page.wait_for_selector(".decision")
            for key in ("r", "d", "1"):
                await page.keyboard.press(key)
            await page.wait_for_selector("text=town library")
            await page.screenshot(path=to)
            await browser.close()


if __name__ == "__main__":
    asyncio.run(draw(FILE))
    print(FILE)
