"""The network over packed rows gives what `transformers` gives for each row alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qwarden_engine.checkpoint import open_checkpoint
from qwarden_engine.model import Cache, Qwen3, Span
from unit.engine.checkpoints import random_checkpoint

pytestmark = pytest.mark.parts  # transformers is slow

# Of final states, which are normed: what sums in another order lose in float32.
TOLERANCE = 2e-4
READ = (5, 900, 3)


class _Both:
    """One random checkpoint in this engine and in `transformers`."""

    def __init__(self, folder: Path, layers: int) -> None:
        from transformers import Qwen3ForCausalLM

        directory = random_checkpoint(folder, layers=layers, seed=layers)
        cpu = torch.device("cpu")
        checkpoint = open_checkpoint(str(directory))
        self.ours = Qwen3(checkpoint, READ, cpu, torch.float32, lambda _: None)
        self.theirs: Any = Qwen3ForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self._random = torch.Generator().manual_seed(layers)
        self.vocabulary = checkpoint.config.vocabulary

    def ids(self, count: int) -> list[int]:
        ids: list[int] = torch.randint(self.vocabulary, (count,), generator=self._random).tolist()
        return ids

    @torch.no_grad()
    def states(self, ids: Sequence[int], reads: Sequence[int]) -> Tensor:
        """What is expected at some places of one text."""
        states: Tensor = self.theirs.model(torch.tensor([list(ids)])).last_hidden_state[0]
        return states[list(reads)]

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> Tensor:
        logits: Tensor = self.theirs(torch.tensor([list(ids)])).logits[0, -1]
        return logits[list(READ)]


@pytest.fixture(scope="module", params=[1, 2, 3], ids=lambda layers: f"{layers} layers")
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> _Both:
    """One layer too: of the last one only what is read is computed."""
    return _Both(tmp_path_factory.mktemp("random"), request.param)


def _equal(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= TOLERANCE


def test_a_packed_row_has_another_state_than_alone(both: _Both) -> None:
    """Many lengths, several rows of one length, two prefixes of other lengths, rows that are read
    at one place, at several or at none, in one forward."""
    texts = {length: both.ids(length) for length in (37, 5)}
    prefixes = {length: both.ours.prefix(ids) for length, ids in texts.items()}
    rows: list[tuple[int, list[int], tuple[int, ...]]] = []
    for before in (37, 5):
        for length, reads in (
            *((1, (0,)), (7, (6,)), (7, (6,)), (7, (2, 6)), (7, (2, 6)), (7, (2, 6))),
            *((64, (0, 63)), (130, ()), (130, ()), (131, (130,)), (2, (0, 1))),
        ):
            rows.append((before, both.ids(length), reads))
    forwarded = both.ours.forward([Span(ids, prefixes[n], reads) for n, ids, reads in rows])
    expected = [
        both.states([*texts[n], *ids], [n + read for read in reads]) for n, ids, reads in rows
    ]
    _equal(forwarded.read, torch.cat(expected))
    starts = [sum(len(ids) for _, ids, _ in rows[:at]) for at in range(len(rows))]
    assert forwarded.starts == starts


def test_a_row_without_a_prefix_has_another_state(both: _Both) -> None:
    ids = [both.ids(9), both.ids(30)]
    forwarded = both.ours.forward([Span(ids[0], None, (0, 8)), Span(ids[1], None, (29,))])
    expected = torch.cat([both.states(ids[0], [0, 8]), both.states(ids[1], [29])])
    _equal(forwarded.read, expected)


def test_rows_of_which_nothing_is_read_raise(both: _Both) -> None:
    """Such are all slices of a long row but its last one, and a prefix."""
    forwarded = both.ours.forward([Span(both.ids(9), None, ()), Span(both.ids(4), None, ())])
    assert forwarded.read.shape[0] == 0
    assert all(len(keys) == 13 for keys in (*forwarded.kept.keys, *forwarded.kept.values))


def test_the_head_reads_other_tokens(both: _Both) -> None:
    ids = both.ids(12)
    forwarded = both.ours.forward([Span(ids, None, (11,))])
    ours = both.ours.logits(forwarded.read)[0]
    assert float((ours - both.logits(ids)).abs().max()) <= 10 * TOLERANCE


@pytest.mark.parametrize("cuts", [(), (70,), (64, 128), (1, 2, 3, 150), (199,)], ids=str)
def test_slices_leave_another_state_than_one_forward(both: _Both, cuts: tuple[int, ...]) -> None:
    """Read at two places of the last slice, behind a prefix; keys and values stay for what
    follows."""
    text, ids = both.ids(21), both.ids(203)
    prefix = both.ours.prefix(text)
    past = both.ours.past(len(ids))
    ends = [*cuts, len(ids)]
    read = torch.empty(0)
    for start, end in zip([0, *cuts], ends, strict=True):
        reads = (end - start - 4, end - start - 1) if end == len(ids) else ()
        read = both.ours.forward([Span(ids[start:end], prefix, reads)], past).read
        assert past.length == end
    places = [len(text) + len(ids) - 4, len(text) + len(ids) - 1]
    _equal(read, both.states([*text, *ids], places))
    whole = both.ours.forward([Span(ids, prefix, ())]).kept
    for kept, sliced in zip(
        (*whole.keys, *whole.values), (*past.store.keys, *past.store.values), strict=True
    ):
        _equal(sliced, kept)


class _Row:
    """A row that goes on, and its text."""

    def __init__(self, text: list[int], kept: int) -> None:
        self.text = text
        self.kept = kept


def _goes_on(both: _Both, cache: Cache, rows: list[_Row], before: list[int]) -> None:
    """Some steps of other widths a row, with a rewind, and a row that waits; each is compared."""
    for counts, ends, back in (
        ((3, 1, 2), (1, 1, 2), (2, 0, 0)),
        ((1, 4, 0), (1, 2, 0), (0, 2, 0)),
        ((2, 0, 5), (1, 0, 3), (0, 0, 0)),
    ):
        new = [both.ids(counts[at % 3]) for at in range(len(rows))]
        some_ends = [ends[at % 3] for at in range(len(rows))]
        states = both.ours.extend(cache, new, some_ends)
        for at, row in enumerate(rows):
            text = [*before, *row.text[: row.kept], *new[at]]
            if not new[at]:
                continue
            start = len(before) + row.kept
            places = [start + some_ends[at] - 1, start + len(new[at]) - 1]
            _equal(states[at], both.states(text, places))
            row.text = [*row.text[: row.kept], *new[at]]
            row.text = row.text[: len(row.text) - back[at % 3]]
            row.kept = len(row.text)
        cache.rewind([back[at % 3] for at in range(len(rows))])
        assert cache.lengths == [row.kept for row in rows]


def test_a_row_that_goes_on_sees_tokens_of_its_neighbour(both: _Both) -> None:
    """Rows out of the middle of a forward, cut off before their ends, beside longer ones."""
    before = both.ids(13)
    prefix = both.ours.prefix(before)
    texts = [both.ids(length) for length in (4, 4, 9, 40, 41)]
    forwarded = both.ours.forward([Span(ids, prefix, (len(ids) - 1,)) for ids in texts])
    picked = [(1, 4), (2, 6), (4, 33), (3, 40)]
    cache = both.ours.cache(
        forwarded, prefix, [row for row, _ in picked], [length for _, length in picked], 24
    )
    _goes_on(both, cache, [_Row(texts[row], length) for row, length in picked], before)


def test_a_sliced_row_goes_on_behind_another_text(both: _Both) -> None:
    before, ids = both.ids(13), both.ids(150)
    prefix = both.ours.prefix(before)
    past = both.ours.past(len(ids) + 24)
    both.ours.forward([Span(ids[:80], prefix, ())], past)
    both.ours.forward([Span(ids[80:], prefix, (69,))], past)
    cache = both.ours.cache_of(past, prefix, 145)
    _goes_on(both, cache, [_Row(ids, 145)], before)


def test_a_forward_leaves_something_for_the_next_one(both: _Both) -> None:
    """Memory for large results is kept and used again: never what was in it."""
    prefix = both.ours.prefix(both.ids(6))
    spans = [Span(both.ids(length), prefix, (length - 1,)) for length in (3, 50)]
    first = both.ours.forward(spans)
    read, keys = first.read.clone(), [each.clone() for each in first.kept.keys]
    values = [each.clone() for each in first.kept.values]
    both.ours.forward([Span(both.ids(200), prefix, (0, 199))])
    again = both.ours.forward(spans)
    assert torch.equal(first.read, read)
    assert torch.equal(again.read, read)
    for each, other in zip((*first.kept.keys, *first.kept.values), (*keys, *values), strict=True):
        assert torch.equal(each, other)


def test_bfloat16_loses_more_than_its_rounding(tmp_path: Path) -> None:
    """Beside float32: the same states, with what two layers in bfloat16 lose."""
    directory = random_checkpoint(tmp_path)
    checkpoint = open_checkpoint(str(directory))
    cpu = torch.device("cpu")
    read = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = Qwen3(checkpoint, READ, cpu, dtype, lambda _: None)
        prefix = model.prefix(list(range(40)))
        spans = [Span(list(range(n, 3 * n)), prefix, (n, 2 * n - 1)) for n in (2, 30, 31)]
        read[dtype] = model.forward(spans).read.float()
    wide, narrow = read[torch.float32], read[torch.bfloat16]
    likeness = torch.nn.functional.cosine_similarity(wide, narrow)
    assert float(likeness.min()) > 0.99


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_row_has_other_bits_beside_other_rows(tmp_path: Path, dtype: str) -> None:
    """Read at two places, its keys and values, and some tokens further: alone, beside few rows and
    beside many, of equal and of other lengths."""
    checkpoint = open_checkpoint(str(random_checkpoint(tmp_path, layers=3)))
    computed = torch.float32 if dtype == "float32" else torch.bfloat16
    cpu = torch.device("cpu")
    model = Qwen3(checkpoint, READ, cpu, computed, lambda _: None, int8=dtype == "int8")
    chooser = torch.Generator().manual_seed(7)

    def ids(count: int) -> list[int]:
        drawn = torch.randint(checkpoint.config.vocabulary, (count,), generator=chooser)
        return [int(each) for each in drawn]

    prefix = model.prefix(ids(57))
    texts = sorted((ids(5 + at * 7 % 120) for at in range(60)), key=len)
    new = [ids(1 + at % 4) for at in range(60)]

    def states(rows: list[int]) -> list[tuple[Tensor, ...]]:
        """Of each row all that is computed for it."""
        spans = [Span(texts[at], prefix, (1, len(texts[at]) - 1)) for at in rows]
        done = model.forward(spans)
        lengths = [len(texts[at]) for at in rows]
        cache = model.cache(done, prefix, range(len(rows)), lengths, 4)
        ends = [len(new[at]) for at in rows]
        further = model.logits(model.extend(cache, [new[at] for at in rows], ends))
        return [
            (
                model.logits(done.read[2 * n : 2 * n + 2]),
                *(keys[start : start + length] for keys in done.kept.keys),
                *(values[start : start + length] for values in done.kept.values),
                further[n],
            )
            for n, (start, length) in enumerate(zip(done.starts, lengths, strict=True))
        ]

    alone = [states([at])[0] for at in range(60)]
    for rows in (list(range(60)), list(range(0, 60, 3)), [4, 40], [8, 9, 10, 11, 12], [58, 59]):
        for at, found in zip(rows, states(rows), strict=True):
            for one, other in zip(found, alone[at], strict=True):
                assert torch.equal(one, other), (at, rows)
