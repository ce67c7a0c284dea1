"""The thread that forwards, between the one that makes texts tokens (`intake.py`) and the one that
answers.

A step takes what has come of any session, and is one forward. Where the process dies all sessions
are lost, and sent again; one that ends it again and again is found by what was running
(`conviction.py`, with sessions for rows), and refused. A step that fails is done again in halves,
so that only what fails alone is refused; where the known good session fails too, it is the engine.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

import torch

from qwarden.guard.stream import Appended, Scored, Status
from qwarden_engine.conviction import GOOD, Ledger
from qwarden_engine.pulse import Pulse
from qwarden_engine.scheduler import STEP_UP, is_out_of_memory
from qwarden_engine.stream.book import ASK_AFTER_S, Answer, Book, Turn, is_cancelled
from qwarden_engine.stream.chat import Writer
from qwarden_engine.stream.counts import StreamCounts
from qwarden_engine.stream.intake import Intake
from qwarden_engine.stream.jobs import Held, Job, Request, name_of
from qwarden_engine.stream.network import Logits, StreamSpan
from qwarden_engine.stream.scores import Scores, numbers_of
from qwarden_engine.stream.sessions import Room, Session, Sessions
from qwarden_engine.stream.slab import STEP, Slab, Slot
from qwarden_engine.stream.steps import TURN

_log = logging.getLogger(__name__)


class Network(Protocol):
    """What the scheduler wants of a network (`StreamNetwork`).

    A step that raises leaves `used` of its slots as it was, so that it can be done again in parts.
    """

    def step(self, spans: Sequence[StreamSpan], slab: Slab) -> Logits: ...


@dataclass(frozen=True, slots=True)
class Memory:
    """The slab, and who may have how much of it (`Room`). `high_water`: a share of it."""

    slab: Slab
    high_water: float
    silent_s: float
    context: int


@dataclass(frozen=True, slots=True)
class Heads:
    """The categories' names, in the order in which the network answers them."""

    response: tuple[str, ...]
    query: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Good:
    """The known good session: its tokens, and which of them the query's heads read."""

    ids: Sequence[int]
    read: int


@dataclass(frozen=True, slots=True)
class _Answered:
    """A turn that came back. `whole`: with it, its job."""

    turn: Turn
    whole: bool


@dataclass(frozen=True, slots=True)
class _Step:
    """A step to be answered. `scores`: of the query's heads, and of those of answers; None where it
    has failed."""

    turns: list[_Answered]
    scores: tuple[Scores, Scores] | None


