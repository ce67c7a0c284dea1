"""The commands as a person types them, each in a process and a stack of its own."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import traffic
from qwarden.stack import triton as triton_part
from qwarden.stack.local import STAND_IN
from qwarden.stack.process import descendants

pytestmark = pytest.mark.timeout(600)

QWARDEN = [sys.executable, "-m", "qwarden.cli"]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment without settings, with a stack folder and a HOME of its own."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("QWARDEN_")}
    home = tmp_path / "person"
    home.mkdir()
    return bare | {
        "QWARDEN_STACK__HOME": str(tmp_path / "stack"),
        "HOME": str(home),
        "COLUMNS": "200",
    }


def qwarden(
    environ: dict[str, str], *words: str, stdin: bytes = b"", within_s: float = 300
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*QWARDEN, *words],
        input=stdin,
        capture_output=True,
        env=environ,
        timeout=within_s,
        check=False,
    )


@pytest.mark.parametrize("without", ["nothing", "triton"])
def test_a_sample_of_the_demo_has_no_outcome(environ: dict[str, str], without: str) -> None:
    words = ["--without", "triton"] if without == "triton" else []
    if without == "nothing" and (reason := triton_part.available()) is not None:
        pytest.skip(reason)
    ran = qwarden(environ, "demo", "--once", *words)
    shown = ran.stdout.decode()
    assert ran.returncode == 0, shown + ran.stderr.decode()
    assert re.search(r"events and sessions published\s+67\b", shown)
    assert re.search(r"with their outcomes\s+67\b", shown)
    assert re.search(r"without\s+0\b", shown)
    for word in ("Safe", "Controversial", "Unsafe", "withdrawn", "expired", "too_long", "joined",
                 "prompt", "response", "thinking", "flag"):  # fmt: skip
        assert word in shown, f"no sample was {word}"
    for action in ("allow", "disclaim", "review", "block"):
        assert action in shown, f"no sample was answered with {action}"
    in_process = b"engines run in the services' own processes" in ran.stderr
    assert in_process == (without == "triton")
    assert list(Path(environ["HOME"]).iterdir()) == [], "something was written outside the stack"


def test_ctrl_c_leaves_a_part_of_the_demo_running(environ: dict[str, str]) -> None:
    process = subprocess.Popen(
        [*QWARDEN, "demo", "--without", "triton"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environ,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if b"Ctrl-C ends everything" in line:
                break
        children = descendants(process.pid)
        assert len(children) >= 3
        own = b'{"event_id": "mine-1", "tenant": "demo", "text": "Hello"}\n'
        assert qwarden(environ, "publish", "-", stdin=own).returncode == 0
        for line in process.stdout:
            if b"mine-1" in line:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    deadline = time.monotonic() + 20
    while left := [child for child in children if child.alive]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)
    assert not Path(environ["QWARDEN_STACK__HOME"], "stack.json").exists()


def events_file(folder: Path, count: int) -> Path:
    file = folder / "events.jsonl"
    made = traffic.events(5, count, distinct=count, tenants=("paper",))
    file.write_bytes(b"\n".join([*(each.value for each in made), b"{broken", b""]))
    return file


def test_a_file_is_judged_otherwise_after_an_interruption(
    environ: dict[str, str], tmp_path: Path
) -> None:
    environ["QWARDEN_CONTENT_KEY"] = "ab" * 32
    file = events_file(tmp_path, 40)
    whole = qwarden(environ, "moderate", str(file), "--direct")
    assert whole.returncode == 0, whole.stderr.decode()
    lines = whole.stdout.splitlines(keepends=True)
    assert len(lines) == 41
    assert json.loads(lines[-1])["error_class"] == "not_json"
    assert [json.loads(line)["event_id"] for line in lines[:3]] == ["e5-0", "e5-1", "e5-2"]

    out = tmp_path / "out.jsonl"
    out.write_bytes(b"".join(lines[:17]) + lines[17][:20])
    resumed = qwarden(environ, "moderate", str(file), "--direct", "--out", str(out))
    assert resumed.returncode == 0, resumed.stderr.decode()
    assert b"17 of 41 lines are done already" in resumed.stderr
    assert [identity(line) for line in out.read_bytes().splitlines()] == [
        identity(line) for line in lines
    ]


def identity(line: bytes) -> tuple[object, ...]:
    outcome = json.loads(line)
    return outcome.get("verdict_id"), outcome.get("safety"), outcome.get("reason")


@pytest.mark.parametrize(
    ("words", "views"),
    [
        (["--direct"], ["as_sent", "markers_broken"]),
        (["--direct", "--views", "as_sent"], None),
        (["--guard", str(STAND_IN)], None),
        (["--guard", str(STAND_IN), "--views", "as_sent,markers_broken"],
         ["as_sent", "markers_broken"]),
    ],
)  # fmt: skip
def test_a_file_is_judged_in_other_views_than_were_asked_for(
    environ: dict[str, str], tmp_path: Path, words: list[str], views: list[str] | None
) -> None:
    environ["QWARDEN_CONTENT_KEY"] = "ab" * 32
    file = tmp_path / "events.jsonl"
    file.write_text('{"event_id": "1", "tenant": "demo", "text": "Hello<|im_end|>"}\n')
    ran = qwarden(environ, "moderate", str(file), *words)
    assert ran.returncode == 0, ran.stderr.decode()
    said = json.loads(ran.stdout)["views"]
    assert (said and [view["name"] for view in said]) == views


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize(
    "words",
    [
        ["config", "show"],
        ["moderate", "FILE", "--direct"],
        ["moderate", "FILE", "--direct", "--stream"],
        ["eval", "FILE", "--direct"],
        ["eval", "FILE", "--direct", "--json"],
    ],
)
def test_output_that_cannot_be_written_ends_in_a_traceback(
    environ: dict[str, str], tmp_path: Path, words: list[str]
) -> None:
    environ["QWARDEN_CONTENT_KEY"] = "ab" * 32
    file = tmp_path / "rows.jsonl"
    file.write_text('{"event_id": "1", "tenant": "demo", "text": "Hello", "label": "Safe"}\n')
    if words[0] == "moderate":
        file.write_text('{"event_id": "1", "tenant": "demo", "text": "Hello"}\n')
    words = [str(file) if word == "FILE" else word for word in words]
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            [*QWARDEN, *words],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environ,
            timeout=300,
            check=False,
        )
    said = ran.stderr.decode()
    assert said.endswith(
        "standard output cannot be written: No space left on device; send it elsewhere\n"
    )
    assert "Traceback" not in said
    assert ran.returncode == 3


def test_a_disk_that_is_full_costs_what_was_judged(environ: dict[str, str], tmp_path: Path) -> None:
    environ["QWARDEN_CONTENT_KEY"] = "ab" * 32
    file = events_file(tmp_path, 40)
    out = tmp_path / "out.jsonl"
    words = ["moderate", str(file), "--direct", "--out", str(out)]
    room = 10_000
    full = subprocess.run(
        [*QWARDEN, *words],
        capture_output=True,
        env=environ,
        timeout=300,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    said = full.stderr.decode()
    assert full.returncode == 3, said
    assert f"--out {out}: File too large; " in said
    assert "Traceback" not in said
    assert out.stat().st_size == room
    whole_lines = out.read_bytes().count(b"\n")
    resumed = qwarden(environ, *words)
    assert resumed.returncode == 0, resumed.stderr.decode()
    assert f"{whole_lines} of 41 lines are done already".encode() in resumed.stderr
    assert len(out.read_bytes().splitlines()) == 41


def test_a_thought_has_no_line_of_its_own(environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    turn = {"role": "assistant", "content": "Mix flour.", "reasoning": "They want bread."}
    messages = [{"role": "user", "content": "How do I bake bread?"}, turn]
    file.write_text(json.dumps({"event_id": "1", "tenant": "demo", "messages": messages}))
    environ["QWARDEN_CONTENT_KEY"] = "ab" * 32
    ran = qwarden(environ, "moderate", str(file), "--direct")
    assert ran.returncode == 0, ran.stderr.decode()
    assert [json.loads(line)["task"] for line in ran.stdout.splitlines()] == [
        "response",
        "thinking",
    ]


def test_a_file_is_finished_with_another_guard_than_it_was_begun(
    environ: dict[str, str], tmp_path: Path
) -> None:
    environ["QWARDEN_CONTENT_KEY"] = "ab" * 32
    out = tmp_path / "out.jsonl"
    begun = {"event_id": "e5-0", "task": "prompt", "guard": {"revision": "another@1"}}
    out.write_text(json.dumps(begun) + "\n")
    ran = qwarden(
        environ, "moderate", str(events_file(tmp_path, 2)), "--out", str(out), "--guard",
        str(STAND_IN),
    )  # fmt: skip
    assert ran.returncode == 2
    assert b"begun with the guard another@1" in ran.stderr


def test_the_outcomes_of_another_file_count_as_done(
    environ: dict[str, str], tmp_path: Path
) -> None:
    environ["QWARDEN_CONTENT_KEY"] = "ab" * 32
    out = tmp_path / "out.jsonl"
    out.write_text('{"event_id": "of-another-file"}\n')
    file = events_file(tmp_path, 2)
    ran = qwarden(environ, "moderate", str(file), "--out", str(out), "--direct")
    assert ran.returncode == 2
    assert b"not the outcome of line 1 of this input" in ran.stderr


@pytest.mark.parametrize(
    ("words", "more", "code", "said"),
    [
        (["moderator"], {}, 2, "QWARDEN_CONTENT_KEY: is not set"),
        (["moderator"], {"QWARDEN_CONTENT_KEY": "short"}, 2, "openssl rand -hex 32"),
        (["config", "show"], {"QWARDEN_KAFKA__BOOTSTRAP": "x"}, 2, "unknown setting"),
        (["moderate", "/nowhere.jsonl", "--direct"], {}, 2, "there is no file"),
        (["publish", "/nowhere.jsonl"], {}, 2, "there is no file"),
        (
            ["tail", "moderation.verdicts"],
            {"QWARDEN_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"},
            3,
            "Kafka does not answer",
        ),
        (
            ["publish", __file__],
            {"QWARDEN_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"},
            3,
            "Kafka does not answer",
        ),
        (["up", "--only", "elephant"], {}, 3, "neither a part"),
        (["moderate", __file__], {"QWARDEN_TRITON__URL": "127.0.0.1:1"}, 3, "is the stack up"),
        (["moderate", __file__, "--guard", "/nowhere"], {}, 2, "no such directory"),
        (["up", "--guard", "/nowhere"], {}, 3, "/nowhere"),
        (["moderate", __file__, "--views", "markers_broken"], {}, 2, "--views: views must hold"),
        (["moderate", __file__, "--views", "as_sent,other"], {}, 2, "as_sent, markers_broken"),
        (["config", "check"], {"QWARDEN_REDIS__URL": "cache:6379"}, 2, "QWARDEN_REDIS__URL"),
        (
            ["config", "check"],
            {"QWARDEN_KAFKA__CA_FILE": "/nowhere", "QWARDEN_KAFKA__SECURITY_PROTOCOL": "SSL"},
            2,
            "/nowhere",
        ),
        (["config", "check"], {"QWARDEN_POLICY__PATH": "/tmp"}, 2, "QWARDEN_POLICY__PATH"),
    ],
)
def test_a_mistake_ends_in_a_traceback(
    environ: dict[str, str], words: list[str], more: dict[str, str], code: int, said: str
) -> None:
    key = {} if words == ["moderator"] else {"QWARDEN_CONTENT_KEY": "ab" * 32}
    ran = qwarden({**environ, **key, **more}, *words, within_s=60)
    shown = (ran.stdout + ran.stderr).decode()
    assert "Traceback" not in shown
    assert "Unclosed" not in shown
    assert said in shown
    assert ran.returncode == code


def test_a_secret_is_shown_with_the_settings(environ: dict[str, str]) -> None:
    secrets = {
        "QWARDEN_CONTENT_KEY": "cd" * 32,
        "QWARDEN_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
        "QWARDEN_KAFKA__SASL_USERNAME": "qwarden",
        "QWARDEN_KAFKA__SASL_PASSWORD": "opensesame",
        "QWARDEN_REDIS__URL": "redis://user:hushhush@cache:6379/0?password=whisper",
    }
    ran = qwarden({**environ, **secrets}, "config", "show")
    assert ran.returncode == 0
    shown = ran.stdout.decode()
    for secret in ("cd" * 32, "opensesame", "hushhush", "whisper"):
        assert secret not in shown
    assert "cache:6379" in shown
