"""`qwarden eval` as a person types it."""

from __future__ import annotations

import importlib.util
import json
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

import engines
import traffic
from commands import Shell
from qwarden.stack.triton import Triton

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, {})


def labelled(folder: Path, count: int) -> Path:
    """Rows with their question's kind as the label, and one that is empty."""
    rows: list[dict[str, Any]] = []
    for made in traffic.events(9, count, distinct=count, tenants=("paper",)):
        messages = made.event["messages"]
        assert isinstance(messages, list)
        bad = any(word in messages[0]["content"] for word in ("bomb", "steal", "bitch", "drugs"))
        rows.append({"toxicity": int(bad), "messages": messages, "lang": "en"})
    rows.append({"toxicity": 1, "messages": [{"role": "user", "content": ""}], "lang": "en"})
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


NAMES = ("--field", "label=toxicity", "--label", "0=Safe", "--label", "1=Unsafe")


def test_a_figure_depends_on_where_the_guard_runs(shell: Shell, triton: Triton) -> None:
    file = labelled(shell.folder, 30)
    out = shell.folder / "out"
    here = shell.under(**engines.GEN, QWARDEN_ENGINE__THREADS="1")(
        "eval", file, *NAMES, "--direct", "--out", out
    )
    assert here.code == 0, here.err
    there = shell.under(QWARDEN_TRITON__URL=triton.grpc)("eval", file, *NAMES, "--json")
    assert there.code == 0, there.err
    figures = json.loads(there.out)
    written = json.loads((out / "eval.json").read_bytes())
    assert figures["guards"] == written["guards"]
    assert figures["confusion"] == written["confusion"]
    for mode in ("strict", "loose"):
        for name, value in figures["overall"][mode]["figures"].items():
            assert value == pytest.approx(written["overall"][mode]["figures"][name], abs=1e-3)
    assert (figures["rows"], figures["answered"]) == (31, 30)
    assert "the last turn is empty" in here.out
    assert here.out == (out / "table.md").read_text(encoding="utf-8")
    assert {plot.stem for plot in out.glob("*.png")} == {"reliability", "roc", "scores"}


def test_a_report_of_nothing_is_called_done(shell: Shell) -> None:
    file = shell.folder / "rows.jsonl"
    file.write_text('{"label": "Safe", "text": ""}')
    ran = shell("eval", file, "--direct", "--json")
    assert ran.code == 1
    assert "no row was answered; most often because the last turn is empty" in ran.err
    assert json.loads(ran.out)["answered"] == 0


@pytest.mark.parametrize(
    ("line", "words", "more", "code", "said"),
    [
        ("{broken", ["--direct"], {}, 2, "line 1 of"),
        ('{"label": 1, "text": "a"}', ["--direct"], {}, 2, "--label 1=Unsafe"),
        ('{"label": "Safe", "text": "a"}', ["--field", "x"], {}, 2, "OURS=THEIRS"),
        ('{"label": "Safe", "text": "a"}', ["--direct", "--out", __file__], {}, 2, "name another"),
        ('{"label": "Safe", "text": "a"}', ["--bins", "0"], {}, 2, "--bins"),
        ('{"label": "Safe", "text": "a"}', ["--guard", "/nowhere"], {}, 2, "/nowhere"),
        (
            '{"label": "Safe", "text": "a"}',
            [],
            {"QWARDEN_TRITON__URL": "127.0.0.1:1"},
            3,
            "is the stack up",
        ),
    ],
)
def test_a_mistake_ends_in_a_traceback(
    shell: Shell, *, line: str, words: list[str], more: dict[str, str], code: int, said: str
) -> None:
    file = shell.folder / "rows.jsonl"
    file.write_text(line)
    ran = shell.under(**more).alone_if(code == 3)("eval", file, *words)
    shown = ran.out + ran.err
    assert "Traceback" not in shown
    assert said in shown
    assert ran.code == code


@pytest.mark.parametrize("missing", ["numpy", "matplotlib"])
def test_a_missing_extra_is_found_after_the_work(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    file = labelled(shell.folder, 3)
    find = importlib.util.find_spec

    def found(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == missing else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", found)
    ran = shell("eval", file, *NAMES, "--direct", "--out", "out")
    assert ran.code == 3
    assert f"{missing} is not installed" in ran.err
    assert "qwarden[eval]" in ran.err
