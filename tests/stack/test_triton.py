"""Triton under its supervisor: it ends whole, and a guard that does not load is not waited for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qwarden.stack import triton as triton_module
from qwarden.stack.errors import StackError
from qwarden.stack.home import Home
from qwarden.stack.process import Process, descendants
from qwarden.stack.triton import Triton, available

Until = Callable[[Callable[[], bool]], None]

MODEL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        {initialize}

    def execute(self, requests):
        return [pb_utils.InferenceResponse([]) for _ in requests]
"""

CONFIG = """
backend: "python"
max_batch_size: 8
input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""


def _repository(folder: Path, initialize: str) -> Path:
    """Make a model repository with a model that loads without torch."""
    model = folder / "qwen3guard_gen"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(CONFIG)
    (model / "1" / "model.py").write_text(MODEL.format(initialize=initialize))
    return folder


needs_triton = pytest.mark.skipif(available() is not None, reason=available() or "")


@needs_triton
def test_triton_ends_whole_and_returns_at_the_same_address(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = tmp_path / "user"
    user.mkdir()
    monkeypatch.setenv("HOME", str(user))
    told: list[str] = []
    triton = Triton(
        home,
        {},
        repository=_repository(tmp_path / "models", "pass"),
        progress=lambda message, fraction: told.append(message),
    )
    with triton:
        address = triton.grpc
        processes = descendants(triton.child.pid)
        assert len(processes) == 2, "the server and its stub"
        regions = _shared_memory(processes)
        assert regions
        triton.kill()
        assert not any(process.alive for process in processes)
        assert not any(region.exists() for region in regions)
        triton.start()
        assert triton.grpc == address
        processes = descendants(triton.child.pid)
        regions = _shared_memory(processes)
        # As a second Ctrl-C does: a supervisor that is killed alone leaves the stubs behind.
        triton.hurry()
    assert not any(process.alive for process in processes)
    assert not any(region.exists() for region in regions)
    assert "loading the guard" in told
    assert list(user.rglob("*")) == []


@needs_triton
def test_a_guard_that_does_not_load_is_not_waited_for(home: Home, tmp_path: Path) -> None:
    broken = _repository(tmp_path / "models", 'raise ValueError("no weights in this folder")')
    with pytest.raises(StackError) as failure:
        Triton(home, {}, repository=broken).start()
    assert "no weights in this folder" in str(failure.value)
    assert str(home.logs / "triton.log") in str(failure.value)


def test_a_machine_without_shared_memory_is_told_the_way_out(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(triton_module, "_SHARED_MEMORY", tmp_path / "none")
    with pytest.raises(StackError, match="--without triton"):
        Triton(home, {}).start()


def _shared_memory(server: list[Process]) -> list[Path]:
    """The regions of this Triton alone: others may run on the machine."""
    command = Path(f"/proc/{server[0].pid}/cmdline").read_text()
    prefix = command.partition("shm-region-prefix-name=")[2].partition("\0")[0]
    assert prefix
    return list(Path("/dev/shm").glob(f"{prefix}*"))
