"""Causal attention of many rows at once, in parts that are merged by their log-sum-exp.

A query attends to up to three stretches of keys: its task's prefix, which all rows share and which
exists once; what earlier slices of its row have left; and the new tokens of its row. Softmax over
all of them is the average of the parts, weighted by the exponentials of their log-sum-exps (as in
FlashAttention, arXiv 2205.14135). So no row needs a copy of the prefix, no token is padded, and
what a row sees does not depend on the rows beside it.
Shapes: N packed tokens, H heads, K heads of keys and values (H is a multiple), D per head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """Attention to one stretch: `out` [N, H, D], `weight` [N, H], the log-sum-exp in float32."""

    out: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of equal length that follow each other in the packing, from token `start`: one call.

    `reads`: at which tokens of each row the last layer is wanted.
    """

    start: int
    rows: int
    length: int
    reads: tuple[int, ...]

    def of(self, packed: Tensor) -> Tensor:
        """Its rows of packed tokens: [rows, length, …]."""
        end = self.start + self.rows * self.length
        return packed[self.start : end].view(self.rows, self.length, *packed.shape[1:])


def runs_of(rows: Sequence[tuple[int, tuple[int, ...]]]) -> list[Run]:
    """The runs of rows, each a length and its reads, that are packed one behind the other."""
    runs: list[Run] = []
    at = 0
    for length, reads in rows:
        if runs and (runs[-1].length, runs[-1].reads) == (length, reads):
            runs[-1] = Run(runs[-1].start, runs[-1].rows + 1, length, reads)
        else:
            runs.append(Run(at, 1, length, reads))
        at += length
    return runs


def merged(parts: Sequence[Part]) -> Tensor:
    """What attention to all stretches together gives: [N, H, D]."""
    whole = parts[0]
    for part in parts[1:]:
        share = torch.sigmoid(part.weight - whole.weight)
        out = torch.lerp(whole.out, part.out, share.unsqueeze(-1).to(whole.out.dtype))
        whole = Part(out, torch.logaddexp(whole.weight, part.weight))
    return whole.out


def joined(parts: Sequence[Part]) -> Part:
    """Parts of queries that follow each other."""
    if len(parts) == 1:
        return parts[0]
    return Part(torch.cat([p.out for p in parts]), torch.cat([p.weight for p in parts]))


def to_all(queries: Tensor, keys: Tensor, values: Tensor) -> Part:
    """Every query to every key. `queries` [N, H, D]; `keys`, `values` [L, K, D], L above 0."""
    return _packed(*_kernel(queries[None], keys[None], values[None], causal=False))


def to_own(queries: Tensor, keys: Tensor, values: Tensor, runs: Sequence[Run]) -> Part:
    """Every query to the new tokens of its row up to its own: all packed alike, [N, heads, D]."""
    return joined(
        [
            _packed(*_kernel(run.of(queries), run.of(keys), run.of(values), causal=True))
            for run in runs
        ]
    )


def reads_to_own(queries: Tensor, keys: Tensor, values: Tensor, runs: Sequence[Run]) -> Part:
    """The reads of every row to the tokens of their row: `queries` [reads of all rows, H, D]."""
    parts = []
    at = 0
    for run in runs:
        count = len(run.reads)
        if not count:
            continue
        some = queries[at : at + run.rows * count].view(run.rows, count, *queries.shape[1:])
        at += run.rows * count
        ones = [
            _kernel(
                some[:, n : n + 1],
                run.of(keys)[:, : read + 1],
                run.of(values)[:, : read + 1],
                causal=False,
            )
            for n, read in enumerate(run.reads)
        ]
        out = torch.cat([one for one, _ in ones], dim=1)
        parts.append(_packed(out, torch.cat([weight for _, weight in ones], dim=2)))
    return joined(parts)


def to_slots(queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Part:
    """Some queries a row to slots of its own: `queries` [R, T, H, D]; `keys`, `values`
    [R, C, K, D]; `seen` [R, T, C] says which slots a query may see, at least one each."""
    bias = torch.zeros(seen.shape, dtype=queries.dtype, device=queries.device)
    bias.masked_fill_(~seen, float("-inf"))
    return _packed(*_kernel(queries, keys, values, causal=False, bias=bias[:, None]))


def _packed(out: Tensor, weight: Tensor) -> Part:
    """From [R, T, H, D] and [R, H, T] to packed tokens."""
    return Part(out.flatten(0, 1), weight.transpose(1, 2).flatten(0, 1))


def _kernel(
    queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """[R, T, H, D] over [R, C, K, D]: the attention, and its log-sum-exp [R, H, T]."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (queries, keys, values))
    if queries.device.type == "cpu":
        # Takes fewer heads of keys than of queries as they are (torch 2.13).
        out, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=bias
        )
        return out.transpose(1, 2), weight
    groups = q.shape[1] // k.shape[1]
    k, v = (tensor.repeat_interleave(groups, dim=1) for tensor in (k, v))
    if bias is None:
        out, weight = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal)[:2]
    else:
        # Wants a bias whose rows are aligned; pads the log-sum-exp to 32 queries.
        room = torch.zeros(
            (*bias.shape[:-1], -(-bias.shape[-1] // 16) * 16), dtype=bias.dtype, device=bias.device
        )
        room[..., : bias.shape[-1]] = bias
        aligned = room[..., : bias.shape[-1]].expand(-1, q.shape[1], -1, -1)
        out, weight = torch.ops.aten._scaled_dot_product_efficient_attention(
            q, k, v, aligned, True
        )[:2]
    return out.transpose(1, 2), weight[:, :, : q.shape[2]]
