"""Soft targets: n-gram regressions that have not seen the row that they judge.

A small network learns slowly from hard labels, many of them noisy; how sure a plain regression is
teaches it faster. The rows are cut into folds by a hash, and each fold's teacher is trained on the
others.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from .baseline import Baseline
from .row import Row
from .rows import Sampler

FOLDS: Final = 3  # no teacher judges what it learned from, and each learns from two thirds
DRAWS: Final = 110_000  # rows that each teacher learns from


def fold_of(row: Row) -> int:
    """The fold of a row as it was read."""
    return zlib.crc32(repr(row.messages[-1]).encode()) % FOLDS


class Teachers:
    """One regression a fold; rows carry their fold, made rows have none and keep their label."""

    def __init__(self) -> None:
        self._teachers = [Baseline() for _ in range(FOLDS)]

    def train(self, rows: Iterable[Row], seed: int, say: Callable[[str], None]) -> None:
        """Train all; a row is learnt by the teachers of the other folds."""
        listed = list(rows)
        for fold, teacher in enumerate(self._teachers):
            say(f"teacher {fold + 1} of {FOLDS}")
            sampler = Sampler((row for row in listed if row.fold != fold), seed + fold)
            teacher.train(sampler.draw(DRAWS), seed, say)

    def soften(self, rows: Sequence[Row]) -> list[tuple[float, ...] | None]:
        """The teacher's probabilities of the classes, None for rows without a fold."""
        out: list[tuple[float, ...] | None] = [None] * len(rows)
        for fold, teacher in enumerate(self._teachers):
            places = [place for place, row in enumerate(rows) if row.fold == fold]
            judged = teacher.judge([rows[place] for place in places])
            for place, answer in zip(places, judged, strict=True):
                out[place] = tuple(answer.scores.values())
        return out

    def save(self, path: Path) -> None:
        """Write all tables."""
        torch.save([teacher.state() for teacher in self._teachers], path)

    def load(self, path: Path) -> None:
        """Read what ``save`` wrote."""
        states: list[dict[str, Any]] = torch.load(path, weights_only=True)
        for teacher, state in zip(self._teachers, states, strict=True):
            teacher.restore(state)


def with_fold(row: Row) -> Row:
    """The row with its fold."""
    return replace(row, fold=fold_of(row))
