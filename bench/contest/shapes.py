"""The networks that the contest runs on, written as checkpoints that every contestant reads.

`python -m contest.shapes NAME FOLDER TOKENIZER` writes one in a process of its own, since that
brings torch and transformers.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contest import wording
from contest.rendering import Renderer
from contest.texts import Texts

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = ROOT / "triton_models" / "stand_in" / "checkpoint"

VERSION = 3
"""Of what is written here: raise it with every change, and the checkpoints are made anew."""

_MARGIN, _SPREAD = 3.0, 0.6
"""How far the logit of `Safe` stands above the others, in the mean and by text: P(Safe) is mostly
about 0.9, as in ordinary traffic, and for few texts under a half. Else most rows would not be Safe,
and a floor that gives a fifth of them categories would leave the others without a refusal."""

_CONSTANT, _PULL = 0.25, 40.0
"""The constant in the residual stream, and what one of a head's row there adds to a logit."""

_SHARPNESS = 1.5
"""Of attention: random weights attend nearly evenly to all tokens else, and all texts are alike."""

_NAMED = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Qwen3 network with random weights. `vocabulary`: rows of its embeddings."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int


SHAPES = {
    # The full vocabulary on a network that is next to nothing: what is around the matmuls.
    "tiny": Shape(4, 256, 4, 2, 64, 768, 151_936),
    # Qwen3-0.6B, as its config.json has it.
    "0.6B": Shape(28, 1024, 16, 8, 128, 3072, 151_936),
}


def checkpoint(name: str, folder: Path, tokenizer: Path) -> Path:
    """The checkpoint of a shape, made where it is not there yet. `stand-in` is the project's own.

    `tokenizer`: the `tokenizer.json` that random weights get.
    """
    if name == "stand-in":
        return STAND_IN
    target = folder / f"{name}-{VERSION}-{tokenizer.parent.name}"
    if not (target / "complete").is_file():
        for old in folder.glob(f"{name}-*"):
            shutil.rmtree(old)
        command = [sys.executable, "-m", "contest.shapes", name, str(target), str(tokenizer)]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[1], stdout=sys.stderr)
        (target / "complete").touch()
    return target


def linears(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(in, out) of the matmuls of one layer as the engine runs them, from a `config.json`."""
    hidden, heads, size = config["hidden_size"], config["num_attention_heads"], config["head_dim"]
    both = heads + 2 * config["num_key_value_heads"]
    return {
        "qkv": (hidden, both * size),
        "out": (heads * size, hidden),
        "gate_up": (hidden, 2 * config["intermediate_size"]),
        "down": (config["intermediate_size"], hidden),
    }


def _write(shape: Shape, target: Path, tokenizer: Path) -> None:
    import torch
    from tokenizers import Tokenizer
    from transformers import Qwen3Config, Qwen3ForCausalLM

    vocabulary = Tokenizer.from_file(str(tokenizer))
    ends = [vocabulary.token_to_id(token) for token in _NAMED.values()]
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=32_768,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        initializer_range=0.04,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        bos_token_id=ends[1],
        eos_token_id=ends[0],
        dtype="bfloat16",
    )
    target.mkdir(parents=True)
    shutil.copy(tokenizer, target / "tokenizer.json")
    named: dict[str, Any] = {
        **_NAMED,
        "bos_token": None,
        "unk_token": None,
        "tokenizer_class": "Qwen2Tokenizer",
    }
    named |= {"model_max_length": 32_768, "add_prefix_space": False}
    (target / "tokenizer_config.json").write_text(json.dumps(named, indent=2))

    def tokens(text: str) -> int:
        return len(vocabulary.encode(text).ids)

    template = wording.template(tokens)
    (target / "chat_template.jinja").write_text(template)
    generation = {"do_sample": False, "eos_token_id": ends, "pad_token_id": ends[1]}
    (target / "generation_config.json").write_text(json.dumps(generation))
    torch.manual_seed(0)
    model: Any = Qwen3ForCausalLM(config)
    model.eval()
    model.to(torch.bfloat16).to(torch.float32)  # as it is stored, and as it will be run
    _answering(model, Renderer(target), tokens)
    model.to(torch.bfloat16).save_pretrained(target)


def _answering(model: Any, renderer: Renderer, tokens: Callable[[str], int]) -> None:
    """Makes random weights answer as a guard does: mostly Safe, but not always, by what they read,
    and with one category where not.

    One number of the residual stream carries a constant that no layer changes; through it the
    tied head raises ` Safe` and lowers the comma, which would go on with a second category. The
    last norm spreads the scores, which else are nearly the same for all texts.
    """
    import torch

    embeddings, norm = model.model.embed_tokens.weight, model.model.norm.weight
    words = [renderer.plain(f" {word}")[0] for word in wording.SAFETIES]
    with torch.inference_mode():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
            layer.self_attn.q_norm.weight[:] = layer.self_attn.k_norm.weight[:] = _SHARPNESS
        embeddings[:, 0] = _CONSTANT
        embeddings[renderer.plain(",")[0], 0] = _CONSTANT - 1
        rows = renderer.forced_ids(Texts("calibration", tokens).conversations("short", 20))
        last = [model.model(torch.tensor([ids])).last_hidden_state[0, -1] for ids in rows]
        hidden = torch.stack(last)
        logits = hidden[:, 1:] @ embeddings[words, 1:].T
        logits *= _SPREAD / float((logits[:, 0] - logits[:, 2]).std())
        norm[1:] *= _SPREAD / float(
            (hidden[:, 1:] @ (embeddings[words[0], 1:] - embeddings[words[2], 1:])).std()
        )
        norm[0] = _PULL / float(hidden[:, 0].mean())
        lacks = _MARGIN - float((logits[:, 0] - logits[:, 1:].logsumexp(1)).mean())
        embeddings[words[0], 0] += lacks / _PULL


if __name__ == "__main__":
    _write(SHAPES[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3]))
