"""Which sessions there are, which appends fit them, and who gives way where memory is full. Pure.

Memory is counted in tokens as they are promised, before they are forwarded: what is taken here has
room, so nothing that waits for its forward waits for memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from qwarden.guard.stream import Status

T = TypeVar("T")

Key = tuple[str, str]
"""Tenant and session."""


@dataclass(frozen=True, slots=True)
class Room:
    """`total`: tokens that memory holds, given out in steps of `step`. `high_water`: of these, what
    may be given out when a session is begun; the rest is for those there are to grow into.
    `silent_s`: a session that has had nothing to do for so long gives way to any other. `context`:
    the most tokens of one session."""

    total: int
    high_water: int
    silent_s: float
    context: int
    step: int


@dataclass(slots=True, eq=False)
class Session(Generic[T]):
    """`received`: code points taken of its transcript. `tokens`: promised of its context. `room`:
    tokens given out for them. `waiting`: appends that are not settled. `silent_since`: when it last
    had some. `gone`: it is not known any more, and what still waits of it is void. `state`: the
    driver's own."""

    key: Key
    state: T
    room: int
    received: int = 0
    tokens: int = 0
    waiting: int = 0
    silent_since: float = 0.0
    gone: bool = False


class Sessions(Generic[T]):
    """The sessions of one engine. The clock is given: seconds, never going back.

    `evicted`: how many gave way so far. `dropped`: those that have gone and had tokens, whose keys
    and values the driver frees; it empties the list.
    """

    def __init__(self, room: Room, state: Callable[[Key], T]) -> None:
        self._room = room
        self._state = state
        self._all: dict[Key, Session[T]] = {}
        """In the order in which they began."""
        self._silent: dict[Session[T], None] = {}
        """Those with nothing to do, the longest silent first."""
        self.used = 0
        self.evicted = 0
        self.dropped: list[Session[T]] = []

    def __len__(self) -> int:
        return len(self._all)

    def take(self, key: Key, offset: int, points: int, now: float) -> Session[T] | Status:
        """The session that an append of `points` code points belongs to; or `REPLAY`, `FULL`.

        Offset 0 begins it anew. An append that does not fit leaves the session as it is: it may be
        a late copy.
        """
        session = self._all.get(key)
        if offset == 0:
            if session is not None:
                self.forget(session)
            if not self._make_room(self._room.step, self._room.high_water, now):
                return Status.FULL
            session = self._all[key] = Session(key, self._state(key), self._room.step)
            self.used += session.room
        elif session is None or session.received != offset:
            return Status.REPLAY
        elif not session.waiting:
            del self._silent[session]
        session.received += points
        session.waiting += 1
        return session

    def promise(self, session: Session[T], tokens: int, now: float) -> int | None:
        """How many of so many more tokens fit its context; None, and the session is forgotten,
        where memory has no room for those.

        A session with its first tokens gets no more than the high-water mark allows. One that
        grows drops the longest silent session; where none has been silent for long, the one that
        began last, which costs least to replay. The oldest always gets on.
        """
        fitting = min(tokens, self._room.context - session.tokens)
        step = self._room.step
        more = -(-(session.tokens + fitting) // step) * step - session.room
        if more > 0:
            if session.tokens == 0:
                granted = self._make_room(more, self._room.high_water, now)
            else:
                granted = self._make_room(more, self._room.total, now, grows=session)
            if not granted:
                self.forget(session)
                return None
            session.room += more
            self.used += more
        session.tokens += fitting
        return fitting

    def settle(self, session: Session[T], now: float) -> None:
        """One append of it is answered."""
        session.waiting -= 1
        if not session.waiting and not session.gone:
            session.silent_since = now
            self._silent[session] = None

    def forget(self, session: Session[T]) -> None:
        """It is not known any more: its next append is answered `REPLAY`."""
        if session.gone:
            return
        session.gone = True
        self.used -= session.room
        del self._all[session.key]
        self._silent.pop(session, None)
        if session.tokens:
            self.dropped.append(session)

    def forget_all(self) -> None:
        for session in list(self._all.values()):
            self.forget(session)

    def _make_room(
        self, tokens: int, limit: int, now: float, grows: Session[T] | None = None
    ) -> bool:
        while self.used + tokens > limit:
            victim = next(iter(self._silent), None)
            if victim is None or now - victim.silent_since < self._room.silent_s:
                if grows is None:
                    return False
                victim = next(reversed(self._all.values()))
                if victim is grows:
                    return False
            self.forget(victim)
            self.evicted += 1
        return True
