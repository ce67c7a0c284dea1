"""Whole exchanges through the stream guard, as sessions that are over when they are read."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from qwarden.guard.conversation import Task, Turn
from qwarden.guard.stream import Part, Scored, Segment
from qwarden.inference.replica import NoAnswer
from qwarden.inference.session import Session
from qwarden.inference.stream_client import AppendRefused, StreamClient

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 32
"""Sessions at a time. Enough to fill a step of 512 tokens even where each append has 16 of them."""


@dataclass(frozen=True, slots=True)
class Read:
    """What the guard says of one exchange. `prompt`: of the user's turn that is judged; `thinking`
    and `response`: of each token of the thought and of the answer, in order.

    `closed`: the context was full before the end, and what came behind has no scores. `failure`:
    why the guard has no answer; `refused`: why it never will. Empty where it has.
    """

    revision: str
    prompt: Scored | None = None
    thinking: tuple[Scored, ...] = ()
    response: tuple[Scored, ...] = ()
    closed: bool = False
    failure: str = ""
    refused: str = ""


def parts_of(turns: Sequence[Turn], thought: str = "", answer: str = "") -> tuple[Part, ...]:
    """The parts of a session: `turns` up to the user's turn that is judged, then the assistant's
    thought and answer, each where there is one. Raises `ValueError` with a sentence."""
    *earlier, asked = turns
    if asked.role != "user":
        raise ValueError(
            "two assistant's turns follow each other, and the stream guard judges an answer to a "
            "user's turn; join them into one"
        )
    parts = [Part(turn.role, turn.content, end=True, history=True) for turn in earlier]
    parts.append(Part("user", asked.content, end=True))
    if thought:
        parts.append(Part("assistant", thought, Segment.THINKING, end=True))
    if answer:
        parts.append(Part("assistant", answer, end=True))
    return tuple(parts)


def in_pieces(parts: Sequence[Part], chunk: int) -> Iterator[Part]:
    """The same session in parts of at most `chunk` code points."""
    for part in parts:
        last = max(0, (len(part.text) - 1) // chunk)
        for number in range(last + 1):
            text = part.text[number * chunk : (number + 1) * chunk]
            end = part.end and number == last
            yield Part(part.role, text, part.segment, end, part.history)


class ExchangeReader:
    """Reads exchanges, `AT_ONCE` at a time. `chunk`: code points an append has at most; None sends
    each exchange in one.

    Sessions have no end that the guard would hear of, and it keeps each until it needs the memory.
    So the next exchange takes the name of one that is over, and begins it anew.
    """

    def __init__(self, client: StreamClient, chunk: int | None = None) -> None:
        if chunk is not None and chunk < 1:
            raise ValueError(f"a chunk has at least one character, not {chunk}")
        self._client = client
        self._chunk = chunk
        run = uuid.uuid4().hex
        self._names = [f"{run}-{number}" for number in reversed(range(AT_ONCE))]
        self._free = asyncio.Semaphore(AT_ONCE)

    async def read(self, parts: Sequence[Part]) -> Read:
        """What the guard says of one exchange; waits through outages of it."""
        async with self._free:
            name = self._names.pop()
            try:
                return await self._read(Session("", name), parts)
            finally:
                self._names.append(name)

    async def _read(self, session: Session, parts: Sequence[Part]) -> Read:
        appends: Iterable[Sequence[Part]] = [parts]
        if self._chunk is not None:
            appends = ([each] for each in in_pieces(parts, self._chunk))
        scored: dict[Task, list[Scored]] = {task: [] for task in Task}
        try:
            for append in appends:
                heard = await self._client.append(session, append)
                for each in heard.scored:
                    scored[each.task].append(each)
                if heard.closed:
                    break
        except AppendRefused as refused:
            return Read(session.revision, refused=str(refused))
        except NoAnswer as failed:
            return Read(session.revision, failure=str(failed))
        return Read(
            session.revision,
            scored[Task.PROMPT][-1] if scored[Task.PROMPT] else None,
            tuple(scored[Task.THINKING]),
            tuple(scored[Task.RESPONSE]),
            session.closed,
        )


async def in_order(
    items: Iterable[T], work: Callable[[T], Awaitable[R]]
) -> AsyncIterator[tuple[T, R]]:
    """Each item with what its work comes to, in their order, some of it ahead at any time."""
    running: deque[tuple[T, asyncio.Task[R]]] = deque()

    async def run(item: T) -> R:
        return await work(item)

    try:
        for item in items:
            running.append((item, asyncio.create_task(run(item))))
            # Far enough ahead that the work goes on behind one that is long.
            if len(running) >= 4 * AT_ONCE:
                first, task = running.popleft()
                yield first, await task
        while running:
            first, task = running.popleft()
            yield first, await task
    finally:
        for _, task in running:
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)
