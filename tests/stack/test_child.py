"""Programs of the stack never outlive it, and say why they failed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from qwarden.stack.child import Child
from qwarden.stack.errors import StackError
from qwarden.stack.home import Home
from qwarden.stack.process import Process
from qwarden.stack.valkey import Valkey

Until = Callable[[Callable[[], bool]], None]

VALKEY_OWNER = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from qwarden.stack.home import Home
from qwarden.stack.valkey import Valkey
valkey = Valkey(Home(Path(sys.argv[1])))
valkey.start()
print(valkey.child.pid, flush=True)
time.sleep(600)
"""

GRANDCHILD_OWNER = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from qwarden.stack.child import Child
from qwarden.stack.home import Home
child = Child(Home(Path(sys.argv[1])), "shell", ["sh", "-c", "sleep 600 & echo $!; wait"])
child.start()
while not child.tail():
    time.sleep(0.02)
print(child.tail(), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("script", [VALKEY_OWNER, GRANDCHILD_OWNER], ids=["child", "grandchild"])
def test_a_killed_owner_does_not_leave_its_children_running(
    script: str, home: Home, until: Until
) -> None:
    command = [sys.executable, "-c", script, str(home.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        child = Process.of(int(owner.stdout.readline()))
        assert child is not None and child.alive
        owner.kill()
    until(lambda: not child.alive)


def test_a_child_does_not_end_with_the_thread_that_started_it(home: Home) -> None:
    valkey = Valkey(home)
    starter = threading.Thread(target=valkey.start)
    starter.start()
    starter.join()
    try:
        # The kernel's signal would have come with the end of the thread, before join returned.
        assert valkey.child.wait(0.5) is None
    finally:
        valkey.stop()


def test_a_program_that_ignores_sigterm_is_killed_after_its_grace(home: Home, until: Until) -> None:
    child = Child(home, "deaf", ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"])
    child.start()
    until(lambda: "deaf" in child.tail())
    child.stop(grace_s=0.2)
    assert child.exit_code == -signal.SIGKILL


def test_a_program_that_ends_early_is_not_waited_for(home: Home) -> None:
    child = Child(home, "broken", ["sh", "-c", "echo the disk is full; exit 7"])
    child.start()
    with pytest.raises(StackError) as failure:
        child.wait_ready(lambda: False, 60, fix="Free some space.")
    assert "code 7" in str(failure.value)
    assert "the disk is full" in str(failure.value)
    assert "Free some space." in str(failure.value)
    assert str(home.logs / "broken.log") in str(failure.value)


def test_a_program_that_is_never_ready_is_not_waited_for_for_ever(home: Home) -> None:
    child = Child(home, "slow", ["sleep", "600"])
    child.start()
    try:
        with pytest.raises(StackError, match=r"not ready after 0 s\. Wait\."):
            child.wait_ready(lambda: False, 0.1, fix="Wait.")
    finally:
        child.kill()


def test_a_restart_does_not_report_the_words_of_the_run_before(home: Home, tmp_path: Path) -> None:
    word = tmp_path / "word"
    word.write_text("first")
    child = Child(home, "talker", ["cat", str(word)])
    child.start()
    child.wait(10)
    word.write_text("second")
    child.start()
    child.wait(10)
    assert child.tail() == "second"
    assert child.log.read_text() == "firstsecond"


def test_a_full_disk_is_looked_for_in_a_log_that_does_not_name_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = Child(home, "shell", ["sh", "-c", "exit 1"])
    child.start()
    child.wait(10)
    assert "is full" not in str(child.failure("shell ended", "Start it again."))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
    said = str(child.failure("shell ended", "Start it again."))
    assert said.startswith(f"shell ended. The disk under {home.logs} is full: free some. Start it")
