"""A service as a process, apart from its lanes."""

from __future__ import annotations

import asyncio

from qwarden import settings
from qwarden.control.memory import MemoryControl, MemoryTopic
from qwarden.serving import Serving

NOWHERE = {
    "QWARDEN_CONTENT_KEY": "ab" * 32,
    "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "QWARDEN_HTTP__PORT": "0",
}
"""Settings of a service whose broker is away."""


def service() -> Serving:
    own = settings.load(NOWHERE)
    control = MemoryControl(MemoryTopic())
    return Serving(own, own.moderator, control, name="test", needed=("content.events",))


async def test_a_part_that_dies_in_silence_leaves_its_service_running() -> None:
    one = service()

    async def dies() -> None:
        raise ArithmeticError("a part of its own")

    one.beside = (dies,)
    async with asyncio.timeout(30):
        assert await one.run() == 3


async def test_a_part_that_is_done_ends_its_service() -> None:
    one = service()
    done = asyncio.Event()

    async def ends() -> None:
        done.set()

    one.beside = (ends,)
    running = asyncio.create_task(one.run())
    async with asyncio.timeout(30):
        await done.wait()
        await asyncio.sleep(0)
        assert not running.done()
        one.stop()
        assert await running == 0
