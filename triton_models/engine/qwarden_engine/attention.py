"""Causal attention of many rows at once, in parts that are merged by their log-sum-exp.

A query attends to up to three stretches of keys: its task's prefix, which all rows share and which
exists once; what earlier slices of its row have left; and the new tokens of its row. Softmax over
all of them is the average of the parts, weighted by the exponentials of their log-sum-exps (as in
FlashAttention, arXiv 2205.14135). So no row needs a copy of the prefix, and no token is padded.
On a CPU a row's result is the same to the last bit whatever rows are beside it: each call's shape
comes from one row, or the call sums every query alike.
Shapes: N packed tokens, H heads, K heads of keys and values (H is a multiple), D per head.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from qwarden_engine.linear import linear


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


@dataclass(frozen=True, slots=True)
class Packing:
    """How rows lie in a packing. `rows`: of each its length and its reads. `starts`: where each
    begins, and the end."""

    rows: Sequence[tuple[int, tuple[int, ...]]]
    starts: Sequence[int]
    runs: Sequence[Run]

    @classmethod
    def of(cls, rows: Sequence[tuple[int, tuple[int, ...]]]) -> Packing:
        starts = [0, *accumulate(length for length, _ in rows)]
        return cls(rows, starts, _runs(rows))

    @property
    def longest(self) -> int:
        return max(length for length, _ in self.rows)


def _runs(rows: Sequence[tuple[int, tuple[int, ...]]]) -> list[Run]:
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
    """What attention to all stretches together gives, in float32: [N, H, D]."""
    whole = parts[0]
    for part in parts[1:]:
        # By exp and log, since torch's sigmoid and logaddexp for CPUs give the last few values of
        # a tensor other last bits than the same values elsewhere in it.
        between = (whole.weight - part.weight).abs_().neg_()
        weight = torch.maximum(whole.weight, part.weight) + between.exp_().add_(1).log_()
        share = (part.weight - weight).exp_().unsqueeze_(-1)
        whole = Part(torch.lerp(whole.out.float(), part.out.float(), share), weight)
    return whole.out.float()


def joined(parts: Sequence[Part]) -> Part:
    """Parts of queries that follow each other."""
    if len(parts) == 1:
        return parts[0]
    return Part(torch.cat([p.out for p in parts]), torch.cat([p.weight for p in parts]))


class Shared(Protocol):
    """Keys and values of one layer that many rows attend to: every query to all of them."""

    def __call__(self, queries: Tensor) -> Part:
        """`queries`: [N, H, D]."""
        ...


def shared(keys: Tensor, values: Tensor) -> Shared:
    """Of `keys` and `values` [L, K, D], L above 0, in a form of their own."""
    return (SharedOnCpu if keys.device.type == "cpu" else SharedOnCuda)(keys, values)


class SharedOnCpu:
    """By matrix products with keys and values that are laid out for them once, in float32.

    A flash call of all queries takes a third longer at the shapes of a 0.6B guard, in bfloat16 too,
    and about as long at those of a tiny one; and it cuts the queries into blocks, the last of which
    sums as its number has it.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        keys = keys.float() * keys.shape[-1] ** -0.5
        self._heads = [
            (linear(keys[:, head]), linear(values[:, head].float().t()))
            for head in range(keys.shape[1])
        ]

    def __call__(self, queries: Tensor) -> Part:
        count, heads, size = queries.shape
        group = heads // len(self._heads)
        out = queries.new_empty(queries.shape, dtype=torch.float32)
        weight = queries.new_empty((count, heads), dtype=torch.float32)
        for head, (keys, values) in enumerate(self._heads):
            of_head = slice(head * group, (head + 1) * group)
            scores = keys(queries[:, of_head].float().reshape(-1, size))
            shares = scores.softmax(dim=1)
            out[:, of_head] = values(shares).view(count, group, size)
            # log-sum-exp = score - log(share), of the score whose share is least rounded.
            largest, its_share = scores.amax(dim=1), shares.amax(dim=1)
            weight[:, of_head] = largest.sub_(its_share.log_()).view(count, group)
        return Part(out, weight)


