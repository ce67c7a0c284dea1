"""Products whose rounding depends on the batch: on a CPU the engine's own have none."""

from __future__ import annotations

from torch import Tensor

from qwarden_engine.linear import InSteps

FEW = 256
"""Rows under which a product is split."""


class Split(InSteps):
    """Sums in two halves where there are few rows, as cuBLAS's split-K does to keep a GPU busy."""

    def __init__(self, weight: Tensor, *, int8: bool = False) -> None:
        assert not int8
        self._weight = weight.t()

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) >= FEW:
            return x @ self._weight
        half = len(self._weight) // 2
        wide, weight = x.float(), self._weight.float()
        return (wide[:, :half] @ weight[:half] + wide[:, half:] @ weight[half:]).to(x.dtype)
