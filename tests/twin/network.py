"""The network between aiokafka's clients and the twin: delays, cuts and deaths, no sockets.

A connection answers its requests one after another, as Kafka does: a fetch that waits for records
holds up what was sent behind it.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar, Token
from functools import partial
from typing import Any, Self
from unittest import mock

import aiokafka.client
from aiokafka.client import CloseReason
from aiokafka.errors import KafkaConnectionError
from aiokafka.util import wait_for

from twin.broker import VERSIONS, Broker

_VERSIONS = {api: (version, version) for api, version in VERSIONS.items()}
_here: ContextVar[Process | None] = ContextVar("process", default=None)


class Process:
    """What dies together: the tasks that are started within `with process:`, their own tasks, and
    their connections."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[Any]] = set()
        self.connections: set[Connection] = set()
        self.cut = False
        self.dead = False
        self._outer: Token[Process | None] | None = None

    def __enter__(self) -> Self:
        self._outer = _here.set(self)
        return self

    def __exit__(self, *failure: object) -> None:
        assert self._outer is not None
        _here.reset(self._outer)

    def kill(self, rng: random.Random) -> None:
        """As SIGKILL: of the requests on their way the broker takes the first few, and nobody
        hears its answers. The group learns of it when the session is over."""
        self.dead = True
        for connection in sorted(self.connections, key=lambda each: each.number):
            connection.die(rng)
        for task in self.tasks:
            task.cancel()

    def cut_off(self) -> None:
        """The process lives on and nothing it sends arrives, nor any answer, until `mend`."""
        self.cut = True

    def mend(self) -> None:
        self.cut = False
        for connection in sorted(self.connections, key=lambda each: each.number):
            connection.go_on()


class Network:
    """Connects aiokafka to a broker within `with network:`."""

    def __init__(self, broker: Broker, rng: random.Random, *, slowest_s: float = 0.004) -> None:
        self.broker = broker
        self.rng = rng
        self.slowest_s = slowest_s
        self.connections: set[Connection] = set()
        self._made = 0
        self._gone = False
        self._hung = False
        self._lost: dict[int, int] = {}
        self._patch = mock.patch.object(aiokafka.client, "create_conn", self._connect)

    def __enter__(self) -> Self:
        self._patch.start()
        self.broker.loop.set_task_factory(_task)
        return self

    def __exit__(self, *failure: object) -> None:
        self.broker.loop.set_task_factory(None)
        self._patch.stop()

    def stop_broker(self) -> None:
        """The broker is down: connections break and none can be made. It keeps its records and
        its groups."""
        self._gone = True
        for group in self.broker.groups.values():
            group.stop()
        for connection in sorted(self.connections, key=lambda each: each.number):
            connection.close(CloseReason.CONNECTION_BROKEN)

    def hang_broker(self) -> None:
        """The broker answers nothing: requests wait in their connections until it goes on, and
        the sessions of those who cannot be heard go by."""
        self._hung = True

    def start_broker(self) -> None:
        """Ends `stop_broker`, after which sessions begin anew, and `hang_broker`."""
        if self._gone:
            for group in self.broker.groups.values():
                group.start()
        self._gone = self._hung = False
        for connection in sorted(self.connections, key=lambda each: each.number):
            connection.go_on()

    def lose_replies(self, api: int, times: int = 1) -> None:
        """The broker takes the next requests of this kind; their connections break before it
        answers."""
        self._lost[api] = self._lost.get(api, 0) + times

    def loses(self, api: int) -> bool:
        if not self._lost.get(api):
            return False
        self._lost[api] -= 1
        return True

    def delay(self) -> float:
        return self.rng.random() * self.slowest_s

    @property
    def is_away(self) -> bool:
        return self._gone or self._hung

    @property
    def hangs(self) -> bool:
        return self._hung

    async def _connect(
        self,
        host: str,
        port: int,
        *,
        request_timeout_ms: int,
        on_close: Any = None,
        **_: Any,
    ) -> Connection:
        await asyncio.sleep(self.delay())
        if self._gone:
            raise KafkaConnectionError(f"the broker at {host}:{port} is gone")
        self._made += 1
        return Connection(self, self._made, request_timeout_ms / 1000, on_close)


