"""Whatever is wrong with a checkpoint is said with the file and what was expected in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qwarden_engine.checkpoint import CheckpointError, open_checkpoint
from qwarden_engine.gen import Gen
from qwarden_engine.settings import EngineSettings
from unit.engine.checkpoints import STAND_IN, copy_to, edit, store, tensors_of

Damage = Callable[[Path], object]


def _load(checkpoint: Path) -> Gen:
    return Gen.load(EngineSettings(checkpoint=str(checkpoint), device="cpu", token_budget=64))


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model.safetensors",
    ],
)
def test_a_missing_file_is_not_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{re.escape(name)}: expected .*") as raised:
        open_checkpoint(str(copy_to(tmp_path, without=name)))
    assert str(raised.value).count("expected") == 1


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"],
)
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_broken_file_is_not_named(tmp_path: Path, name: str, content: bytes) -> None:
    guard = copy_to(tmp_path)
    (guard / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{re.escape(name)}: expected"):
        open_checkpoint(str(guard))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "llama", "expected model_type qwen3, and it is 'llama'"),
        ("num_hidden_layers", 0, "expected num_hidden_layers as a number above 0, not 0"),
        ("hidden_size", "256", "expected hidden_size as a number above 0, not '256'"),
        ("max_position_embeddings", None, "expected max_position_embeddings as a number"),
        ("rms_norm_eps", None, "expected rms_norm_eps as a number above 0, not None"),
        ("rope_theta", True, "expected rope_theta as a number above 0, not True"),
        ("hidden_act", "gelu", "expected hidden_act 'silu', not 'gelu'"),
        ("attention_bias", True, "expected attention_bias False, not True"),
        ("use_sliding_window", True, "expected use_sliding_window False, not True"),
        ("rope_scaling", {"rope_type": "yarn"}, "expected rope of type 'default', not 'yarn'"),
        ("rope_scaling", "yarn", "expected rope_parameters and rope_scaling as objects"),
        ("rope_parameters", [1], "expected rope_parameters and rope_scaling as objects"),
        ("tie_word_embeddings", "false", "expected tie_word_embeddings False, not 'false'"),
        ("num_hidden_layers", 10**9, "expected as many num_hidden_layers as there are weights"),
        ("num_key_value_heads", 5, "expected num_attention_heads to be a multiple of"),
        ("eos_token_id", [0], None),
    ],
)
def test_a_config_of_another_network_is_loaded(
    tmp_path: Path, key: str, value: object, message: str | None
) -> None:
    guard = copy_to(tmp_path)
    edit(guard / "config.json", lambda body: body.update({key: value}))
    if message is None:  # generation_config.json has the word on what ends an answer
        assert open_checkpoint(str(guard)).stop_ids != (0,)
        return
    with pytest.raises(CheckpointError, match=re.escape(f"config.json: {message}")):
        open_checkpoint(str(guard))


def test_a_context_that_the_template_fills_is_loaded(tmp_path: Path) -> None:
    guard = copy_to(tmp_path)
    edit(guard / "config.json", lambda body: body.update(max_position_embeddings=100))
    with pytest.raises(CheckpointError, match=r"config.json: expected max_position_embeddings abo"):
        _load(guard)


def _without_tensor(guard: Path) -> None:
    tensors = tensors_of(guard / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    store(tensors, guard / "model.safetensors")


def _other_shape(guard: Path) -> None:
    tensors = tensors_of(guard / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()
    store(tensors, guard / "model.safetensors")


def _other_dtype(guard: Path) -> None:
    tensors = tensors_of(guard / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    store(tensors, guard / "model.safetensors")


def _truncated(guard: Path) -> None:
    file = guard / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def _other_bytes(guard: Path) -> None:
    """Another dtype in the header; the file's size is right."""
    file = guard / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"F32"', b'"F16"', 1))


