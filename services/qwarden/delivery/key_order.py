"""Publication in the order of arrival for each key, whatever order judgement ends in. Pure.

Invariants, each held by `tests/property/test_key_order.py`:
- Of two records with one key, the one that came first is released first.
- A record is released as soon as it and all before it with its key are finished.
- A record without a key has no order: it is released when it is finished.
- When all are finished, all were released once, and nothing is kept.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Place(Generic[T]):
    """A record's place in its key's queue: it knows the one behind it, and whether one is before
    it. Most keys have one record in flight, and a chain of one costs nothing else."""

    __slots__ = ("behind", "finished", "is_first", "key", "outcome")

    def __init__(self, key: bytes, is_first: bool) -> None:
        self.key = key
        self.is_first = is_first
        self.behind: Place[T] | None = None
        self.finished = False
        self.outcome: T | None = None


class KeyOrder(Generic[T]):
    """The queues of the keys that have records in flight."""

    def __init__(self) -> None:
        self._last: dict[bytes, Place[T]] = {}

    def __len__(self) -> int:
        return len(self._last)

    def enter(self, key: bytes | None) -> Place[T] | None:
        """Takes the next place of this key; None for a record without a key."""
        if key is None:
            return None
        before = self._last.get(key)
        place: Place[T] = Place(key, before is None)
        if before is not None:
            before.behind = place
        self._last[key] = place
        return place

    def finish(self, place: Place[T] | None, outcome: T) -> list[T]:
        """Everything that may go now, in order: this outcome and those that waited for it."""
        if place is None:
            return [outcome]
        if not place.is_first:
            place.outcome = outcome
            place.finished = True
            return []
        released = [outcome]
        following = place.behind
        while following is not None and following.finished:
            released.append(following.outcome)  # type: ignore[arg-type]
            following.outcome = None  # which may know its place: no cycle is left to the collector
            following = following.behind
        if following is None:
            del self._last[place.key]
        else:
            following.is_first = True
        return released
