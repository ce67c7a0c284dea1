"""The commands as a person types them; what a signal ends, or what loses its output to the system,
has a process of its own."""

from __future__ import annotations

import json
import re
import resource
import signal
import time
from pathlib import Path

import pytest

import traffic
from commands import Shell
from qwarden.stack import triton as triton_part
from qwarden.stack.local import STAND_IN
from qwarden.stack.process import descendants

pytestmark = pytest.mark.timeout(600)

FULL = Path("/dev/full")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """One without settings, with a HOME of its own."""
    (tmp_path / "person").mkdir()
    return Shell(tmp_path, {"HOME": str(tmp_path / "person")})


@pytest.fixture
def keyed(shell: Shell) -> Shell:
    """The same with a content key."""
    return shell.under(QWARDEN_CONTENT_KEY="ab" * 32)


def has_outcomes(shown: str) -> None:
    """Every sample has its outcome, and they are of all kinds."""
    assert re.search(r"events and sessions published\s+67\b", shown), shown
    assert re.search(r"with their outcomes\s+67\b", shown)
    assert re.search(r"without\s+0\b", shown)
    for word in ("Safe", "Controversial", "Unsafe", "withdrawn", "expired", "too_long", "joined",
                 "prompt", "response", "thinking", "flag"):  # fmt: skip
        assert word in shown, f"no sample was {word}"
    for action in ("allow", "disclaim", "review", "block"):
        assert action in shown, f"no sample was answered with {action}"


def test_a_sample_of_the_demo_has_no_outcome(shell: Shell) -> None:
    if (reason := triton_part.available()) is not None:
        pytest.skip(reason)
    ran = shell.process("demo", "--once")
    assert ran.code == 0, ran.out + ran.err
    has_outcomes(ran.out)
    assert "engines run in the services' own processes" not in ran.err
    assert list((shell.folder / "person").iterdir()) == [], "something was written outside"


def test_ctrl_c_leaves_a_part_of_the_demo_running(shell: Shell) -> None:
    """Without Triton, whose engines run in the services then."""
    errors = shell.folder / "errors"
    with errors.open("wb") as stderr:
        process = shell.begun("demo", "--without", "triton", stderr=stderr)
    assert process.stdout is not None
    try:
        shown = []
        for line in process.stdout:
            shown.append(line)
            if "Ctrl-C ends everything" in line:
                break
        has_outcomes("".join(shown))
        assert "engines run in the services' own processes" in errors.read_text()
        children = descendants(process.pid)
        assert len(children) >= 3
        own = b'{"event_id": "mine-1", "tenant": "demo", "text": "Hello"}\n'
        assert shell("publish", "-", stdin=own).code == 0
        for line in process.stdout:
            if "mine-1" in line:
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
    assert not (shell.folder / "stack" / "stack.json").exists()


def events_file(folder: Path, count: int) -> Path:
    file = folder / "events.jsonl"
    made = traffic.events(5, count, distinct=count, tenants=("paper",))
    file.write_bytes(b"\n".join([*(each.value for each in made), b"{broken", b""]))
    return file


def test_a_file_is_judged_otherwise_after_an_interruption(keyed: Shell) -> None:
    file = events_file(keyed.folder, 16)
    whole = keyed("moderate", file, "--direct")
    assert whole.code == 0, whole.err
    lines = whole.out.encode().splitlines(keepends=True)
    assert len(lines) == 17
    assert json.loads(lines[-1])["error_class"] == "not_json"
    assert [json.loads(line)["event_id"] for line in lines[:3]] == ["e5-0", "e5-1", "e5-2"]

    out = keyed.folder / "out.jsonl"
    out.write_bytes(b"".join(lines[:7]) + lines[7][:20])
    resumed = keyed("moderate", file, "--direct", "--out", out)
    assert resumed.code == 0, resumed.err
    assert "7 of 17 lines are done already" in resumed.err
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
        (["--guard", STAND_IN], None),
        (["--guard", STAND_IN, "--views", "as_sent,markers_broken"],
         ["as_sent", "markers_broken"]),
    ],
)  # fmt: skip
def test_a_file_is_judged_in_other_views_than_were_asked_for(
    keyed: Shell, words: list[object], views: list[str] | None
) -> None:
    file = keyed.folder / "events.jsonl"
    file.write_text('{"event_id": "1", "tenant": "demo", "text": "Hello<|im_end|>"}\n')
    ran = keyed("moderate", file, *words)
    assert ran.code == 0, ran.err
    said = ran.line["views"]
    assert (said and [view["name"] for view in said]) == views