class Scheduler:
    """Owns network and slab until `close`. `writer` begins a session's text; `step_tokens` is the
    most of a step."""

    def __init__(
        self,
        network: Network,
        memory: Memory,
        heads: Heads,
        writer: Callable[[], Writer],
        good: Good,
        *,
        step_tokens: int,
        revision: str,
        ledger: Ledger,
        pulse: Pulse,
    ) -> None:
        self.counts = StreamCounts()
        self._network = network
        self._slab = memory.slab
        self._heads = heads
        self._good = good
        self._good_slot = _opened(memory.slab, len(good.ids))
        self._step_tokens = self._budget = step_tokens
        self._came_back = 0
        self._running = 0
        """Tokens of the step under way."""
        self._revision = revision
        self._ledger = ledger
        self._pulse = pulse
        total = memory.slab.left
        high_water = int(total * memory.high_water)
        room = Room(total, high_water, memory.silent_s, memory.context, STEP)
        sessions = Sessions(room, lambda key: Held(writer(), name_of(key)))
        self._book = Book(sessions, revision, self.counts)
        self._intake = Intake(self._book, ledger.record, revision, memory.context)
        self._steps: SimpleQueue[_Step | None] = SimpleQueue()
        self._answering = threading.Thread(target=self._answer, name="stream-answers", daemon=True)
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._answering.start()
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> None:
        """Takes requests that came together (`Intake`)."""
        self._intake.submit(requests)

    def gauges(self) -> dict[str, float]:
        """What `GAUGES` describes."""
        sessions, cost = self._book.sessions, self._slab.bytes_a_token
        since, tokens = self._book.waiting()
        return {
            "queue_oldest_seconds": 0.0 if since is None else time.monotonic() - since,
            "pending_tokens": tokens + self._running,
            "sessions": len(sessions),
            "kv_used_bytes": sessions.used * cost,
            "kv_total_bytes": self._slab.total * cost,
            "token_bytes": cost,
        }

    def close(self) -> None:
        """Ends the threads behind what is under way; who waits gets None."""
        self._book.close()
        self._thread.join()
        self._intake.join()
        self._steps.put(None)
        self._answering.join()
        self._book.give_up_all()
        self._ledger.close()
        self._pulse.close()

    def _run(self) -> None:
        book = self._book
        while True:
            with book.changed:
                while not (book.closed or book.queue):
                    book.changed.wait()
                if book.closed:
                    return
                taken = book.queue.next(self._budget)
                self._running = sum(count for _, count in taken)
            try:
                self._take(taken)
            except Exception:  # a fault of the engine's own: nobody may wait for ever
                _log.exception("the stream engine has failed; all that wait are told")
                book.give_up_all()
            finally:
                self._running = 0

    def _take(self, taken: Sequence[tuple[Job, int]]) -> None:
        book = self._book
        since = time.monotonic() - ASK_AFTER_S
        requests = {job.request for job, _ in taken if job.request.since < since}
        cancelled = [request for request in requests if is_cancelled(request)]
        if cancelled:
            with book.changed:
                self.counts.cancelled += len(cancelled)
            book.give_up(cancelled)
        with book.changed:
            turns, answers = book.wanted(taken)
            dropped, book.sessions.dropped = book.sessions.dropped, []
            self.counts.evictions = book.sessions.evicted
        if answers:
            book.put(answers)
        for session in dropped:
            self._free(session)
        for turn in turns:
            self._give_room(turn)
        suspect = any(self._ledger.record.wants_good_first(_name(turn)) for turn in turns)
        if suspect and not self._good_comes_back():
            book.give_up_all()
        elif turns:
            self._step(turns)

    def _free(self, session: Session[Held]) -> None:
        slot, session.state.slot = session.state.slot, None
        if slot is not None:
            self._slab.free(slot)

    def _give_room(self, turn: Turn) -> None:
        """All that is promised to the session by now, so that it moves but once for it."""
        held = turn.job.session.state
        if held.slot is None:
            held.slot = _opened(self._slab, turn.room)
        elif turn.room > held.slot.room and not self._slab.grow(held.slot, turn.room):
            raise RuntimeError(f"no room for {turn.room} tokens, which were promised")

    def _step(self, turns: Sequence[Turn]) -> bool:
        """Forwards these; whether the engine goes on."""
        now = time.monotonic()
        whole = len(turns) == 1 and turns[0].count == turns[0].job.left
        try:
            query, response = self._timed(
                [_name(turn) for turn in turns], [_span(turn) for turn in turns], whole=whole
            )
        except Exception as error:
            return self._mend(turns, error)
        self._steps_up()
        counts = self.counts
        for turn in turns:
            counts.tokens += turn.count
            if turn.job.replayed:
                counts.replayed_tokens += turn.count
            if not turn.job.forwarded:
                counts.queue_seconds += now - turn.job.request.since
        failed = _not_numbers(turns, query, response)
        self._steps.put(_Step(self._go_on(turns, failed), (query, response)))
        return True

    def _timed(
        self, names: Sequence[str], spans: Sequence[StreamSpan], *, whole: bool
    ) -> tuple[Scores, Scores]:
        """What the query's heads say, and those of answers. `whole`: of a single session all that
        was appended is forwarded then."""
        self._ledger.starts(names)
        self._pulse.starts()
        try:
            logits = self._network.step(spans, self._slab)
            query, response = self._heads.query, self._heads.response
            return (
                Scores(numbers_of(logits.query_risk), numbers_of(logits.query_categories), query),
                Scores(numbers_of(logits.risk), numbers_of(logits.categories), response),
            )
        finally:
            self.counts.forward_seconds += self._pulse.ends()
            self.counts.steps += 1
            self._ledger.came_back(whole=whole)

    def _good_comes_back(self) -> bool:
        self._good_slot.used = 0
        span = StreamSpan(self._good_slot, self._good.ids, (), (self._good.read,))
        try:
            query, _ = self._timed([GOOD], [span], whole=True)
        except Exception:
            return False
        return query.finite(0, len(query))

    def _go_on(self, turns: Sequence[Turn], failed: Mapping[Job, str]) -> list[_Answered]:
        """Books what is forwarded, and queues what comes next of each session. `failed`: what the
        network cannot judge, and what is said to it."""
        book = self._book
        answered: list[_Answered] = []
        now = time.monotonic()
        with book.changed:
            for turn in turns:
                job = turn.job
                session, jobs = job.session, job.session.state.jobs
                job.forwarded += turn.count
                if job in failed:
                    job.status, job.reason = Status.REFUSED, failed[job]
                    self.counts.failed += 1
                    book.sessions.forget(session)
                whole = not job.left or job in failed
                answered.append(_Answered(turn, whole))
                if not whole:
                    book.queue.add(job)
                    continue
                if job.status is Status.DONE:
                    self.counts.appends += 1
                jobs.popleft()
                book.sessions.settle(session, now)
                if jobs:
                    book.queue.add(jobs[0])
                elif session.state.ends:
                    book.sessions.forget(session)
        return answered

    def _mend(self, turns: Sequence[Turn], error: Exception) -> bool:
        """After a step that raised: in smaller steps, in halves, alone; then the session or the
        engine has failed. Whether it is not the engine."""
        if is_out_of_memory(error):
            self._fits_in_less(turns)
            return True
        if len(turns) > 1:
            _log.warning(
                "a step of %d sessions failed, it is done in halves: %r", len(turns), error
            )
            half = len(turns) // 2
            return self._step(turns[:half]) and self._step(turns[half:])
        if not self._good_comes_back():
            _log.error("the stream engine has failed, and not on a session: %r", error)
            self._book.give_up_all()
            return False
        failed = {turn.job: f"the engine failed on it alone: {error!r}" for turn in turns}
        self._steps.put(_Step(self._go_on(turns, failed), None))
        return True

    def _fits_in_less(self, turns: Sequence[Turn]) -> None:
        """Puts back what memory ran out for, to be done in smaller steps; who does not fit in the
        smallest is told that there is no answer now."""
        self.counts.out_of_memory += 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        tokens = sum(turn.count for turn in turns)
        if tokens <= TURN:
            self._book.give_up({turn.job.request for turn in turns})
        else:
            self._came_back, self._budget = 0, max(TURN, min(self._budget, tokens) // 2)
            _log.warning("memory ran out: a step has at most %d tokens now", self._budget)
        with self._book.changed:
            self._book.queue.back(turn.job for turn in turns)

    def _steps_up(self) -> None:
        """After a step that came back."""
        self._came_back += 1
        if self._budget < self._step_tokens and self._came_back >= STEP_UP:
            self._came_back, self._budget = 0, min(self._step_tokens, 2 * self._budget)

    def _answer(self) -> None:
        while (step := self._steps.get()) is not None:
            try:
                self._book.put(self._answers(step))
            except Exception:  # a fault of the engine's own: nobody may wait for ever
                _log.exception("a step could not be answered; those who wait for it are told")
                self._book.give_up({each.turn.job.request for each in step.turns})

    def _answers(self, step: _Step) -> list[Answer]:
        """Of the jobs that are done; of the others their scores are kept."""
        answers: list[Answer] = []
        queries = responses = 0
        for each in step.turns:
            turn, job = each.turn, each.turn.job
            if step.scores is not None:
                queries = _score(job, turn.query_reads, step.scores[0], queries)
                responses = _score(job, turn.reads, step.scores[1], responses)
            if each.whole:
                scored = () if job.status is Status.REFUSED else tuple(job.scored)
                said = Appended(self._revision, job.status, job.reason, scored, job.held)
                answers.append(Answer(job.request, job.at, said))
        return answers


def _score(job: Job, reads: Sequence[int], scores: Scores, at: int) -> int:
    """Adds a job's scores, which begin at `at`; where the next one's begin."""
    for read in reads:
        fed = job.fed[read]
        assert fed.task is not None
        job.scored.append(Scored(fed.task, fed.start, fed.end, *scores.at(at)))
        at += 1
    return at


def _span(turn: Turn) -> StreamSpan:
    job = turn.job
    slot, start = job.session.state.slot, job.forwarded
    assert slot is not None
    if turn.count == len(job.ids):
        return StreamSpan(slot, job.ids, turn.reads, turn.query_reads)
    return StreamSpan(
        slot,
        job.ids[start : start + turn.count],
        [at - start for at in turn.reads],
        [at - start for at in turn.query_reads],
    )


def _not_numbers(turns: Sequence[Turn], query: Scores, response: Scores) -> dict[Job, str]:
    """Those of the jobs that the network has no numbers for, and what is said to them."""
    failed: dict[Job, str] = {}
    if query.finite(0, len(query)) and response.finite(0, len(response)):
        return failed
    queries = responses = 0
    for turn in turns:
        behind = queries + len(turn.query_reads), responses + len(turn.reads)
        if not (query.finite(queries, behind[0]) and response.finite(responses, behind[1])):
            failed[turn.job] = "the network's output was not a number"
        queries, responses = behind
    return failed


def _name(turn: Turn) -> str:
    return turn.job.session.state.name


def _opened(slab: Slab, tokens: int) -> Slot:
    slot = slab.open(tokens)
    if slot is None:
        raise RuntimeError(f"no room for {tokens} tokens, which were promised")
    return slot
