"""The heads' numbers as answers: rounded logits, and the categories of what is not Safe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from qwarden.guard.answer import Categories, Triple

DECIMALS = 5
"""Of a logit. Ten times finer than what the order of a sum moves in float32, and half the bytes."""

LEAST = 0.01
"""The likeliest category is answered, and beside it those of at least this probability: less tells
nothing, and a token that is not Safe, as all are behind a flag, would carry them all."""

Numbers = npt.NDArray[np.float64]


def numbers_of(logits: Tensor) -> Numbers:
    """Logits [n, m] as they are answered; waits for the device."""
    numbers: Numbers = logits.detach().cpu().numpy().astype(np.float64)
    return numbers.round(DECIMALS)


class Scores:
    """What one step says: of each token that was read its logits and categories.

    `risk`: [n, 3] of Safe, Controversial, Unsafe. `category`: [n, C]. `names`: of these, C.
    """

    def __init__(self, risk: Numbers, category: Numbers, names: Sequence[str]) -> None:
        self._risk = risk
        self._category = category
        self._names = names
        self._logits: list[list[float]] = risk.tolist()
        # As `safety_of` decides: of equal ones the more severe.
        self._safe: list[bool] = (risk[:, 0] > risk[:, 1:].max(axis=1)).tolist()

    def __len__(self) -> int:
        return len(self._logits)

    def at(self, token: int) -> tuple[Triple, Categories]:
        safe, controversial, unsafe = self._logits[token]
        categories = () if self._safe[token] else self._categories(token)
        return (safe, controversial, unsafe), categories

    def finite(self, start: int, end: int) -> bool:
        """Whether all are numbers."""
        some = self._risk[start:end], self._category[start:end]
        return all(bool(np.isfinite(each).all()) for each in some)

    def _categories(self, token: int) -> Categories:
        logits = self._category[token]
        weights = np.exp(logits - logits.max())
        shares: list[float] = np.round(weights / weights.sum(), DECIMALS).tolist()
        best = sorted(zip(self._names, shares, strict=True), key=lambda each: -each[1])
        return (best[0], *(each for each in best[1:] if each[1] >= LEAST))
