"""Attention in parts, merged by their log-sum-exp, is attention to all stretches together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from examples import examples
from qwarden_engine import attention
from qwarden_engine.attention import (
    OfSlabOnCpu,
    OfSlabOnCuda,
    OnCpu,
    OnCuda,
    Packing,
    Part,
    Run,
    Slots,
    Stretch,
)

# Of the largest value: what the sums lose, and for bfloat16 what rounding the weights, each part,
# its share and their average loses.
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4 * 2**-8}
NOTHING = OnCpu(Packing.of([(1, ())]))
_DTYPES = pytest.mark.parametrize("dtype", list(_TOLERANCE), ids=str)


@dataclass(frozen=True)
class _Shape:
    heads: int
    kv_heads: int
    head_dim: int


_shapes = st.builds(
    lambda kv_heads, groups, head_dim: _Shape(kv_heads * groups, kv_heads, head_dim),
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from([8, 16, 32, 64]),
)


@st.composite
def _rows(draw: st.DrawFn) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Lengths and reads of rows, some of them equal to the one before, so that runs have rows."""
    rows: list[tuple[int, tuple[int, ...]]] = []
    for _ in range(draw(st.integers(1, 5))):
        again: bool = draw(st.booleans())
        if rows and again:
            rows.append(rows[-1])
            continue
        length = draw(st.integers(1, 40))
        reads = draw(st.lists(st.integers(0, length - 1), max_size=3, unique=True).map(sorted))
        rows.append((length, tuple(reads)))
    return tuple(rows)


class _Values:
    """Random tensors of one dtype. `scale` sharpens the softmax, so that parts differ in weight."""

    def __init__(self, seed: int, shape: _Shape, dtype: torch.dtype, scale: float) -> None:
        self._random = torch.Generator().manual_seed(seed)
        self._shape = shape
        self._dtype = dtype
        self._scale = scale

    def queries(self, *tokens: int) -> Tensor:
        return self._of(*tokens, self._shape.heads) * self._scale

    def keys(self, *tokens: int) -> Tensor:
        return self._of(*tokens, self._shape.kv_heads)

    def _of(self, *sizes: int) -> Tensor:
        sizes = (*sizes, self._shape.head_dim)
        return torch.randn(sizes, generator=self._random).to(self._dtype)


