"""The stack as a whole: all of it runs, or none of it, and only one in a folder."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from qwarden.stack import service as service_module
from qwarden.stack.detached import start_detached
from qwarden.stack.errors import Interrupted, StackError
from qwarden.stack.home import Home
from qwarden.stack.process import Process
from qwarden.stack.running import running, stop_running
from qwarden.stack.service import Service
from qwarden.stack.stack import Stack
from qwarden.stack.valkey import Valkey

Until = Callable[[Callable[[], bool]], None]

BROKER = {"QWARDEN_KAFKA__BOOTSTRAP_SERVERS": "broker.example:9092"}

WEB_SERVER = """
import os
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

HTTPServer(("127.0.0.1", int(os.environ["QWARDEN_HTTP__PORT"])), Handler).serve_forever()
"""


def _cache_only(home: Home) -> Stack:
    return Stack(home, services=(), parts=("valkey",), settings=BROKER)


def test_the_next_service_finds_every_address(home: Home) -> None:
    with _cache_only(home):
        addresses, settings = home.addresses(), home.settings()
        assert addresses is not None
        assert settings is not None
        assert addresses["kafka"] == "broker.example:9092"
        assert addresses["triton"] is None
        assert addresses["redis"] == settings["QWARDEN_REDIS__URL"]
        assert settings["QWARDEN_CONTENT_KEY"] == home.content_key()
        assert settings["QWARDEN_GUARD__MODE"] == "in-process"
    assert home.addresses() is None
    assert not home.pid_file.exists()


def test_a_second_stack_in_one_folder_is_refused(home: Home) -> None:
    with _cache_only(home):
        with pytest.raises(StackError, match=rf"process {os.getpid()}: `qwarden down`"):
            _cache_only(home).start()
        assert home.addresses() is not None, "the first one goes on"


def test_a_part_that_fails_does_not_leave_the_others_running(home: Home) -> None:
    records = home.data("kafka") / "records"
    records.mkdir()
    (records / "meta.properties").write_text("version=1\nnode.id=99\n")
    told: set[tuple[str, str]] = set()
    stack = Stack(
        home,
        services=(),
        parts=("kafka", "valkey"),
        progress=lambda part, message, fraction: told.add((part, message)),
    )
    before = _children()
    with pytest.raises(StackError) as failure:
        stack.start()
    assert str(home.logs / "kafka.log") in str(failure.value)
    assert ("valkey", "starting") in told
    assert _children() == before
    assert running(home) is None


def test_an_interrupted_start_does_not_go_on(home: Home) -> None:
    stack: Stack
    before = _children()

    def interrupt(part: str, message: str, fraction: float | None) -> None:
        stack.cancel()

    stack = Stack(home, services=(), parts=("kafka", "valkey"), progress=interrupt)
    with pytest.raises(Interrupted, match="everything that had started has ended"):
        stack.start()
    assert _children() == before


def test_a_part_that_ends_by_itself_is_noticed(home: Home) -> None:
    with _cache_only(home) as stack:
        _noted(home)["valkey"].signal(signal.SIGKILL)
        with pytest.raises(StackError, match="valkey ended by itself with code -9"):
            stack.wait()


def test_waiting_ends_when_it_is_asked_to(home: Home) -> None:
    with _cache_only(home) as stack:
        waiting = threading.Thread(target=stack.wait)
        waiting.start()
        stack.cancel()
        waiting.join(10)
        assert not waiting.is_alive()


def test_a_second_interruption_does_not_wait_for_a_part_that_hangs(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Valkey, "STOP_GRACE_S", 600.0)
    stack = _cache_only(home)
    stack.start()
    cache = _noted(home)["valkey"]
    cache.signal(signal.SIGSTOP)
    stack.cancel()
    stopping = threading.Thread(target=stack.stop)
    stopping.start()
    stack.cancel()
    stopping.join(20)
    assert not stopping.is_alive()
    assert not cache.alive


def test_a_stack_without_a_guard_is_refused_before_anything_starts(home: Home) -> None:
    with pytest.raises(StackError, match="--guard"):
        Stack(home)
    with pytest.raises(StackError, match="--guard"):
        Stack(home, parts=("kafka", "valkey"))
    with pytest.raises(StackError, match="QWARDEN_KAFKA__BOOTSTRAP_SERVERS"):
        Stack(home, parts=("valkey",))


def test_down_ends_a_detached_stack_and_all_of_it(home: Home) -> None:
    told: list[tuple[str, str, float | None]] = []
    start_detached(
        home,
        services=(),
        parts=("valkey",),
        settings=BROKER,
        progress=lambda *words: told.append(words),
    )
    processes = list(_noted(home).values())
    assert len(processes) == 2
    assert all(process.alive for process in processes)
    assert running(home) == processes[0]
    assert ("valkey", "ready", 1.0) in told
    assert stop_running(home)
    assert not any(process.alive for process in processes)
    assert home.addresses() is None
    assert not stop_running(home)


def test_a_detached_stack_that_was_killed_leaves_nothing_running(home: Home, until: Until) -> None:
    start_detached(home, services=(), parts=("valkey",), settings=BROKER)
    stack, cache = _noted(home).values()
    stack.signal(signal.SIGKILL)
    until(lambda: not stack.alive and not cache.alive)
    assert running(home) is None
    with _cache_only(home):
        assert running(home) == Process.of(os.getpid())


def test_a_detached_stack_that_fails_says_why(home: Home) -> None:
    with _cache_only(home), pytest.raises(StackError, match="runs already"):
        start_detached(home, services=(), parts=("valkey",), settings=BROKER)


def test_a_reused_process_id_is_never_killed(home: Home) -> None:
    home.root.mkdir()
    other = {"pid": os.getpid(), "began": "of another process"}
    home.pid_file.write_text(json.dumps({"stack": other, "kafka": other}))
    assert running(home) is None
    assert not stop_running(home)
    with _cache_only(home):
        assert running(home) == Process.of(os.getpid())


@pytest.mark.parametrize("text", ["", "12", "[]", '{"stack": 3}', "{}"])
def test_a_broken_pid_file_is_no_stack(text: str, home: Home) -> None:
    home.root.mkdir()
    home.pid_file.write_text(text)
    assert running(home) is None
    assert not stop_running(home)


def test_a_killed_service_returns_at_the_same_address(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", WEB_SERVER]
    monkeypatch.setattr(service_module, "_qwarden", lambda *words: command)
    with Service(home, "moderator", {}) as service:
        address = service.http
        service.kill()
        assert not service.alive
        service.start()
        assert service.http == address
    assert not service.alive


def test_topics_that_cannot_be_made_name_the_log(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "_qwarden", lambda *words: ["sh", "-c", "echo no; exit 3"])
    with pytest.raises(StackError, match=r"ended with code 3\. It said last:\nno") as failure:
        service_module.create_topics(home, {})
    assert str(home.logs / "topics.log") in str(failure.value)


def _noted(home: Home) -> dict[str, Process]:
    """The processes that the pid file names: the stack's own, then those of its parts."""
    noted = json.loads(home.pid_file.read_text())
    return {name: Process(each["pid"], each["began"]) for name, each in noted.items()}


def _children() -> set[str]:
    """The programs that are children of this process, zombies left out, by pid and name."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                name, _, fields = (folder / "stat").read_text().partition(") ")
            except OSError:
                continue
            state, parent = fields.split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                found.add(name)
    return found
