"""Qwen3 in plain torch, with keys and values given and returned.

Sources: the Qwen3 technical report (arXiv 2505.09388) and `modeling_qwen3.py` of transformers,
whose tensor names and order of operations this follows. Shapes in docstrings: R rows, T new
tokens a row, P tokens of the shared prefix, C slots of a row's own tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from qwarden_engine.checkpoint import Checkpoint, Weight

_QUERY_BLOCK = 512
"""Queries attended at once. Keys that a block cannot see are left out, so a long causal slice
costs half of what one masked call costs, and the mask stays at 512 × keys."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of a text that every row starts with: per layer [1, KV heads, P, head]."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    length: int


@dataclass(slots=True)
class Cache:
    """Keys and values of rows: the shared prefix once, and each row's own tokens.

    `keys`, `values`: per layer [R, KV heads, C, head]. `lengths`: [R], own tokens that are real;
    what lies in slots beyond is overwritten by what comes next and never read.
    """

    prefix: Prefix
    keys: list[Tensor]
    values: list[Tensor]
    lengths: Tensor

    @property
    def rows(self) -> int:
        return self.lengths.shape[0]

    def select(self, rows: Sequence[int]) -> Cache:
        """A cache of these rows. All rows in order share the storage: slots behind `lengths` are
        then overwritten by whichever cache goes on last, so finish one before the other."""
        if list(rows) == list(range(self.rows)):
            return Cache(self.prefix, self.keys, self.values, self.lengths.clone())
        at = torch.tensor(rows, device=self.lengths.device)
        return Cache(
            self.prefix,
            [keys.index_select(0, at) for keys in self.keys],
            [values.index_select(0, at) for values in self.values],
            self.lengths[at],
        )


@dataclass(frozen=True, slots=True)
class _Layer:
    norm_in: Tensor
    qkv: Tensor
    norm_q: Tensor
    norm_k: Tensor
    out: Tensor
    norm_mlp: Tensor
    gate_up: Tensor
    down: Tensor


Mask = Callable[[int, int], tuple[Tensor | None, int]]
"""For queries [start, end) of a forward: the additive mask and the keys that it covers."""


