"""A real service, and Chromium in front of it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect

from consoles import FLAGS, WAIT_MS, Console, opened
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from reviewing import Reviewing, reviewing

WITHOUT_BROWSER = ("test_words.py", "test_draft.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here share one loop: the browser and the service live in it."""
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here and item.path.name not in WITHOUT_BROWSER:
            item.add_marker("parts")
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium here: install the system's package `chromium`")
    return found


# Of a module: those of a session lived on, idle, through all that came after these tests, and the
# service alone took 7 % of a core for that.
@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    expect.set_options(timeout=WAIT_MS)
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield running
        await running.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def service(
    parts_home: Home, kafka: Kafka, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Reviewing]:
    """One for the tests that need nothing special of it."""
    file = tmp_path_factory.mktemp("console") / "review.db"
    async with reviewing(parts_home, kafka, f"sqlite:///{file}") as running:
        yield running


@pytest.fixture
def tenant(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)[:200]


@pytest_asyncio.fixture(loop_scope="session")
async def console(service: Reviewing, browser: Browser, tenant: str) -> AsyncIterator[Console]:
    async with opened(service, browser, tenant) as console:
        yield console


@pytest.fixture
def make_service(parts_home: Home, kafka: Kafka, tmp_path: Path, tenant: str) -> Callable[..., Any]:
    """A service of a test's own, with its settings; it reads what the shared one reads too."""

    def make(**more: str) -> Any:
        group = hashlib.sha256(tenant.encode()).hexdigest()[:12]
        database = f"sqlite:///{tmp_path / 'review.db'}"
        return reviewing(
            parts_home, kafka, database, QWARDEN_REVIEW__GROUP_ID=f"console-{group}", **more
        )

    return make
