"""What one life of the engine leaves to the next, in a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qwarden_engine.conviction import GOOD, Ledger, forgive

# One life of an engine: forwards each group of rows given on the command line, and ends in the
# last one, as a process does that the kernel kills.
_LIFE = """
import os, sys
from pathlib import Path
from qwarden_engine.conviction import Ledger
ledger = Ledger(Path(sys.argv[1]))
*before, last = (group.split(",") for group in sys.argv[2:])
for rows in before:
    ledger.starts(rows)
    ledger.came_back()
ledger.starts(last)
os._exit(9)
"""


def _life(file: Path, *groups: str) -> None:
    """A real process that dies in the last of its forwards."""
    ended = subprocess.run([sys.executable, "-c", _LIFE, str(file), *groups], check=False)
    assert ended.returncode == 9


def _next(file: Path) -> Ledger:
    ledger = Ledger(file)
    ledger.close()
    return ledger


def test_a_death_in_a_forward_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "running.json"
    _life(file, "a,b", "c", "b,c")
    record = _next(file).record
    assert set(record.suspects) == {"b", "c"}
    assert record.convicted == []
    assert record.must_be_alone("b")
    assert not record.wants_good_first("b")
    assert not record.must_be_alone("a")


def test_a_row_that_kills_alone_is_tried_for_ever(tmp_path: Path) -> None:
    """Beside others, alone, the good one, alone again: four lives, and never a fifth."""
    file = tmp_path / "running.json"
    _life(file, "killer,fine")
    _life(file, "fine", "killer")
    assert _next(file).record.wants_good_first("killer")
    _life(file, "good", "killer")
    record = _next(file).record
    assert record.convicted == ["killer"]
    assert record.suspects == {}
    assert GOOD == "good"


def test_a_row_is_convicted_for_deaths_of_the_machine(tmp_path: Path) -> None:
    """Where the good one dies too, no death before it counts."""
    file = tmp_path / "running.json"
    _life(file, "a")
    for _ in range(2):
        _life(file, "good")
        assert _next(file).record.convicted == []
    _life(file, "good", "a")
    assert _next(file).record.convicted == []
    _life(file, "good", "a")
    assert _next(file).record.convicted == ["a"]


def test_a_death_between_two_forwards_makes_a_suspect(tmp_path: Path) -> None:
    file = tmp_path / "running.json"
    ledger = Ledger(file)
    ledger.starts(["a", "b"])
    ledger.came_back()
    assert _next(file).record.suspects == {}
    ledger.close()
    ledger.close()


def test_what_was_ended_from_outside_counts_as_a_death(tmp_path: Path) -> None:
    file = tmp_path / "running.json"
    _life(file, "a")
    for _ in range(2):
        _life(file, "good", "a")
        forgive(file)
    record = _next(file).record
    assert record.convicted == []
    assert record.wants_good_first("a") is False  # the good one came back since its only death
    assert record.must_be_alone("a")


def test_nothing_to_forgive_raises(tmp_path: Path) -> None:
    file = tmp_path / "running.json"
    forgive(file)
    assert not file.exists()
    file.write_bytes(b"")
    forgive(file)
    assert _next(file).record.suspects == {}


_HEAD = (10).to_bytes(4, "little")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\xff\xff\xff\xff" + b"{}",
        b"not a record, but some text that is longer",
        _HEAD + b"[1, 2, 3] ",
        _HEAD + b'{"running"',
        (20).to_bytes(4, "little") + b'{"running": ["\xff\xfe"]}',
        (27).to_bytes(4, "little") + b'{"convicted": {"a": "dead"}}',
        (100_000).to_bytes(4, "little") + b'{"x":' + b"[" * 99_995,
        bytes(range(256)) * 16,
    ],
)
def test_a_broken_file_convicts_or_ends_the_engine(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "running.json"
    file.write_bytes(content)
    forgive(file)
    file.write_bytes(content)
    ledger = Ledger(file)
    assert ledger.record.convicted == []
    assert ledger.record.suspects == {}
    ledger.starts(["a", "b"])
    ledger.close()
    assert set(_next(file).record.suspects) == {"a", "b"}


def test_a_shorter_record_ends_in_the_rest_of_a_longer_one(tmp_path: Path) -> None:
    file = tmp_path / "running.json"
    ledger = Ledger(file)
    ledger.starts([f"a row with a long name, {at}" for at in range(40)])
    ledger.came_back()
    ledger.starts(["a"])
    ledger.close()
    assert set(_next(file).record.suspects) == {"a"}


def test_an_engine_without_a_folder_convicts() -> None:
    ledger = Ledger(None)
    ledger.starts(["a"])
    ledger.came_back()
    ledger.close()
    assert ledger.record.convicted == []
    assert ledger.record.suspects == {}


def test_others_may_read_who_was_running(tmp_path: Path) -> None:
    file = tmp_path / "running.json"
    Ledger(file).close()
    assert file.stat().st_mode & 0o777 == 0o600
