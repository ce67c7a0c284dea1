"""The file commands with a guard of the test's: what a failure may not cost the person who asks."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from qwarden import bootstrap, cli, telemetry
from qwarden.guard.answer import Answer
from qwarden.inference.port import GuardFailed
from unit.builders import REVISION, assessment

PLOTS = {"reliability.png", "roc.png", "scores.png"}
LABELLED = json.dumps(
    {"label": "Safe", "source": "源", "text": "Grüße"}, ensure_ascii=False
).encode()
EVENTS = b'{"event_id":"1","tenant":"demo","text":"Hello"}\n'


class Guard:
    dead = False
    asked = False

    async def revision(self) -> str:
        self.asked = True
        return REVISION

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        if self.dead:
            raise GuardFailed("the engine is dead")
        return [assessment() for _ in rows]

    async def close(self) -> None: ...


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Guard:
    made = Guard()
    monkeypatch.setattr(bootstrap, "guard_of", lambda _: made)
    monkeypatch.setattr(telemetry, "log_as_json", lambda _: None)
    monkeypatch.setenv("QWARDEN_STACK__HOME", str(tmp_path / "stack"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    monkeypatch.setenv("QWARDEN_CONTENT_KEY", "00" * 32)
    return made


@pytest.fixture
def qwarden(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Runs the command line; returns its exit code."""

    def run(*words: object) -> object:
        monkeypatch.setattr(sys, "argv", ["qwarden", *map(str, words), "--direct"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written = tmp_path / "rows.jsonl"
    written.write_bytes(LABELLED)
    return written


@pytest.mark.parametrize(("command", "content"), [("eval", LABELLED), ("moderate", EVENTS)])
def test_a_dead_engine_is_waited_for(
    qwarden: Callable[..., object],
    guard: Guard,
    file: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    command: str,
    content: bytes,
) -> None:
    guard.dead = True
    file.write_bytes(content)
    assert qwarden(command, file) == 3
    assert capsys.readouterr().err.endswith("the engine is dead\n")


class _Gone(io.RawIOBase):
    """A pipe whose reader has ended."""

    def writable(self) -> bool:
        return True

    def write(self, _: object) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_reader_that_goes_away_costs_the_folder_its_report(
    qwarden: Callable[..., object], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(_Gone()))  # type: ignore[type-var]
        qwarden("eval", file, "--out", out)
    assert {path.name for path in out.iterdir()} == {"eval.json", "table.md"} | PLOTS
    assert json.loads((out / "eval.json").read_bytes())["answered"] == 1


def test_a_report_is_cut_to_what_the_locale_can_say(
    qwarden: Callable[..., object], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shown = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
        assert qwarden("eval", file, "--out", out) == 0
        assert shown.getvalue() == (out / "table.md").read_bytes()
    assert "源" in (out / "table.md").read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written_is_found_after_the_work(
    qwarden: Callable[..., object],
    guard: Guard,
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "eval.json").mkdir()
    for folder in (tmp_path, file, file / "under"):
        assert qwarden("eval", file, "--out", folder) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"--out {folder}: ")
        assert said.endswith("name another folder\n")
        assert said.count("\n") == 1
    assert not guard.asked


def test_a_folder_that_fails_at_last_loses_the_report(
    qwarden: Callable[..., object],
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "roc.png").mkdir()
    assert qwarden("eval", file, "--out", tmp_path, "--json") == 3
    said = capsys.readouterr()
    assert json.loads(said.out)["answered"] == 1
    assert said.err.startswith(f"--out {tmp_path}: ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("missing/out.jsonl", "there is no folder {}/missing; make it first"),
        ("rows.jsonl/out.jsonl", "Not a directory; name another file"),
        (".", "is no file; name one"),
        ("pipe", "is no file; name one"),
    ],
)
@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_a_file_that_cannot_be_written_is_found_after_the_guard_is_loaded(
    qwarden: Callable[..., object],
    guard: Guard,
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    out: str,
    says: str,
    stream: list[str],
) -> None:
    file.write_bytes(EVENTS)
    os.mkfifo(tmp_path / "pipe")
    assert qwarden("moderate", file, "--out", tmp_path / out, *stream) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"--out {tmp_path / out}: ")
    assert says.format(tmp_path) in said
    assert said.count("\n") == 1
    assert not guard.asked


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("/nowhere", "there is no such directory"),
        ("./guard", "there is no such directory"),
        ("~/guard", "there is no such directory"),
        ("models/of/mine", "there is no such directory"),
        (__file__, "is no directory"),
    ],
)
@pytest.mark.parametrize(
    "command", [["moderate"], ["moderate", "--stream"], ["eval"], ["eval", "stream"]]
)
def test_a_guard_that_is_not_there_is_found_after_the_file_is_read(
    qwarden: Callable[..., object],
    capsys: pytest.CaptureFixture[str],
    *,
    named: str,
    says: str,
    command: list[str],
) -> None:
    assert qwarden(*command, "/no/file", "--guard", named) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"--guard {named}: {says}; name that of a Qwen3Guard checkpoint")
    assert said.count("\n") == 1


@pytest.mark.parametrize("named", ["guard", "Qwen/Qwen3Guard-Gen-0.6B"])
def test_a_hub_id_is_called_no_directory(
    qwarden: Callable[..., object], file: Path, named: str
) -> None:
    assert qwarden("eval", file, "--guard", named) == 0


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_a_pipe_of_the_shell_is_called_no_file(
    qwarden: Callable[..., object],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    packed: Callable[[bytes], bytes],
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_bytes, args=[packed(LABELLED)], daemon=True).start()
    assert qwarden("eval", pipe, "--json") == 0
    assert json.loads(capsys.readouterr().out)["answered"] == 1


def test_a_byte_order_mark_makes_a_dead_letter(
    qwarden: Callable[..., object], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + EVENTS)
    assert qwarden("moderate", file) == 0
    assert json.loads(capsys.readouterr().out)["event_id"] == "1"


def test_every_command_waits_for_the_import_of_what_another_needs() -> None:
    """Half of a command's start, measured, when SQLAlchemy and the broker's clients were in it."""
    slow = {
        "aiokafka", "faststream", "fastapi", "grpc", "httpx", "matplotlib", "numpy",
        "opentelemetry", "redis", "sqlalchemy", "torch", "tritonclient", "uvicorn",
    }  # fmt: skip
    code = "import sys, qwarden.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert not slow & set(loaded.stdout.decode().split())
