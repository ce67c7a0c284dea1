"""What the engine is asked, from the request down to what one forward takes of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from qwarden.guard.answer import Answer
from qwarden.guard.conversation import Task
from qwarden.guard.row import View
from qwarden_engine.grammar import Draft


@dataclass(slots=True, eq=False)
class Request:
    """Rows that are answered together.

    `answers`: one place a row. `done` gets them all once, from the scheduler's thread; or None
    where the request was cancelled, or the engine cannot judge at all. `cancelled` says whether
    nobody waits any more.
    """

    answers: list[Answer | None]
    done: Callable[[list[Answer] | None], None]
    cancelled: Callable[[], bool]
    since: float = field(default_factory=time.monotonic)


@dataclass(slots=True, eq=False)
class Row:
    """One row of a request. `at`: its place there. `name`: a hash of it. `left`: jobs that have
    no draft yet; 0 once the row is answered."""

    request: Request
    at: int
    name: str
    dropped_turns: int
    jobs: list[Job] = field(default_factory=list)
    left: int = 0


@dataclass(slots=True, eq=False)
class Job:
    """One view, or one piece of it, of a row.

    `ids`: what follows the task's prefix, the grammar's tail included. `tokens`: of these, the
    conversation's. `alone`: it must be in a micro-batch of its own.
    """

    row: Row
    task: Task
    view: View
    piece: int
    ids: list[int]
    tokens: int
    alone: bool
    draft: Draft | None = None

    @property
    def length(self) -> int:
        return len(self.ids)
