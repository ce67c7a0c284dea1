"""The thread that forwards: what waits goes through the network, in the order that packing decides.

Requests come from other threads and are answered from this one; they are tokenised where they come
from, beside the forward. A row that fails is answered for itself; where not even the known good
conversation can be judged any more, it is the engine that has failed, and no row.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from qwarden.guard.answer import Answer, Entry, Failure, Unanswered, assessment_of
from qwarden_engine.conviction import GOOD, Ledger
from qwarden_engine.counts import Counts
from qwarden_engine.grammar import Draft
from qwarden_engine.jobs import Job, Request, Row
from qwarden_engine.judge import Judge
from qwarden_engine.packing import SMALLEST_SLICE, Sliced, Slicing, Together, Waiting
from qwarden_engine.pulse import Pulse

T = TypeVar("T")

_log = logging.getLogger(__name__)

WAITING_BUDGETS = 2
"""Batches' worth of tokens that wait before `submit` blocks: one is taken while the next fills.
More would only hide the queue from Triton, whose limits, timeouts and priorities know it."""

WAITING_LONG = 64
"""Long jobs that are taken before `submit` blocks. One costs its ids, a quarter of a megabyte;
a bound by their tokens would have the short rows behind them wait outside, and not take turns."""

STEP_UP = 64
"""Forwards that come back before a budget that was lowered is doubled, up to the setting. Where
memory still has no room for that, one forward in so many is lost."""


class Scheduler:
    """Owns the network until `close`.

    `budget`: tokens of a micro-batch. `bound`: a draft with a smaller margin is judged once more,
    alone. `good`: the known good conversation.
    """

    def __init__(
        self,
        judge: Judge,
        slicing: Slicing,
        *,
        budget: int,
        bound: float,
        revision: str,
        good: Job,
        ledger: Ledger,
        pulse: Pulse,
    ) -> None:
        self.counts = Counts()
        self._judge = judge
        self._setting = (budget, slicing)
        self._budget = budget
        self._came_back = 0
        self._bound = bound
        self._revision = revision
        self._good = good
        self._ledger = ledger
        self._pulse = pulse
        self._waiting: Waiting[Job] = Waiting(slicing)
        self._requests: set[Request] = set()
        self._outside: list[Sequence[Row]] = []
        """Those of requests that wait for room to wait in."""
        self._running = 0
        """Tokens of the forward under way."""
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, rows: Sequence[Row]) -> None:
        """Takes the rows of a request that have jobs; the others are answered in it already.

        Blocks while enough waits for `WAITING_BUDGETS` micro-batches, or `WAITING_LONG` long jobs.
        """
        with self._changed:
            self._outside.append(rows)
            self._changed.wait_for(lambda: self._closed or self._has_room())
            self._outside.remove(rows)
            closed = self._closed
            if not closed:
                self._add(rows)
                answered = None not in request.answers
                if not answered:
                    self._requests.add(request)
                self._changed.notify_all()
        if closed:
            _tell(request, None)
        elif answered:
            _tell(request, _whole(request))

    def gauges(self) -> dict[str, float]:
        """What `GAUGES` describes."""
        with self._changed:
            outside = [job for rows in self._outside for row in rows for job in row.jobs]
            waiting = [*self._waiting.jobs(), *outside]
            tokens = self._waiting.left + self._running
        oldest = min((job.row.request.since for job in waiting), default=None)
        return {
            "queue_oldest_seconds": 0.0 if oldest is None else time.monotonic() - oldest,
            "pending_tokens": tokens + sum(job.length for job in waiting),
        }

    def _has_room(self) -> bool:
        waiting = self._waiting
        return waiting.tokens < WAITING_BUDGETS * self._budget and waiting.long < WAITING_LONG

    def _add(self, rows: Sequence[Row]) -> None:
        record = self._ledger.record
        for row in rows:
            if row.name in record.convicted:
                self.counts.crashed += 1
                self._fail(row, Failure.CRASHED, "it ended the engine's process twice, alone")
                continue
            row.left = len(row.jobs)
            for job in row.jobs:
                job.alone = job.alone or record.must_be_alone(row.name)
            self._waiting.add(row.jobs)

    def close(self) -> None:
        """Ends the thread behind the forward that is under way; who waits gets None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._give_up_all()
        self._ledger.close()
        self._pulse.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                taken = self._waiting.next(self._budget)
                self._running = _tokens(taken)
                self._changed.notify_all()
            try:
                if taken is not None:
                    self._forward(taken)
            except Exception:  # a fault of the engine's own: nobody may wait for ever
                _log.exception("the engine has failed; all that wait are told")
                self._give_up_all()
            finally:
                self._running = 0

    def _forward(self, taken: Together[Job] | Sliced[Job]) -> None:
        jobs = self._wanted(taken.jobs if isinstance(taken, Together) else [taken.job])
        suspect = any(self._ledger.record.wants_good_first(job.row.name) for job in jobs)
        if suspect and not self._good_comes_back():
            self._give_up_all()
        elif isinstance(taken, Together):
            if jobs:
                self._together(jobs)
        elif jobs:
            self._slice(taken)
        else:
            self._judge.forget()

    def _together(self, jobs: list[Job]) -> None:
        now = time.monotonic()
        first = jobs[0].row
        whole = all(job.row is first for job in jobs) and len(jobs) == first.left
        try:
            drafts = self._timed(
                sorted({job.row.name for job in jobs}),
                lambda: self._judge.together(jobs, self._budget),
                whole,
            )
        except Exception as error:
            if self._fits_in_less(error, jobs, sum(job.length for job in jobs)):
                with self._changed:
                    self._waiting.put_back(jobs)
            else:
                self._mend(jobs, error)
            return
        self._steps_up()
        self.counts.jobs += len(jobs)
        self.counts.tokens += sum(job.length for job in jobs)
        self.counts.padding += self._judge.padding
        self.counts.queue_seconds += sum(now - job.row.request.since for job in jobs)
        for job, draft in zip(jobs, drafts, strict=True):
            self._settle(job, draft, alone=len(jobs) == 1)

    def _slice(self, sliced: Sliced[Job]) -> None:
        job = sliced.job
        waited = time.monotonic() - job.row.request.since
        whole = job.row.left == 1 and sliced.end == job.length
        try:
            draft = self._timed([job.row.name], lambda: self._judge.slice(sliced), whole)
        except Exception as error:
            if self._fits_in_less(error, [job], sliced.end - sliced.start):
                with self._changed:
                    self._waiting.step_back(sliced)
                return
            self._judge.forget()
            with self._changed:
                self._waiting.drop(lambda other: other is job)
                self._changed.notify_all()
            self._mend([job], error)
            return
        self._steps_up()
        self.counts.tokens += sliced.end - sliced.start
        if sliced.start == 0:
            self.counts.queue_seconds += waited
        if draft is not None:
            self.counts.jobs += 1
            self._settle(job, draft, alone=True)

    def _timed(self, names: Sequence[str], forward: Callable[[], T], whole: bool) -> T:
        self._ledger.starts(names)
        self._pulse.starts()
        try:
            return forward()
        finally:
            self.counts.forward_seconds += self._pulse.ends()
            self.counts.forwards += 1
            self._ledger.came_back(whole=whole)

    def _settle(self, job: Job, draft: Draft, *, alone: bool) -> None:
        """Keeps a draft, or has it made anew: the same row has the same answer in any batch only
        where no choice in it was near."""
        row = job.row
        if draft.failed:
            if alone:
                self._fail(row, Failure.NO_ANSWER, "the network's output was not a number")
            else:
                self._again([job])
        elif draft.margin < self._bound and not alone:
            self.counts.near_ties += 1
            self._again([job])
        elif row.left:
            job.draft = draft
            row.left -= 1
            if not row.left:
                row.request.answers[row.at] = assessment_of(
                    [_entry(each) for each in row.jobs], row.dropped_turns, self._revision
                )
        self._answer_if_whole(row.request)

    def _fits_in_less(self, error: BaseException, jobs: Sequence[Job], tokens: int) -> bool:
        """Whether a forward of so many tokens ran out of memory and can be done in smaller ones,
        for which the budget is lowered then."""
        if not is_out_of_memory(error):
            return False
        self.counts.out_of_memory += 1
        if self._judge.on_cuda:
            torch.cuda.empty_cache()
        if len(jobs) == 1 and tokens < 2 * SMALLEST_SLICE:
            return False
        self._forward_at_most(min(self._budget, tokens // 2))
        _log.warning("memory ran out: a forward has at most %d tokens now", self._budget)
        return True

    def _steps_up(self) -> None:
        """After a forward that came back."""
        self._came_back += 1
        if self._budget < self._setting[0] and self._came_back >= STEP_UP:
            self._forward_at_most(min(self._setting[0], 2 * self._budget))

    def _forward_at_most(self, budget: int) -> None:
        """Rows are sliced by it too: until it is back at the setting, a long row is cut elsewhere,
        and may have other last bits."""
        slicing = self._setting[1]
        slice_tokens = max(SMALLEST_SLICE, min(slicing.tokens, budget))
        self._came_back = 0
        with self._changed:
            self._budget = budget
            self._waiting.slice_by(replace(slicing, tokens=slice_tokens))
            self._changed.notify_all()

    def _mend(self, jobs: list[Job], error: BaseException) -> None:
        """After a forward that raised: alone, then the row or the engine fails."""
        if is_out_of_memory(error):
            reason = f"out of memory for a row of {jobs[0].tokens} tokens, in the smallest slices"
        elif len(jobs) > 1:
            _log.warning("a micro-batch failed, its rows are judged one by one: %r", error)
            self._again(jobs)
            return
        else:
            reason = f"the engine failed on it alone: {error!r}"
            if not self._good_comes_back():
                _log.error("the engine has failed, and not on a row: %r", error)
                self._give_up_all()
                return
        row = jobs[0].row
        self._fail(row, Failure.NO_ANSWER, reason)
        self._answer_if_whole(row.request)

    def _good_comes_back(self) -> bool:
        try:
            [draft] = self._timed([GOOD], lambda: self._judge.together([self._good]), whole=True)
        except Exception:
            return False
        return not draft.failed

    def _again(self, jobs: Sequence[Job]) -> None:
        with self._changed:
            self._waiting.again(jobs)

    def _fail(self, row: Row, failure: Failure, reason: str) -> None:
        row.left = 0
        row.request.answers[row.at] = Unanswered(failure, reason, self._revision)

    def _answer_if_whole(self, request: Request) -> None:
        if None not in request.answers and self._take(request):
            _tell(request, _whole(request))

    def _give_up(self, request: Request) -> None:
        """Nobody waits for it any more, or nothing can be judged."""
        if self._take(request):
            with self._changed:
                self._waiting.drop(lambda job: job.row.request is request)
                self._changed.notify_all()
            _tell(request, None)

    def _give_up_all(self) -> None:
        with self._changed:
            requests = list(self._requests)
        for request in requests:
            self._give_up(request)

    def _take(self, request: Request) -> bool:
        """Whether this is the one who may tell a request its end."""
        with self._changed:
            if request in self._requests:
                self._requests.discard(request)
                return True
            return False

    def _wanted(self, jobs: Sequence[Job]) -> list[Job]:
        """Those of the jobs that somebody waits for."""
        for request in {job.row.request for job in jobs}:
            if _is_cancelled(request):
                self.counts.cancelled += 1
                self._give_up(request)
        return [job for job in jobs if job.row.left and job.row.request in self._requests]


def _tokens(taken: Together[Job] | Sliced[Job] | None) -> int:
    if isinstance(taken, Sliced):
        return taken.end - taken.start
    return 0 if taken is None else sum(job.length for job in taken.jobs)


def is_out_of_memory(error: BaseException) -> bool:
    """Torch's CPU allocator raises a plain RuntimeError, so its words must tell."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error) or "not enough memory" in str(error)
    )


def _is_cancelled(request: Request) -> bool:
    try:
        return request.cancelled()
    except Exception:  # the asker's own fault: it is answered
        _log.exception("a request could not say whether it is cancelled")
        return False


def _whole(request: Request) -> list[Answer]:
    return [answer for answer in request.answers if answer is not None]


def _entry(job: Job) -> Entry:
    draft = job.draft
    assert draft is not None
    return Entry(
        view=job.view,
        piece=job.piece,
        logits=draft.logits,
        categories=tuple(draft.categories),
        refusal=draft.refusal,
        tokens=job.tokens,
    )


def _tell(request: Request, answers: list[Answer] | None) -> None:
    try:
        request.done(answers)
    except Exception:  # whoever asked has gone in a way of its own; the others are answered
        _log.exception("an answer could not be handed over")
