"""Whose text is made tokens next. Pure.

Everyone gets a first turn before anyone gets a second one beside it: a turn is enough for an append
of some sentences. Who needs more goes on behind, one of those a turn, so that neither a long text
keeps short ones waiting, nor a stream of short ones a long text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Generic, TypeVar

T = TypeVar("T")

TOGETHER = 64
"""First turns at once: what came together is forwarded together, and the first of many are not kept
until the last is written."""


class Line(Generic[T]):
    """What waits to be written."""

    def __init__(self) -> None:
        self._new: deque[T] = deque()
        self._begun: deque[T] = deque()

    def __len__(self) -> int:
        return len(self._new) + len(self._begun)

    def __iter__(self) -> Iterator[T]:
        return chain(self._new, self._begun)

    def add(self, item: T) -> None:
        """One that has had no turn."""
        self._new.append(item)

    def again(self, item: T) -> None:
        """One that needs another turn."""
        self._begun.append(item)

    def next(self) -> list[T]:
        """Takes out those whose turn it is."""
        taken = [self._new.popleft() for _ in range(min(TOGETHER, len(self._new)))]
        if self._begun:
            taken.append(self._begun.popleft())
        return taken