def _plain(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax attention of one query [H, D] to [L, K, D], by its definition, in float64; and the
    log-sum-exp."""
    groups = query.shape[0] // keys.shape[1]
    keys, values = (each.double().repeat_interleave(groups, dim=1) for each in (keys, values))
    scores = torch.einsum("hd,lhd->hl", query.double(), keys) / math.sqrt(query.shape[-1])
    return torch.einsum("hl,lhd->hd", scores.softmax(1), values), scores.logsumexp(1)


def _near(ours: Tensor, plain: list[Tensor], values: list[Tensor], dtype: torch.dtype) -> None:
    largest = max(float(each.abs().max()) for each in values)
    assert ours.dtype is torch.float32
    assert torch.isfinite(ours).all()
    difference = (ours.double() - torch.stack(plain)).abs().max()
    assert float(difference) <= _TOLERANCE[dtype] * max(1.0, largest)


@_DTYPES
@settings(max_examples=examples(25))
@given(
    shape=_shapes,
    rows=_rows(),
    prefix=st.integers(0, 50),
    past=st.integers(0, 40),
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([0.1, 1.0, 8.0]),
)
def test_merged_parts_are_another_average_than_softmaxs(
    *,
    dtype: torch.dtype,
    shape: _Shape,
    rows: tuple[tuple[int, tuple[int, ...]], ...],
    prefix: int,
    past: int,
    seed: int,
    scale: float,
) -> None:
    """Every token to prefix, past and own tokens; and the reads alone, as the last layer does."""
    some = _Values(seed, shape, dtype, scale)
    total = sum(length for length, _ in rows)
    queries, keys, values = some.queries(total), some.keys(total), some.keys(total)
    outside = [(some.keys(n), some.keys(n)) for n in (prefix, past) if n]
    attend = OnCpu(Packing.of(rows))

    plain = []
    read_at = []
    at = 0
    for length, reads in rows:
        read_at += [at + read for read in reads]
        for token in range(length):
            own = slice(at, at + token + 1)
            all_keys = torch.cat([*(k for k, _ in outside), keys[own]])
            all_values = torch.cat([*(v for _, v in outside), values[own]])
            plain.append(_plain(queries[at + token], all_keys, all_values)[0])
        at += length

    every = [values, *(v for _, v in outside)]
    parts = _outside(queries, outside, attend, prefix)
    own_part = attend.to_own(queries, keys, values)
    _near(attention.merged([*parts, own_part]), plain, every, dtype)
    # The order in which parts are merged is of no matter beyond rounding.
    _near(attention.merged([own_part, *parts]), plain, every, dtype)
    if read_at:
        some_queries = queries[torch.tensor(read_at)]
        parts = _outside(some_queries, outside, attend, prefix)
        parts.append(attend.reads_to_own(some_queries, keys, values))
        _near(attention.merged(parts), [plain[at] for at in read_at], every, dtype)


def _outside(
    queries: Tensor, outside: list[tuple[Tensor, Tensor]], attend: OnCpu, prefix: int
) -> list[Part]:
    """The prefix, where there is one, as what all rows share; else as the past of one."""
    parts = [attend.to_past(queries, *each) for each in outside]
    if prefix:
        parts[0] = attention.shared(*outside[0])(queries)
    return parts


def _flash(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    ends: tuple[Tensor, Tensor],
    most: tuple[int, int],
    *,
    causal: bool,
    used: Tensor | None = None,
) -> Part:
    """FlashAttention 2 for rows of many lengths, by its definition: row r has the queries from
    `ends[0][r]` to the next, and of its keys, which begin at `ends[1][r]`, the first `used`; its
    causal mask is aligned to the last of them."""
    out = torch.empty_like(queries)
    weight = torch.empty(queries.shape[:2])
    for row, (start, end) in enumerate(pairwise(ends[0].tolist())):
        first = int(ends[1][row])
        count = int(used[row]) if used is not None else int(ends[1][row + 1]) - first
        assert end - start <= most[0]
        assert count <= most[1]
        for at in range(start, end):
            seen = count - (end - 1 - at) if causal else count
            some = slice(first, first + seen)
            one, its_weight = _plain(queries[at], keys[some], values[some])
            out[at], weight[at] = one.to(out.dtype), its_weight.float()
    return Part(out, weight)


@settings(max_examples=examples(25))
@given(_shapes, _rows(), st.integers(1, 9), st.integers(0, 2**32))
def test_rows_get_each_others_keys_on_cuda(
    shape: _Shape, rows: tuple[tuple[int, tuple[int, ...]], ...], width: int, seed: int
) -> None:
    """What is handed to FlashAttention, whose kernel stands in here by its definition."""
    some = _Values(seed, shape, torch.float32, 2.0)
    total = sum(length for length, _ in rows)
    queries, keys, values = some.queries(total), some.keys(total), some.keys(total)
    read_at = [
        start + read
        for start, (_, reads) in zip(Packing.of(rows).starts, rows, strict=False)
        for read in reads
    ]
    cpu, cuda = OnCpu(Packing.of(rows)), OnCuda(Packing.of(rows), torch.device("cpu"))
    room = 12 + width
    slots = Slots(
        [at * 5 % 12 for at, _ in enumerate(rows)],
        [(at + seed) % width + 1 for at, _ in enumerate(rows)],
    )
    asked = some.queries(sum(slots.added))
    stored = some.keys(len(rows), room), some.keys(len(rows), room)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_flash_on_cuda", _flash)
        pairs = [
            (cpu.to_own(queries, keys, values), cuda.to_own(queries, keys, values)),
            (cpu.to_past(queries, keys, values), cuda.to_past(queries, keys, values)),
        ]
        if read_at:
            reads = queries[torch.tensor(read_at)]
            pairs.append(
                (cpu.reads_to_own(reads, keys, values), cuda.reads_to_own(reads, keys, values))
            )
        pairs.append(
            (
                attention.to_slots(asked, *stored, slots),
                attention.slots_on_cuda(asked, *stored, slots),
            )
        )
    for one, other in pairs:
        assert torch.allclose(one.out, other.out, atol=1e-4)
        assert torch.allclose(one.weight, other.weight, atol=1e-4)


@_DTYPES
@settings(max_examples=examples(25))
@given(
    _shapes,
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)), min_size=1, max_size=4),
    st.integers(1, 40),
    st.integers(0, 2**32),
)
def test_slots_beyond_a_row_are_seen(
    dtype: torch.dtype, shape: _Shape, rows: list[tuple[int, int]], prefix: int, seed: int
) -> None:
    """Rows of other lengths that go on by other counts: what lies behind a row is not its own."""
    some = _Values(seed, shape, dtype, 2.0)
    slots = Slots([own for own, _ in rows], [new for _, new in rows])
    room = max(own + new for own, new in rows) + 1
    queries = some.queries(sum(slots.added))
    if not len(queries):
        return
    keys, values = some.keys(len(rows), room), some.keys(len(rows), room)
    before = some.keys(prefix), some.keys(prefix)
    plain = []
    for token, (row, place) in enumerate(zip(slots.rows, slots.places, strict=True)):
        all_keys = torch.cat([before[0], keys[row, : place + 1]])
        all_values = torch.cat([before[1], values[row, : place + 1]])
        plain.append(_plain(queries[token], all_keys, all_values)[0])
    merged = attention.merged(
        [attention.shared(*before)(queries), attention.to_slots(queries, keys, values, slots)]
    )
    _near(merged, plain, [values, before[1]], dtype)


@st.composite
def _stretches(draw: st.DrawFn) -> list[Stretch]:
    """Sessions that follow each other in a slab in any order, with gaps, and what of them asks."""
    some = []
    start = 0
    for _ in range(draw(st.integers(1, 4))):
        start += draw(st.integers(0, 5))
        before, added = draw(st.integers(0, 40)), draw(st.integers(1, 20))
        every = draw(st.booleans())
        rows = draw(st.sets(st.integers(0, added - 1), min_size=1)) if not every else range(added)
        some.append(Stretch(start, before, sorted(rows)))
        start += before + added
    return draw(st.permutations(some))


@_DTYPES
@settings(max_examples=examples(60))
@given(_shapes, _stretches(), st.integers(0, 2**32))
def test_a_session_sees_another_or_tokens_to_come(
    dtype: torch.dtype, shape: _Shape, stretches: list[Stretch], seed: int
) -> None:
    some = _Values(seed, shape, dtype, 2.0)
    queries = some.queries(sum(len(each.rows) for each in stretches))
    tokens = max(each.end for each in stretches) + 7
    keys, values = (some.keys(tokens).transpose(0, 1).contiguous() for _ in range(2))
    plain: list[Tensor] = []
    for each in stretches:
        for row in each.rows:
            seen = slice(each.start, each.start + each.before + row + 1)
            query = queries[len(plain)]
            plain.append(
                _plain(query, keys[:, seen].transpose(0, 1), values[:, seen].transpose(0, 1))[0]
            )
    groups = shape.heads // shape.kv_heads
    ours = OfSlabOnCpu(stretches, groups, dtype)(queries, keys, values)
    assert ours.dtype is dtype
    _near(ours.float(), plain, [values], dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_flash_on_cuda", _flash)
        cuda = OfSlabOnCuda(stretches, torch.device("cpu"))(queries, keys, values)
    _near(cuda.float(), plain, [values], dtype)


@settings(max_examples=examples(25))
@given(_shapes, st.integers(1, 30), st.integers(1, 60), st.integers(0, 2**32))
def test_a_parts_weight_is_another_number_than_its_log_sum_exp(
    shape: _Shape, queries: int, keys: int, seed: int
) -> None:
    some = _Values(seed, shape, torch.float32, 4.0)
    asked, held, values = some.queries(queries), some.keys(keys), some.keys(keys)
    for part in (NOTHING.to_past(asked, held, values), attention.shared(held, values)(asked)):
        assert part.weight.shape == (queries, shape.heads)
        for at in range(queries):
            assert torch.allclose(
                part.weight[at].double(), _plain(asked[at], held, values)[1], atol=1e-4
            )


def test_a_part_without_weight_changes_the_whole() -> None:
    """Weights so far apart that their exponentials overflow: the share is 0 or 1, and a number."""
    light = Part(torch.full((1, 2, 4), 5.0), torch.full((1, 2), -900.0))
    heavy = Part(torch.full((1, 2, 4), 7.0), torch.full((1, 2), 900.0))
    for parts in ([light, heavy], [heavy, light], [light, heavy, light]):
        assert torch.equal(attention.merged(parts), heavy.out)


@settings(max_examples=examples(200))
@given(_rows())
def test_a_run_joins_rows_that_differ(rows: tuple[tuple[int, tuple[int, ...]], ...]) -> None:
    runs = Packing.of(rows).runs
    assert [(run.length, run.reads) for run in runs for _ in range(run.rows)] == list(rows)
    assert all(
        (one.length, one.reads) != (other.length, other.reads) for one, other in pairwise(runs)
    )
    ends = [run.start + run.rows * run.length for run in runs]
    assert [run.start for run in runs] == [0, *ends[:-1]]
    packed = torch.arange(ends[-1] * 2).view(-1, 2)
    assert torch.equal(torch.cat([run.of(packed).flatten(0, 1) for run in runs]), packed)
    assert isinstance(runs[0], Run)