class SharedOnCuda:
    """By FlashAttention, as the rest."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._keys = keys
        self._values = values

    def __call__(self, queries: Tensor) -> Part:
        return _all_on_cuda(queries, self._keys, self._values)


class Attention(Protocol):
    """The parts that are of one row, on one kind of device."""

    def to_past(self, queries: Tensor, keys: Tensor, values: Tensor) -> Part:
        """Every query of the only row to every key: [N, H, D] to [L, K, D], L above 0."""
        ...

    def to_own(self, queries: Tensor, keys: Tensor, values: Tensor) -> Part:
        """Every query to the new tokens of its row up to its own: all packed, [N, heads, D]."""
        ...

    def reads_to_own(self, queries: Tensor, keys: Tensor, values: Tensor) -> Part:
        """The reads of every row to the tokens of their row: `queries` [all reads, H, D]."""
        ...


class OnCpu:
    """By the flash kernel of torch for CPUs, a call for each run: 26 µs a call, and no padding."""

    def __init__(self, packing: Packing) -> None:
        self._runs = packing.runs

    def to_past(self, queries: Tensor, keys: Tensor, values: Tensor) -> Part:
        return _packed(*_flash_on_cpu(queries[None], keys[None], values[None], causal=False))

    def to_own(self, queries: Tensor, keys: Tensor, values: Tensor) -> Part:
        return joined(
            [
                _packed(*_flash_on_cpu(run.of(queries), run.of(keys), run.of(values), causal=True))
                for run in self._runs
            ]
        )

    def reads_to_own(self, queries: Tensor, keys: Tensor, values: Tensor) -> Part:
        parts = []
        at = 0
        for run in self._runs:
            count = len(run.reads)
            if not count:
                continue
            some = queries[at : at + run.rows * count].view(run.rows, count, *queries.shape[1:])
            at += run.rows * count
            ones = [
                _flash_on_cpu(
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


class OnCuda:
    """By FlashAttention 2 as torch carries it: one call a part, whatever the rows' lengths.

    Its causal mask is aligned to the last key of each row. In bfloat16 only. Not run yet: its
    shapes are checked against torch's own, its numbers are not.
    """

    def __init__(self, packing: Packing, device: torch.device) -> None:
        self._starts = _int32(packing.starts, device)
        self._longest = packing.longest
        # Every read is a row of its own, whose keys begin where its row begins.
        reads = [
            (start, read + 1)
            for start, (_, reads) in zip(packing.starts, packing.rows, strict=False)
            for read in reads
        ]
        self._each = _int32(range(len(reads) + 1), device)
        self._from = _int32([*(start for start, _ in reads), packing.starts[-1]], device)
        self._used = _int32([used for _, used in reads], device)

    def to_past(self, queries: Tensor, keys: Tensor, values: Tensor) -> Part:
        return _all_on_cuda(queries, keys, values)

    def to_own(self, queries: Tensor, keys: Tensor, values: Tensor) -> Part:
        ends = (self._starts, self._starts)
        most = (self._longest, self._longest)
        return _flash_on_cuda(queries, keys, values, ends, most, causal=True)

    def reads_to_own(self, queries: Tensor, keys: Tensor, values: Tensor) -> Part:
        ends = (self._each, self._from)
        most = (1, self._longest)
        return _flash_on_cuda(queries, keys, values, ends, most, causal=False, used=self._used)


def attention_of(packing: Packing, device: torch.device) -> Attention:
    """The parts for these rows on this device."""
    return OnCpu(packing) if device.type == "cpu" else OnCuda(packing, device)


@dataclass(frozen=True, slots=True)
class Slots:
    """Where rows go on: row r has `before[r]` tokens in slots of its own, and `added[r]` new ones
    behind them; the new tokens of all rows are packed."""

    before: Sequence[int]
    added: Sequence[int]

    @property
    def rows(self) -> list[int]:
        """The row of each new token."""
        return [row for row, count in enumerate(self.added) for _ in range(count)]

    @property
    def places(self) -> list[int]:
        """The slot of each new token."""
        pairs = zip(self.before, self.added, strict=True)
        return [held + n for held, count in pairs for n in range(count)]

    @property
    def starts(self) -> list[int]:
        """Where each row's new tokens begin in the packing, and the end."""
        return [0, *accumulate(self.added)]


