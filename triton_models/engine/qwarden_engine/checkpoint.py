"""A Qwen3Guard checkpoint on disk: which files it has, and whether they are what they say.

Nothing here imports torch, and nothing runs code from a checkpoint. Sources: `Qwen3Config` of
transformers 5, the hub's `model.safetensors.index.json`.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

HUB_FILES = ["*.json", "*.jinja", "*.safetensors", "profile.yaml"]
"""What of a repository is read here: never its code."""
_DTYPES = ("F32", "BF16", "F16")
"""Those that are taken."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and what was expected."""


class Family(enum.StrEnum):
    """What kind of guard a checkpoint is."""

    GEN = "qwen3guard-gen"
    STREAM = "qwen3guard-stream"


@dataclass(frozen=True, slots=True)
class Config:
    """The sizes of a Qwen3 network, from `config.json`. `context` is in tokens."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    context: int
    eps: float
    rope_theta: float
    tied: bool

    @property
    def kv_numbers(self) -> int:
        """Of the keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class Weight:
    """Where one tensor lies, as the header of its file says."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened and checked checkpoint.

    `stated`: all that its `config.json`, `config_file`, says. `tokenizer`: with its added tokens,
    as the template needs it; `tokenizer_json`: what it was built from. `template`: source of the
    Jinja template, out of `template_file`. `tokens`: the named tokens that a template may use
    (`eos_token` and so on). `stop_ids`: ids that end an answer, which a Stream checkpoint has none
    of. `taxonomy`: checkpoint string to canonical name; None means that no `profile.yaml` says.
    `files`: every file whose bytes can change an answer.
    """

    directory: Path
    name: str
    config: Config
    config_file: Path
    stated: Mapping[str, Any]
    tokenizer: Tokenizer
    tokenizer_json: str
    template: str
    template_file: Path
    tokens: Mapping[str, str]
    stop_ids: tuple[int, ...]
    weights: Mapping[str, Weight]
    taxonomy: Mapping[str, str] | None
    files: tuple[Path, ...]

    @property
    def embedding_bytes(self) -> int:
        """Of one number of the embeddings, as they are stored."""
        return 4 if self.weights["model.embed_tokens.weight"].dtype == "F32" else 2


def family_of(checkpoint: str, hub_revision: str | None = None) -> Family:
    """Which engine a directory, or a hub id, is for. Raises `CheckpointError`."""
    config_file = _directory(checkpoint, hub_revision) / "config.json"
    return _family(_read_json(config_file))


def open_checkpoint(
    checkpoint: str, hub_revision: str | None = None, family: Family = Family.GEN
) -> Checkpoint:
    """Opens a directory, or a hub id at a revision, of one family. Raises `CheckpointError`.

    Of a Stream checkpoint the network is checked here, and its heads by `stream/checkpoint.py`.
    """
    given_name = Path(checkpoint).resolve().name
    directory = _directory(checkpoint, hub_revision)
    config_file = directory / "config.json"
    raw = _read_json(config_file)
    if _family(raw) is not family:
        raise CheckpointError(
            f"{config_file}: expected a checkpoint of family {family}, and it is one of "
            f"{_family(raw)}; name one for Gen in QWARDEN_ENGINE__CHECKPOINT or --guard, one for "
            "Stream in QWARDEN_STREAM__CHECKPOINT or --guard beside --stream"
        )
    config = _config(config_file, raw)

    tokenizer_file = directory / "tokenizer.json"
    tokenizer_json = _read_text(tokenizer_file)
    try:
        tokenizer = Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # tokenizers raises Exception itself
        raise CheckpointError(
            f"{tokenizer_file}: expected a tokenizer that the tokenizers library reads ({error})"
        ) from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if tokenizer.get_vocab_size() > config.vocabulary:
        raise CheckpointError(
            f"{tokenizer_file}: expected at most vocab_size of config.json, {config.vocabulary} "
            f"tokens, and it has {tokenizer.get_vocab_size()}"
        )

    tokenizer_config_file = directory / "tokenizer_config.json"
    tokenizer_config = _read_json(tokenizer_config_file)
    template, template_file = _template(directory, tokenizer_config)
    tokens = _named_tokens(tokenizer_config)
    generation_file = directory / "generation_config.json"
    generation = _read_json(generation_file) if generation_file.is_file() else {}

    profile_file = directory / "profile.yaml"
    profile = _profile(profile_file, family) if profile_file.is_file() else None
    weights = _weights(directory)
    _check_layers(config_file, config, weights)
    shapes = expected_shapes(config)
    if family is Family.GEN and not config.tied:
        shapes["lm_head.weight"] = (config.vocabulary, config.hidden)
    check_shapes(directory, shapes, weights)

    index = directory / "model.safetensors.index.json"
    files = {config_file, tokenizer_file, tokenizer_config_file, template_file}
    files |= {path for path in (generation_file, profile_file, index) if path.is_file()}
    files |= {weight.file for weight in weights.values()}
    stored_name = str(raw.get("_name_or_path") or "").rstrip("/").rsplit("/", 1)[-1]
    return Checkpoint(
        directory=directory,
        name=profile["name"] if profile else stored_name or given_name,
        config=config,
        config_file=config_file,
        stated=MappingProxyType(raw),
        tokenizer=tokenizer,
        tokenizer_json=tokenizer_json,
        template=template,
        template_file=template_file,
        tokens=MappingProxyType(tokens),
        stop_ids=(
            _stop_ids(directory, generation, raw, tokens, tokenizer) if family is Family.GEN else ()
        ),
        weights=MappingProxyType(weights),
        taxonomy=None if profile is None else MappingProxyType(dict(profile["taxonomy"])),
        files=tuple(sorted(files)),
    )


