"""What `make mutants` says of a module of three functions and its tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pure

_MODULE = """
def checked(a, b):
    return a + b

def run_only(a, b):
    return a - b

def forgotten(a, b):
    return a * b
"""

_TESTS = """
from three import checked, run_only

def test_a_sum():
    assert checked(2, 3) == 5

def test_no_difference():
    run_only(2, 3)

def test_that_is_wrong_already():
    assert run_only(2, 3) == 1
"""

_RUN = """
import sys, mutants
from pathlib import Path
sys.exit(mutants.run({"three": Path(sys.argv[1])}, sys.argv[2:]))
"""


@pytest.mark.long
def test_a_change_that_no_test_notices_is_not_taken_for_killed(tmp_path: Path) -> None:
    (tmp_path / "three.py").write_text(_MODULE)
    (tmp_path / "test_three.py").write_text(_TESTS)
    (tmp_path / "conftest.py").write_text(
        'from hypothesis import settings\nsettings.register_profile("mutants")\n'
    )

    said = subprocess.run(
        [sys.executable, "-c", _RUN, tmp_path / "three.py", tmp_path / "test_three.py"],
        cwd=pure.ROOT,
        env={**os.environ, "PYTHONPATH": "tests"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "| `three` | 3 | 1 | 1 | 1 |" in said.stdout, said.stdout + said.stderr
    assert "-    return a - b\n+    return a + b\n" in said.stdout
    assert "x_forgotten is not reached" in said.stdout
    assert "left out, since it fails without any change" in said.stdout
    assert said.returncode == 1
