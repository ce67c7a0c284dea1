"""From the bytes of appends to what is to be forwarded for them.

Requests are read in the thread that brings them, which is never kept: Triton's has the next ones
behind it. Texts become tokens in a thread of their own, some of each text at a time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence

from qwarden.guard.conversation import Task
from qwarden.guard.stream import Append, Appended, Status
from qwarden_engine.conviction import Record
from qwarden_engine.stream.book import ASK_AFTER_S, Answer, Book, is_cancelled, tell
from qwarden_engine.stream.chat import Fed
from qwarden_engine.stream.jobs import Given, Held, Job, Request
from qwarden_engine.stream.sessions import Session

_log = logging.getLogger(__name__)

FULL = "memory for sessions is at its high-water mark; send it again later"
CLOSED = "the context of {} tokens is full; have the whole judged at once"
CRASHED = "its session ended the engine's process twice, alone"

BLOCKS = 4
"""What a text gets of a turn, in blocks of at most 1,024 code points: some ms."""


class Intake:
    """Takes requests, from any thread, and has one that writes them; it ends when the book is
    closed.

    `record`: of what was running when the process died. `context`: the most tokens of a session.
    """

    def __init__(self, book: Book, record: Record, revision: str, context: int) -> None:
        self._book = book
        self._record = record
        self._convicted = frozenset(record.convicted)
        self._revision = revision
        self._context = context
        self._closed = CLOSED.format(context)
        self._thread = threading.Thread(target=self._run, name="stream-intake", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Waits for the end of its thread."""
        self._thread.join()

    def submit(self, requests: Sequence[Request]) -> None:
        """Takes requests that came together; what they have of one session is put in order."""
        given, answers = self._decoded(requests)
        if self._take(requests, given, answers):
            self._book.put(answers)
        else:
            for request in requests:
                tell(request, None)

    def _take(
        self, requests: Sequence[Request], given: Sequence[Given], answers: list[Answer]
    ) -> bool:
        """Puts the sessions of these in line; False where nothing is taken any more. `answers` gets
        what is said to what was not taken."""
        book, now = self._book, time.monotonic()
        with book.changed:
            if not book.open(requests):
                return False
            for each in given:
                append = each.append
                session = book.sessions.take(
                    (append.tenant, append.session), append.offset, each.points, now
                )
                if isinstance(session, Status):
                    answers.append(self._not_taken(each, session))
                    continue
                unwritten = session.state.unwritten
                if not unwritten:
                    book.line.add(session)
                unwritten.append(each)
            book.came.notify()
        return True

    def _run(self) -> None:
        book = self._book
        while True:
            with book.changed:
                while not (book.closed or book.line):
                    book.came.wait()
                if book.closed:
                    return
                sessions = book.line.next()
            try:
                self._write(sessions)
            except Exception:  # a fault of the engine's own: nobody may wait for ever
                _log.exception("the stream engine's intake has failed; all that wait are told")
                book.give_up_all()

    def _write(self, sessions: Sequence[Session[Held]]) -> None:
        """Writes some of the next append of each, and queues what is whole."""
        book = self._book
        made = [self._written(session) for session in sessions]
        answers: list[Answer] = []
        with book.changed:
            now = time.monotonic()
            for session, each in zip(sessions, made, strict=True):
                if each is None:
                    book.line.again(session)
                    continue
                answers += self._promised(each, now) if isinstance(each, Job) else (each,)
                session.state.unwritten.popleft()
                if session.state.unwritten:
                    book.line.add(session)
            book.changed.notify()
        book.put(answers)

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

    def _written(self, session: Session[Held]) -> Job | Answer | None:
        """What has come of the next append of a session; None where there is more of it to write
        than one turn has."""
        held = session.state
        given = held.unwritten[0]
        append, request = given.append, given.request
        if given.writing is None:
            given.writing = held.writing(append, self._context)
        elif request.since < time.monotonic() - ASK_AFTER_S and is_cancelled(request):
            with self._book.changed:
                self._book.counts.cancelled += 1
            self._book.give_up([request])
        if session.gone or request.told:  # one before it was refused, or nobody waits for it
            with self._book.changed:
                self._book.sessions.forget(session)
                return self._book.replay(request, given.at)
        if held.name in self._convicted:
            with self._book.changed:
                self._book.counts.crashed += 1
            return self._refused(given, session, CRASHED)
        try:
            for _ in range(BLOCKS):
                more = next(given.writing, None)
                if more is None:
                    break
                given.fed += more
            else:
                return None
        except ValueError as error:
            with self._book.changed:
                self._book.counts.refused += 1
            return self._refused(given, session, str(error))
        except Exception as error:  # of this text alone; the others are answered
            _log.exception("a text could not be written")
            with self._book.changed:
                self._book.counts.failed += 1
            return self._refused(given, session, f"the engine failed on its text: {error!r}")
        return self._job(given, session)

    def _job(self, given: Given, session: Session[Held]) -> Job:
        """What is to be forwarded for an append that is written."""
        held, append, fed = session.state, given.append, given.fed
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
