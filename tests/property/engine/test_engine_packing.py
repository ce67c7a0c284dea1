"""What is forwarded next: nothing is lost or forwarded twice, and nobody waits for ever."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from examples import examples
from qwarden_engine.packing import (
    BATCHES_A_SLICE,
    SMALLEST_SLICE,
    Sliced,
    Slicing,
    Together,
    Waiting,
    blocks,
)


@dataclass(eq=False)
class _Job:
    length: int
    alone: bool = False


_slicings = st.builds(Slicing, st.integers(SMALLEST_SLICE, 300), st.floats(1, 2000))
_jobs = st.builds(_Job, st.one_of(st.integers(1, 80), st.integers(1, 1500)), st.booleans())
_budgets = st.one_of(st.integers(1, 64), st.integers(64, 600))


class _Packing(RuleBasedStateMachine):
    """Beside the queue of the engine a plain model of it: lists of what must be waiting.

    A short job is one that a micro-batch may hold. `since`: micro-batches since a slice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[_Job] = []
        self.again: list[_Job] = []
        self.sliced: tuple[_Job, int] | None = None
        self.since = BATCHES_A_SLICE
        self.batch: list[_Job] = []
        self.done: list[_Job] = []

    @initialize(slicing=_slicings)
    def start(self, slicing: Slicing) -> None:
        self.slicing = slicing
        self.waiting: Waiting[_Job] = Waiting(slicing)

    def is_long(self, job: _Job) -> bool:
        return job.length > self.slicing.tokens

    @rule(jobs=st.lists(_jobs, max_size=6))
    def add(self, jobs: list[_Job]) -> None:
        self.waiting.add(jobs)
        self.queue += jobs

    @precondition(lambda self: self.batch)
    @rule(data=st.data())
    def again_after_a_batch(self, data: st.DataObject) -> None:
        """Near ties, or all of a micro-batch that raised."""
        some = [job for job in self.batch if data.draw(st.booleans())]
        self.waiting.again(some)
        self.again += some
        self.done = [job for job in self.done if job not in some]
        self.batch = []

    @precondition(lambda self: self.batch)
    @rule()
    def put_back_a_batch(self) -> None:
        self.waiting.put_back(self.batch)
        self.queue[:0] = self.batch
        self.done = [job for job in self.done if job not in self.batch]
        self.batch = []

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        everyone = [*self.queue, *self.again, *([self.sliced[0]] if self.sliced else [])]
        out = [job for job in everyone if data.draw(st.booleans())]
        dropped = self.waiting.drop(lambda job: job in out)
        assert sorted(map(id, dropped)) == sorted(map(id, out))
        self.queue = [job for job in self.queue if job not in out]
        self.again = [job for job in self.again if job not in out]
        if self.sliced and self.sliced[0] in out:
            self.sliced = None

    @rule(budget=_budgets)
    def next(self, budget: int) -> None:
        self.take(budget)

    def take(self, budget: int) -> None:
        taken = self.waiting.next(budget)
        self.batch = []
        if taken is None:
            assert not (self.queue or self.again or self.sliced)
        elif isinstance(taken, Sliced):
            self.took_slice(taken)
        else:
            self.took_batch(taken, budget)

    def took_slice(self, taken: Sliced[_Job]) -> None:
        assert not self.again
        short = [job for job in self.queue if not self.is_long(job)]
        if self.sliced is None:
            # A long job begins only where it has waited longest.
            assert taken.job is self.queue.pop(0)
            assert self.is_long(taken.job)
            assert taken.start == 0
        else:
            assert taken.job is self.sliced[0]
            assert taken.start == self.sliced[1]
        assert not short or self.since >= BATCHES_A_SLICE
        assert taken.end - taken.start >= SMALLEST_SLICE
        assert taken.end <= taken.job.length
        self.since = 0
        self.sliced = (taken.job, taken.end)
        if taken.end == taken.job.length:
            self.sliced = None
            self.done.append(taken.job)

    def took_batch(self, taken: Together[_Job], budget: int) -> None:
        jobs = list(taken.jobs)
        self.batch = jobs
        self.done += jobs
        if self.again:
            assert jobs == [self.again.pop(0)]
            return
        assert jobs
        assert not any(map(self.is_long, jobs))
        if len(jobs) > 1:
            assert sum(job.length for job in jobs) <= budget
            assert not any(job.alone for job in jobs)
        # What waited longest is first; a long job is overtaken in its turn only.
        short = [job for job in self.queue if not self.is_long(job)]
        assert jobs[0] is short[0]
        overtaken = self.sliced is not None or self.queue[0] is not jobs[0]
        assert not overtaken or self.since < BATCHES_A_SLICE
        # Behind it those that fit, in their order, up to the first that does not.
        expected, left = [short[0]], budget - short[0].length
        if not short[0].alone:
            for job in short[1:]:
                if left <= 0 or job.length > left:
                    break
                if not job.alone:
                    expected.append(job)
                    left -= job.length
        assert jobs == expected
        self.since += 1
        self.queue = [job for job in self.queue if job not in jobs]

    @invariant()
    def tokens_are_those_that_wait(self) -> None:
        if not hasattr(self, "waiting"):
            return
        limit = self.slicing.tokens
        waiting = (*self.queue, *self.again)
        assert self.waiting.tokens == sum(job.length for job in waiting if job.length <= limit)
        long = sum(job.length > limit for job in waiting)
        assert self.waiting.long == long + (self.sliced is not None)
        assert bool(self.waiting) == bool(self.queue or self.again or self.sliced)

    def teardown(self) -> None:
        """All that waits is forwarded once, in as many steps as there is work at most."""
        if not hasattr(self, "waiting"):
            return
        steps = sum(job.length for job in (*self.queue, *self.again))
        steps += self.sliced[0].length if self.sliced else 0
        while self.waiting:
            assert steps
            steps -= 1
            self.take(256)
        assert len(set(map(id, self.done))) == len(self.done)
        assert not (self.queue or self.again or self.sliced)


