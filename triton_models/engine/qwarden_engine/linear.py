"""Linear layers without a bias, each in the form that its device multiplies fastest."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Linear(Protocol):
    """`[N, in]` to `[N, out]`, alone or with what follows it done on the way."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def silu(self, x: Tensor) -> Tensor:
        """SiLU of the result."""
        ...

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """The result times `factor`, [N, out]."""
        ...

    def plus(self, x: Tensor, term: Tensor) -> Tensor:
        """The result plus `term`, [N, out]."""
        ...


def linear(weight: Tensor, *, int8: bool = False) -> Linear:
    """The layer of a weight [out, in], which it keeps in a form of its own."""
    if int8:
        return _Int8(weight)
    if weight.device.type == "cpu" and _is_packed(weight.dtype):
        return _Packed(weight)
    return _Dense(weight)


def _is_packed(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies in these numbers here: in bfloat16 not without avx512."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype is not torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Packed:
    """By oneDNN, with the weight in its own order and the element-wise rest in the same pass.

    On an AMD EPYC with avx512 that is twice the speed of `torch.mm` in float32, which goes to MKL
    (222 against 103 GFLOP/s at 2,048 tokens of a 0.6B guard, two cores); not tried on Intel.
    A token's result does not depend on the tokens beside it, but for one that is alone: it sums in
    another order and is therefore doubled.
    """

    __slots__ = ("_multiply", "_weight")

    # The number of rows that the order is chosen for; others only cost a little.
    _ROWS = 2048

    def __init__(self, weight: Tensor) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), self._ROWS)
        self._multiply: Any = torch.ops.mkldnn._linear_pointwise

    def __call__(self, x: Tensor) -> Tensor:
        return self._unary(x, "none")

    def silu(self, x: Tensor) -> Tensor:
        if x.dtype is not torch.float32:  # a pass of its own would round once more
            return self._unary(x, "swish")
        # oneDNN's takes a third of the product's time, this a fifteenth (64 tokens, one core). By
        # exp, since torch's SiLU for CPUs gives the last few values of a thread's share other last
        # bits than the same values elsewhere in it.
        product = self(x)
        return product.div_(product.neg().exp_().add_(1))

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        return self._binary(x, factor, "mul")

    def plus(self, x: Tensor, term: Tensor) -> Tensor:
        return self._binary(x, term, "add")

    def _unary(self, x: Tensor, then: str) -> Tensor:
        out: Tensor = self._multiply(_doubled(x), self._weight, None, then, [], "")
        return out[: len(x)]

    def _binary(self, x: Tensor, other: Tensor, then: str) -> Tensor:
        x_, other_ = _doubled(x), _doubled(other)
        out: Tensor = self._multiply.binary(x_, other_, self._weight, None, then)
        return out[: len(x)]


def _doubled(x: Tensor) -> Tensor:
    return x if len(x) != 1 else x.expand(2, -1)


class InSteps:
    """What follows the product, as steps of their own."""

    __slots__ = ()

    def __call__(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def silu(self, x: Tensor) -> Tensor:
        return functional.silu(self(x), inplace=True)

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        return self(x).mul_(factor)

    def plus(self, x: Tensor, term: Tensor) -> Tensor:
        return self(x).add_(term)


class _Dense(InSteps):
    """By the device's own matrix product."""

    __slots__ = ("_weight",)

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight.t()

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self._weight

    def plus(self, x: Tensor, term: Tensor) -> Tensor:
        return torch.addmm(term, x, self._weight)


class _Int8(InSteps):
    """Weights as int8 with a scale for each output, activations with a scale for each token, sums
    in int32: a token's result does not depend on the tokens beside it. CPU only.

    A quarter of the memory of float32, and about the speed of bfloat16 where the CPU has vnni.
    """

    __slots__ = ("_scales", "_weight")

    def __init__(self, weight: Tensor) -> None:
        wide = weight.float()
        scales = _steps(wide)
        self._weight = (wide / scales).round_().to(torch.int8).t()
        self._scales = scales.t().contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        steps = _steps(x)
        sums = torch._int_mm((x / steps).round_().to(torch.int8), self._weight)
        return sums.to(x.dtype).mul_(steps).mul_(self._scales)


def _steps(rows: Tensor) -> Tensor:
    """What one step of int8 is for each row: [N, 1]."""
    return rows.abs().amax(dim=1, keepdim=True).div_(127).clamp_(min=1e-12)
