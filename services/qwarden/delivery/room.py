"""How much may be judged at a time, and how much may lie uncommitted. Pure.

Invariants, each held by `tests/property/test_room.py`:
- Never more polls inside than `polls`, nor more bytes than `most_bytes`, but for one poll alone: it
  is let in whatever its size, so that none is too large to be judged.
- A poll is let in only while fewer than `uncommitted` records before it are not committed: what
  lies behind one slow record is what a crash would repeat.
- Where it is low, a poll of half the room's bytes is let in. An intake that stopped for want of
  room goes on there, and not at the first free place, so that it does not stop and go with every
  poll: a pause throws away what was fetched.
"""

from __future__ import annotations


class Room:
    """Polls are inside from when they are judged until the last of their outcomes is settled."""

    def __init__(self, *, polls: int, most_bytes: int, uncommitted: int) -> None:
        self._polls = polls
        self._bytes = most_bytes
        self._uncommitted = uncommitted
        self._polls_inside = 0
        self._bytes_inside = 0

    @property
    def is_empty(self) -> bool:
        return not self._polls_inside

    def has(self, size: int, uncommitted: int) -> bool:
        """Whether a poll of `size` bytes may enter; `uncommitted`: the records before it that are
        delivered and not committed."""
        return uncommitted < self._uncommitted and (
            not self._polls_inside
            or (self._polls_inside < self._polls and self._bytes_inside + size <= self._bytes)
        )

    def is_low(self, uncommitted: int) -> bool:
        """Whether at least half of everything is free."""
        return (
            2 * self._polls_inside <= self._polls
            and 2 * self._bytes_inside <= self._bytes
            and 2 * uncommitted <= self._uncommitted
        )

    def enter(self, size: int) -> None:
        self._polls_inside += 1
        self._bytes_inside += size

    def leave(self, size: int) -> None:
        self._polls_inside -= 1
        self._bytes_inside -= size
