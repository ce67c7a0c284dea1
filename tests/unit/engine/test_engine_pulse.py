from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qwarden_engine.pulse import Beat, Pulse, read_beat


def test_a_busy_engine_looks_like_a_dead_one(tmp_path: Path) -> None:
    """Each forward moves the count; while one runs, the file says so."""
    file = tmp_path / "pulse"
    pulse = Pulse(file)
    assert read_beat(file) == Beat(0, 0.0, False)
    slowest = 0.0
    for count in range(3):
        pulse.starts()
        beat = read_beat(file)
        assert beat is not None
        assert (beat.count, beat.running) == (count, True)
        slowest = max(slowest, pulse.ends())
        assert read_beat(file) == Beat(count + 1, slowest, False)
    pulse.close()
    pulse.close()


def test_a_life_that_has_ended_in_a_forward_looks_idle(tmp_path: Path) -> None:
    """What a killed process has left: running, with a count that moves no more."""
    file = tmp_path / "pulse"
    code = (
        "import os, sys; from pathlib import Path; from qwarden_engine.pulse import Pulse;"
        "pulse = Pulse(Path(sys.argv[1])); pulse.starts(); pulse.ends(); pulse.starts();"
        "os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(file)], check=False).returncode == 9
    beat = read_beat(file)
    assert beat is not None
    assert (beat.count, beat.running) == (1, True)
    assert beat == read_beat(file)


def test_a_new_life_goes_on_with_the_count_of_the_last(tmp_path: Path) -> None:
    file = tmp_path / "pulse"
    first = Pulse(file)
    first.starts()
    first.ends()
    first.starts()
    first.close()
    Pulse(file).close()
    assert read_beat(file) == Beat(0, 0.0, False)


@pytest.mark.parametrize("content", [None, b"", b"\1", b"\1" * 16, b"\1" * 18])
def test_an_engine_that_has_not_written_yet_raises(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "pulse"
    if content is not None:
        file.write_bytes(content)
    assert read_beat(file) is None


def _open_files() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_a_pulse_that_nobody_reads_opens_a_file() -> None:
    before = _open_files()
    pulse = Pulse(None)
    pulse.starts()
    assert pulse.ends() >= 0
    assert _open_files() == before
    pulse.close()
