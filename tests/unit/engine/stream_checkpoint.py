"""Stream checkpoints with random weights, for tests and the benchmark."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from qwarden_engine.checkpoint import Config
from unit.engine.checkpoints import STAND_IN, WEIGHTS, random_tensors, store

RISKS = ("Safe", "Unsafe", "Controversial")
CATEGORIES = (
    "Violent",
    "Sexual Content",
    "Self-Harm",
    "Political",
    "PII",
    "Copyright",
    "Illegal Acts",
    "Unethical",
)
QUERY_CATEGORIES = (*CATEGORIES, "Jailbreak")
"""In the order, and under the names, of the published checkpoints' maps."""

_SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "initializer_range": 0.3,
}

SHAPE_06B: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 8192,
    "initializer_range": 0.02,
}
"""Qwen3-0.6B, as its config.json has it, with the context of the Stream models."""

TEMPLATE = """\
{%- set last = namespace(user=-1) -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{%- set last.user = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- set said = message.content or '' -%}
{%- if message.role == 'assistant' -%}
{%- set thought = message.reasoning_content or '' -%}
{%- if not thought and '</think>' in said -%}
{%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
{%- set said = said.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{%- if loop.index0 > last.user -%}
{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' -}}
{%- endif -%}
{%- endif -%}
{{- said + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and not enable_thinking -%}
{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- endif -%}
{%- endif -%}
"""
"""ChatML as Qwen3 models read it: a think block, perhaps an empty one, before what an assistant
says behind the last user turn, and none before."""


def random_stream_checkpoint(
    folder: Path, *, seed: int = 0, inner: int = 24, dtype: str = "float32", **sizes: Any
) -> Path:
    """Random weights under the names of the published checkpoints, with the Gen stand-in's
    tokenizer. `inner`: the width of the heads. `sizes`: fields of `config.json`."""
    chance = torch.Generator().manual_seed(seed)
    own = json.loads((STAND_IN / "config.json").read_text())
    body = own | _SMALL | sizes
    config = Config(
        layers=body["num_hidden_layers"],
        hidden=body["hidden_size"],
        heads=body["num_attention_heads"],
        kv_heads=body["num_key_value_heads"],
        head_dim=body["head_dim"],
        intermediate=body["intermediate_size"],
        vocabulary=body["vocab_size"],
        context=body["max_position_embeddings"],
        eps=body["rms_norm_eps"],
        rope_theta=body["rope_theta"],
        tied=True,
    )
    tensors = {
        name: tensor.to(getattr(torch, dtype))
        for name, tensor in random_tensors(config, body["initializer_range"], chance).items()
    }
    for kind, categories in (("", CATEGORIES), ("query_", QUERY_CATEGORIES)):
        for name, shape in (
            ("risk_level_category_pre", (inner, config.hidden)),
            ("risk_level_head", (len(RISKS), inner)),
            ("category_head", (len(categories), inner)),
        ):
            # So wide that every safety and category is the likeliest at some tokens.
            drawn = torch.randn(shape, generator=chance)
            tensors[f"{kind}{name}.weight"] = drawn * shape[1] ** -0.5 * 2
        norm = 1 + torch.rand(inner, generator=chance) / 2
        tensors[f"{kind}risk_level_category_layernorm.weight"] = norm
    target = folder / "stream"
    target.mkdir(parents=True)
    store(tensors, target / WEIGHTS)
    body |= {
        "architectures": ["Qwen3ForGuardModel"],
        "guard_inner_size": inner,
        "num_risk_level": len(RISKS),
        "num_category": len(CATEGORIES),
        "num_query_risk_level": len(RISKS),
        "num_query_category": len(QUERY_CATEGORIES),
        "response_risk_level_map": _numbered(RISKS),
        "query_risk_level_map": _numbered(RISKS),
        "response_category_map": _numbered(CATEGORIES),
        "query_category_map": _numbered(QUERY_CATEGORIES),
    }
    (target / "config.json").write_text(json.dumps(body, indent=2))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(STAND_IN / name, target / name)
    (target / "chat_template.jinja").write_text(TEMPLATE)
    return target


def _numbered(names: tuple[str, ...]) -> dict[str, str]:
    return {str(at): name for at, name in enumerate(names)}
