"""A network that the tests make bad: a TCP proxy on this machine, in the test's own event loop.

It can be late, slow, still for a while, half open, or cut, and then it is well again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_CHUNK_BYTES = 16_384
_CHUNKS_UNDERWAY = 64
"""Read and not delivered, in one direction of one connection: about what a socket holds, so that
the sender sees a slow network and does not only fill our memory."""


class _Connection:
    """One client's connection; `swallows`: what is sent on it goes nowhere, from now on for ever,
    as where a router between has forgotten it."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.writers = writers
        self.swallows = False


class Proxy:
    """Listens on 127.0.0.1:`port` and forwards to 127.0.0.1:`to`.

    `latency_s`: how much later each direction delivers. `bytes_a_second`: of each direction of
    each connection; None is no bound. Both may be changed at any time.
    """

    def __init__(self, port: int, to: int) -> None:
        self.port = port
        self.latency_s = 0.0
        self.bytes_a_second: float | None = None
        self._to = to
        self._moves = asyncio.Event()
        self._moves.set()
        self._deaf = False
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *failure: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """Nothing is forwarded and nothing closed; afterwards all of it goes on."""
        self._moves.clear()
        try:
            yield
        finally:
            self._moves.set()

    @asynccontextmanager
    async def half_open(self) -> AsyncIterator[None]:
        """Connections are taken and go nowhere. Those of before and of meanwhile never work again
        and are not closed either; new ones do, afterwards."""
        self._deaf = True
        for each in self._connections:
            each.swallows = True
        try:
            yield
        finally:
            self._deaf = False

    def lead_to(self, to: int) -> None:
        """Forwards to another server from now on, as a name does that moves; what is open ends."""
        self._to = to
        self.cut()

    def cut(self) -> None:
        """Closes every connection at once, without a farewell."""
        for each in list(self._connections):
            for writer in each.writers:
                writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._deaf:
            connection = _Connection(writer)
            connection.swallows = True
            ways = [self._forward(connection, reader, writer)]
        else:
            try:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
            except OSError:
                writer.transport.abort()
                return
            connection = _Connection(writer, far_writer)
            ways = [
                self._forward(connection, reader, far_writer),
                self._forward(connection, far_reader, writer),
            ]
        self._connections.add(connection)
        try:
            await asyncio.gather(*ways)
        finally:
            self._connections.discard(connection)
            for each in connection.writers:
                each.transport.abort()

    async def _forward(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One direction, until its sender closes it: what is underway then is delivered first."""
        loop = asyncio.get_running_loop()
        underway: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_UNDERWAY)

        async def receive() -> None:
            data = b"-"
            while data:
                with suppress(OSError):
                    data = await reader.read(_CHUNK_BYTES)
                await underway.put((loop.time() + self.latency_s, data))

        receiving = asyncio.create_task(receive())
        try:
            while True:
                due, data = await underway.get()
                await asyncio.sleep(due - loop.time())
                await self._moves.wait()
                if not data:
                    break
                if connection.swallows:
                    continue
                writer.write(data)
                await writer.drain()
                if self.bytes_a_second is not None:
                    await asyncio.sleep(len(data) / self.bytes_a_second)
            if not connection.swallows and writer.can_write_eof():
                writer.write_eof()
        except OSError:
            pass
        finally:
            receiving.cancel()