_Packing.TestCase.settings = settings(max_examples=examples(100), stateful_step_count=30)
TestAJobIsLostOrForwardedTwice = _Packing.TestCase


@settings(max_examples=examples(200))
@given(_slicings, st.integers(1, 40_000))
def test_a_slice_is_too_small_or_never_the_last(slicing: Slicing, more: int) -> None:
    """Slices never grow, but for the last one, which takes a rest that is too small to be one."""
    length = slicing.tokens + more
    sizes = []
    at = 0
    while at < length:
        end = slicing.end(at, length)
        assert at < end <= length
        sizes.append(end - at)
        at = end
    assert min(sizes) >= SMALLEST_SLICE
    assert sizes[0] < slicing.tokens + SMALLEST_SLICE
    *firsts, last = sizes
    assert firsts == sorted(firsts, reverse=True)
    if firsts:
        assert last < firsts[-1] + SMALLEST_SLICE


def test_slices_are_as_long_behind_many_keys_as_at_the_start() -> None:
    """Behind as many keys as cost what all else costs, a slice is half as long."""
    slicing = Slicing(4096, 8192)
    assert slicing.end(0, 100_000) == 4096
    assert slicing.end(8192, 100_000) == 8192 + 2048
    assert slicing.end(24_576, 100_000) == 24_576 + 1024


@pytest.mark.parametrize("longs", [1, 3])
def test_long_rows_starve_short_ones_that_come_later(longs: int) -> None:
    """While a long row is forwarded, every other forward is of those that came since."""
    waiting: Waiting[_Job] = Waiting(Slicing(64, 1e9))
    waiting.add([_Job(640) for _ in range(longs)])
    kinds: list[type] = []
    while waiting:
        if len(kinds) < 16:
            waiting.add([_Job(10)])
        kinds.append(type(waiting.next(100)))
    first = kinds[:16]
    assert first.count(Together) >= 7
    assert first.count(Sliced) >= 16 // (BATCHES_A_SLICE + 1) - 1


def test_a_short_row_starves_a_long_one() -> None:
    """However many short rows come, some turns of theirs are followed by a slice."""
    waiting: Waiting[_Job] = Waiting(Slicing(64, 1e9))
    long = _Job(640)
    waiting.add([_Job(100), long])
    turns = 0
    taken: object = None
    while not (isinstance(taken, Sliced) and taken.end == long.length):
        waiting.add([_Job(60) for _ in range(5)])
        taken = waiting.next(100)
        turns += 1
    assert turns <= 11 * (BATCHES_A_SLICE + 1)


def test_a_slice_that_was_not_forwarded_is_left_out() -> None:
    """The last one too; the next begins where it began, by the slicing that holds then."""
    waiting: Waiting[_Job] = Waiting(Slicing(200, float("inf")))
    job = _Job(400)
    waiting.add([job])
    waiting.next(100)
    last = waiting.next(100)
    assert isinstance(last, Sliced)
    assert (last.start, last.end, waiting.long) == (200, 400, 0)
    waiting.step_back(last)
    assert waiting.long == 1
    waiting.slice_by(Slicing(100, float("inf")))
    ends = []
    for _ in range(2):
        waiting.next(100)
        ends.append((last.start, last.end))
    assert ends == [(200, 300), (300, 400)]
    assert (waiting.long, bool(waiting)) == (0, False)


def test_jobs_that_another_slicing_makes_long_are_miscounted() -> None:
    waiting: Waiting[_Job] = Waiting(Slicing(200, 1e9))
    waiting.add([_Job(100), _Job(150), _Job(300)])
    waiting.again([_Job(160)])
    assert (waiting.tokens, waiting.long) == (410, 1)
    waiting.slice_by(Slicing(120, 1e9))
    assert (waiting.tokens, waiting.long) == (100, 3)
    while waiting:
        waiting.next(100)
    assert (waiting.tokens, waiting.long) == (0, 0)


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=60).map(sorted), st.integers(1, 8000))
def test_a_long_row_pads_many_short_ones_to_more_memory_than_is_counted(
    lengths: list[int], most: int
) -> None:
    found = blocks(lengths, most)
    assert [at for block in found for at in block] == list(range(len(lengths)))
    for block in found:
        assert len(block) == 1 or len(block) * lengths[block[-1]] <= most
    for block, after in pairwise(found):
        assert (len(block) + 1) * lengths[after[0]] > most  # none is smaller than it must be
