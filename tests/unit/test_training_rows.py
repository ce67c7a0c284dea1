"""A training row that breaks the format stops the run, with its number."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from qwarden.stack.home import checkout

sys.path.append(str(checkout() / "triton_models" / "stand_in"))
from standin.rows import read_rows

PROMPT: dict[str, Any] = {
    "source": "mine", "lang": "en", "task": "prompt", "prompt": "How?", "response": None,
    "label": "Safe", "categories": [],
}  # fmt: skip
RESPONSE: dict[str, Any] = PROMPT | {"task": "response", "response": "So."}
UNSAFE: dict[str, Any] = {"label": "Unsafe", "categories": ["Jailbreak"]}


def _file(folder: Path, *rows: dict[str, Any]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (PROMPT | {"prompt": None}, "prompt is None, not a text"),
        (PROMPT | {"prompt": 5}, "prompt is 5, not a text"),
        (PROMPT | {"prompt": "\ud800"}, "surrogates not allowed"),
        (RESPONSE | {"response": None}, "response is None, not a text"),
        (RESPONSE | UNSAFE, r"\['Jailbreak'\] with label Unsafe, of a response"),
        (RESPONSE | {"refusal": "yes"}, "refusal is 'yes', neither"),
        (PROMPT | {"refusal": 1}, "refusal is 1, neither"),
        (PROMPT | {"response": "So."}, "response is not null, of a prompt"),
        (PROMPT | {"source": None}, "source is None, not a text"),
        (PROMPT | {"lang": 5}, "lang is 5, not a text"),
    ],
)
def test_a_row_is_learnt_as_something_else(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=rf"line 2: .*{said}"):
        list(read_rows(_file(tmp_path, PROMPT, row)))


def test_a_line_that_is_no_utf_8_stops_the_run_without_its_number(tmp_path: Path) -> None:
    file = _file(tmp_path, PROMPT, PROMPT | {"prompt": "Hällo"})
    file.write_bytes(file.read_bytes().replace(rb"\u00e4", b"\xe4"))
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2: UnicodeDecodeError"):
        list(read_rows(file))


def test_a_row_that_keeps_to_the_format_stops_the_run(tmp_path: Path) -> None:
    refusing = RESPONSE | {"refusal": True}
    prompt, response, last = read_rows(_file(tmp_path, PROMPT | UNSAFE, RESPONSE, refusing))
    assert (prompt.categories, prompt.refusal) == (("Jailbreak",), None)
    assert (response.refusal, last.refusal) == (False, True)
