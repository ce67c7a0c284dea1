from __future__ import annotations

import subprocess
import sys

import pytest

from qwarden_engine.settings import EngineSettings, SettingsError, usable_cores


def test_a_misspelt_setting_is_ignored() -> None:
    environ = {"QWARDEN_ENGINE__CHECKPOINT": "x", "QWARDEN_ENGINE__FLOR": "0.5"}
    with pytest.raises(SettingsError, match=r"QWARDEN_ENGINE__FLOR: no such .*ENGINE__FLOOR"):
        EngineSettings.from_env(environ)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("FLOOR", "1.5"),
        ("FLOOR", "high"),
        ("DEVICE", "tpu"),
        ("THREADS", "0"),
        ("TOKEN_BUDGET", "0"),
        ("TOKEN_BUDGET", "63"),
        ("SLICE_TOKENS", "-1"),
        ("SLICE_TOKENS", "63"),
        ("MAX_PIECES", "0"),
        ("SECOND_LOOK", "perhaps"),
        ("REFUSAL", "some"),
        ("CHECKPOINT", ""),
    ],
)
def test_a_wrong_value_is_reported_without_its_name(key: str, value: str) -> None:
    environ = {"QWARDEN_ENGINE__CHECKPOINT": "x", f"QWARDEN_ENGINE__{key}": value}
    with pytest.raises(SettingsError, match=f"QWARDEN_ENGINE__{key}: "):
        EngineSettings.from_env(environ)


def test_an_engine_starts_without_a_checkpoint() -> None:
    with pytest.raises(SettingsError, match="QWARDEN_ENGINE__CHECKPOINT"):
        EngineSettings.from_env({"PATH": "/bin"})


def test_the_environment_is_not_read() -> None:
    environ = {"QWARDEN_ENGINE__CHECKPOINT": "/guard", "QWARDEN_ENGINE__FLOOR": "0.25"}
    settings = EngineSettings.from_env(environ)
    assert (settings.checkpoint, settings.floor) == ("/guard", 0.25)
    assert settings.threads == usable_cores()


def test_settings_or_supervisor_bring_torch() -> None:
    """Services and the supervisor import these where torch is not installed."""
    code = (
        "import sys, qwarden_engine, qwarden_engine.supervisor, qwarden_engine.checkpoint;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