def _directory(checkpoint: str, hub_revision: str | None) -> Path:
    directory = Path(checkpoint)
    return directory if directory.is_dir() else _download(checkpoint, hub_revision)


def _family(raw: Mapping[str, Any]) -> Family:
    """By the width of the heads, which only a Stream model has."""
    return Family.STREAM if "guard_inner_size" in raw else Family.GEN


def _download(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=HUB_FILES))
    except Exception as error:  # network, authorisation, no such id: all are one to the reader
        raise CheckpointError(
            f"{hub_id}: expected a directory, or a hub id that can be downloaded at revision "
            f"{revision or 'main'} ({type(error).__name__}: {error})"
        ) from error


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(
            f"{file}: expected this file in the checkpoint; it is missing"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file}: expected a readable UTF-8 text ({error})") from None


def _read_json(file: Path) -> dict[str, Any]:
    text = _read_text(file)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: expected JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: expected a JSON object, not {type(value).__name__}")
    return value


def _config(file: Path, raw: Mapping[str, Any]) -> Config:
    if raw.get("model_type") != "qwen3":
        raise CheckpointError(
            f"{file}: expected model_type qwen3, and it is {raw.get('model_type')!r}"
        )

    def size(key: str, default: int | None = None) -> int:
        value = raw.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(f"{file}: expected {key} as a number above 0, not {value!r}")
        return value

    def above_zero(key: str, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise CheckpointError(f"{file}: expected {key} as a number above 0, not {value!r}")
        return float(value)

    def must(key: str, wanted: tuple[object, ...]) -> None:
        if raw.get(key, wanted[0]) not in wanted:
            raise CheckpointError(f"{file}: expected {key} {wanted[0]!r}, not {raw.get(key)!r}")

    must("hidden_act", ("silu",))
    must("attention_bias", (False,))
    must("use_sliding_window", (False,))
    must("tie_word_embeddings", (False, True))
    # transformers 5 writes rope_parameters, older ones rope_theta and rope_scaling.
    rope = raw.get("rope_parameters") or {}
    scaling = raw.get("rope_scaling") or rope
    if not isinstance(rope, dict) or not isinstance(scaling, dict):
        raise CheckpointError(f"{file}: expected rope_parameters and rope_scaling as objects")
    kind = scaling.get("rope_type", scaling.get("type", "default")) if scaling else "default"
    if kind != "default":
        raise CheckpointError(f"{file}: expected rope of type 'default', not {kind!r}")
    heads = size("num_attention_heads")
    hidden = size("hidden_size")
    config = Config(
        layers=size("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=size("num_key_value_heads", heads),
        head_dim=size("head_dim", max(1, hidden // heads)),
        intermediate=size("intermediate_size"),
        vocabulary=size("vocab_size"),
        context=size("max_position_embeddings"),
        eps=above_zero("rms_norm_eps", raw.get("rms_norm_eps")),
        rope_theta=above_zero("rope_theta", rope.get("rope_theta", raw.get("rope_theta"))),
        tied=bool(raw.get("tie_word_embeddings", False)),
    )
    if config.heads % config.kv_heads:
        raise CheckpointError(
            f"{file}: expected num_attention_heads to be a multiple of num_key_value_heads, "
            f"not {config.heads} and {config.kv_heads}"
        )
    return config


def _template(directory: Path, tokenizer_config: Mapping[str, Any]) -> tuple[str, Path]:
    own = directory / "chat_template.jinja"
    if own.is_file():
        return _read_text(own), own
    inside = tokenizer_config.get("chat_template")
    if isinstance(inside, str) and inside:
        return inside, directory / "tokenizer_config.json"
    raise CheckpointError(
        f"{own}: expected the chat template here, or as chat_template in tokenizer_config.json"
    )


def _named_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    named = {}
    for key in ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token"):
        value = tokenizer_config.get(key)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            named[key] = value
    return named


def _stop_ids(
    directory: Path,
    generation: Mapping[str, Any],
    config: Mapping[str, Any],
    tokens: Mapping[str, str],
    tokenizer: Tokenizer,
) -> tuple[int, ...]:
    stated = generation.get("eos_token_id", config.get("eos_token_id"))
    ids = stated if isinstance(stated, list) else [stated]
    if not ids or not all(
        isinstance(i, int) and 0 <= i < 2**32 and tokenizer.id_to_token(i) for i in ids
    ):
        raise CheckpointError(
            f"{directory / 'generation_config.json'}: expected eos_token_id here or in config.json "
            f"as ids that tokenizer.json has, not {stated!r}"
        )
    end = tokens.get("eos_token")
    if end is None or tokenizer.token_to_id(end) not in ids:
        raise CheckpointError(
            f"{directory / 'tokenizer_config.json'}: expected eos_token to be one of the tokens "
            f"{[tokenizer.id_to_token(i) for i in ids]} that end an answer, not {end!r}"
        )
    added = tokenizer.get_added_tokens_decoder()
    for stop in ids:
        if stop not in added:
            raise CheckpointError(
                f"{directory / 'tokenizer.json'}: expected {tokenizer.id_to_token(stop)!r}, which "
                "ends an answer, among added_tokens; else content could yield it"
            )
    return tuple(ids)


def _profile(file: Path, family: Family) -> dict[str, Any]:
    text = _read_text(file)
    try:
        profile = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a day that is none
        raise CheckpointError(f"{file}: expected YAML ({error})") from None
    if not isinstance(profile, dict) or not _is_name(profile.get("name")):
        raise CheckpointError(
            f"{file}: expected a mapping with a name of letters, digits, points, dashes, "
            "underlines and slashes"
        )
    if profile.get("family") != family:
        raise CheckpointError(
            f"{file}: expected family {family}, and it is {profile.get('family')!r}"
        )
    taxonomy = profile.get("taxonomy")
    if not isinstance(taxonomy, dict) or not all(
        isinstance(key, str) and isinstance(value, str) for key, value in taxonomy.items()
    ):
        raise CheckpointError(
            f"{file}: expected taxonomy as a map from the template's strings to canonical names"
        )
    if profile.get("calibration") != "none":
        raise CheckpointError(
            f"{file}: expected calibration none, and it is {profile.get('calibration')!r}"
        )
    return profile


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _weights(directory: Path) -> dict[str, Weight]:
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return _header(directory / "model.safetensors")
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: expected weight_map from tensor names to files")
    found: dict[str, Weight] = {}
    for shard in sorted({str(value) for value in weight_map.values()}):
        if Path(shard).name != shard:
            raise CheckpointError(f"{index}: expected files beside it, not {shard!r}")
        found |= _header(directory / shard)
    for name, shard in weight_map.items():
        if name not in found:
            raise CheckpointError(f"{directory / shard}: expected tensor {name}, which is missing")
    return found


def _header(file: Path) -> dict[str, Weight]:
    """What a safetensors file says it holds, without reading the tensors. The library that reads
    them later also checks that the header and the file's size go together."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {
                name: Weight(file, part.get_dtype(), tuple(part.get_shape()))
                for name, part in slices.items()
            }
    except FileNotFoundError:
        raise CheckpointError(f"{file}: expected the weights here; it is missing") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file}: expected a whole safetensors file; fetch it again ({error})"
        ) from None


def expected_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The tensors of a Qwen3 network without a head, by the names of transformers, with their
    shapes."""
    hidden, inner, head = config.hidden, config.intermediate, config.head_dim
    queries, keys = config.heads * head, config.kv_heads * head
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(config.layers):
        at = f"model.layers.{layer}."
        shapes |= {
            at + "input_layernorm.weight": (hidden,),
            at + "self_attn.q_proj.weight": (queries, hidden),
            at + "self_attn.k_proj.weight": (keys, hidden),
            at + "self_attn.v_proj.weight": (keys, hidden),
            at + "self_attn.o_proj.weight": (hidden, queries),
            at + "self_attn.q_norm.weight": (head,),
            at + "self_attn.k_norm.weight": (head,),
            at + "post_attention_layernorm.weight": (hidden,),
            at + "mlp.gate_proj.weight": (inner, hidden),
            at + "mlp.up_proj.weight": (inner, hidden),
            at + "mlp.down_proj.weight": (hidden, inner),
        }
    return shapes


def _check_layers(file: Path, config: Config, weights: Mapping[str, Weight]) -> None:
    """Before their names are made, of which there may be any number."""
    if config.layers > len(weights):
        raise CheckpointError(
            f"{file}: expected as many num_hidden_layers as there are weights for, "
            f"not {config.layers}"
        )


def check_shapes(
    directory: Path, shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, Weight]
) -> None:
    """Raises `CheckpointError` where a tensor is missing, or not what `config.json` says."""
    for name, shape in shapes.items():
        weight = weights.get(name)
        if weight is None:
            raise CheckpointError(
                f"{directory / 'model.safetensors'}: expected tensor {name}, which is missing"
            )
        if weight.shape != shape:
            raise CheckpointError(
                f"{weight.file}: expected {name} of shape {shape} as config.json says, "
                f"not {weight.shape}"
            )
        if weight.dtype not in _DTYPES:
            raise CheckpointError(
                f"{weight.file}: expected {name} as one of {', '.join(_DTYPES)}, not {weight.dtype}"
            )
