"""What the chart renders is what was last looked over."""

from __future__ import annotations

import difflib

import pytest

from chart.goldens import FOLDER, GOLDENS, written
from chart.releases import Render


@pytest.mark.parametrize("name", GOLDENS)
def test_a_change_of_the_output_that_no_diff_shows(render: Render, name: str) -> None:
    now = written(name, list(render(GOLDENS[name]).objects))
    kept = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    diff = "\n".join(
        difflib.unified_diff(kept.splitlines(), now.splitlines(), "kept", "now", lineterm="", n=2)
    )
    assert now == kept, (
        "the chart renders something else; look it over, then run "
        f"`PYTHONPATH=tests .venv/bin/python -m chart.goldens`:\n{diff}"
    )


def test_a_golden_file_of_values_that_are_no_more() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == GOLDENS.keys()
