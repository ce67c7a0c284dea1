"""What the engine's threads share, under one lock: sessions, what waits, and who is to be told."""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qwarden.guard.stream import Appended, Status
from qwarden_engine.stream.counts import StreamCounts
from qwarden_engine.stream.jobs import Held, Job, Request
from qwarden_engine.stream.line import Line
from qwarden_engine.stream.sessions import Session, Sessions
from qwarden_engine.stream.steps import Queue

_log = logging.getLogger(__name__)

ASK_AFTER_S = 0.25
"""A request that is older is asked before each step, and before each turn of a long text, whether
anybody waits for it. To ask Triton is a round trip to its process, 140 µs; and what has waited less
is soon done."""

UNKNOWN = "the session is not known here, or not up to there; send its transcript from its start"


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said to the append at a place of a request."""

    request: Request
    at: int
    appended: Appended


@dataclass(frozen=True, slots=True)
class Turn:
    """A job's part of a step: its next `count` tokens. `room`: what its session's slot must have
    room for by now. `reads`, `query_reads`: as of the job, of these tokens alone."""

    job: Job
    count: int
    room: int
    reads: Sequence[int]
    query_reads: Sequence[int]


class Book:
    """`line`: sessions with appends that are to become tokens. `queue`: what is to be forwarded.

    `changed`: the lock, and the bell for whoever forwards; `came`, of the same lock, for whoever
    writes. `closed`: nothing is taken any more.

    What is said to requests is said outside the lock, by `tell`.
    """

    def __init__(self, sessions: Sessions[Held], revision: str, counts: StreamCounts) -> None:
        self.sessions = sessions
        self.line: Line[Session[Held]] = Line()
        self.queue: Queue[Job] = Queue()
        lock = threading.RLock()
        self.changed = threading.Condition(lock)
        self.came = threading.Condition(lock)
        self.closed = False
        self.counts = counts
        self._revision = revision
        self._requests: set[Request] = set()

    def waiting(self) -> tuple[float | None, int]:
        """Since when the oldest append waits of which nothing is forwarded (None where none does),
        and the tokens of all that is queued."""
        since: list[float] = []
        tokens = 0
        with self.changed:
            for session in self.line:
                since += [given.request.since for given in session.state.unwritten]
            for first in self.queue:
                jobs = first.session.state.jobs
                tokens += sum(job.left for job in jobs)
                since += [job.request.since for job in jobs if not job.forwarded]
        return min(since, default=None), tokens

    def open(self, requests: Iterable[Request]) -> bool:
        """Whether these can be taken. Under the lock."""
        if not self.closed:
            self._requests.update(requests)
        return not self.closed

    def close(self) -> None:
        """Takes nothing any more, and says so to the threads that wait."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
            self.came.notify_all()

    def wanted(self, taken: Sequence[tuple[Job, int]]) -> tuple[list[Turn], list[Answer]]:
        """What of a step is still wanted, and what is said to those whose session has gone. Under
        the lock."""
        turns: list[Turn] = []
        answers: list[Answer] = []
        for job, count in taken:
            session = job.session
            if job.request.told:
                self.sessions.forget(session)
            if session.gone:
                answers += self._void(session)
            else:
                turns.append(_turn(job, count))
        return turns, answers

    def _void(self, session: Session[Held]) -> list[Answer]:
        """What is said to all that waits of a session that has gone, none of it in a step."""
        jobs = session.state.jobs
        answers = [self.replay(job.request, job.at) for job in jobs if not job.request.told]
        jobs.clear()
        return answers

    def replay(self, request: Request, at: int) -> Answer:
        """Under the lock."""
        self.counts.replays += 1
        return Answer(request, at, Appended(self._revision, Status.REPLAY, UNKNOWN))

    def put(self, answers: Iterable[Answer]) -> None:
        """Tells the requests that are whole with these."""
        whole: list[Request] = []
        with self.changed:
            for answer in answers:
                request = answer.request
                if request.told:
                    continue
                request.answers[answer.at] = answer.appended
                request.left -= 1
                if not request.left:
                    self._take(request)
                    whole.append(request)
        for request in whole:
            tell(request, [answer for answer in request.answers if answer is not None])

    def give_up(self, requests: Iterable[Request]) -> None:
        """Nobody waits for these any more. The sessions that wait of them are forgotten when it
        would be their turn."""
        with self.changed:
            untold = [request for request in requests if self._take(request)]
        for request in untold:
            tell(request, None)

    def give_up_all(self) -> None:
        """Nothing can be judged; no session is known any more."""
        with self.changed:
            self.queue.clear()
            self.sessions.forget_all()
            untold = [request for request in list(self._requests) if self._take(request)]
        for request in untold:
            tell(request, None)

    def _take(self, request: Request) -> bool:
        """Whether this is the one who may tell a request its end."""
        first = not request.told
        request.told = True
        self._requests.discard(request)
        return first


def _turn(job: Job, count: int) -> Turn:
    room = job.session.room
    if count == len(job.ids):
        return Turn(job, count, room, job.reads, job.query_reads)
    start, end = job.forwarded, job.forwarded + count
    return Turn(
        job, count, room, _within(job.reads, start, end), _within(job.query_reads, start, end)
    )


def _within(numbers: Sequence[int], start: int, end: int) -> Sequence[int]:
    """Of ascending numbers those from `start` to before `end`."""
    return numbers[bisect_left(numbers, start) : bisect_left(numbers, end)]


def is_cancelled(request: Request) -> bool:
    """Whether nobody waits for it any more."""
    try:
        return request.cancelled()
    except Exception:  # the asker's own fault: it is answered
        _log.exception("a request could not say whether it is cancelled")
        return False


def tell(request: Request, answers: list[Appended] | None) -> None:
    """Says it, once."""
    try:
        request.done(answers)
    except Exception:  # whoever asked has gone in a way of its own; the others are answered
        _log.exception("an answer could not be handed over")
