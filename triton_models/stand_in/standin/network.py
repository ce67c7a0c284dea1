"""The network (stock Qwen3) and a training pass that shares the fixed prefix between rows.

A row is prefix + conversation + tail + answer. The prefix is the same for all rows of a task, so
its keys and values are computed once a batch and used by every row; gradients flow through. The
last layer and the output head run on the answer positions only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3Config, Qwen3ForCausalLM

CONTEXT: Final = 32_768  # tokens
EPSILON: Final = 1e-6  # this and the next as in Qwen3's own configuration
ROPE_BASE: Final = 1_000_000.0


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network; ``vocabulary`` counts token ids, added tokens included."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    inner: int

    @classmethod
    def of(cls, vocabulary: int, hidden: int, layers: int) -> Shape:
        """Heads of 64, two or three to one key-value head; the inner size 2.7 times the hidden."""
        heads = hidden // 64
        grouped = next((share for share in (3, 2) if heads % share == 0), 1)
        inner = hidden * 8 // 3
        return cls(vocabulary, hidden, layers, heads, heads // grouped, 64, inner)

    @classmethod
    def read(cls, config: dict[str, Any]) -> Shape:
        """The sizes that a ``config.json`` names."""
        return cls(
            vocabulary=config["vocab_size"],
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head=config["head_dim"],
            inner=config["intermediate_size"],
        )

    def config(self, end_of_turn: int, end_of_text: int) -> dict[str, Any]:
        """The contents of ``config.json``."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": end_of_text,
            "eos_token_id": end_of_turn,
            "head_dim": self.head,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.inner,
            "max_position_embeddings": CONTEXT,
            "max_window_layers": self.layers,
            "model_type": "qwen3",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pad_token_id": end_of_text,
            "rms_norm_eps": EPSILON,
            "rope_scaling": None,
            "rope_theta": ROPE_BASE,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": self.vocabulary,
        }


def build(shape: Shape, end_of_turn: int, end_of_text: int) -> Qwen3ForCausalLM:
    """A network with random weights, float32."""
    values = shape.config(end_of_turn, end_of_text)
    values.pop("torch_dtype")
    model: Qwen3ForCausalLM = Qwen3ForCausalLM(Qwen3Config(**values))
    for value in model.parameters():
        value.data = value.data.float()
    return model


