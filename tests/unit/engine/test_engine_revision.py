from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from qwarden_engine.checkpoint import open_checkpoint
from qwarden_engine.revision import Conditions, revision_of
from unit.engine.checkpoints import copy_to

CONDITIONS = Conditions(
    dtype="float32",
    architecture="cpu-x86_64",
    torch="2.13.0",
    floor=0.9,
    refusal=True,
    slice_tokens=4096,
    max_pieces=8,
    second_look=True,
)
CHANGES: dict[str, object] = {
    "dtype": "bfloat16",
    "architecture": "cuda-sm_90",
    "torch": "2.14.0",
    "floor": 0.8,
    "refusal": False,
    "slice_tokens": 2048,
    "max_pieces": 1,
    "second_look": False,
    "overlap": 100,
    "normaliser": 100,
    "semantics": 10**6,
}


def test_revisions_are_of_another_form(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(copy_to(tmp_path)))
    revision = revision_of(checkpoint.name, checkpoint.files, CONDITIONS)
    name, _, digest = revision.rpartition("@")
    assert name == checkpoint.name
    assert len(bytes.fromhex(digest)) == 6


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Conditions)])
def test_answers_under_other_conditions_have_the_same_revision(tmp_path: Path, field: str) -> None:
    file = tmp_path / "config.json"
    file.write_text("{}")
    other = dataclasses.replace(CONDITIONS, **{field: CHANGES[field]})  # type: ignore[arg-type]
    assert revision_of("g", [file], CONDITIONS) != revision_of("g", [file], other)


def test_a_changed_file_keeps_the_revision(tmp_path: Path) -> None:
    guard = copy_to(tmp_path)
    (guard / "profile.yaml").write_text(
        '{"name": "g", "family": "qwen3guard-gen", "taxonomy": {}, "calibration": "none"}'
    )
    files = open_checkpoint(str(guard)).files
    names = {file.name for file in files}
    assert names >= {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model.safetensors",
        "profile.yaml",
    }
    seen = {revision_of("g", files, CONDITIONS)}
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content + b" ")
        seen.add(revision_of("g", files, CONDITIONS))
        file.write_bytes(content)
    assert len(seen) == len(files) + 1
    assert revision_of("g", files, CONDITIONS) in seen


def test_the_same_checkpoint_elsewhere_has_another_revision(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = (open_checkpoint(str(copy_to(tmp_path / folder))) for folder in "ab")
    assert revision_of("g", one.files, CONDITIONS) == revision_of("g", other.files, CONDITIONS)
