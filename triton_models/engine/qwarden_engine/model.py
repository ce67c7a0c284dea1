"""The network of the Gen engine, over the packed tokens of many rows.

Shapes in docstrings: N packed new tokens, R rows,
T new tokens a row, C slots of a row's own tokens, H heads, K heads of keys and values, D a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from qwarden_engine.attention import (
    Attention,
    Packing,
    Part,
    Shared,
    Slots,
    attention_of,
    joined,
    merged,
    shared,
    to_slots,
)
from qwarden_engine.checkpoint import Checkpoint
from qwarden_engine.layers import Backbone, Weights
from qwarden_engine.linear import linear


@dataclass(frozen=True, slots=True)
class Kept:
    """Keys and values of a stretch of tokens: a layer each, [tokens, K, D]."""

    keys: list[Tensor]
    values: list[Tensor]

    @property
    def length(self) -> int:
        return self.keys[0].shape[0]


@dataclass(frozen=True, slots=True)
class Prefix:
    """A text that comes first in many rows: its tokens, and a layer each what is attended to."""

    length: int
    layers: Sequence[Shared]


@dataclass(slots=True)
class Past:
    """What the earlier slices of one row have left, in stores of the row's final size.

    `store`: slots of which the first `length` are real.
    """

    store: Kept
    length: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """New tokens of one row behind `prefix`. `reads`: at which of them the state is wanted."""

    ids: Sequence[int]
    prefix: Prefix | None
    reads: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What a forward gives: `read` [reads of all spans, hidden], normed, in order; the keys and
    values of all spans, packed; and where each span starts in them."""

    read: Tensor
    kept: Kept
    starts: Sequence[int]


@dataclass(slots=True)
class Cache:
    """Keys and values of rows that go on a few tokens at a time, behind one prefix.

    `keys`, `values`: a layer each, [R, C, K, D]. `lengths`: of each row, own tokens that are real;
    what lies in slots beyond is overwritten by what comes next and never read.
    """

    prefix: Prefix
    keys: list[Tensor]
    values: list[Tensor]
    lengths: list[int]

    @property
    def padding(self) -> int:
        """Slots that hold no token."""
        rows, slots = self.keys[0].shape[:2]
        return rows * slots - sum(self.lengths)

    def rewind(self, tokens: Sequence[int]) -> None:
        """Takes back the last so many tokens of each row."""
        self.lengths = [held - back for held, back in zip(self.lengths, tokens, strict=True)]


@dataclass(frozen=True, slots=True)
class _Step:
    """What all layers of one forward share."""

    spans: Sequence[Span]
    past: Past | None
    attend: Attention


