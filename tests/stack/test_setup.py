"""`make setup` on a machine that lacks something, or under the hands of somebody in a hurry."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from qwarden.stack.home import checkout

TOOLS = [
    *("awk", "bash", "cat", "cksum", "dirname", "getconf", "grep", "head"),
    *("mkdir", "rm", "sed", "sort", "tee", "tr", "uname"),
]
"""Of the machine's own, what the script calls before it installs."""

GOOD_PYTHON = """
case "$*" in
  "-c "*) exit 0 ;;
  "-m venv "*) {on_venv} ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A copy of what the script reads, and `bin`, all that it finds on its PATH."""
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(checkout() / name, tmp_path)
    (tmp_path / "deploy").mkdir()
    shutil.copy(checkout() / "deploy" / "setup.sh", tmp_path / "deploy")
    (tmp_path / "bin").mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found is not None
        (tmp_path / "bin" / name).symlink_to(found)
    program(tmp_path, "df", "echo header; echo disk 0 0 99999999")
    return tmp_path


def program(machine: Path, name: str, does: str) -> None:
    path = machine / "bin" / name
    path.write_text(f"#!/usr/bin/env bash\n{does}\n")
    path.chmod(0o755)


def set_up(machine: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "deploy/setup.sh"],
        cwd=machine,
        env={"PATH": str(machine / "bin"), "TORCH": "cuda"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_machine_with_another_python_alone_is_told_which_to_install(machine: Path) -> None:
    program(machine, "python3", "exit 1")
    said = set_up(machine)
    assert said.returncode == 3
    assert said.stderr.startswith("Python 3.11 or 3.12 with venv is needed: install it")
    assert not (machine / ".venv").exists()


def test_a_full_disk_is_found_in_the_middle_of_a_download(machine: Path) -> None:
    program(machine, "python3", GOOD_PYTHON.format(on_venv="exit 1"))
    program(machine, "df", "echo header; echo disk 0 0 1048576")
    said = set_up(machine)
    assert said.returncode == 3
    assert "9 GiB of disk and 1 GiB are free here" in said.stderr
    assert not (machine / ".venv").exists()


def test_ctrl_c_does_not_end_the_setup(machine: Path) -> None:
    """A step that makes an end of its own when it is interrupted, as pip does."""
    program(machine, "python3", GOOD_PYTHON.format(on_venv="kill -INT $PPID; exit 0"))
    said = set_up(machine)
    assert said.returncode == 130
    assert said.stderr.startswith("Interrupted: ")
    assert "[1/2]" not in said.stdout


def test_a_venv_that_was_cut_off_is_never_made_whole(machine: Path) -> None:
    (machine / ".venv" / "bin").mkdir(parents=True)
    (machine / ".venv" / "bin" / "python").symlink_to("/bin/false")
    program(machine, "python3", GOOD_PYTHON.format(on_venv="echo made anew >&2; exit 7"))
    said = set_up(machine)
    assert said.returncode == 7
    assert said.stderr == "made anew\n"
