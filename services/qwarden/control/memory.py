"""The control table of one process: for tests, and where there is no broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from qwarden.contracts.control import Key, Record, Written, withdrawn, written
from qwarden.control.table import Table
from qwarden.control.view import View

Follower = Callable[[bytes | None, bytes | None, int], None]


class MemoryTopic:
    """What the tables of one fleet share: the records in order, those superseded compacted away."""

    def __init__(self) -> None:
        self._records: dict[bytes | None, tuple[bytes | None, int]] = {}
        self._end = 0
        self._followers: list[Follower] = []

    def append(self, key: bytes | None, value: bytes | None) -> None:
        """A record of anybody's, which all who follow see when the event loop turns."""
        self._records.pop(key, None)
        self._records[key] = value, self._end
        for follower in self._followers:
            asyncio.get_running_loop().call_soon(follower, key, value, self._end)
        self._end += 1

    def follow(self, follower: Follower) -> None:
        for key, (value, offset) in self._records.items():
            follower(key, value, offset)
        self._followers.append(follower)

    def leave(self, follower: Follower) -> None:
        if follower in self._followers:
            self._followers.remove(follower)


class MemoryControl(View):
    """One service's table over a `MemoryTopic`."""

    def __init__(self, topic: MemoryTopic) -> None:
        super().__init__(Table())
        self._topic = topic

    async def start(self) -> None:
        self._topic.follow(self._take)

    async def write(self, record: Record, *, unless: Callable[[], bool] = lambda: False) -> None:
        if not unless():
            await self._append(written(record))

    async def withdraw(self, key: Key) -> None:
        await self._append(withdrawn(key))

    async def _append(self, message: Written) -> None:
        self._topic.append(message.key, message.value)
        await asyncio.sleep(0)  # until everybody has been told

    async def close(self) -> None:
        self._topic.leave(self._take)

    def _take(self, key: bytes | None, value: bytes | None, offset: int) -> None:
        if self._table.apply(key, value, offset):
            self._tell()
