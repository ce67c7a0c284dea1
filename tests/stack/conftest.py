"""A home of its own for each test, and waiting with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qwarden.stack.home import Home

Until = Callable[[Callable[[], bool]], None]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def until() -> Until:
    """Return a function that waits until a check is true, and fails after 20 seconds."""

    def wait(check: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not check():
            assert time.monotonic() < deadline, "It has not happened within 20 s."
            time.sleep(0.02)

    return wait
