"""The file commands with a guard of the test's: what a failure may not cost the person who asks."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from commands import Shell
from qwarden import bootstrap, cli
from qwarden.contracts import topics
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
def guard(monkeypatch: pytest.MonkeyPatch) -> Guard:
    made = Guard()
    monkeypatch.setattr(bootstrap, "guard_of", lambda _: made)
    return made


@pytest.fixture
def shell(guard: Guard, tmp_path: Path) -> Shell:
    """One whose commands ask the test's guard, with --direct."""
    return Shell(tmp_path, {"QWARDEN_CONTENT_KEY": "00" * 32})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written = tmp_path / "rows.jsonl"
    written.write_bytes(LABELLED)
    return written


@pytest.mark.parametrize(("command", "content"), [("eval", LABELLED), ("moderate", EVENTS)])
def test_a_dead_engine_is_waited_for(
    shell: Shell, guard: Guard, file: Path, *, command: str, content: bytes
) -> None:
    guard.dead = True
    file.write_bytes(content)
    said = shell(command, file, "--direct")
    assert said.code == 3
    assert said.err.endswith("the engine is dead\n")


class _Gone(io.RawIOBase):
    """A pipe whose reader has ended."""

    def writable(self) -> bool:
        return True

    def write(self, _: object) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parts
def test_a_reader_that_goes_away_costs_the_folder_its_report(
    shell: Shell, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    gone = io.TextIOWrapper(_Gone())  # type: ignore[type-var]
    shell("eval", file, "--out", out, "--direct", stdout=gone)
    assert {path.name for path in out.iterdir()} == {"eval.json", "table.md"} | PLOTS
    assert json.loads((out / "eval.json").read_bytes())["answered"] == 1


@pytest.mark.parts
def test_a_report_is_cut_to_what_the_locale_can_say(
    shell: Shell, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shown = io.BytesIO()
    stdout = io.TextIOWrapper(shown, encoding="ascii")
    assert shell("eval", file, "--out", out, "--direct", stdout=stdout).code == 0
    assert shown.getvalue() == (out / "table.md").read_bytes()
    assert "源" in (out / "table.md").read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written_is_found_after_the_work(
    shell: Shell, guard: Guard, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "eval.json").mkdir()
    for folder in (tmp_path, file, file / "under"):
        said = shell("eval", file, "--out", folder, "--direct")
        assert said.code == 2
        assert said.err.startswith(f"--out {folder}: ")
        assert said.err.endswith("name another folder\n")
        assert said.err.count("\n") == 1
    assert not guard.asked


@pytest.mark.parts
def test_a_folder_that_fails_at_last_loses_the_report(
    shell: Shell, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "roc.png").mkdir()
    said = shell("eval", file, "--out", tmp_path, "--json", "--direct")
    assert said.code == 3
    assert said.line["answered"] == 1
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
    shell: Shell,
    guard: Guard,
    file: Path,
    tmp_path: Path,
    *,
    out: str,
    says: str,
    stream: list[str],
) -> None:
    file.write_bytes(EVENTS)
    os.mkfifo(tmp_path / "pipe")
    said = shell("moderate", file, "--out", tmp_path / out, *stream, "--direct")
    assert said.code == 2
    assert said.err.startswith(f"--out {tmp_path / out}: ")
    assert says.format(tmp_path) in said.err
    assert said.err.count("\n") == 1
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
    "command",
    [
        ["moderate", "/no/file"],
        ["moderate", "/no/file", "--stream"],
        ["eval", "/no/file"],
        ["eval", "stream", "/no/file"],
        ["up"],
    ],
)
def test_a_guard_that_is_not_there_is_found_after_the_file_is_read(
    shell: Shell, *, named: str, says: str, command: list[str]
) -> None:
    said = shell(*command, "--guard", named)
    assert said.code == 2
    assert said.err.startswith(f"--guard {named}: {says}; name that of a Qwen3Guard checkpoint")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("named", ["guard", "Qwen/Qwen3Guard-Gen-0.6B"])
def test_a_hub_id_is_called_no_directory(shell: Shell, file: Path, named: str) -> None:
    assert shell("eval", file, "--guard", named).code == 0


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_a_pipe_of_the_shell_is_called_no_file(
    shell: Shell, tmp_path: Path, packed: Callable[[bytes], bytes]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_bytes, args=[packed(LABELLED)], daemon=True).start()
    said = shell("eval", pipe, "--json", "--direct")
    assert (said.code, said.line["answered"]) == (0, 1)


def test_a_byte_order_mark_makes_a_dead_letter(shell: Shell, file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + EVENTS)
    said = shell("moderate", file, "--direct")
    assert (said.code, said.line["event_id"]) == (0, "1")


