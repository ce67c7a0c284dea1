"""From the bytes of appends to what is to be forwarded for them, in the thread that brings them."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence

from qwarden.guard.conversation import Task
from qwarden.guard.stream import Append, Appended, Status
from qwarden_engine.conviction import Record
from qwarden_engine.stream.book import Answer, Book, tell
from qwarden_engine.stream.chat import Fed
from qwarden_engine.stream.jobs import Given, Held, Job, Request
from qwarden_engine.stream.sessions import Session

_log = logging.getLogger(__name__)

FULL = "memory for sessions is at its high-water mark; send it again later"
CLOSED = "the context of {} tokens is full; have the whole judged at once"
CRASHED = "its session ended the engine's process twice, alone"


_TOGETHER = 4096
"""Code points that are written before the first of them is queued, where they are of several
sessions: some ms. What is longer keeps nobody who came with it waiting: it is written behind."""


class Intake:
    """Takes requests, from any thread. A session's text is written in order, by one at a time.

    `record`: of what was running when the process died. `context`: the most tokens of a session.
    """

    def __init__(self, book: Book, record: Record, revision: str, context: int) -> None:
        self._book = book
        self._record = record
        self._convicted = frozenset(record.convicted)
        self._revision = revision
        self._context = context
        self._closed = CLOSED.format(context)

    def submit(self, requests: Sequence[Request]) -> None:
        """Takes requests that came together; what they have of one session is put in order.

        Blocks no longer than texts take to become tokens, as much of each as its context has room
        for: these and what comes of the same sessions meanwhile, which is taken without a wait.
        """
        given, answers = self._decoded(requests)
        sessions = self._taken(requests, given, answers)
        if sessions is None:
            for request in requests:
                tell(request, None)
            return
        self._book.put(answers)
        waiting = deque(sorted(sessions, key=_next_points))
        while waiting:
            together = [waiting.popleft()]
            points = _next_points(together[0])
            while waiting and (points := points + _next_points(waiting[0])) <= _TOGETHER:
                together.append(waiting.popleft())
            waiting += self._write(together)

    def _taken(
        self, requests: Sequence[Request], given: Sequence[Given], answers: list[Answer]
    ) -> list[Session[Held]] | None:
        """The sessions that are to be written by this thread; None where nothing is taken any more.
        `answers` gets what is said to what was not taken."""
        book, now = self._book, time.monotonic()
        sessions: list[Session[Held]] = []
        with book.changed:
            if not book.open(requests):
                return None
            for each in given:
                append = each.append
                session = book.sessions.take(
                    (append.tenant, append.session), append.offset, each.points, now
                )
                if isinstance(session, Status):
                    answers.append(self._not_taken(each, session))
                    continue
                held = session.state
                held.unwritten.append(each)
                if not held.is_being_written:
                    held.is_being_written = True
                    sessions.append(session)
        return sessions

    def _write(self, sessions: Sequence[Session[Held]]) -> list[Session[Held]]:
        """Writes the next append of each, and queues what came of them; those that have more."""
        book = self._book
        made = [self._written(session.state.unwritten.popleft(), session) for session in sessions]
        more: list[Session[Held]] = []
        answers: list[Answer] = []
        with book.changed:
            now = time.monotonic()
            for each in made:
                answers += self._promised(each, now) if isinstance(each, Job) else (each,)
            for session in sessions:
                held = session.state
                held.is_being_written = bool(held.unwritten)
                if held.unwritten:
                    more.append(session)
            book.changed.notify_all()
        book.put(answers)
        return more

    def _decoded(self, requests: Iterable[Request]) -> tuple[list[Given], list[Answer]]:
        """The appends, those of one session by their offsets; and what is said to what is none."""
        given: list[Given] = []
        answers: list[Answer] = []
        for request in requests:
            for at, data in enumerate(request.appends):
                try:
                    given.append(Given(request, at, Append.from_json(data)))
                except (ValueError, RecursionError) as error:
                    with self._book.changed:
                        self._book.counts.refused += 1
                    answers.append(self._said(request, at, Status.REFUSED, str(error)))
        if len({(each.append.tenant, each.append.session) for each in given}) < len(given):
            given.sort(key=lambda each: each.append.offset)
        return given, answers

    def _not_taken(self, given: Given, status: Status) -> Answer:
        """Under the lock."""
        if status is Status.REPLAY:
            return self._book.replay(given.request, given.at)
        self._book.counts.full += 1
        return self._said(given.request, given.at, status, FULL)

    def _written(self, given: Given, session: Session[Held]) -> Job | Answer:
        held, append = session.state, given.append
        if session.gone:  # since one before it was refused
            with self._book.changed:
                return self._book.replay(given.request, given.at)
        if held.name in self._convicted:
            with self._book.changed:
                self._book.counts.crashed += 1
            return self._refused(given, session, CRASHED)
        try:
            fed = held.write(append, self._context)
        except ValueError as error:
            with self._book.changed:
                self._book.counts.refused += 1
            return self._refused(given, session, str(error))
        except Exception as error:  # of this text alone; the others are answered
            _log.exception("a text could not be written")
            with self._book.changed:
                self._book.counts.failed += 1
            return self._refused(given, session, f"the engine failed on its text: {error!r}")
        if held.writer.cuts > held.cuts:
            with self._book.changed:
                self._book.counts.cuts += held.writer.cuts - held.cuts
            held.cuts = held.writer.cuts
        reads: list[int] = []
        query_reads: list[int] = []
        for at, each in enumerate(fed):
            if each.task is None or (each.task is Task.PROMPT) is not each.reads:
                continue
            if not append.since or not held.knows(each, append.since):
                (query_reads if each.reads else reads).append(at)
        return Job(
            session=session,
            request=given.request,
            at=given.at,
            fed=fed,
            ids=[each.id for each in fed],
            reads=reads,
            query_reads=query_reads,
            status=Status.DONE,
            reason="",
            held=held.writer.held,
            replayed=append.offset == 0 and append.since > 0,
        )

    def _promised(self, job: Job, now: float) -> list[Answer]:
        """Queues a job that there is memory for; or what is said to it at once. Under the lock."""
        book, session, held = self._book, job.session, job.session.state
        if session.gone:
            return [book.replay(job.request, job.at)]
        fitting = book.sessions.promise(session, len(job.ids), now)
        if fitting is None:
            book.counts.full += 1
            return [self._said(job.request, job.at, Status.FULL, FULL)]
        if held.given > self._context:
            _close(job, fitting)
            job.reason = self._closed
            held.ends = True
            book.counts.closed += 1
        if job.ids:
            job.alone = self._record.must_be_alone(held.name)
            held.jobs.append(job)
            if len(held.jobs) == 1:
                book.queue.add(job)
            return []
        book.counts.appends += 1
        book.sessions.settle(session, now)
        if held.ends and not held.jobs:
            book.sessions.forget(session)
        return [self._said(job.request, job.at, job.status, job.reason, job.held)]

    def _refused(self, given: Given, session: Session[Held], reason: str) -> Answer:
        with self._book.changed:
            self._book.sessions.forget(session)
        return self._said(given.request, given.at, Status.REFUSED, reason)

    def _said(
        self, request: Request, at: int, status: Status, reason: str, held: int = 0
    ) -> Answer:
        clean = reason.encode("utf-8", "backslashreplace").decode()
        return Answer(request, at, Appended(self._revision, status, clean, held=held))


def _next_points(session: Session[Held]) -> int:
    return session.state.unwritten[0].points


def _close(job: Job, fitting: int) -> None:
    """Leaves of a job what the context has room for."""
    rest: list[Fed] = [each for each in job.fed[fitting:] if not each.reads]
    last = rest[-1].task if rest else None
    if last is not None:
        of_text = [each for each in rest if each.task is last]
        job.held += of_text[-1].end - of_text[0].start
    job.status = Status.CLOSED
    del job.fed[fitting:], job.ids[fitting:]
    job.reads = [at for at in job.reads if at < fitting]
    job.query_reads = [at for at in job.query_reads if at < fitting]
