"""Labelled rows to the guard, and what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from qwarden.guard.answer import Answer, Failure, Unanswered
from qwarden.inference.dispatch import Dispatcher
from qwarden.offline.eval.labelled import Labelled


async def ask(
    dispatcher: Dispatcher,
    rows: Sequence[Labelled],
    revision: str,
    done: Callable[[int], object],
) -> list[Answer]:
    """An answer for each row, in order; `done` is told how many more have theirs.

    `revision`: of the guard, for rows that it could only refuse and is not asked about.
    """

    asked = [index for index, each in enumerate(rows) if each.row is not None]
    futures = dispatcher.submit([row for each in rows if (row := each.row) is not None])
    for future in futures:
        future.add_done_callback(lambda _: done(1))
    done(len(rows) - len(asked))
    judged = dict(zip(asked, await asyncio.gather(*futures), strict=True))
    return [
        judged[index].answer
        if index in judged
        else Unanswered(Failure.REFUSED, each.refused, revision)
        for index, each in enumerate(rows)
    ]