class Qwen3(Backbone):
    """The network of one checkpoint, with only those rows of its head that are read.

    `read`: token ids whose logits are wanted.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        read: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
        progress: Callable[[str], None],
        *,
        int8: bool = False,
    ) -> None:
        super().__init__(checkpoint, device, dtype, progress, int8=int8)
        at = torch.tensor(list(read))
        head = (
            self.embeddings[at.to(device)]
            if self.config.tied
            else Weights(checkpoint.weights, device).stored("lm_head.weight", on="cpu")[at]
        )
        self._head = linear(head.to(device).float())

    @torch.inference_mode()
    def prefix(self, ids: Sequence[int]) -> Prefix:
        """What rows attend to of a text that comes first, computed once. `ids`: not empty."""
        kept = self.forward([Span(ids, None, ())]).kept
        return Prefix(kept.length, list(map(shared, kept.keys, kept.values)))

    def past(self, tokens: int) -> Past:
        """An empty past for a row of so many own tokens.

        One block: of layers apart glibc would keep what they free, up to 2 GiB (`keep_memory`), and
        at 0.6B a row of 8,000 tokens leaves 0.9 GiB behind in bfloat16.
        """
        config = self.config
        shape = (2, config.layers, tokens, config.kv_heads, config.head_dim)
        keys, values = torch.empty(shape, dtype=self.dtype, device=self.device)
        return Past(Kept(list(keys), list(values)))

    @torch.inference_mode()
    def forward(self, spans: Sequence[Span], past: Past | None = None) -> Forwarded:
        """Runs the new tokens of all spans.

        Spans of one prefix stand together; those of equal length and reads beside each other cost
        less. `past`: of the only span; what is new is added to it.
        """
        config = self.config
        packing = Packing.of([(len(span.ids), span.reads) for span in spans])
        ids = [i for span in spans for i in span.ids]
        before = [span.prefix.length if span.prefix else 0 for span in spans]
        if past is not None:
            before[0] += past.length
        rope = self.rope.at(
            torch.cat(
                [
                    torch.arange(at, at + n, device=self.device)
                    for at, (n, _) in zip(before, packing.rows, strict=True)
                ]
            )
        )
        reads = torch.tensor(
            [
                start + read
                for span, start in zip(spans, packing.starts, strict=False)
                for read in span.reads
            ],
            dtype=torch.long,
            device=self.device,
        )
        step = _Step(spans, past, attention_of(packing, self.device))
        kept = Kept([], [])
        hidden = self.embedded(ids)
        for at, layer in enumerate(self.layers):
            normed = self.normed(hidden, layer.norm_in)
            # Of the last layer only what is read is needed beside the keys and values: nothing
            # follows from the other tokens' states.
            last = at == config.layers - 1
            keys, values = self.key_value(normed, layer, rope)
            kept.keys.append(keys)
            kept.values.append(values)
            if last:
                hidden = hidden[reads]
                if not len(reads):
                    break
                queries = self.query(normed[reads], layer, rope.at(reads))
            else:
                queries = self.query(normed, layer, rope)
            parts = self._outside(step, at, queries, reads=last)
            own = step.attend.reads_to_own if last else step.attend.to_own
            parts.append(own(queries, keys, values))
            hidden = self.finish(hidden, merged(parts), layer)
        if past is not None:
            end = past.length + len(ids)
            for store, new in ((past.store.keys, kept.keys), (past.store.values, kept.values)):
                for into, values in zip(store, new, strict=True):
                    into[past.length : end] = values
            past.length = end
        return Forwarded(self.final(hidden), kept, packing.starts[:-1])

    def cache(
        self,
        forwarded: Forwarded,
        prefix: Prefix,
        rows: Sequence[int],
        lengths: Sequence[int],
        room: int,
    ) -> Cache:
        """A cache of some rows of a forward, all behind one prefix: of the first `lengths` of
        their tokens, for `room` tokens behind each."""
        starts = torch.tensor([forwarded.starts[row] for row in rows], device=self.device)
        slots = torch.arange(max(lengths) + room, device=self.device)
        # What lies behind a row is another row's, or the last token's: overwritten before read.
        at = (starts[:, None] + slots).clamp(max=forwarded.kept.length - 1)
        return Cache(
            prefix,
            [keys[at] for keys in forwarded.kept.keys],
            [values[at] for values in forwarded.kept.values],
            list(lengths),
        )

    def cache_of(self, past: Past, prefix: Prefix, length: int) -> Cache:
        """A cache of the one row that a past is of, in the past's own memory: of the first `length`
        tokens, with room for as many as the past was made for."""
        return Cache(
            prefix,
            [keys[None] for keys in past.store.keys],
            [values[None] for values in past.store.values],
            [length],
        )

    @torch.inference_mode()
    def extend(self, cache: Cache, tokens: Sequence[Sequence[int]], ends: Sequence[int]) -> Tensor:
        """Runs some more tokens of each row; `[]` leaves a row as it is.

        Returns two states of each row, normed: behind its first `ends` new tokens, and behind all
        of them: [R, 2, hidden]. Of a row without new tokens they mean nothing.
        """
        slots = Slots(list(cache.lengths), [len(row) for row in tokens])
        rows = torch.tensor(slots.rows, device=self.device)
        places = torch.tensor(slots.places, device=self.device)
        rope = self.rope.at(places + cache.prefix.length)
        hidden = self.embedded([i for row in tokens for i in row])
        for at, layer in enumerate(self.layers):
            normed = self.normed(hidden, layer.norm_in)
            queries = self.query(normed, layer, rope)
            keys, values = self.key_value(normed, layer, rope)
            cache.keys[at][rows, places] = keys
            cache.values[at][rows, places] = values
            parts = [
                cache.prefix.layers[at](queries),
                to_slots(queries, cache.keys[at], cache.values[at], slots),
            ]
            hidden = self.finish(hidden, merged(parts), layer)
        wanted = [
            (max(0, start + end - 1), max(0, start + count - 1))
            for start, end, count in zip(slots.starts, ends, slots.added, strict=False)
        ]
        states = hidden[torch.tensor(wanted, device=self.device)]
        pairs = zip(slots.before, slots.added, strict=True)
        cache.lengths = [held + count for held, count in pairs]
        return self.final(states)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of the ids that are read, in float32: […, hidden] to […, read]."""
        return self._head(hidden.flatten(0, -2).float()).view(*hidden.shape[:-1], -1)

    def _outside(self, step: _Step, at: int, queries: Tensor, *, reads: bool) -> list[Part]:
        """Attention to the prefixes and to the past, where there are some."""
        parts = []
        if step.spans[0].prefix is not None:
            same: list[Part] = []
            start = 0
            for _, group in groupby(step.spans, key=lambda span: id(span.prefix)):
                some = list(group)
                prefix = some[0].prefix
                assert prefix is not None
                end = start + sum(len(s.reads) if reads else len(s.ids) for s in some)
                if end > start:
                    same.append(prefix.layers[at](queries[start:end]))
                start = end
            parts.append(joined(same))
        past = step.past
        if past is not None and past.length:
            keys, values = past.store.keys[at], past.store.values[at]
            parts.append(step.attend.to_past(queries, keys[: past.length], values[: past.length]))
        return parts