def write_configs(folder: Path, config: dict[str, Any], end_of_text: int) -> None:
    """Write ``config.json`` and ``generation_config.json``."""
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {
        "do_sample": False,
        "eos_token_id": [config["eos_token_id"], end_of_text],
        "max_new_tokens": 32,
        "pad_token_id": end_of_text,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def write_weights(model: Qwen3ForCausalLM, path: Path) -> None:
    """Write the weights in bfloat16, the tied head left out; atomic."""
    tensors = {
        name: value.detach().to("cpu", torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    part = path.with_name(path.name + ".part")
    save_file(tensors, part, metadata={"format": "pt"})
    part.chmod(0o644)
    part.replace(path)


def read_weights(model: Qwen3ForCausalLM, path: Path) -> None:
    """Load what ``write_weights`` wrote, as float32; the head is tied."""
    tensors = {name: value.float() for name, value in load_file(path).items()}
    left = model.load_state_dict(tensors, strict=False)
    if left.unexpected_keys or set(left.missing_keys) - {"lm_head.weight"}:
        raise ValueError(f"{path}: other weights than the network's: {left}")


def fast(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return True
    cpu = torch.backends.cpu.get_cpu_capability()
    flags = Path("/proc/cpuinfo")
    known = flags.read_text() if flags.exists() else ""
    return cpu.startswith("AVX512") and ("avx512_bf16" in known or "amx_bf16" in known)


@dataclass(slots=True)
class Batch:
    """Rows of one task, padded on the right.

    ``tokens`` [rows, length] ids after the prefix; ``places`` [answers, 2] the (row, position)
    whose next token is learnt; ``targets`` and ``weights`` [answers] that token and its weight;
    ``content`` [rows] how many of the first tokens are the conversation; ``category`` [rows] the
    number of the category, 0 for None, for the helper heads;
    ``soft`` [rows, 3] the probabilities of the safety classes that are learnt.
    """

    prefix: Tensor
    tokens: Tensor
    places: Tensor
    targets: Tensor
    weights: Tensor
    content: Tensor
    category: Tensor
    soft: Tensor


class Helpers(torch.nn.Module):
    """Linear heads on the means: three safety classes and ten categories, None the first."""

    def __init__(self, hidden: int, safeties: int, categories: int) -> None:
        super().__init__()
        self._safeties = safeties
        self.heads = torch.nn.ModuleList(
            torch.nn.Linear(hidden, safeties + categories) for _ in range(2)
        )

    def loss(self, means: list[Tensor], category: Tensor, soft: Tensor) -> Tensor:
        """Cross-entropy of both heads, in nats a row."""
        total = means[0].new_zeros(())
        for head, mean in zip(self.heads, means, strict=True):
            normed = functional.rms_norm(mean.float(), (mean.shape[-1],), eps=EPSILON)
            out = head(normed).float()
            total = total + functional.cross_entropy(out[:, : self._safeties], soft)
            total = total + functional.cross_entropy(out[:, self._safeties :], category)
        return total


def _rope(start: int, length: int, head: int, device: torch.device) -> tuple[Tensor, Tensor]:
    inverse = ROPE_BASE ** (-torch.arange(0, head, 2, device=device).float() / head)
    angles = torch.arange(start, start + length, device=device).float()[:, None] * inverse
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return (x * cos + turned * sin).to(x.dtype)


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return functional.rms_norm(x.float(), (x.shape[-1],), weight, EPSILON)


def _keys_values(layer: Any, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Keys and values [rows, kv heads, length, head] of normed states [rows, length, hidden]."""
    attention = layer.self_attn
    shape = (*x.shape[:2], -1, attention.head_dim)
    k = _norm(attention.k_proj(x).view(shape), attention.k_norm.weight).transpose(1, 2)
    v = attention.v_proj(x).view(shape).transpose(1, 2)
    return _rotate(k, *rope).to(v.dtype), v


def _queries(layer: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    attention = layer.self_attn
    q = attention.q_proj(x).view(*x.shape[:2], -1, attention.head_dim)
    normed = _norm(q, attention.q_norm.weight).transpose(1, 2)
    return _rotate(normed, cos, sin).to(q.dtype)


def _inner(layer: Any, x: Tensor) -> Tensor:
    mlp = layer.mlp
    normed = _norm(x, layer.post_attention_layernorm.weight)
    out: Tensor = x + mlp.down_proj(functional.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed))
    return out


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(groups, dim=1)
    v = v.repeat_interleave(groups, dim=1)
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


def answer_logits(model: Qwen3ForCausalLM, batch: Batch) -> Tensor:
    """Logits [answers, vocabulary] at ``batch.places``, float32."""
    return forward(model, batch)[0]


def forward(
    model: Qwen3ForCausalLM, batch: Batch, drop: float = 0.0
) -> tuple[Tensor, list[Tensor]]:
    """The logits, and the mean state of the conversation at the bottom and before the last layer.

    The means [rows, hidden] feed helper heads that exist in training only: without them the
    network takes many steps to find out that the answer depends on the conversation. ``drop`` is
    the share of the conversation's tokens that are blanked.
    """
    head = int(model.config.head_dim)
    device = batch.tokens.device
    rows, length = batch.tokens.shape
    start = int(batch.prefix.shape[0])
    embed = model.model.embed_tokens
    x = embed(batch.tokens)
    p = embed(batch.prefix[None])
    rope_p = _rope(0, start, head, device)
    rope_x = _rope(start, length, head, device)
    mask_p = torch.ones(start, start, dtype=torch.bool, device=device).tril()
    mask_x = torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)
    layers = list(model.model.layers)
    row, place = batch.places[:, 0], batch.places[:, 1]
    inside = torch.arange(length, device=device)[None] < batch.content[:, None]
    share = inside.float() / batch.content[:, None].float()
    if drop:
        blanked = inside & (torch.rand(rows, length, device=device) < drop)
        x = x.masked_fill(blanked[..., None], 0.0)
    means = [torch.einsum("rl,rlh->rh", share, x)]
    for number, layer in enumerate(layers):
        scale = layer.input_layernorm.weight
        normed_p, normed_x = _norm(p, scale), _norm(x, scale)
        k_p, v_p = _keys_values(layer, normed_p, rope_p)
        k_x, v_x = _keys_values(layer, normed_x, rope_x)
        k = torch.cat([k_p.expand(rows, -1, -1, -1), k_x], dim=2)
        v = torch.cat([v_p.expand(rows, -1, -1, -1), v_x], dim=2)
        if number + 1 < len(layers):
            q_p = _queries(layer, normed_p, *rope_p)
            p = p + layer.self_attn.o_proj(_attend(q_p, k_p, v_p, mask_p))
            p = _inner(layer, p)
            x = x + layer.self_attn.o_proj(
                _attend(_queries(layer, normed_x, *rope_x), k, v, mask_x)
            )
            x = _inner(layer, x)
            continue
        means.append(torch.einsum("rl,rlh->rh", share, x))
        # The last layer: queries at the answer positions only, the same number in every row.
        each = row.shape[0] // rows
        chosen = x[row, place].view(rows, each, -1)
        at = place.view(rows, each)
        q = _queries(
            layer,
            normed_x[row, place].view(rows, each, -1),
            rope_x[0][at][:, None],
            rope_x[1][at][:, None],
        )
        mask = mask_x[at][:, None]
        x = _inner(layer, chosen + layer.self_attn.o_proj(_attend(q, k, v, mask)))
    states = _norm(x.flatten(0, 1), model.model.norm.weight)
    return functional.linear(states, model.model.embed_tokens.weight).float(), means
