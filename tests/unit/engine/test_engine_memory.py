from __future__ import annotations

import pytest

from qwarden_engine.checkpoint import Config, open_checkpoint
from qwarden_engine.gen import Gen
from qwarden_engine.memory import need
from qwarden_engine.settings import EngineSettings, SettingsError
from unit.engine.checkpoints import STAND_IN

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