def _one_place_for_two(guard: Path) -> None:
    """Two tensors of one shape at the same bytes; the file's size is right."""

    def change(header: dict[str, Any]) -> None:
        first, second = (f"model.layers.{layer}.self_attn.q_norm.weight" for layer in range(2))
        header[second]["data_offsets"] = header[first]["data_offsets"]

    _edit_header(guard, change)


def _fraction_as_size(guard: Path) -> None:
    _edit_header(guard, lambda header: header["model.norm.weight"].update(shape=[384.0]))


def _edit_header(guard: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = guard / "model.safetensors"
    content = file.read_bytes()
    behind = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:behind])
    change(header)
    _write_header(guard, json.dumps(header).encode(), content[behind:])


def _write_header(guard: Path, header: bytes, tensors: bytes = b"") -> None:
    length = len(header).to_bytes(8, "little")
    (guard / "model.safetensors").write_bytes(length + header + tensors)


def _deep_header(guard: Path) -> None:
    _write_header(guard, b'{"a":' + b"[" * 100_000)


def _no_header(guard: Path) -> None:
    (guard / "model.safetensors").write_bytes(b"\xff" * 64)


def _index_without_shard(guard: Path) -> None:
    body = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (guard / "model.safetensors.index.json").write_text(json.dumps(body))


def _index_leads_out(guard: Path) -> None:
    body = {"weight_map": {"model.norm.weight": "../model.safetensors"}}
    (guard / "model.safetensors.index.json").write_text(json.dumps(body))


def _index_lies(guard: Path) -> None:
    body = {"weight_map": {"no.such.tensor": "model.safetensors"}}
    (guard / "model.safetensors.index.json").write_text(json.dumps(body))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_tensor, "model.safetensors: expected tensor model.layers.0.mlp.up_proj.weight"),
        (_other_shape, "model.safetensors: expected model.norm.weight of shape"),
        (_other_dtype, "model.safetensors: expected model.norm.weight as one of F32, BF16, F16"),
        (_truncated, "model.safetensors: expected a whole safetensors file; fetch it again"),
        (_other_bytes, "model.safetensors: expected a whole safetensors file"),
        (_one_place_for_two, "model.safetensors: expected a whole safetensors file"),
        (_fraction_as_size, "model.safetensors: expected a whole safetensors file"),
        (_deep_header, "model.safetensors: expected a whole safetensors file"),
        (_no_header, "model.safetensors: expected a whole safetensors file"),
        (_index_without_shard, "model-00001-of-00002.safetensors: expected the weights here"),
        (_index_leads_out, "model.safetensors.index.json: expected files beside it"),
        (_index_lies, "model.safetensors: expected tensor no.such.tensor"),
    ],
)
def test_wrong_weights_are_loaded(tmp_path: Path, damage: Damage, message: str) -> None:
    guard = copy_to(tmp_path)
    damage(guard)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        open_checkpoint(str(guard))


def _vocabulary_too_small(guard: Path) -> None:
    edit(guard / "config.json", lambda body: body.update(vocab_size=100))


def _stop_unknown(guard: Path) -> None:
    edit(guard / "generation_config.json", lambda body: body.update(eos_token_id=999_999))


def _stop_is_text(guard: Path) -> None:
    edit(guard / "generation_config.json", lambda body: body.update(eos_token_id=[5]))
    tokenizer = open_checkpoint(str(STAND_IN)).tokenizer
    end = tokenizer.id_to_token(5)
    edit(guard / "tokenizer_config.json", lambda body: body.update(eos_token=end))


def _eos_other(guard: Path) -> None:
    edit(guard / "tokenizer_config.json", lambda body: body.update(eos_token="<|im_start|>"))


