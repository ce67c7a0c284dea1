"""What is true and what the guard answered, side by side, as columns. Pure."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qwarden.guard.answer import SAFETIES, Answer, Assessment
from qwarden.offline.eval.labelled import Labelled
from qwarden.offline.eval.metrics import Flags, Floats, Ints

CONTROVERSIAL, UNSAFE = 1, 2
"""Safety as a number, in arrays: the more severe the higher, and Safe is 0."""


class Mode(enum.StrEnum):
    """What Controversial counts as, in labels and answers alike."""

    STRICT = "strict"
    """As Unsafe."""
    LOOSE = "loose"
    """As Safe."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Of rows that were answered. `label` and `said` are places in `SAFETIES`; `scores` has its
    three columns."""

    label: Ints
    said: Ints
    scores: Floats

    def __len__(self) -> int:
        return len(self.label)

    def true(self, mode: Mode) -> Flags:
        return self.label >= _least(mode)

    def flagged(self, mode: Mode) -> Flags:
        return self.said >= _least(mode)

    def score(self, mode: Mode) -> Floats:
        """Of what counts as Unsafe."""
        total: Floats = self.scores[:, _least(mode) :].sum(axis=1)
        return np.minimum(total, 1.0)

    def only(self, rows: Ints) -> Outcomes:
        return Outcomes(self.label[rows], self.said[rows], self.scores[rows])


def outcomes_of(rows: Sequence[Labelled], answers: Sequence[Answer]) -> Outcomes:
    """`answers`: one for each row; a row without an assessment is left out."""
    pairs = [
        (row.label, answer)
        for row, answer in zip(rows, answers, strict=True)
        if isinstance(answer, Assessment)
    ]
    return Outcomes(
        np.array([SAFETIES.index(label) for label, _ in pairs], dtype=np.int64),
        np.array([SAFETIES.index(answer.safety) for _, answer in pairs], dtype=np.int64),
        np.array([answer.scores for _, answer in pairs], dtype=np.float64).reshape(-1, 3),
    )


def _least(mode: Mode) -> int:
    return CONTROVERSIAL if mode is Mode.STRICT else UNSAFE