def to_slots(queries: Tensor, keys: Tensor, values: Tensor, slots: Slots) -> Part:
    """Every new token to its row's slots, up to its own: `queries` [N, H, D]; `keys`, `values`
    [R, C, K, D], the new tokens among them."""
    if queries.device.type != "cpu":
        return slots_on_cuda(queries, keys, values, slots)
    parts = []
    # A call a row, of just its own slots: masked ones behind them would change how the kernel sums.
    spans = zip(slots.starts, slots.before, slots.added, strict=False)
    for row, (start, held, count) in enumerate(spans):
        if not count:
            continue
        end = held + count
        bias = None
        if count > 1:
            unseen = torch.ones(count, end, dtype=torch.bool).triu_(held + 1)
            bias = torch.zeros(1, 1, count, end, dtype=queries.dtype)
            bias.masked_fill_(unseen, float("-inf"))
        some = queries[None, start : start + count]
        own = keys[row : row + 1, :end], values[row : row + 1, :end]
        parts.append(_packed(*_flash_on_cpu(some, *own, causal=False, bias=bias)))
    return joined(parts)


def slots_on_cuda(queries: Tensor, keys: Tensor, values: Tensor, slots: Slots) -> Part:
    """`to_slots`, where a causal mask that is aligned to the last token used does it."""
    device, room = queries.device, keys.shape[1]
    used = [held + count for held, count in zip(slots.before, slots.added, strict=True)]
    ends = (
        _int32(slots.starts, device),
        _int32(range(0, (len(used) + 1) * room, room), device),
    )
    return _flash_on_cuda(
        queries,
        keys.flatten(0, 1),
        values.flatten(0, 1),
        ends,
        (max(slots.added), room),
        causal=True,
        used=_int32(used, device),
    )


@dataclass(frozen=True, slots=True)
class Stretch:
    """Where one session's tokens lie in a slab: `before` held ones from `start`, and new ones
    behind them. `rows`: which of the new ones ask, in order, at least one."""

    start: int
    before: int
    rows: Sequence[int]

    @property
    def end(self) -> int:
        """Where the last token lies that a row sees, and one."""
        return self.start + self.before + self.rows[-1] + 1


class OfSlab(Protocol):
    """Attention of many sessions' new tokens to all of their session up to their own. It is made
    once for all layers."""

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """`queries` [N, H, D], of all rows of all sessions; `keys`, `values` [K, tokens, D]. Gives
        [N, H, D]."""
        ...


def of_slab(
    stretches: Sequence[Stretch], groups: int, dtype: torch.dtype, device: torch.device
) -> OfSlab:
    """For these sessions, at least one, on this device. `groups`: H by K."""
    if device.type == "cpu":
        return OfSlabOnCpu(stretches, groups, dtype)
    return OfSlabOnCuda(stretches, device)


class OfSlabOnCpu:
    """By the flash kernel of torch for CPUs, a call a session.

    The queries that share a head of keys go through it as if they were one head's, so that keys and
    values are read once: half the time in bfloat16 and no more in float32, with one new token.
    """

    def __init__(self, stretches: Sequence[Stretch], groups: int, dtype: torch.dtype) -> None:
        self._groups = groups
        self._sessions = []
        at = 0
        for stretch in stretches:
            count = len(stretch.rows)
            some = slice(at, at + count), slice(stretch.start, stretch.end)
            # The kernel's own mask, which spares half the work, is right from the first token on.
            causal = not stretch.before and count == stretch.rows[-1] + 1
            bias = None if causal or count == 1 else self._unseen(stretch, dtype)
            self._sessions.append((*some, causal, bias))
            at += count

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        parts = []
        for rows, tokens, causal, bias in self._sessions:
            groups = 1 if causal else self._groups
            some = _grouped(queries[rows], groups).transpose(0, 1)
            out, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                some.flatten(1, 2)[None],
                keys[None, :, tokens],
                values[None, :, tokens],
                is_causal=causal,
                attn_mask=bias,
            )
            parts.append(_grouped(out[0], groups).transpose(0, 1).flatten(1, 2))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _unseen(self, stretch: Stretch, dtype: torch.dtype) -> Tensor:
        """Minus infinity where a row does not see a token: [1, 1, rows by groups, tokens]."""
        seen = torch.tensor(stretch.rows)[:, None] + stretch.before + 1
        unseen = torch.arange(stretch.end - stretch.start) >= seen
        bias = torch.zeros(unseen.shape, dtype=dtype).masked_fill_(unseen, float("-inf"))
        return bias.repeat_interleave(self._groups, dim=0)[None, None]


