"""Publication in the order of arrival for each key, whatever order judgement ends in. Pure.

Invariants, each held by `tests/property/test_key_order.py`:
- Of two records with one key, the one that came first is released first.
- A record is released as soon as it and all before it with its key are finished.
- A record without a key has no order: it is released when it is finished.
- When all are finished, all were released once, and nothing is kept.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Place(Generic[T]):
    """A record's place in its key's queue."""

    __slots__ = ("finished", "key", "outcome")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.finished = False
        self.outcome: T | None = None


class KeyOrder(Generic[T]):
    """The queues of the keys that have records in flight."""

    def __init__(self) -> None:
        self._queues: dict[bytes, deque[Place[T]]] = {}

    def __len__(self) -> int:
        return len(self._queues)

    def enter(self, key: bytes | None) -> Place[T] | None:
        """Takes the next place of this key; None for a record without a key."""
        if key is None:
            return None
        place: Place[T] = Place(key)
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = deque((place,))
        else:
            queue.append(place)
        return place

    def finish(self, place: Place[T] | None, outcome: T) -> list[T]:
        """Everything that may go now, in order: this outcome and those that waited for it."""
        if place is None:
            return [outcome]
        place.outcome = outcome
        place.finished = True
        queue = self._queues[place.key]
        released: list[T] = []
        while queue and queue[0].finished:
            released.append(queue.popleft().outcome)  # type: ignore[arg-type]
        if not queue:
            del self._queues[place.key]
        return released
