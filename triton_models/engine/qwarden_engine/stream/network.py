"""The network of the Stream engine: new tokens of many sessions in one packed forward.

Sources: Qwen3Guard technical report (arXiv 2510.14276), section 4, for the heads; RMS norm without
an activation as in the published checkpoints. Shapes in docstrings: N packed new tokens, C
categories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from qwarden_engine.attention import Stretch, of_slab
from qwarden_engine.layers import Backbone, Weights
from qwarden_engine.linear import linear
from qwarden_engine.stream.checkpoint import Head, StreamCheckpoint
from qwarden_engine.stream.slab import Slab, Slot


@dataclass(frozen=True, slots=True)
class StreamSpan:
    """New tokens of one session behind what its slot holds, where there must be room for them.

    `reads`, `query_reads`: at which of them, in order, the response head and the query head are
    wanted.
    """

    slot: Slot
    ids: Sequence[int]
    reads: Sequence[int] = ()
    query_reads: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Logits:
    """What the heads say, of all spans in order, in float32 on the CPU.

    `risk` [reads, 3]: of Safe, Controversial, Unsafe. `categories` [reads, C]: in the order of the
    checkpoint's head. The others likewise, of the query reads.
    """

    risk: Tensor
    categories: Tensor
    query_risk: Tensor
    query_categories: Tensor


class StreamNetwork(Backbone):
    """The network of one checkpoint with its two heads, which compute in float32 whatever `dtype`
    is: in bfloat16 they alone move logits by up to 0.08."""

    def __init__(
        self,
        checkpoint: StreamCheckpoint,
        device: torch.device,
        dtype: torch.dtype,
        progress: Callable[[str], None],
        *,
        int8: bool = False,
    ) -> None:
        super().__init__(checkpoint.base, device, dtype, progress, int8=int8)
        weights = Weights(checkpoint.base.weights, device)
        self._response = _Head(checkpoint.response, weights, self.config.eps)
        self._query = _Head(checkpoint.query, weights, self.config.eps)

    @torch.inference_mode()
    def step(self, spans: Sequence[StreamSpan], slab: Slab) -> Logits:
        """Runs the new tokens of all spans, each of a slot of its own, which holds them then.

        Where it raises, no slot holds more than before, and the same step may be taken again.
        """
        batch = _Batch.of(spans)
        hidden = self.final(self._through(batch, slab)).float()
        logits = Logits(
            *self._response(hidden[self._index(batch.response)]),
            *self._query(hidden[self._index(batch.query)]),
        )
        for span in spans:
            span.slot.used += len(span.ids)
        return logits

    def _through(self, batch: _Batch, slab: Slab) -> Tensor:
        """The last layer's states of what is read, [reads, hidden]."""
        groups = self.config.heads // self.config.kv_heads
        reads = self._index(batch.reads)
        places = self._index(batch.places) if len(batch.new) > 1 else _stretch(batch.places)
        rope = self.rope.at(self._index(batch.positions))
        attend = of_slab(batch.new, groups, self.dtype, self.device)
        hidden = self.embedded(batch.ids)
        for at, layer in enumerate(self.layers):
            normed = self.normed(hidden, layer.norm_in)
            keys, values = slab.keys[at], slab.values[at]
            for store, new in zip((keys, values), self.key_value(normed, layer, rope), strict=True):
                store[:, places] = new.transpose(0, 1)
            if at < self.config.layers - 1:
                attended = attend(self.query(normed, layer, rope), keys, values)
            else:
                # Of the last layer only what is read is needed beside the keys and values.
                hidden = hidden[reads]
                if not len(reads):
                    break
                queries = self.query(normed[reads], layer, rope.at(reads))
                attend = of_slab(batch.read, groups, self.dtype, self.device)
                attended = attend(queries, keys, values)
            hidden = self.finish(hidden, attended, layer)
        return hidden

    def _index(self, places: Sequence[int]) -> Tensor:
        return torch.tensor(places, dtype=torch.long, device=self.device)


def _stretch(places: Sequence[int]) -> slice:
    """Of places that follow each other: a copy there is a third of one to each place."""
    return slice(places[0], places[-1] + 1)


@dataclass(frozen=True, slots=True)
class _Batch:
    """How the new tokens of all spans lie in one packing.

    `places`: of each token in the slab; `positions`: in its session. `reads`: which tokens are read
    by a head; `response`, `query`: which of those by which. `new`, `read`: the stretches of all
    tokens, and of those that are read.
    """

    ids: Sequence[int]
    places: Sequence[int]
    positions: Sequence[int]
    reads: Sequence[int]
    response: Sequence[int]
    query: Sequence[int]
    new: Sequence[Stretch]
    read: Sequence[Stretch]

    @classmethod
    def of(cls, spans: Sequence[StreamSpan]) -> _Batch:
        ids: list[int] = []
        places: list[int] = []
        positions: list[int] = []
        reads: list[int] = []
        response: list[int] = []
        query: list[int] = []
        new, read = [], []
        for span in spans:
            slot, count, at = span.slot, len(span.ids), len(ids)
            held = slot.used
            if not count or held + count > slot.room:
                raise ValueError(
                    f"a slot with room for {slot.room} tokens holds {held} and gets {count}; grow "
                    "it before the step, and leave out a span without tokens"
                )
            ids += span.ids
            places += range(slot.start + held, slot.start + held + count)
            positions += range(held, held + count)
            new.append(Stretch(slot.start, held, range(count)))
            wanted = sorted({*span.reads, *span.query_reads})
            row_of = {row: len(reads) + n for n, row in enumerate(wanted)}
            reads += [at + row for row in wanted]
            response += [row_of[row] for row in span.reads]
            query += [row_of[row] for row in span.query_reads]
            if wanted:
                read.append(Stretch(slot.start, held, wanted))
        return cls(ids, places, positions, reads, response, query, new, read)


class _Head:
    """One head: a narrow layer, RMS norm, and both outputs as one product. In float32."""

    def __init__(self, head: Head, weights: Weights, eps: float) -> None:
        def read(name: str) -> Tensor:
            return weights.read(head.tensor(name), torch.float32)

        self._pre = linear(read("risk_level_category_pre"))
        self._norm = read("risk_level_category_layernorm")
        risk, category = read("risk_level_head"), read("category_head")
        self._out = linear(torch.cat((risk[list(head.risks)], category)))
        self._risks = len(risk)
        self._eps = eps

    def __call__(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Of states [n, hidden] in float32: risk [n, 3], categories [n, C], on the CPU."""
        inner = functional.rms_norm(self._pre(hidden), self._norm.shape, self._norm, self._eps)
        both = self._out(inner).cpu()
        return both[:, : self._risks], both[:, self._risks :]
