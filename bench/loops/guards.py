"""Guards that answer at once: in process, and a model repository for Triton."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from qwarden.guard.answer import Answer, Assessment, encode_answer
from qwarden.stack.home import checkout
from qwarden.stack.triton import MODEL

REVISION = "instant@0"
SAFE = Assessment((4.0, -2.0, -3.0), (), None, 40, 0, REVISION)
CONTROVERSIAL = Assessment((-1.0, 3.0, 0.5), (("Violent", 0.9),), None, 40, 0, REVISION)
UNSAFE = Assessment((-2.0, 0.0, 4.0), (("Violent", 0.9),), None, 40, 0, REVISION)

ALLOWED = (SAFE,)
MIX = (SAFE, SAFE, SAFE, SAFE, CONTROVERSIAL, SAFE, SAFE, SAFE, SAFE, UNSAFE)
"""A fifth is not Safe."""


class InstantGuard:
    """Gives `answers` in turn, at once."""

    def __init__(self, answers: Sequence[Assessment]) -> None:
        self._answers = cycle(answers)

    async def revision(self) -> str:
        return REVISION

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        return list(islice(self._answers, len(rows)))

    async def close(self) -> None:
        return None


def write_repository(folder: Path) -> Path:
    """A model repository with the real guard's configuration and `triton_model.py` as its model,
    which answers every row with the same bytes."""
    real = checkout() / "triton_models" / "repository" / MODEL / "config.pbtxt"
    version = folder / MODEL / "1"
    version.mkdir(parents=True)
    shutil.copyfile(real, folder / MODEL / real.name)
    shutil.copyfile(Path(__file__).parent / "triton_model.py", version / "model.py")
    (version / "answer.json").write_bytes(encode_answer(SAFE))
    return folder
