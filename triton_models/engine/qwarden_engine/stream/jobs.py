"""What the stream engine is asked, from the request down to what one step takes of it."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from qwarden.guard.conversation import Task
from qwarden.guard.stream import Append, Appended, Part, Scored, Segment, Status
from qwarden_engine.stream.chat import Fed, Writer
from qwarden_engine.stream.sessions import Key, Session
from qwarden_engine.stream.slab import Slot

Done = Callable[[list[Appended] | None], None]


@dataclass(slots=True, eq=False)
class Request:
    """Appends that are answered together.

    `done` gets the answers once, from a thread of the engine's or from that of `submit`; or None
    where the request was cancelled, or the engine cannot judge. `cancelled` says whether nobody
    waits any more. `left`: answers that are missing. `told`: `done` was called, or is about to be.
    """

    appends: list[bytes]
    done: Done
    cancelled: Callable[[], bool]
    answers: list[Appended | None] = field(init=False)
    left: int = field(init=False)
    told: bool = False
    since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.left = len(self.appends)
        self.answers = [None] * self.left


@dataclass(slots=True, eq=False)
class Given:
    """An append, and where its answer goes. `writing`: what makes it tokens, once that is begun;
    `fed`: what it has made."""

    request: Request
    at: int
    append: Append
    writing: Iterator[list[Fed]] | None = None
    fed: list[Fed] = field(default_factory=list)

    @property
    def points(self) -> int:
        return sum([len(part.text) for part in self.append.parts])


@dataclass(slots=True, eq=False)
class Held:
    """What the engine keeps of a session beside its counts.

    `writer`: its text as tokens. `name`: a hash of its key. `slot`: its keys and values, from its
    first step on. `jobs`: appends that wait, in order; the first one is queued or in a step.
    `ends`: nothing can follow.
    """

    writer: Writer
    name: str
    slot: Slot | None = None
    jobs: deque[Job] = field(default_factory=deque)
    ends: bool = False
    unwritten: deque[Given] = field(default_factory=deque)
    """Appends that were taken, in order, and are not tokens yet. While there are some, the session
    is in line for the first of them."""
    given: int = 0
    """Tokens of its text so far, also those that its context had no room for."""
    cuts: int = 0
    """Stretches of its texts that were cut for their length."""
    _text: tuple[str, Segment, bool] | None = None
    """The text that goes on."""
    _begins: dict[Task, int] = field(default_factory=dict)
    """Where in the transcript the text of a task begins."""

    def writing(self, append: Append, context: int) -> Iterator[list[Fed]]:
        """The tokens that become stable, as `Writer.writing` gives them; not many behind those that
        `context` has room for. Raises `ValueError` for what has no place here."""
        at = append.offset
        for part in append.parts:
            self._follow(part, at)
            at += len(part.text)
            for fed in self.writer.writing(part, context - self.given):
                self.given += len(fed)
                yield fed

    def knows(self, fed: Fed, since: int) -> bool:
        """Whether the asker has this token's score: it lies before `since` of the transcript. Of a
        text of no characters nobody can tell."""
        assert fed.task is not None
        return fed.end > 0 and self._begins[fed.task] + fed.end <= since

    def _follow(self, part: Part, at: int) -> None:
        if not part.text and not part.end:
            return
        text = (part.role, part.segment, part.history)
        task = part.task
        if text != self._text and task is not None:
            self._begins[task] = at
        self._text = None if part.end else text
        if part.end and task is Task.RESPONSE:
            self.ends = True


@dataclass(slots=True, eq=False)
class Job:
    """What is to be forwarded for an append.

    `at`: its place in the request. `ids`: of `fed`. `reads`, `query_reads`: which of them want the
    heads of answers, of queries. `status`, `reason`, `held`: what is said when all is forwarded.
    `alone`: it must be in a step of its own. `replayed`: its session was sent again after it was
    lost. `forwarded`: tokens that are.
    """

    session: Session[Held]
    request: Request
    at: int
    fed: list[Fed]
    ids: list[int]
    reads: list[int]
    query_reads: list[int]
    status: Status
    reason: str
    held: int
    replayed: bool
    alone: bool = False
    forwarded: int = 0
    scored: list[Scored] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.ids) - self.forwarded


def name_of(key: Key) -> str:
    """Stands for a session in the record of what was running."""
    return hashlib.blake2b("\0".join(key).encode(), digest_size=16).hexdigest()
