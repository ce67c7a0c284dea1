"""The stream engine as a whole, on a checkpoint with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from qwarden.guard.conversation import Task
from qwarden.guard.stream import Append, Appended, Part, Segment, Status
from qwarden.guard.taxonomy import categories_of
from qwarden_engine.checkpoint import CheckpointError
from qwarden_engine.settings import SettingsError
from qwarden_engine.stream.engine import Stream
from qwarden_engine.stream.settings import StreamSettings
from unit.engine.checkpoints import STAND_IN, store, tensors_of
from unit.engine.stream_checkpoint import random_stream_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_stream_checkpoint(tmp_path_factory.mktemp("guard"), max_position_embeddings=512)


def engine(checkpoint: Path, **settings: Any) -> Stream:
    return Stream.load(
        StreamSettings(
            checkpoint=str(checkpoint),
            device="cpu",
            **{"threads": 1, "dtype": "float32", "kv_mib": 8, **settings},
        )
    )


PARTS = (
    Part("user", "How do I bake bread?", end=True),
    Part("assistant", "They want bread. I tell them.", Segment.THINKING),
    Part("assistant", "Mix flour, water and salt — 然后等待. Then bake it.", end=True),
)


def logits_of(answers: Sequence[Appended]) -> list[Any]:
    return [
        (each.task, each.start, each.end, each.logits) for said in answers for each in said.scored
    ]


def test_chunks_or_neighbours_change_a_verdict(checkpoint: Path) -> None:
    stream = engine(checkpoint)
    [whole] = stream.append([Append("t", "whole", 0, PARTS)])
    wanted = logits_of([whole])
    assert {each[0] for each in wanted} == set(Task)
    for size in (1, 3, 16, 64):
        said = []
        offset = 0
        for part in PARTS:
            for at in range(0, len(part.text), size):
                text = part.text[at : at + size]
                end = part.end and at + size >= len(part.text)
                piece = Part(part.role, text, part.segment, end=end)
                appends = [Append("t", f"{size} {n}", offset, (piece,)) for n in range(3)]
                answers = stream.append(appends)
                assert {answer.status for answer in answers} == {Status.DONE}
                said.append(answers[1])
                offset += len(text)
        got = logits_of(said)
        assert [each[:3] for each in got] == [each[:3] for each in wanted]
        for one, other in zip(got, wanted, strict=True):
            assert one[3] == pytest.approx(other[3], abs=1e-4)
    stream.close()


def test_a_token_that_is_not_safe_has_no_category_or_a_safe_one_has(checkpoint: Path) -> None:
    stream = engine(checkpoint)
    [said] = stream.append([Append("t", "s", 0, PARTS)])
    assert {bool(each.categories) for each in said.scored} == {True, False}
    for each in said.scored:
        assert bool(each.categories) is (each.safety != "Safe")
        assert all(name in categories_of(each.task) for name, _ in each.categories)
        shares = [share for _, share in each.categories]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 1.0001
    stream.close()


def test_the_metrics_stand_still(checkpoint: Path) -> None:
    stream = engine(checkpoint)
    before = stream.measures()
    stream.append([Append("t", "s", 0, PARTS[:2])])
    stream.append([Append("t", "s", 1, PARTS[2:])])
    stream.append([Append("t", "s", 0, PARTS[:2], since=20)])
    after = stream.measures()
    assert after["sessions"] == before["sessions"] + 1
    assert after["kv_used_bytes"] == before["kv_used_bytes"] + 128 * after["token_bytes"]
    assert after["kv_total_bytes"] <= 8 * 2**20
    assert after["replays"] == 1
    assert after["tokens"] == 2 * after["replayed_tokens"] > 0
    assert after["forward_seconds"] > 0
    stream.close()


def test_a_revision_stands_for_two_engines(checkpoint: Path) -> None:
    revisions = set()
    for settings in ({}, {"dtype": "bfloat16"}, {"dtype": "int8"}):
        stream = engine(checkpoint, **settings)
        revisions.add(stream.revision)
        stream.close()
    assert len(revisions) == 3
    same = engine(checkpoint, step_tokens=64, kv_mib=16)
    assert same.revision in revisions
    same.close()


def test_a_session_that_can_never_come_to_its_end_is_begun(checkpoint: Path) -> None:
    with pytest.raises(SettingsError, match=r"QWARDEN_STREAM__KV_MIB is 1, .* takes 2 MiB"):
        engine(checkpoint, kv_mib=1, high_water=0.5)
    engine(checkpoint, kv_mib=2, high_water=0.5).close()


def test_a_gen_checkpoint_streams() -> None:
    with pytest.raises(CheckpointError, match="qwen3guard-stream"):
        engine(STAND_IN)


def test_damaged_weights_answer(checkpoint: Path, tmp_path: Path) -> None:
    damaged = random_stream_checkpoint(tmp_path, max_position_embeddings=512)
    tensors = tensors_of(damaged / "model.safetensors")
    tensors["model.norm.weight"].fill_(float("nan"))
    store(tensors, damaged / "model.safetensors")
    with pytest.raises(CheckpointError, match="expected numbers"):
        engine(damaged)


@pytest.mark.parametrize(
    ("key", "value"),
    [("KV_MIB", "0"), ("HIGH_WATER", "1.1"), ("SILENT_S", "-1"), ("STEP_TOKENS", "63")],
)
def test_a_wrong_value_is_reported_without_its_name(key: str, value: str) -> None:
    environ = {"QWARDEN_STREAM__CHECKPOINT": "x", f"QWARDEN_STREAM__{key}": value}
    with pytest.raises(SettingsError, match=f"QWARDEN_STREAM__{key}: "):
        StreamSettings.from_env(environ)
