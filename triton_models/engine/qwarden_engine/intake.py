"""From the bytes of rows to jobs: what is judged of each row, as token ids."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import cycle

from qwarden.guard.answer import Failure, Unanswered
from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden.guard.normaliser import normalised
from qwarden.guard.row import Row as Asked
from qwarden.guard.row import View, rewritten
from qwarden_engine.jobs import Job, Request, Row
from qwarden_engine.judge import Part
from qwarden_engine.template import Encoded, Template, TooLong, broken

GOOD_TEXT = "hello"
"""What every guard can judge. Whoever does not answer it cannot answer anything."""

_USUAL = 50
"""Tokens of a usual row."""


class Intake:
    """Makes jobs for one engine. `max_pieces`: a turn that would be cut into more has no answer.
    `revision`: whose name is on what it answers itself."""

    def __init__(
        self, template: Template, parts: Mapping[Task, Part], max_pieces: int, revision: str
    ) -> None:
        self.template = template
        self._parts = parts
        self._max_pieces = max_pieces
        self._revision = revision

    def rows(self, rows: Sequence[bytes], request: Request) -> list[Row]:
        """The rows that have jobs; the others are answered in the request."""
        by_task: dict[Task, list[tuple[int, Asked, View, Conversation]]] = {t: [] for t in Task}
        for at, data in enumerate(rows):
            try:
                asked = Asked.from_json(data)
            except ValueError as error:
                request.answers[at] = self._without(Failure.REFUSED, str(error))
                continue
            for view, conversation in self._views(asked):
                by_task[asked.conversation.task].append((at, asked, view, conversation))
        made: dict[int, Row] = {}
        for task, some in by_task.items():
            encoded = self.template.encode(
                [conversation for *_, conversation in some],
                self._parts[task].limit,
                self._max_pieces,
            )
            for (at, asked, view, _), pieces in zip(some, encoded, strict=True):
                if isinstance(pieces, Exception):
                    kind = Failure.TOO_LONG if isinstance(pieces, TooLong) else Failure.REFUSED
                    request.answers[at] = self._without(kind, str(pieces))
                    continue
                row = made.get(at)
                if row is None:
                    row = made[at] = Row(request, at, name_of(rows[at]), 0)
                row.dropped_turns = max(row.dropped_turns, pieces[0].dropped_turns)
                row.jobs += [
                    self._job(row, task, view, n, piece, alone=asked.exact)
                    for n, piece in enumerate(pieces)
                ]
        return [row for at, row in made.items() if request.answers[at] is None]

    def good(self, task: Task) -> Job:
        """The known good conversation."""
        turns = (Turn("user", GOOD_TEXT), Turn("assistant", GOOD_TEXT))
        conversation = Conversation(task, turns[: 1 if task is Task.PROMPT else 2])
        [pieces] = self.template.encode([conversation], self._parts[task].limit, 1)
        assert not isinstance(pieces, Exception)
        return self._job(_nobodys(), task, View.AS_SENT, 0, pieces[0], alone=True)

    def noise(self, vocabulary: int, tokens: int) -> list[Job]:
        """Rows of random ids below `vocabulary`, of all tasks in turn, that fill a micro-batch of
        so many tokens."""
        chooser = random.Random(0)
        jobs: list[Job] = []
        tasks = cycle(Task)
        left = tokens
        while left >= 0:
            ids = chooser.choices(range(vocabulary), k=chooser.randint(1, 2 * _USUAL))
            encoded = Encoded(ids, len(ids), 0)
            jobs.append(self._job(_nobodys(), next(tasks), View.AS_SENT, 0, encoded, alone=False))
            left -= jobs[-1].length
        return jobs[:-1] or jobs

    def _views(self, asked: Asked) -> list[tuple[View, Conversation]]:
        """What is judged of a row: the text as sent, with broken markers where it has some, and
        as a person reads it where that differs; also there no marker stays whole."""

        def unmarked(conversation: Conversation) -> Conversation | None:
            return rewritten(conversation, partial(broken, self.template.markers))

        views = [(View.AS_SENT, asked.conversation)]
        if View.MARKERS_BROKEN in asked.views and (other := unmarked(asked.conversation)):
            views.append((View.MARKERS_BROKEN, other))
        if View.NORMALISED in asked.views and (other := rewritten(asked.conversation, normalised)):
            views.append((View.NORMALISED, unmarked(other) or other))
        return views

    def _job(
        self, row: Row, task: Task, view: View, piece: int, encoded: Encoded, *, alone: bool
    ) -> Job:
        ids = [*encoded.ids, *self._parts[task].grammar.tail]
        return Job(row, task, view, piece, ids, encoded.tokens, alone)

    def _without(self, failure: Failure, reason: str) -> Unanswered:
        clean = reason.encode("utf-8", "backslashreplace").decode()
        return Unanswered(failure, clean, self._revision)


def name_of(row: bytes) -> str:
    """Stands for a row in the record of what was running."""
    return hashlib.blake2b(row, digest_size=16).hexdigest()


def _nobodys() -> Row:
    """A row that nobody waits for."""
    return Row(Request([None], lambda _: None, lambda: False), 0, "", 0)
