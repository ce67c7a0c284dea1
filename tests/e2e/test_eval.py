"""`qwarden eval` as a person types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import traffic
from qwarden.stack.local import STAND_IN
from qwarden.stack.triton import Triton

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment without settings, with a stack folder of its own."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("QWARDEN_")}
    return bare | {"QWARDEN_STACK__HOME": str(tmp_path / "stack"), "COLUMNS": "200"}


def evaluate(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qwarden", "eval", *words],
        capture_output=True,
        env=environ,
        timeout=300,
        check=False,
        text=True,
        encoding="utf-8",
    )


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


def test_a_figure_depends_on_where_the_guard_runs(
    environ: dict[str, str], tmp_path: Path, triton: Triton
) -> None:
    file = labelled(tmp_path, 60)
    out = tmp_path / "out"
    here = evaluate(environ, str(file), *NAMES, "--guard", str(STAND_IN), "--out", str(out))
    assert here.returncode == 0, here.stderr
    there = evaluate({**environ, "QWARDEN_TRITON__URL": triton.grpc}, str(file), *NAMES, "--json")
    assert there.returncode == 0, there.stderr
    figures = json.loads(there.stdout)
    written = json.loads((out / "eval.json").read_bytes())
    assert figures["guards"] == written["guards"]
    assert figures["confusion"] == written["confusion"]
    for mode in ("strict", "loose"):
        for name, value in figures["overall"][mode]["figures"].items():
            assert value == pytest.approx(written["overall"][mode]["figures"][name], abs=1e-3)
    assert (figures["rows"], figures["answered"]) == (61, 60)
    assert "the last turn is empty" in here.stdout
    assert here.stdout == (out / "table.md").read_text(encoding="utf-8")
    assert {plot.stem for plot in out.glob("*.png")} == {"reliability", "roc", "scores"}


def test_a_report_of_nothing_is_called_done(environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"label": "Safe", "text": ""}')
    ran = evaluate(environ, str(file), "--direct", "--json")
    assert ran.returncode == 1
    assert "no row was answered; most often because the last turn is empty" in ran.stderr
    assert json.loads(ran.stdout)["answered"] == 0


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
    environ: dict[str, str],
    tmp_path: Path,
    *,
    line: str,
    words: list[str],
    more: dict[str, str],
    code: int,
    said: str,
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(line)
    ran = evaluate({**environ, **more}, str(file), *words)
    shown = ran.stdout + ran.stderr
    assert "Traceback" not in shown
    assert said in shown
    assert ran.returncode == code


@pytest.mark.parametrize("missing", ["numpy", "matplotlib"])
def test_a_missing_extra_is_found_after_the_work(
    environ: dict[str, str], tmp_path: Path, missing: str
) -> None:
    file = labelled(tmp_path, 3)
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "found = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name: None if name == {missing!r} else found(name)\n"
    )
    ran = evaluate(
        {**environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), environ.get("PYTHONPATH", "")])},
        str(file), *NAMES, "--direct", "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert ran.returncode == 3
    assert f"{missing} is not installed" in ran.stderr
    assert "qwarden[eval]" in ran.stderr
