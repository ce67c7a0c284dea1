"""The stock Qwen3 backbone with the eight head tensors of Qwen3Guard-Stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3Config, Qwen3Model

from .labels import SAFETIES
from .network import EPSILON
from .stream_encoding import CATEGORIES

CONTEXT: Final = 8_192  # tokens
INNER: Final = 192  # width of the heads' inner layer


class Logits(NamedTuple):
    """[n, 3] of Safe, Unsafe, Controversial (the order of the checkpoint's map) and [n, 8 or 9]."""

    risk: Tensor
    category: Tensor


class StreamNetwork(torch.nn.Module):
    """Names of the parameters are those of the checkpoint's tensors."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        values = {key: value for key, value in config.items() if key != "torch_dtype"}
        self.model = Qwen3Model(Qwen3Config(**values))
        hidden, inner = config["hidden_size"], config["guard_inner_size"]

        def linear(wide: int, out: int) -> torch.nn.Linear:
            return torch.nn.Linear(wide, out, bias=False)

        self.risk_level_category_pre = linear(hidden, inner)
        self.risk_level_category_layernorm = torch.nn.RMSNorm(inner, eps=config["rms_norm_eps"])
        self.risk_level_head = linear(inner, config["num_risk_level"])
        self.category_head = linear(inner, config["num_category"])
        self.query_risk_level_category_pre = linear(hidden, inner)
        self.query_risk_level_category_layernorm = torch.nn.RMSNorm(
            inner, eps=config["rms_norm_eps"]
        )
        self.query_risk_level_head = linear(inner, config["num_query_risk_level"])
        self.query_category_head = linear(inner, config["num_query_category"])
        for value in self.parameters():
            value.data = value.data.float()

    def states(self, tokens: Tensor, blank: Tensor | None = None) -> Tensor:
        """Last hidden states [rows, length, hidden]; padding on the right needs no mask, since the
        network is causal. ``blank`` [rows, length]: tokens whose embedding is zero."""
        x = self.model.embed_tokens(tokens)
        if blank is not None:
            x = x.masked_fill(blank[..., None], 0.0)
        states: Tensor = self.model(inputs_embeds=x, use_cache=False).last_hidden_state
        return states

    def response(self, states: Tensor) -> Logits:
        """What the heads say of an answer at states [n, hidden]; float32."""
        x = _inner(states, self.risk_level_category_pre, self.risk_level_category_layernorm)
        return Logits(
            functional.linear(x, self.risk_level_head.weight),
            functional.linear(x, self.category_head.weight),
        )

    def query(self, states: Tensor) -> Logits:
        """What the heads say of a user's turn at states [n, hidden] of its end; float32."""
        x = _inner(
            states, self.query_risk_level_category_pre, self.query_risk_level_category_layernorm
        )
        return Logits(
            functional.linear(x, self.query_risk_level_head.weight),
            functional.linear(x, self.query_category_head.weight),
        )

    def heads(self) -> list[torch.nn.Parameter]:
        """The eight tensors that the backbone has not."""
        return [value for name, value in self.named_parameters() if not name.startswith("model.")]


def _inner(states: Tensor, pre: torch.nn.Linear, norm: torch.nn.RMSNorm) -> Tensor:
    with torch.autocast(states.device.type, enabled=False):
        x = functional.linear(states.float(), pre.weight)
        return functional.rms_norm(x, (x.shape[-1],), norm.weight, EPSILON)


def stream_config(gen: dict[str, Any], inner: int = INNER) -> dict[str, Any]:
    """The contents of ``config.json`` from those of the Gen checkpoint whose backbone it has."""
    risks = {str(number): name for number, name in enumerate(SAFETIES)}
    names = list(CATEGORIES)
    asked = {str(number): name for number, name in enumerate(names)}
    answered = {str(number): name for number, name in enumerate(names[:-1])}
    return {
        **gen,
        "architectures": ["Qwen3ForGuardModel"],
        "guard_inner_size": inner,
        "max_position_embeddings": CONTEXT,
        "num_category": len(answered),
        "num_query_category": len(asked),
        "num_query_risk_level": len(risks),
        "num_risk_level": len(risks),
        "query_category_map": asked,
        "query_risk_level_map": risks,
        "response_category_map": answered,
        "response_risk_level_map": risks,
        "use_cache": False,
    }


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def write_stream_weights(network: StreamNetwork, path: Path) -> None:
    """Write the weights in bfloat16; atomic."""
    tensors = {
        name: value.detach().to("cpu", torch.bfloat16).contiguous()
        for name, value in network.state_dict().items()
    }
    part = path.with_name(path.name + ".part")
    save_file(tensors, part, metadata={"format": "pt"})
    part.chmod(0o644)
    part.replace(path)


def read_backbone(network: StreamNetwork, path: Path) -> None:
    """Load the backbone of a Gen checkpoint, as float32; the heads keep their random weights."""
    tensors = {name: value.float() for name, value in load_file(path).items()}
    left = network.load_state_dict(tensors, strict=False)
    if left.unexpected_keys or any(name.startswith("model.") for name in left.missing_keys):
        raise ValueError(f"{path}: other weights than a backbone's: {left}")


def read_stream(folder: Path) -> StreamNetwork:
    """The network of a stream checkpoint, as float32."""
    network = StreamNetwork(read_config(folder))
    tensors = {
        name: value.float() for name, value in load_file(folder / "model.safetensors").items()
    }
    network.load_state_dict(tensors)
    return network.train(False)
