"""What a Stream checkpoint says of its heads is read by name, or refused with a sentence."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwarden.guard.taxonomy import CATEGORIES
from qwarden_engine.checkpoint import CheckpointError, Family, family_of, open_checkpoint
from qwarden_engine.stream.checkpoint import StreamCheckpoint, open_stream_checkpoint
from unit.engine.checkpoints import STAND_IN, copy_to, edit, store, tensors_of
from unit.engine.stream_checkpoint import random_stream_checkpoint

LONG = (
    '"Violent"',
    "Sexual Content or Sexual Acts",
    "Suicide & Self-Harm",
    "Politically Sensitive Topics",
    "PII",
    "Copyright Violation",
    "Non-violent Illegal Acts",
    "Unethical Acts",
)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_stream_checkpoint(tmp_path_factory.mktemp("guard"))


@pytest.fixture
def guard(unchanged: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(unchanged, tmp_path / "stream"))


def _numbered(*names: str) -> dict[str, str]:
    return {str(at): name for at, name in enumerate(names)}


def _changed(guard: Path, **changes: Any) -> StreamCheckpoint:
    edit(guard / "config.json", lambda body: body.update(changes))
    return open_stream_checkpoint(str(guard))


def test_a_category_has_another_name_than_the_policies_know(guard: Path) -> None:
    checkpoint = open_stream_checkpoint(str(guard))
    expected = tuple(name.strip('"') for name in LONG)
    assert checkpoint.response.categories == expected
    assert checkpoint.query.categories == (*expected, "Jailbreak")
    assert set(checkpoint.query.categories) == set(CATEGORIES)
    assert checkpoint.inner == 24
    assert _changed(guard, response_category_map=_numbered(*LONG)).response.categories == expected


def test_a_risk_is_found_by_its_number(guard: Path) -> None:
    """The published order is Safe, Unsafe, Controversial, and another one is as good."""
    assert open_stream_checkpoint(str(guard)).response.risks == (0, 2, 1)
    changed = _changed(guard, response_risk_level_map=_numbered("Controversial", "Unsafe", "Safe"))
    assert changed.response.risks == (2, 0, 1)
    assert changed.query.risks == (0, 2, 1)


def test_a_checkpoint_of_one_family_is_opened_by_the_engine_of_the_other(guard: Path) -> None:
    assert family_of(str(guard)) is Family.STREAM
    assert family_of(str(STAND_IN)) is Family.GEN
    with pytest.raises(CheckpointError, match="expected a checkpoint of family qwen3guard-gen"):
        open_checkpoint(str(guard))
    with pytest.raises(CheckpointError, match="expected a checkpoint of family qwen3guard-stream"):
        open_stream_checkpoint(str(STAND_IN))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guard_inner_size": 0}, "expected guard_inner_size as a number above 0, not 0"),
        ({"guard_inner_size": None}, "expected guard_inner_size as a number above 0, not None"),
        ({"guard_inner_size": True}, "expected guard_inner_size as a number above 0, not True"),
        ({"query_risk_level_map": None}, "expected query_risk_level_map as names"),
        ({"response_risk_level_map": {}}, "expected response_risk_level_map as names"),
        ({"response_risk_level_map": ["Safe"]}, "expected response_risk_level_map as names"),
        ({"response_category_map": {"1": "PII"}}, "expected response_category_map as names"),
        ({"response_category_map": {"0": 5}}, "expected response_category_map as names"),
        (
            {"response_risk_level_map": _numbered("Safe", "Unsafe")},
            "expected response_risk_level_map to name Safe, Controversial, Unsafe",
        ),
        (
            {"query_risk_level_map": _numbered("Safe", "Unsafe", "Unsafe")},
            "expected query_risk_level_map to name Safe, Controversial, Unsafe",
        ),
        (
            {"response_category_map": _numbered("PII", "Copyright", "PII")},
            "expected each category once in response_category_map",
        ),
    ],
)
def test_a_wrong_config_gives_wrong_scores(
    guard: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=f"config.json: {re.escape(message)}"):
        _changed(guard, **changes)


def test_an_unknown_category_reaches_a_verdict(guard: Path) -> None:
    """Until a profile says what it is."""
    names = (*LONG[:7], "Rudeness")
    message = r"profile.yaml: expected taxonomy here to map 'Rudeness' of response_category_map"
    with pytest.raises(CheckpointError, match=message):
        _changed(guard, response_category_map=_numbered(*names))
    profile: dict[str, Any] = {
        "name": "guard-of-a-test",
        "family": "qwen3guard-stream",
        "taxonomy": {"Rudeness": "Unethical Acts", '"Violent"': "Violent", "Violent": "Violent"},
        "calibration": "none",
    }
    profile["taxonomy"] |= {"Sexual Content": LONG[1], "Self-Harm": LONG[2], "Political": LONG[3]}
    profile["taxonomy"] |= {"Copyright": LONG[5], "Illegal Acts": LONG[6], "Unethical": LONG[7]}
    (guard / "profile.yaml").write_text(json.dumps(profile))  # JSON is YAML
    checkpoint = open_stream_checkpoint(str(guard))
    assert checkpoint.response.categories[-1] == "Unethical Acts"
    assert checkpoint.base.name == "guard-of-a-test"
    profile["family"] = "qwen3guard-gen"
    (guard / "profile.yaml").write_text(json.dumps(profile))
    with pytest.raises(CheckpointError, match="expected family qwen3guard-stream, and it is"):
        open_stream_checkpoint(str(guard))


def _without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors.pop(name)


def _cut(name: str) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        tensors[name] = tensors[name][1:].contiguous()

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("query_category_head.weight"), "expected tensor query_category_head.weight"),
        (_without("model.norm.weight"), "expected tensor model.norm.weight, which is missing"),
        (_cut("risk_level_head.weight"), "expected risk_level_head.weight of shape (3, 24)"),
        (_cut("category_head.weight"), "expected category_head.weight of shape (8, 24)"),
        (
            _cut("risk_level_category_pre.weight"),
            "expected risk_level_category_pre.weight of shape (24, 64)",
        ),
    ],
)
def test_a_damaged_head_is_used(
    guard: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    tensors = tensors_of(guard / "model.safetensors")
    change(tensors)
    store(tensors, guard / "model.safetensors")
    with pytest.raises(CheckpointError, match=re.escape(message)):
        open_stream_checkpoint(str(guard))


def test_a_head_of_words_is_asked_for_that_nobody_reads(guard: Path) -> None:
    """The larger Stream models do not tie it to their embeddings, and a Gen model must have it."""
    assert _changed(guard, tie_word_embeddings=False).base.config.tied is False


def test_a_gen_checkpoint_without_its_head_of_words_is_used(tmp_path: Path) -> None:
    gen = copy_to(tmp_path)
    edit(gen / "config.json", lambda body: body.update(tie_word_embeddings=False))
    with pytest.raises(CheckpointError, match=r"expected tensor lm_head.weight, which is missing"):
        open_checkpoint(str(gen))


def test_the_hash_leaves_out_a_file(guard: Path) -> None:
    names = {file.name for file in open_stream_checkpoint(str(guard)).base.files}
    assert names == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
        "model.safetensors",
    }
