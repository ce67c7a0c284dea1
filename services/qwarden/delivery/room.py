"""How much may be in flight, and how much may lie uncommitted. Pure.

Invariants, each held by `tests/property/test_room.py`:
- Never more records inside than `records`, nor more bytes than `most_bytes` (four bytes are about a
  token), but for one poll alone: it is let in whatever its size, so that none is too large.
- Every record that is settled makes room by itself: a slow one keeps its own place and no other.
- A poll is let in only while fewer than `uncommitted` records before it are not committed: what
  lies behind one slow record is what a crash would repeat.
- Where it is low, a poll of half the room is let in. An intake that stopped for want of room goes
  on there, and not at the first free place, so that it does not stop and go with every poll: a
  pause throws away what was fetched.
"""

from __future__ import annotations


class Room:
    """Records are inside from when their poll is let in until they are settled."""

    def __init__(self, *, records: int, most_bytes: int, uncommitted: int) -> None:
        self._records = records
        self._bytes = most_bytes
        self._uncommitted = uncommitted
        self._records_inside = 0
        self._bytes_inside = 0

    @property
    def is_empty(self) -> bool:
        return not self._records_inside

    def has(self, records: int, size: int, uncommitted: int) -> bool:
        """Whether a poll of so many records and bytes may enter; `uncommitted`: the records before
        it that are delivered and not committed."""
        return uncommitted < self._uncommitted and (
            not self._records_inside
            or (
                self._records_inside + records <= self._records
                and self._bytes_inside + size <= self._bytes
            )
        )

    def is_low(self, uncommitted: int) -> bool:
        """Whether at least half of everything is free."""
        return (
            2 * self._records_inside <= self._records
            and 2 * self._bytes_inside <= self._bytes
            and 2 * uncommitted <= self._uncommitted
        )

    def enter(self, records: int, size: int) -> None:
        self._records_inside += records
        self._bytes_inside += size

    def leave(self, records: int, size: int) -> None:
        self._records_inside -= records
        self._bytes_inside -= size