def _grouped(packed: Tensor, size: int) -> Tensor:
    """[a, n, D] to [a, n / size, size, D]."""
    return packed.view(packed.shape[0], -1, size, packed.shape[2])


class OfSlabOnCuda:
    """By FlashAttention 2, one call for all sessions: each begins anywhere in the slab, and of what
    is there its first tokens are used.

    Its causal mask, which is aligned to the last token used, is right where a session's rows are
    its new tokens from the first one; else every row is a session of its own. Not run yet: its
    shapes are checked against torch's own, its numbers are not.
    """

    def __init__(self, stretches: Sequence[Stretch], device: torch.device) -> None:
        if any(len(each.rows) != each.rows[-1] + 1 for each in stretches):
            stretches = [
                Stretch(each.start, each.before + row, (0,))
                for each in stretches
                for row in each.rows
            ]
        counts = [len(each.rows) for each in stretches]
        used = [each.end - each.start for each in stretches]
        self._ends = (
            _int32([0, *accumulate(counts)], device),
            _int32([*(each.start for each in stretches), stretches[-1].end], device),
        )
        self._used = _int32(used, device)
        self._most = (max(counts), max(used))

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        some = keys.transpose(0, 1), values.transpose(0, 1)
        return _flash_on_cuda(
            queries, *some, self._ends, self._most, causal=True, used=self._used
        ).out


def _packed(out: Tensor, weight: Tensor) -> Part:
    """From [R, T, H, D] and [R, H, T] to packed tokens."""
    return Part(out.flatten(0, 1), weight.transpose(1, 2).flatten(0, 1))


def _flash_on_cpu(
    queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """[R, T, H, D] over [R, C, K, D]: the attention, and its log-sum-exp [R, H, T]. Takes fewer
    heads of keys than of queries as they are (torch 2.13)."""
    count = queries.shape[1]
    if count < _FEWEST:
        queries = _filled(queries, 1)
        bias = None if bias is None else _filled(bias, 2)
    q, k, v = (tensor.transpose(1, 2) for tensor in (queries, keys, values))
    out, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, attn_mask=bias
    )
    return out.transpose(1, 2)[:, :count], weight[..., :count]


_FEWEST = 4
"""Queries of a call. Fewer are summed in an order that depends on the thread that gets them, by the
alignment of its buffers: 63 of 135 rows with one query changed beside others, of those with four
or more none."""


def _filled(queries: Tensor, dim: int) -> Tensor:
    """With the last one repeated until there are enough."""
    last = queries.narrow(dim, -1, 1)
    return torch.cat((queries, *[last] * (_FEWEST - queries.shape[dim])), dim)


def _all_on_cuda(queries: Tensor, keys: Tensor, values: Tensor) -> Part:
    """Every query to every key."""
    ends = (_int32([0, len(queries)], queries.device), _int32([0, len(keys)], queries.device))
    return _flash_on_cuda(queries, keys, values, ends, (len(queries), len(keys)), causal=False)


def _flash_on_cuda(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    ends: tuple[Tensor, Tensor],
    most: tuple[int, int],
    *,
    causal: bool,
    used: Tensor | None = None,
) -> Part:
    """Packed queries and keys of rows that end at `ends`, of at most so many tokens; of each row's
    keys the first `used`. The log-sum-exp comes as [H, N]."""
    out, weight = torch.ops.aten._flash_attention_forward(
        queries, keys, values, *ends, *most, 0.0, causal, False, seqused_k=used
    )[:2]
    return Part(out, weight.transpose(0, 1))


def _int32(values: Iterable[int], device: torch.device) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int32, device=device)
