"""The probe by which Kubernetes sees whether Triton answers, against the real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from qwarden.stack.local import STAND_IN
from qwarden.stack.probe import answers_200
from qwarden.stack.process import descendants
from qwarden.stack.triton import Triton

WITHIN_S = 60.0
"""Over what the supervisor would take to end an engine that is silent, and a start."""


def asked(triton: Triton, seconds: float) -> subprocess.CompletedProcess[str]:
    """What a pod's probe runs."""
    command = [sys.executable, "-m", "qwarden_engine.alive", f"{seconds:g}"]
    return subprocess.run(
        [*command, "--http-port", triton.http.rpartition(":")[2]],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "QWARDEN_ENGINE__CHECKPOINT": str(STAND_IN)},
    )


def test_a_triton_that_answers_nobody_and_counts_as_alive(triton: Triton) -> None:
    assert asked(triton, 30).returncode == 0
    stubs = [
        process
        for process in descendants(triton.child.pid)
        if b"python_backend_stub" in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    ]
    assert stubs
    for each in stubs:
        each.signal(signal.SIGSTOP)
    try:
        done = asked(triton, 2)
        # Triton itself sees nothing, which is why its page is not asked.
        assert answers_200(int(triton.http.rpartition(":")[2]), "/v2/health/live")
    finally:
        for each in stubs:
            each.signal(signal.SIGCONT)
    assert done.returncode == 1
    assert done.stderr == "qwen3guard_gen has not answered within 2 s\n"
    deadline = time.monotonic() + WITHIN_S
    while asked(triton, 10).returncode != 0:
        assert time.monotonic() < deadline


def test_a_triton_that_is_not_there_and_counts_as_alive() -> None:
    command = [sys.executable, "-m", "qwarden_engine.alive", "1", "--http-port", "9"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "qwen3guard_gen has not answered within 1 s\n"
