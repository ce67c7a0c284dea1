"""What the demonstration shows when a part of its stack dies under it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from rich.console import Console

from qwarden import kafka
from qwarden.stack.demo import Demo
from qwarden.stack.errors import StackError
from qwarden.stack.home import Home


@contextlib.asynccontextmanager
async def reading(*_: object, **__: object) -> AsyncIterator[AsyncIterator[Any]]:
    """A topic without records, which fails as aiokafka's consumer does once it is stopped."""
    stopped = asyncio.Event()

    async def records() -> AsyncIterator[Any]:
        await stopped.wait()
        raise ConnectionError("the consumer is stopped")
        yield

    yield records()
    stopped.set()
    await asyncio.sleep(0)


async def test_a_broker_that_dies_ends_the_demo_in_tracebacks(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    async def publish(*_: object) -> None:
        raise StackError("kafka ended by itself")

    monkeypatch.setattr(kafka, "reading", reading)
    monkeypatch.setattr(kafka, "publish", publish)
    home.write_settings({"QWARDEN_CONTENT_KEY": "00" * 32})
    demo = Demo(home, Console(quiet=True), services=[])
    ended = asyncio.create_task(asyncio.sleep(600))
    with pytest.raises(StackError):
        await demo.run(ended, once=False)
    left = asyncio.all_tasks() - {asyncio.current_task(), ended}
    ended.cancel()
    assert not left
    del demo
    assert not told