class Connection:
    """Stands for `AIOKafkaConnection`: `send`, `connected` and `close` are what its client uses."""

    def __init__(self, network: Network, number: int, timeout_s: float, on_close: Any) -> None:
        self.number = number
        self._network = network
        self._loop = network.broker.loop
        self._process = _here.get()
        self._timeout_s = timeout_s
        self._on_close = on_close
        self._requests: deque[tuple[Any, asyncio.Future[Any]]] = deque()
        self._answering = False
        self._stalled: Callable[[], None] | None = None
        self._open = True
        self._closed = self._loop.create_future()
        network.connections.add(self)
        if self._process is not None:
            self._process.connections.add(self)
            if self._process.dead:
                self.close()

    # What the client uses.

    def connected(self) -> bool:
        return self._open

    def send(self, request: Any, expect_response: bool = True) -> Any:
        assert expect_response, "the twin knows no producer without acknowledgements"
        if not self._open:
            raise KafkaConnectionError("the connection is closed")
        answered = self._loop.create_future()
        self._requests.append((request.prepare(_VERSIONS), answered))
        self._next()
        return wait_for(answered, self._timeout_s)

    def close(self, reason: Any = None, exc: BaseException | None = None) -> asyncio.Future[None]:
        """What was sent is taken all the same, unless the broker is gone or cut off from it;
        nobody hears of it."""
        if self._open:
            self._open = False
            self._closed.set_result(None)
            if self._process is not None:
                self._process.connections.discard(self)
            for _, answered in self._requests:
                if not answered.done():
                    answered.set_exception(KafkaConnectionError("the connection was closed"))
            if reason is CloseReason.CONNECTION_BROKEN or self._is_cut:
                self._forget()
            elif not self._requests:
                self._network.connections.discard(self)
            if self._on_close is not None:
                self._on_close(self, reason)
                self._on_close = None
        return self._closed

    # The broker's side.

    def die(self, rng: random.Random) -> None:
        """Its process was killed: of what was sent the first few arrive."""
        arrive = rng.randrange(len(self._requests) + 1)
        self._on_close = None
        self.close()
        while len(self._requests) > max(arrive, int(self._answering)):
            self._requests.pop()
        if not self._requests:
            self._forget()
        self.go_on()

    def go_on(self) -> None:
        """After what stalled it is over."""
        stalled, self._stalled = self._stalled, None
        if stalled is not None:
            stalled()

    def _forget(self) -> None:
        self._requests.clear()
        self._network.connections.discard(self)

    def _next(self) -> None:
        if self._requests and not self._answering:
            self._answering = True
            self._loop.call_later(self._network.delay(), self._take)

    def _take(self) -> None:
        if not self._requests:
            self._answering = False
            return
        if self._is_cut or self._network.hangs:
            self._stalled = self._take
            return
        request, _ = self._requests[0]
        answer = self._network.broker.answer(request)
        if answer is None:  # held: its client gives it up, and its connection with it
            return
        if self._network.loses(request.API_KEY):
            self.close(CloseReason.CONNECTION_BROKEN)
        elif isinstance(answer, asyncio.Future):
            answer.add_done_callback(lambda done: self._reply_soon(done.result()))
        else:
            self._reply_soon(answer)

    def _reply_soon(self, response: Any) -> None:
        self._loop.call_later(self._network.delay(), self._reply, response)

    def _reply(self, response: Any) -> None:
        if not self._requests:  # the broker went meanwhile
            self._answering = False
            return
        if self._is_cut:
            self._stalled = partial(self._reply, response)
            return
        _, answered = self._requests.popleft()
        if not answered.done():
            answered.set_result(response)
        self._answering = False
        if not self._open and not self._requests:
            self._network.connections.discard(self)
        self._next()

    @property
    def _is_cut(self) -> bool:
        return self._process is not None and self._process.cut and not self._process.dead


def _task(loop: asyncio.AbstractEventLoop, running: Any, **more: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(running, loop=loop, **more)
    process = _here.get()
    if process is not None:
        process.tasks.add(task)
        task.add_done_callback(process.tasks.discard)
        if process.dead:
            task.cancel()
    return task
