from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from qwarden_engine.stream.steps import TURN, Queue


@dataclass(eq=False)
class Waits:
    left: int
    alone: bool = False


LEFT = st.one_of(st.integers(1, TURN), st.integers(1, 9 * TURN))
JOBS = st.lists(st.builds(Waits, LEFT, st.booleans() | st.just(False)), min_size=1, max_size=12)
BUDGETS = st.integers(TURN, 6 * TURN)


def queue_of(jobs: list[Waits]) -> Queue[Waits]:
    queue: Queue[Waits] = Queue()
    for job in jobs:
        queue.add(job)
    return queue


def forward(queue: Queue[Waits], budget: int) -> list[tuple[Waits, int]]:
    taken = queue.next(budget)
    for job, count in taken:
        job.left -= count
        if job.left:
            queue.add(job)
    return taken


@given(JOBS, BUDGETS)
def test_a_step_takes_more_than_it_may_or_nothing(jobs: list[Waits], budget: int) -> None:
    queue = queue_of(jobs)
    waiting = sum(job.left for job in jobs)
    while queue:
        alone = {id(job) for job in jobs if job.alone}
        could = min(waiting, budget)
        none_alone = not any(job.alone and job.left for job in jobs)
        taken = forward(queue, budget)
        tokens = sum(count for _, count in taken)
        assert 0 < tokens <= budget
        assert all(count > 0 for _, count in taken)
        assert len({id(job) for job, _ in taken}) == len(taken), "a session is in it twice"
        assert len(taken) == 1 or not any(id(job) in alone for job, _ in taken)
        if none_alone:
            assert tokens == could or tokens > budget - TURN, "there was room for more"
        waiting -= tokens
    assert waiting == 0
    assert not any(job.left for job in jobs)


@given(JOBS, BUDGETS)
def test_the_order_in_which_they_came_is_lost(jobs: list[Waits], budget: int) -> None:
    queue = queue_of(jobs)
    taken = [job for job, _ in queue.next(budget)]
    assert taken == jobs[: len(taken)]


@given(st.lists(st.integers(1, 99 * TURN), max_size=9), st.integers(1, TURN), BUDGETS)
def test_replays_starve_an_append_of_a_few_tokens(
    replays: list[int], short: int, budget: int
) -> None:
    queue = queue_of([Waits(left) for left in replays])
    few = Waits(short)
    queue.add(few)
    steps = 0
    while few.left:
        forward(queue, budget)
        steps += 1
    assert steps <= -(-(len(replays) + 1) // (budget // TURN))


@given(JOBS, BUDGETS)
def test_a_step_that_failed_changes_the_order(jobs: list[Waits], budget: int) -> None:
    queue = queue_of(jobs)
    queue.back([job for job, _ in queue.next(budget)])
    assert queue.clear() == jobs
    assert not queue


def test_who_waits_is_told_in_another_order_than_they_came() -> None:
    jobs = [Waits(3), Waits(2), Waits(1)]
    queue = queue_of(jobs)
    assert list(queue) == jobs and len(queue) == 3
    assert list(queue) == jobs, "to be told takes nobody's turn"