class Qwen3:
    """The network of one checkpoint, with only those rows of its head that are read.

    `read`: token ids whose logits are wanted. Weights are held in `dtype`, the embeddings as they
    are stored, since a lookup needs no arithmetic.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        read: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
        progress: Callable[[str], None],
    ) -> None:
        self.config = checkpoint.config
        self.device = device
        self.dtype = dtype
        weights = _Weights(checkpoint.weights, device)
        self._embeddings = weights.stored("model.embed_tokens.weight")
        self._norm = weights.read("model.norm.weight", dtype)
        at = torch.tensor(list(read))
        head = (
            self._embeddings[at.to(device)]
            if self.config.tied
            else weights.stored("lm_head.weight", on="cpu")[at].to(device)
        )
        self._head = head.float().T.contiguous()
        self._layers = []
        for layer in range(self.config.layers):
            self._layers.append(_layer(weights, layer, dtype))
            progress(f"layer {layer + 1} of {self.config.layers} is loaded")
        half = torch.arange(0, self.config.head_dim, 2, dtype=torch.float32, device=device)
        self._frequencies = 1.0 / (self.config.rope_theta ** (half / self.config.head_dim))

    @torch.inference_mode()
    def prefix(self, ids: Sequence[int], slice_tokens: int) -> Prefix:
        """Keys and values of a text that comes first, computed once. `ids`: not empty."""
        nothing = self._no_prefix()
        cache = self.cache(nothing, 1, len(ids))
        tokens = torch.tensor([list(ids)], device=self.device)
        self.prefill(cache, tokens, torch.tensor([len(ids)], device=self.device), slice_tokens)
        return Prefix(tuple(cache.keys), tuple(cache.values), len(ids))

    def cache(self, prefix: Prefix, rows: int, capacity: int) -> Cache:
        """An empty cache for so many rows of at most `capacity` own tokens."""
        shape = (rows, self.config.kv_heads, capacity, self.config.head_dim)

        def new() -> list[Tensor]:
            return [
                torch.zeros(shape, dtype=self.dtype, device=self.device)
                for _ in range(self.config.layers)
            ]

        lengths = torch.zeros(rows, dtype=torch.long, device=self.device)
        return Cache(prefix, new(), new(), lengths)

    @torch.inference_mode()
    def prefill(self, cache: Cache, ids: Tensor, counts: Tensor, slice_tokens: int) -> Tensor:
        """Runs rows from their start, in slices of at most `slice_tokens` tokens a row.

        `ids`: [R, T], padded behind; `counts`: [R], real tokens of each row, at least one.
        Causality keeps the padding behind a row out of the row. Returns the last hidden state of
        each row, normed: [R, hidden].
        """
        rows, length = ids.shape
        last = torch.empty(rows, self.config.hidden, dtype=self.dtype, device=self.device)
        for start in range(0, length, slice_tokens):
            end = min(start + slice_tokens, length)
            positions = torch.arange(start, end, device=self.device)

            def write(store: Tensor, new: Tensor, start: int = start, end: int = end) -> None:
                store[:, :, start:end] = new

            hidden = self._run(
                ids[:, start:end],
                (positions + cache.prefix.length)[None],
                cache,
                write,
                end=end,
                mask=self._causal(cache.prefix.length + start, end - start),
            )
            here = (counts > start) & (counts <= end)
            last[here] = hidden[here, (counts - 1 - start)[here]]
        cache.lengths = counts.clone()
        return self._normed(last, self._norm)

    @torch.inference_mode()
    def extend(self, cache: Cache, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Runs some more tokens of each row, a few at a time; `[]` leaves a row as it is.

        Returns the hidden state of each row's last new token, normed: [R, hidden]; of a row
        without new tokens it means nothing.
        """
        counts = [len(row) for row in tokens]
        width = max(counts)
        ids = torch.tensor(
            [[*row, *[0] * (width - len(row))] for row in tokens], device=self.device
        )
        added = torch.tensor(counts, device=self.device)
        offsets = torch.arange(width, device=self.device)
        slots = cache.lengths[:, None] + offsets  # [R, T]
        rows = torch.arange(cache.rows, device=self.device)[:, None]
        end = int(slots.max()) + 1
        before = cache.prefix.length

        def write(store: Tensor, new: Tensor) -> None:
            store[rows, :, slots] = new.transpose(1, 2)

        keys = torch.arange(before + end, device=self.device)
        hidden_keys = keys[None, None] > (before + slots)[:, :, None]  # [R, T, P + end]
        mask = torch.zeros(hidden_keys.shape, dtype=self.dtype, device=self.device)
        mask.masked_fill_(hidden_keys, float("-inf"))

        def all_keys(start: int, stop: int) -> tuple[Tensor | None, int]:
            return mask[:, None, start:stop], before + end

        hidden = self._run(ids, slots + before, cache, write, end=end, mask=all_keys)
        last = hidden[rows[:, 0], (added - 1).clamp(min=0)]
        cache.lengths = cache.lengths + added
        return self._normed(last, self._norm)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of the ids that are read, in float32: [R, hidden] to [R, read]."""
        return hidden.float() @ self._head

    def _no_prefix(self) -> Prefix:
        shape = (1, self.config.kv_heads, 0, self.config.head_dim)
        empty = torch.zeros(shape, dtype=self.dtype, device=self.device)
        return Prefix((empty,) * self.config.layers, (empty,) * self.config.layers, 0)

    def _causal(self, before: int, length: int) -> Mask:
        """Masks for `length` queries that stand behind `before` keys, the same for every row.

        One band holds them all: a block's mask is a window of it, shifted by where it starts.
        """
        block = min(_QUERY_BLOCK, length)
        furthest = before + length
        columns = torch.arange(furthest + block, device=self.device)
        band = torch.zeros(block, furthest + block, dtype=self.dtype, device=self.device)
        band.masked_fill_(
            columns[None] > torch.arange(block, device=self.device)[:, None] + furthest,
            float("-inf"),
        )

        def window(start: int, stop: int) -> tuple[Tensor | None, int]:
            keys = before + stop
            shift = furthest - before - start
            return band[: stop - start, shift : shift + keys], keys

        return window

    def _run(
        self,
        ids: Tensor,
        positions: Tensor,
        cache: Cache,
        write: Callable[[Tensor, Tensor], None],
        *,
        end: int,
        mask: Mask,
    ) -> Tensor:
        """All layers over new tokens. `ids`: [R, T]; `positions`: [R or 1, T]; `end`: own slots in
        use after `write`. Returns [R, T, hidden], not normed."""
        config = self.config
        rows, length = ids.shape
        hidden = self._embeddings[ids].to(self.dtype)
        angles = positions[:, :, None].float() * self._frequencies  # [R or 1, T, head / 2]
        angles = torch.cat((angles, angles), dim=-1)[:, None]
        cosine, sine = angles.cos().to(self.dtype), angles.sin().to(self.dtype)
        widths = [config.heads * config.head_dim] + [config.kv_heads * config.head_dim] * 2
        for at, layer in enumerate(self._layers):
            normed = self._normed(hidden, layer.norm_in)
            queries, keys, values = torch.split(
                functional.linear(normed, layer.qkv), widths, dim=-1
            )
            queries = queries.view(rows, length, config.heads, config.head_dim)
            keys = keys.view(rows, length, config.kv_heads, config.head_dim)
            values = values.view(rows, length, config.kv_heads, config.head_dim).transpose(1, 2)
            queries = _rotate(self._normed(queries, layer.norm_q).transpose(1, 2), cosine, sine)
            keys = _rotate(self._normed(keys, layer.norm_k).transpose(1, 2), cosine, sine)
            write(cache.keys[at], keys)
            write(cache.values[at], values)
            attended = _attend(
                queries,
                _behind(cache.prefix.keys[at], cache.keys[at], end),
                _behind(cache.prefix.values[at], cache.values[at], end),
                mask,
            )
            attended = attended.transpose(1, 2).reshape(rows, length, widths[0])
            hidden = hidden + functional.linear(attended, layer.out)
            normed = self._normed(hidden, layer.norm_mlp)
            gate, up = functional.linear(normed, layer.gate_up).chunk(2, dim=-1)
            hidden = hidden + functional.linear(functional.silu(gate) * up, layer.down)
        return hidden

    def _normed(self, values: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(values, (weight.shape[0],), weight, self.config.eps)


def _behind(prefix: Tensor, own: Tensor, end: int) -> Tensor:
    """The prefix before each row's own tokens: [R, KV heads, P + end, head].

    A copy a layer and forward; the cache holds the prefix once.
    """
    return torch.cat((prefix.expand(own.shape[0], -1, -1, -1), own[:, :, :end]), dim=2)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Mask) -> Tensor:
    """Attention of [R, heads, T, head] over [R, KV heads, keys, head], in blocks of queries."""
    length = queries.shape[2]
    blocks = []
    for start in range(0, length, _QUERY_BLOCK):
        stop = min(start + _QUERY_BLOCK, length)
        bias, seen = mask(start, stop)
        blocks.append(
            functional.scaled_dot_product_attention(
                queries[:, :, start:stop],
                keys[:, :, :seen],
                values[:, :, :seen],
                attn_mask=bias,
                enable_gqa=queries.shape[1] != keys.shape[1],
            )
        )
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=2)


def _rotate(values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding, halves paired as in transformers."""
    first, second = values.chunk(2, dim=-1)
    return values * cosine + torch.cat((-second, first), dim=-1) * sine


def _layer(weights: _Weights, layer: int, dtype: torch.dtype) -> _Layer:
    at = f"model.layers.{layer}."

    def read(*names: str) -> Tensor:
        parts = [weights.read(f"{at}{name}.weight", dtype) for name in names]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return _Layer(
        norm_in=read("input_layernorm"),
        qkv=read("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        norm_q=read("self_attn.q_norm"),
        norm_k=read("self_attn.k_norm"),
        out=read("self_attn.o_proj"),
        norm_mlp=read("post_attention_layernorm"),
        gate_up=read("mlp.gate_proj", "mlp.up_proj"),
        down=read("mlp.down_proj"),
    )


class _Weights:
    """Tensors by name, out of whichever file holds them."""

    def __init__(self, weights: Mapping[str, Weight], device: torch.device) -> None:
        self._weights = weights
        self._device = device

    def stored(self, name: str, on: str | None = None) -> Tensor:
        """A tensor in the dtype that the file has."""
        file: Path = self._weights[name].file
        with safe_open(file, framework="pt", device="cpu") as tensors:
            tensor: Tensor = tensors.get_tensor(name)
        return tensor.to(on or self._device)

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor in the dtype of the network."""
        return self.stored(name).to(dtype)
