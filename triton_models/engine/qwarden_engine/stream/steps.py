"""Who is forwarded in the next step, and how much of each. Pure.

First come, first served, by a few tokens each; what is left of the step goes to the long ones. So
a replay of thousands of tokens makes no append of a few wait longer than one step takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

TURN = 64
"""Tokens that each gets before anyone gets more: over a second of text at 50 tokens a second."""


class Waits(Protocol):
    """`left`: tokens not forwarded yet, at least one. `alone`: it must be in a step of its own."""

    @property
    def left(self) -> int: ...

    @property
    def alone(self) -> bool: ...


J = TypeVar("J", bound=Waits)


class Queue(Generic[J]):
    """What waits for a step, at most one job a session."""

    def __init__(self) -> None:
        self._jobs: deque[J] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[J]:
        return iter(self._jobs)

    def add(self, job: J) -> None:
        """Behind all others: a new one, or one that has had its part of a step."""
        self._jobs.append(job)

    def back(self, jobs: Iterable[J]) -> None:
        """Before all others: their step did not come to be."""
        self._jobs.extendleft(reversed(list(jobs)))

    def next(self, tokens: int) -> list[tuple[J, int]]:
        """Takes out the jobs of a step of at most so many tokens, at least `TURN`, and how many of
        each."""
        jobs = self._jobs
        taken: list[tuple[J, int]] = []
        longer: list[int] = []
        free = tokens
        while jobs:
            job = jobs[0]
            left = job.left
            if job.alone and not taken:
                return [(jobs.popleft(), min(left, tokens))]
            count = min(left, TURN)
            if job.alone or count > free:
                break
            jobs.popleft()
            if count < left:
                longer.append(len(taken))
            free -= count
            taken.append((job, count))
        for at in longer:
            job, count = taken[at]
            more = min(job.left - count, free)
            taken[at] = (job, count + more)
            free -= more
        return taken

    def clear(self) -> list[J]:
        """Takes out all."""
        jobs = list(self._jobs)
        self._jobs.clear()
        return jobs