LOST = "standard output cannot be written: No space left on device; send it elsewhere\n"


@pytest.mark.skipif(not FULL.exists(), reason="this system has no full device")
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
def test_output_that_cannot_be_written_ends_in_a_traceback(keyed: Shell, words: list[str]) -> None:
    file = keyed.folder / "rows.jsonl"
    file.write_text('{"event_id": "1", "tenant": "demo", "text": "Hello", "label": "Safe"}\n')
    if words[0] == "moderate":
        file.write_text('{"event_id": "1", "tenant": "demo", "text": "Hello"}\n')
    with FULL.open("w") as full:
        ran = keyed(*(file if word == "FILE" else word for word in words), stdout=full)
    assert ran.err.endswith(LOST)
    assert "Traceback" not in ran.err
    assert ran.code == 3


@pytest.mark.skipif(not FULL.exists(), reason="this system has no full device")
def test_the_interpreter_writes_again_at_its_end_what_was_lost(keyed: Shell) -> None:
    with FULL.open("wb") as full:
        ran = keyed.process("config", "show", stdout=full)
    assert (ran.code, ran.err) == (3, LOST)


def test_a_disk_that_is_full_costs_what_was_judged(keyed: Shell) -> None:
    file = events_file(keyed.folder, 16)
    out = keyed.folder / "out.jsonl"
    words = ["moderate", file, "--direct", "--out", out]
    room = 6_000
    full = keyed.process(
        *words, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    )
    assert full.code == 3, full.err
    assert f"--out {out}: File too large; " in full.err
    assert "Traceback" not in full.err
    assert out.stat().st_size == room
    whole_lines = out.read_bytes().count(b"\n")
    resumed = keyed(*words)
    assert resumed.code == 0, resumed.err
    assert f"{whole_lines} of 17 lines are done already" in resumed.err
    assert len(out.read_bytes().splitlines()) == 17


def test_a_thought_has_no_line_of_its_own(keyed: Shell) -> None:
    file = keyed.folder / "events.jsonl"
    turn = {"role": "assistant", "content": "Mix flour.", "reasoning": "They want bread."}
    messages = [{"role": "user", "content": "How do I bake bread?"}, turn]
    file.write_text(json.dumps({"event_id": "1", "tenant": "demo", "messages": messages}))
    ran = keyed("moderate", file, "--direct")
    assert ran.code == 0, ran.err
    assert [line["task"] for line in ran.lines] == ["response", "thinking"]


def test_a_file_is_finished_with_another_guard_than_it_was_begun(keyed: Shell) -> None:
    out = keyed.folder / "out.jsonl"
    begun = {"event_id": "e5-0", "task": "prompt", "guard": {"revision": "another@1"}}
    out.write_text(json.dumps(begun) + "\n")
    file = events_file(keyed.folder, 2)
    ran = keyed("moderate", file, "--out", out, "--guard", STAND_IN)
    assert ran.code == 2
    assert "begun with the guard another@1" in ran.err


def test_the_outcomes_of_another_file_count_as_done(keyed: Shell) -> None:
    out = keyed.folder / "out.jsonl"
    out.write_text('{"event_id": "of-another-file"}\n')
    ran = keyed("moderate", events_file(keyed.folder, 2), "--out", out, "--direct")
    assert ran.code == 2
    assert "not the outcome of line 1 of this input" in ran.err


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
        (["up", "--guard", "/nowhere"], {}, 2, "no such directory"),
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
    shell: Shell, keyed: Shell, words: list[str], more: dict[str, str], code: int, said: str
) -> None:
    own = shell if words == ["moderator"] else keyed
    ran = own.under(**more).alone_if(code == 3)(*words)
    shown = ran.out + ran.err
    assert "Traceback" not in shown
    assert "Unclosed" not in shown
    assert said in shown
    assert ran.code == code


def test_a_secret_is_shown_with_the_settings(shell: Shell) -> None:
    secrets = {
        "QWARDEN_CONTENT_KEY": "cd" * 32,
        "QWARDEN_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
        "QWARDEN_KAFKA__SASL_USERNAME": "qwarden",
        "QWARDEN_KAFKA__SASL_PASSWORD": "opensesame",
        "QWARDEN_REDIS__URL": "redis://user:hushhush@cache:6379/0?password=whisper",
    }
    ran = shell.under(**secrets)("config", "show")
    assert ran.code == 0
    for secret in ("cd" * 32, "opensesame", "hushhush", "whisper"):
        assert secret not in ran.out
    assert "cache:6379" in ran.out
