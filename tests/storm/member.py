"""One moderator of the storm: the real service, with a guard that answers late and out of order.

Its outcomes carry its name and its process in a header, so that a repeat can be laid at somebody's
door. Environment beside the settings: STORM_SEED, STORM_NAME.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Sequence

from qwarden import bootstrap, telemetry
from qwarden import settings as settings_module
from qwarden.delivery.owed import Decide, Finish, Message, Owed, decided
from qwarden.guard.answer import Answer, Assessment
from qwarden.inference.memory import MemoryGuard
from qwarden.moderator.moderator import Moderator
from qwarden.moderator.service import ModeratorService
from qwarden.outcomes.source import Record

BY = "storm-by"
REVISION = "storm@1"
MOST_S = 2.0
_LOGITS = ((4.0, 1.0, 0.0), (1.0, 3.0, 0.5), (0.0, 1.0, 3.0))
"""Safe, Controversial, Unsafe."""


class StormGuard(MemoryGuard):
    """Answers after 0 to 2 s and says what it says, both by the row and the seed alone: in every
    process, and whenever it is asked, the same."""

    def __init__(self, seed: int) -> None:
        super().__init__(self._answer, revision=REVISION)
        self._seed = seed

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        await asyncio.sleep(max(self._dice(row).uniform(0, MOST_S) for row in rows))
        return await super().judge(rows, timeout_s=timeout_s)

    def _answer(self, row: bytes) -> Assessment:
        dice = self._dice(row)
        dice.random()
        (logits,) = dice.choices(_LOGITS, weights=(8, 1, 1))
        categories = () if logits is _LOGITS[0] else (("Violent", 0.9),)
        return Assessment(logits, categories, None, len(row) // 4, 0, REVISION)

    def _dice(self, row: bytes) -> random.Random:
        return random.Random(f"{self._seed} {row!r}")


def signed(judge: Moderator, name: str) -> None:
    """Has every outcome of this process say whose it is."""
    mark = (BY, f"{name}/{os.getpid()}".encode())
    handle = judge.handle

    def marked(message: Message) -> Message:
        return message._replace(headers=[*message.headers, mark])

    async def handled(records: Sequence[Record], finish: Finish) -> None:
        def finished(index: int, owed: Owed | Decide, /) -> None:
            finish(index, lambda: tuple(marked(each) for each in decided(owed)))

        await handle(records, finished)

    judge.handle = handled  # type: ignore[method-assign]


async def main() -> int:
    settings = settings_module.load()
    telemetry.log_as_json("info")
    guard = StormGuard(int(os.environ["STORM_SEED"])) if os.environ["STORM_SEED"] else None
    async with bootstrap.moderator(settings, guard) as (judge, dispatcher):
        signed(judge, os.environ["STORM_NAME"])
        control = bootstrap.control_of(settings)
        return await ModeratorService(settings, judge, dispatcher, control).run()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