@pytest.mark.long
def test_every_command_waits_for_the_import_of_what_another_needs() -> None:
    """Half of a command's start, measured, when SQLAlchemy and the broker's clients were in it."""
    slow = {
        "aiokafka", "faststream", "fastapi", "grpc", "httpx", "matplotlib", "numpy",
        "opentelemetry", "redis", "sqlalchemy", "torch", "tritonclient", "uvicorn",
    }  # fmt: skip
    code = "import sys, qwarden.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert not slow & set(loaded.stdout.decode().split())


def commands(group: Any, words: str = "qwarden") -> Iterator[tuple[str, Any]]:
    """Each command by the words that it is called with."""
    for name, command in getattr(group, "commands", {}).items():
        yield f"{words} {name}", command
        yield from commands(command, f"{words} {name}")


def test_a_script_has_to_read_sentences_about_settings(shell: Shell, file: Path) -> None:
    file.write_bytes(EVENTS)
    shown = shell("config", "show", "--json")
    assert shown.line["moderator"]["max_event_bytes"] > 0
    assert "00" * 32 not in shown.out
    (shell.folder / "policies" / "tenants").mkdir(parents=True)
    (shell.folder / "policies" / "tenants" / "forum.yaml").write_text(
        "name: forum\npolicies: [default, pending]\n"
    )
    found = shell.under(QWARDEN_POLICY__PATH=str(shell.folder / "policies"))
    checked = found("config", "check", "--json")
    assert (checked.line, checked.err) == (
        {
            "tenants": ["forum"],
            "policies_without_a_file": ["pending"],
            "topics": [],
            "sample": None,
        },
        "",
    )
    sampled = found("config", "check", "--topic", topics.CONTENT, "--sample", file, "--json")
    assert sampled.line["sample"] == {
        "event": json.loads(EVENTS), "judged_as": ["prompt"], "displaced_tenant": None,
    }  # fmt: skip
    file.write_bytes(b"{}")
    refused = found("config", "check", "--topic", topics.CONTENT, "--sample", file, "--json")
    assert (refused.code, refused.out) == (1, "")
    assert "The record is refused" in refused.err


WITHOUT_RESULT = {
    "moderator", "streamer", "review-service", "up", "demo", "down", "publish",
    "review user remove", "review token revoke", "review golden add", "review golden retire",
    "review undo", "review erase",
}  # fmt: skip
"""They run, or act and say so on standard error; what has failed is their exit code."""
AS_JSON_ANYWAY = {"moderate", "review audit export"}


def test_a_result_that_no_script_can_read() -> None:
    """Each command that prints one has --json."""
    every = dict(commands(typer.main.get_command(cli.app)))
    without = {
        words.removeprefix("qwarden ")
        for words, command in every.items()
        if not hasattr(command, "commands")
        and not any("--json" in parameter.opts for parameter in command.params)
    }
    assert without == WITHOUT_RESULT | AS_JSON_ANYWAY


def test_help_leaves_something_unsaid() -> None:
    """Each command, argument and option says what it is for, and what takes an argument shows how
    it is typed."""
    every = dict(commands(typer.main.get_command(cli.app)))
    assert len(every) > 50
    for words, command in every.items():
        assert command.help, words
        for parameter in command.params:
            assert parameter.name == "help" or parameter.help, f"{words}: {parameter.name}"
            if parameter.param_type_name == "argument":
                assert words.removesuffix(" files") in command.help, words


GROUPS = ("", "topics", "config", "policy", "dlq", "review", "review user", "review golden")


@pytest.mark.parametrize("group", GROUPS)
def test_a_list_of_commands_breaks_off_in_the_middle_of_a_sentence(
    shell: Shell, group: str
) -> None:
    listed = shell(*group.split(), "--help").out.partition("Commands:\n")[2]
    assert listed
    assert "..." not in listed


def test_a_file_cannot_be_judged_before_a_stack_has_run(
    guard: Guard, file: Path, tmp_path: Path
) -> None:
    file.write_bytes(EVENTS)
    new = Shell(tmp_path, {})
    first, second = (new("moderate", file, "--direct") for _ in range(2))
    assert first.code == 0, first.err
    assert first.line["content_hash"] == second.line["content_hash"]


def test_a_home_that_cannot_be_written_hides_which_setting_lacks(
    guard: Guard, file: Path, tmp_path: Path
) -> None:
    file.write_bytes(EVENTS)
    (tmp_path / "stack").write_text("a file")
    said = Shell(tmp_path, {})("moderate", file, "--direct")
    assert said.code == 2
    assert said.err.startswith("QWARDEN_CONTENT_KEY: is not set")
