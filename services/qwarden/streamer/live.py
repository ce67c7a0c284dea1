"""What is known of running sessions beside their texts: how far each is, and of one partition."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from qwarden import telemetry
from qwarden.delivery.owed import Owed
from qwarden.delivery.window import Partition
from qwarden.guard.conversation import Task
from qwarden.guard.debounce import Latch
from qwarden.guard.stream import Part
from qwarden.inference.session import Session
from qwarden.policy.policy import Policy
from qwarden.policy.tenants import Tenant
from qwarden.streamer.chunks import Arrived, Placed
from qwarden.streamer.sessions import Applied, Key, Open, Sessions
from qwarden.streamer.verdicts import Word, word_of

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Entry:
    """What is owed together, and what is done when it is acknowledged: records are finished, each
    with what stands beside it, and `then` is called."""

    owed: Owed
    records: Sequence[tuple[Arrived, Owed]]
    then: Callable[[], None]
    signals: int = 0
    is_acknowledged: bool = False


@dataclass(eq=False, slots=True)
class Live:
    """One session's way through the guard."""

    open: Open[Placed]
    tenant: Tenant
    policy: Policy
    session: Session
    latches: dict[Task, Latch] = field(default_factory=dict)
    steps: deque[Applied[Placed]] = field(default_factory=deque)
    """What was applied and is not sent yet."""
    again: list[Part] = field(default_factory=list)
    """What was read again, which is sent first, and of which nothing is said."""
    outbox: deque[Entry] = field(default_factory=deque)
    """In the order of its chunks; the first one is finished first."""
    last: list[tuple[Arrived, Owed]] = field(default_factory=list)
    """Records that are done, each with what stands beside it, only when the session is settled:
    those that were refused, those that waited in vain, those that the guard gave no answer to."""
    task: asyncio.Task[None] | None = None
    prompt_is_out: bool = False
    is_full: bool = False
    """Whether the guard's context is: nothing more is judged token by token."""
    is_abandoned: bool = False
    """Whether the guard does not judge it any further, for another reason."""
    is_quiet: bool = False
    """Whether its end was read again, so that it was signalled before."""
    is_concluded: bool = False

    def latch(self, task: Task) -> Latch:
        latch = self.latches.get(task)
        if latch is None:
            latch = self.latches[task] = Latch(self.policy.flags[task])
        return latch

    def word(self, task: Task) -> Word | None:
        return word_of(self.latch(task))


@dataclass(eq=False, slots=True)
class Held:
    """What is known of one partition. It may outlive an epoch, until another one of it begins."""

    where: Partition
    epoch: int
    sessions: Sessions[Placed]
    lives: dict[Key, Live] = field(default_factory=dict)
    known: dict[int, Arrived] = field(default_factory=dict)
    """Records above the commit, by offset: those that may be delivered again."""
    committed: tuple[int | None, str] = (None, "")
    """What is committed, offset and metadata, as far as this process wrote or read it."""
    is_active: bool = False
    """Whether what it says goes out."""
    let_go_at: float = 0.0
    """When it was revoked (s, of a clock that does not jump)."""

    def settle(self, live: Live) -> None:
        """All that a session owes is acknowledged."""
        self.sessions.settle(live.open)
        self.lives.pop(live.open.key, None)


def count_over(session: Open[Placed]) -> None:
    """Counts a session of which the end is told, and says which one is incomplete."""
    assert session.cause is not None
    telemetry.SESSIONS_CLOSED.add(session.cause)
    if not session.cause.is_complete:
        _log.warning(
            "a session ends incomplete (%s): %s/%s from %s, tenant %r",
            session.cause.value,
            session.first.source.topic,
            session.first.source.partition,
            session.first.offset,
            session.key[0],
        )
