"""What is forwarded next: micro-batches by token budget, long rows in slices. Pure.

First come, first served, within what waits: the row that waited longest is always taken, and rows
behind it fill the budget. A long row is never in a micro-batch: it goes on slice by slice, in turns
with some micro-batches, so that it starves nobody and nobody starves it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

SMALLEST_SLICE = 64
"""Tokens. Under it the weights are read for too little work. No slice is smaller, the last one
included, since it must hold all places of a row that are read: they are in its last tokens."""


BATCHES_A_SLICE = 3
"""Micro-batches between two slices while short rows wait. With one, at half load, a short row waits
for up to three slices' time: the micro-batch that runs, the slice, and the micro-batch in which
all are that came meanwhile. With three it is less than two."""


class Size(Protocol):
    """What a job must tell to be packed."""

    @property
    def length(self) -> int:
        """Tokens to forward."""
        ...

    @property
    def alone(self) -> bool:
        """Whether it must be in a micro-batch of its own."""
        ...


J = TypeVar("J", bound=Size)


@dataclass(frozen=True, slots=True)
class Together(Generic[J]):
    """Jobs that are forwarded as one micro-batch, at least one."""

    jobs: Sequence[J]


@dataclass(slots=True)
class Sliced(Generic[J]):
    """A long job, and how far it is: the next slice is its tokens from `start` to `end`."""

    job: J
    start: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class Slicing:
    """How a long row is sliced, so that each slice takes about the time of a first one.

    `tokens`: of a first slice. `even`: keys that cost a query as much in attention as all else
    that a token costs; behind so many, slices are half as long.
    """

    tokens: int
    even: float

    def end(self, start: int, length: int) -> int:
        """Where the slice that begins at `start` ends, in a row of `length` tokens."""
        end = start + max(SMALLEST_SLICE, int(self.tokens / (1 + start / self.even)))
        return length if length - end < SMALLEST_SLICE else end


def blocks(lengths: Sequence[int], most: int) -> list[range]:
    """Rows, shortest first, in runs that fill a padded block of at most `most` places each; a row
    that is longer has one of its own."""
    found: list[range] = []
    start = 0
    for at, length in enumerate(lengths):
        if at > start and (at + 1 - start) * length > most:
            found.append(range(start, at))
            start = at
    return [*found, range(start, len(lengths))]


@dataclass(slots=True)
class Waiting(Generic[J]):
    """The jobs that wait, and the long one that is under way."""

    slicing: Slicing
    tokens: int = 0
    """Of the jobs that wait and are not long."""
    long: int = 0
    """Long jobs that wait or are under way."""
    _jobs: deque[J] = field(default_factory=deque)
    _again: deque[J] = field(default_factory=deque)
    _sliced: Sliced[J] | None = None
    _since_slice: int = BATCHES_A_SLICE

    def __bool__(self) -> bool:
        return bool(self._jobs or self._again or self._sliced)

    def jobs(self) -> list[J]:
        """Those of which nothing is forwarded, or is to be kept."""
        return [*self._jobs, *self._again]

    @property
    def left(self) -> int:
        """Tokens that the long job under way still has in front of it."""
        return 0 if self._sliced is None else self._sliced.job.length - self._sliced.end

    def add(self, jobs: Sequence[J]) -> None:
        self._jobs.extend(jobs)
        self._counted(jobs, 1)

    def again(self, jobs: Sequence[J]) -> None:
        """Jobs that must be forwarded once more, each in a micro-batch of its own: next."""
        self._again.extend(jobs)
        self._counted(jobs, 1)

    def put_back(self, jobs: Sequence[J]) -> None:
        """Jobs that were taken, but not forwarded: they are packed again, before all others."""
        self._jobs.extendleft(reversed(jobs))
        self._counted(jobs, 1)

    def step_back(self, sliced: Sliced[J]) -> None:
        """A slice that was taken, but not forwarded: the next one begins where it began."""
        if self._sliced is None:
            self._sliced = sliced
            self._counted([sliced.job], 1)
        sliced.end = sliced.start

    def slice_by(self, slicing: Slicing) -> None:
        """Another slicing from now on, of what waits too."""
        self.slicing = slicing
        self.tokens = self.long = 0
        self._counted([*self._jobs, *self._again], 1)
        if self._sliced is not None:
            self._counted([self._sliced.job], 1)

    def drop(self, unwanted: Callable[[J], bool]) -> list[J]:
        """Takes out what nobody waits for any more, and returns it."""
        dropped: list[J] = []
        for queue in (self._jobs, self._again):
            jobs = list(queue)
            queue.clear()
            for job in jobs:
                (dropped if unwanted(job) else queue).append(job)
        if self._sliced is not None and unwanted(self._sliced.job):
            dropped.append(self._sliced.job)
            self._sliced = None
        self._counted(dropped, -1)
        return dropped

    def next(self, budget: int) -> Together[J] | Sliced[J] | None:
        """What is forwarded now, of at most `budget` tokens where that is more than one row.

        A `Sliced` comes again and again with its next slice, until its end is the job's length.
        """
        if self._again:
            return self._taken([self._again.popleft()])
        if self._since_slice >= BATCHES_A_SLICE or not self._has_short():
            if self._sliced is None and self._jobs and self._is_long(self._jobs[0]):
                self._sliced = Sliced(self._jobs.popleft())
            if self._sliced is not None:
                return self._slice(self._sliced)
        batch: list[J] = []
        left = budget
        skipped: list[J] = []
        while self._jobs and left > 0:
            job = self._jobs.popleft()
            if batch and not self._is_long(job) and job.length > left:
                skipped.append(job)
                break
            if self._is_long(job) or (batch and job.alone):
                skipped.append(job)
                continue
            batch.append(job)
            left -= job.length
            if job.alone:
                break
        self._jobs.extendleft(reversed(skipped))
        if not batch:
            return None
        self._since_slice += 1
        return self._taken(batch)

    def _is_long(self, job: J) -> bool:
        return job.length > self.slicing.tokens

    def _has_short(self) -> bool:
        return any(not self._is_long(job) for job in self._jobs)

    def _slice(self, sliced: Sliced[J]) -> Sliced[J]:
        self._since_slice = 0
        sliced.start = sliced.end
        sliced.end = self.slicing.end(sliced.start, sliced.job.length)
        if sliced.end == sliced.job.length:
            self._counted([sliced.job], -1)
            self._sliced = None
        return sliced

    def _taken(self, batch: list[J]) -> Together[J]:
        self._counted(batch, -1)
        return Together(batch)

    def _counted(self, jobs: Sequence[J], sign: int) -> None:
        for job in jobs:
            if self._is_long(job):
                self.long += sign
            else:
                self.tokens += sign * job.length