def _added_token_from_merges(guard: Path) -> None:
    """An added token whose text is a word of the vocabulary as well."""

    def change(body: dict[str, object]) -> None:
        added = body["added_tokens"]
        model = body["model"]
        assert isinstance(added, list)
        assert isinstance(model, dict)
        added.append({**added[0], "id": model["vocab"]["Safety"], "content": "Safety"})

    edit(guard / "tokenizer.json", change)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_vocabulary_too_small, "tokenizer.json: expected at most vocab_size of config.json"),
        (_stop_unknown, "generation_config.json: expected eos_token_id"),
        (_stop_is_text, "among added_tokens; else content could yield it"),
        (_eos_other, "tokenizer_config.json: expected eos_token to be one of the tokens"),
        (_added_token_from_merges, "tokenizer.json: expected 'Safety' typed in content to be"),
    ],
)
def test_special_tokens_are_taken_on_trust(tmp_path: Path, damage: Damage, message: str) -> None:
    guard = copy_to(tmp_path)
    damage(guard)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        _load(guard)


def _template(guard: Path, old: str, new: str) -> None:
    file = guard / "chat_template.jinja"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{%- if last_role", "{%- if (last_role", "expected a Jinja template"),
        ("messages[-1].role", "messages[-1].role + 1", "expected to render a prompt"),
        ("'USER: ' + message.content", "'USER: '", "expected the content of each turn of a prompt"),
        (
            "<BEGIN UNSAFE CONTENT CATEGORIES>",
            "<CATEGORIES>",
            "expected the categories of a prompt",
        ),
    ],
)
def test_a_template_without_its_structure_is_used(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    guard = copy_to(tmp_path)
    _template(guard, old, new)
    with pytest.raises(CheckpointError, match=f"chat_template.jinja: {re.escape(message)}"):
        _load(guard)


def test_a_cut_that_changes_tokens_is_used(tmp_path: Path) -> None:
    """A word straight before the content: no cut before the blank can be the whole's tokens."""
    guard = copy_to(tmp_path)
    _template(guard, "'USER: ' + message.content", "'USER' + message.content")
    with pytest.raises(CheckpointError, match=r"chat_template.jinja: expected the same token ids"):
        _load(guard)


def test_categories_with_one_first_token_are_told_apart_by_it(tmp_path: Path) -> None:
    guard = copy_to(tmp_path)
    _template(guard, "Unethical Acts", "Violent Talk")
    profile = {string: string for string in _strings()} | {"Violent Talk": "Unethical Acts"}
    _write_profile(guard, taxonomy=profile)
    with pytest.raises(CheckpointError, match=r"tokenizer.json: expected categories to differ"):
        _load(guard)


def _strings() -> tuple[str, ...]:
    from qwarden.guard.taxonomy import CATEGORIES

    return CATEGORIES


def _write_profile(guard: Path, **changes: object) -> None:
    body: dict[str, object] = {
        "name": "guard-of-a-test",
        "family": "qwen3guard-gen",
        "taxonomy": {string: string for string in _strings()},
        "accuracy": {},
        "calibration": "none",
    }
    (guard / "profile.yaml").write_text(json.dumps(body | changes))  # JSON is YAML


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "expected a mapping with a name"),
        ({"name": ""}, "expected a mapping with a name"),
        ({"name": "a guard"}, "expected a mapping with a name"),
        ({"name": "guard@1"}, "expected a mapping with a name"),
        ({"name": "guard\n"}, "expected a mapping with a name"),
        ({"family": "llamaguard"}, "expected family qwen3guard-gen, and it is 'llamaguard'"),
        ({"taxonomy": ["Violent"]}, "expected taxonomy as a map"),
        ({"taxonomy": {"Violent": "Violent"}}, "expected 'Non-violent Illegal Acts', a category"),
        ({"calibration": "platt"}, "expected calibration none, and it is 'platt'"),
    ],
)
def test_a_wrong_profile_is_used(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    guard = copy_to(tmp_path)
    _write_profile(guard, **changes)
    with pytest.raises(CheckpointError, match=f"profile.yaml: {re.escape(message)}"):
        _load(guard)


def test_a_profile_nested_without_end_gives_a_stack_trace(tmp_path: Path) -> None:
    guard = copy_to(tmp_path)
    (guard / "profile.yaml").write_text("[" * 2_000)
    with pytest.raises(CheckpointError, match=r"profile\.yaml: expected YAML"):
        open_checkpoint(str(guard))


def test_a_day_that_is_none_names_no_file(tmp_path: Path) -> None:
    guard = copy_to(tmp_path)
    _write_profile(guard)
    profile = (guard / "profile.yaml").read_text()
    (guard / "profile.yaml").write_text(profile.replace("{", "{measured: 2026-13-45, ", 1))
    with pytest.raises(CheckpointError, match=r"profile\.yaml: expected YAML"):
        open_checkpoint(str(guard))


@pytest.mark.parametrize("stop", [-1, 2**40, "<|im_end|>"])
def test_an_end_that_is_no_token_gives_a_stack_trace(tmp_path: Path, stop: object) -> None:
    guard = copy_to(tmp_path)
    edit(guard / "generation_config.json", lambda body: body.update({"eos_token_id": stop}))
    with pytest.raises(CheckpointError, match=r"generation_config\.json: expected eos_token_id"):
        open_checkpoint(str(guard))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Gore", "expected taxonomy to map 'Violent' to one of Violent, Non-violent"),
        ("PII", "expected one category for each canonical name, and ['PII']"),
    ],
)
def test_a_category_reaches_no_policy(tmp_path: Path, name: str, message: str) -> None:
    guard = copy_to(tmp_path)
    _write_profile(guard, taxonomy={string: string for string in _strings()} | {"Violent": name})
    with pytest.raises(CheckpointError, match=f"profile.yaml: {re.escape(message)}"):
        _load(guard)


