"""What accidents of a new user end with: a sentence and a code, at once, and nothing running."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from commands import Shell

INTERRUPTED_IMPORTS = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from qwarden.__main__ import main
main()
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, {})


def test_ctrl_c_in_the_first_second_shows_an_import() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORTS],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert ran.returncode == -signal.SIGINT
    assert ran.stderr == ""


def test_a_wrong_setting_is_found_after_half_a_minute_of_starting(shell: Shell) -> None:
    wrong = shell.under(QWARDEN_MODERATR__DRAIN_S="5", QWARDEN_MODERATOR__DRAIN_S="soon")
    said = wrong("up")
    assert said.code == 2
    assert "QWARDEN_MODERATR__DRAIN_S: unknown setting" in said.err
    assert "QWARDEN_MODERATOR__DRAIN_S: Input should be a valid number" in said.err
    assert not (shell.folder / "stack").exists()


def test_a_folder_that_cannot_be_written_ends_in_a_traceback(shell: Shell) -> None:
    (shell.folder / "stack").write_text("a file")
    said = shell("up", "--only", "valkey")
    assert said.code == 3
    assert "did not start: " in said.err
    assert "QWARDEN_STACK__HOME" in said.err


def test_a_policy_that_is_no_yaml_is_found_after_half_a_minute_of_starting(shell: Shell) -> None:
    policies = shell.folder / "policies"
    policies.mkdir()
    (policies / "shop.yaml").write_text("name: [shop\n")
    said = shell.under(QWARDEN_POLICY__PATH=str(shell.folder))("up")
    assert said.code == 2
    assert "policies/shop.yaml:2:1: " in said.err
    assert not (shell.folder / "stack").exists()


def test_a_home_that_is_a_file_ends_every_command_in_a_traceback(shell: Shell) -> None:
    (shell.folder / "stack").write_text("a file")
    said = shell("tail", "moderation.verdicts", "--no-follow")
    assert said.code == 3
    assert "Kafka does not answer" in said.err
