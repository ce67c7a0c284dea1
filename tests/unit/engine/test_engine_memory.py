from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from qwarden_engine.checkpoint import Config, open_checkpoint
from qwarden_engine.gen import Gen
from qwarden_engine.memory import COPIES, need
from qwarden_engine.model import Cache, Past, Qwen3
from qwarden_engine.settings import EngineSettings, SettingsError
from unit.engine.checkpoints import STAND_IN, prompt, tiny

SMALL = Config(
    layers=28,
    hidden=1024,
    heads=16,
    kv_heads=8,
    head_dim=128,
    intermediate=3072,
    vocabulary=151_936,
    context=32_768,
    eps=1e-6,
    rope_theta=1e6,
    tied=True,
)


def test_a_needed_gibibyte_is_left_out() -> None:
    """0.6B in bfloat16: 1.1 GiB of weights, and 16 MiB of cosines and sines; 112 KiB of keys and
    values a token, the prefix's in float32."""
    needed = need(
        SMALL, dtype="bfloat16", stored_embedding_bytes=2, prefix_tokens=464, token_budget=4096
    )
    assert needed.weights == pytest.approx(1137 + 16, abs=2)
    assert needed.prefixes == pytest.approx(464 * 224 / 1024, abs=0.1)
    assert needed.sliced == pytest.approx(32_768 * 112 / 1024)
    assert 3 * 4096 * 112 / 1024 < needed.batch < 4 * 4096 * 112 / 1024
    assert needed.total == round(needed.weights + needed.prefixes + needed.batch + needed.sliced)


def test_int8_needs_as_much_as_float32() -> None:
    sizes = [
        need(SMALL, dtype=dtype, stored_embedding_bytes=2, prefix_tokens=1, token_budget=64)
        for dtype in ("int8", "bfloat16", "float32")
    ]
    embeddings = 151_936 * 1024 * 2 / 2**20
    turns = 32_768 * 128 * 4 / 2**20
    weights = [size.weights - embeddings - turns for size in sizes]
    assert weights[1] == pytest.approx(2 * weights[0])
    assert weights[2] == pytest.approx(4 * weights[0])


def test_a_start_takes_more_than_it_may() -> None:
    settings = EngineSettings(checkpoint=str(STAND_IN), device="cpu", memory_mib=20)
    with pytest.raises(SettingsError, match=r"MEMORY_MIB is 20 .* needs \d+ MiB: .*TOKEN_BUDGET"):
        Gen.load(settings)


def test_the_size_of_an_embedding_is_guessed() -> None:
    assert open_checkpoint(str(STAND_IN)).embedding_bytes == 2


def test_one_long_row_pads_short_ones_to_more_memory_than_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They go on in blocks, of which one is held at a time; and answer as they do alone."""
    budget = 1024
    gen = tiny(floor=1.0, token_budget=budget, second_look=False)
    some = [prompt("word " * 500), *(prompt(f"text {at}") for at in range(9))]
    alone = [gen.judge([each.to_json()])[0] for each in some]
    blocks: list[weakref.ref[Tensor]] = []
    sizes: list[int] = []
    cache = Qwen3.cache

    def note(model: Qwen3, *args: Any) -> Cache:
        assert [block for block in blocks if block() is not None] == []
        made = cache(model, *args)
        rows, slots = made.keys[0].shape[:2]
        blocks.append(weakref.ref(made.keys[0]))
        sizes.append(rows * slots)
        return made

    monkeypatch.setattr(Qwen3, "cache", note)
    assert gen.judge([each.to_json() for each in some]) == alone
    assert len(sizes) == 2
    assert max(sizes) <= COPIES * budget
    gen.close()


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system has no /proc")
def test_a_long_row_leaves_its_peak_of_memory_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys and values, here 64 MB, are of no use to the short rows that follow."""
    gen = tiny(second_look=False)
    row = prompt("word " * 300).to_json()
    gen.judge([row])
    past = Qwen3.past

    def large(model: Qwen3, _: int) -> Past:
        made = past(model, 250_000)
        for each in (*made.store.keys, *made.store.values):
            each.zero_()
        return made

    monkeypatch.setattr(Qwen3, "past", large)
    before = _resident()
    gen.judge([row])
    assert _resident() < before + 32 * 10**6
    gen.close()


def test_short_rows_that_memory_can_hold_go_on_one_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gen = tiny(floor=1.0, second_look=False)
    rows: list[int] = []
    cache = Qwen3.cache

    def note(model: Qwen3, *args: Any) -> Cache:
        made = cache(model, *args)
        rows.append(len(made.lengths))
        return made

    monkeypatch.setattr(Qwen3, "cache", note)
    gen.judge([prompt(text).to_json() for text in ("hi", "a few words more than that")])
    assert rows == [2]
    gen.close()
