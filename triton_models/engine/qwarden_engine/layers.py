"""What of Qwen3 all networks share, in plain torch: its layers, but for what attention sees.

Sources: the Qwen3 technical report (arXiv 2505.09388) and `modeling_qwen3.py` of transformers,
whose tensor names and arithmetic this follows. Shapes in docstrings: N packed new tokens, H heads,
K heads of keys and values, D a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from qwarden_engine.checkpoint import Checkpoint, Config, Weight
from qwarden_engine.linear import Linear, linear


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer. `query` and `key_value` are apart, since of the last layer some
    queries are needed and all keys and values."""

    norm_in: Tensor
    query: Linear
    key_value: Linear
    norm_q: Tensor
    norm_k: Tensor
    out: Linear
    norm_mlp: Tensor
    gate: Linear
    up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class Rope:
    """Cosines and sines of some positions, [N, 1, D], in float32: of each half of a head its own,
    the first half's sines negative."""

    cosine: Tensor
    sine: Tensor

    def at(self, places: Tensor) -> Rope:
        return Rope(self.cosine[places], self.sine[places])


class Backbone:
    """The layers of one checkpoint, for whoever brings tokens through them and reads their states.

    `dtype`: of weights and activations, but for the embeddings, which stay as they are stored,
    since a lookup needs no arithmetic. `int8`: the linear layers are in int8 instead.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        progress: Callable[[str], None],
        *,
        int8: bool = False,
    ) -> None:
        self.config = checkpoint.config
        self.device = device
        self.dtype = dtype
        weights = Weights(checkpoint.weights, device)
        self.embeddings = weights.stored("model.embed_tokens.weight")
        self.layers = []
        for layer in range(self.config.layers):
            self.layers.append(_layer(weights, layer, dtype, int8=int8))
            progress(f"layer {layer + 1} of {self.config.layers} is loaded")
        self.rope = _rope(self.config, device)
        self._norm = weights.read("model.norm.weight", torch.float32)

    def embedded(self, ids: Sequence[int]) -> Tensor:
        """The states that the first layer gets, [N, hidden]."""
        return self.embeddings[torch.tensor(ids, device=self.device)].to(self.dtype)

    def final(self, hidden: Tensor) -> Tensor:
        """The last layer's states, normed."""
        return self.normed(hidden, self._norm)

    def query(self, normed: Tensor, layer: Layer, rope: Rope) -> Tensor:
        """Queries, [N, H, D]."""
        heads = layer.query(normed).view(-1, self.config.heads, self.config.head_dim)
        return self._turned(heads, layer.norm_q, rope)

    def key_value(self, normed: Tensor, layer: Layer, rope: Rope) -> tuple[Tensor, Tensor]:
        """Keys and values, [N, K, D]."""
        config = self.config
        both = layer.key_value(normed).view(-1, 2 * config.kv_heads, config.head_dim)
        keys, values = both.chunk(2, dim=1)
        return self._turned(keys, layer.norm_k, rope), values.contiguous()

    def _turned(self, heads: Tensor, weight: Tensor, rope: Rope) -> Tensor:
        """[N, heads, D], normed, weighted and turned by their positions, halves paired as in
        transformers. In float32: a scale in bfloat16 would shift all of a head's scores alike."""
        half = heads.shape[-1] // 2
        x = heads.float()
        # The weights go into cosines and sines, which all heads share.
        turned = x * (rope.cosine * weight)
        turned.addcmul_(x.roll(half, -1), rope.sine * weight.roll(half))
        return turned.mul_(_scale(x, self.config.eps)).to(self.dtype)

    def finish(self, hidden: Tensor, attended: Tensor, layer: Layer) -> Tensor:
        """What a layer does behind attention: the state that the next one gets."""
        hidden = layer.out.plus(attended.flatten(1).to(self.dtype), hidden)
        normed = self.normed(hidden, layer.norm_mlp)
        return layer.down.plus(layer.up.times(normed, layer.gate.silu(normed)), hidden)

    def normed(self, values: Tensor, weight: Tensor) -> Tensor:
        """RMS norm in float32, [N, hidden] to the network's dtype."""
        wide = values.float()
        return (wide * _scale(wide, self.config.eps)).mul_(weight).to(self.dtype)


def _scale(values: Tensor, eps: float) -> Tensor:
    """One over the root of the mean square of the last dimension, which is kept."""
    norm: Tensor = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return norm.square_().div_(values.shape[-1]).add_(eps).rsqrt_()


def _rope(config: Config, device: torch.device) -> Rope:
    """Of all positions of the context."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device)
    frequencies = 1.0 / (config.rope_theta ** (half / config.head_dim))
    angles = torch.arange(config.context, device=device)[:, None, None].float() * frequencies
    cosine, sine = angles.cos(), angles.sin()
    return Rope(torch.cat((cosine, cosine), dim=-1), torch.cat((-sine, sine), dim=-1))


def _layer(weights: Weights, layer: int, dtype: torch.dtype, *, int8: bool) -> Layer:
    at = f"model.layers.{layer}."

    def layer_of(*names: str) -> Linear:
        parts = [weights.read(f"{at}{name}.weight", dtype) for name in names]
        return linear(parts[0] if len(parts) == 1 else torch.cat(parts), int8=int8)

    def norm(name: str) -> Tensor:
        return weights.read(f"{at}{name}.weight", torch.float32)

    return Layer(
        norm_in=norm("input_layernorm"),
        query=layer_of("self_attn.q_proj"),
        key_value=layer_of("self_attn.k_proj", "self_attn.v_proj"),
        norm_q=norm("self_attn.q_norm"),
        norm_k=norm("self_attn.k_norm"),
        out=layer_of("self_attn.o_proj"),
        norm_mlp=norm("post_attention_layernorm"),
        gate=layer_of("mlp.gate_proj"),
        up=layer_of("mlp.up_proj"),
        down=layer_of("mlp.down_proj"),
    )


class Weights:
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