def test_the_profiles_names_are_not_answered(tmp_path: Path) -> None:
    """The template may say a category in words of its own."""
    from qwarden.guard.conversation import Task

    guard = copy_to(tmp_path)
    _template(guard, "\\nPII\\n", "\\nWrong use of personal data\\n")
    _write_profile(
        guard, taxonomy={s: s for s in _strings()} | {"Wrong use of personal data": "PII"}
    )
    gen = _load(guard)
    assert gen.category_names(Task.PROMPT) == _strings()
    assert gen.revision.startswith("guard-of-a-test@")


def test_a_template_in_tokenizer_config_is_not_found(tmp_path: Path) -> None:
    """Where older tools of the hub keep it."""
    guard = copy_to(tmp_path)
    template = (guard / "chat_template.jinja").read_text(encoding="utf-8")
    (guard / "chat_template.jinja").unlink()
    edit(guard / "tokenizer_config.json", lambda body: body.update(chat_template=template))
    assert open_checkpoint(str(guard)).template == template


def test_a_checkpoint_without_profile_has_no_name(tmp_path: Path) -> None:
    guard = copy_to(tmp_path, without="profile.yaml")
    assert open_checkpoint(str(guard)).name == "guard"
    edit(guard / "config.json", lambda body: body.update(_name_or_path="Qwen/Some-Guard"))
    assert open_checkpoint(str(guard)).name == "Some-Guard"


def test_an_id_that_is_nowhere_gives_a_stack_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(hub_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert not any(pattern.endswith(".py") for pattern in allow_patterns)
        raise OSError(f"no {hub_id} at {revision}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=r"No/Such: expected a directory, or a hub id .*main"):
        open_checkpoint("No/Such")


def test_the_hub_revision_is_not_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    snapshot = copy_to(tmp_path, without="profile.yaml")
    asked: list[tuple[str, str | None]] = []

    def give(hub_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((hub_id, revision))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
    assert open_checkpoint("Some/Guard-Gen", "abc123").name == "Guard-Gen"
    assert asked == [("Some/Guard-Gen", "abc123")]
