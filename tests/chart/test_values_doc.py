"""The page of the chart's values says what values.yaml and its schema say."""

from __future__ import annotations

import json
from typing import Final

import pytest
import yaml

from chart import values_page
from chart.releases import CHART, Values

TEXT: Final = (CHART / "values.yaml").read_text(encoding="utf-8")


def test_a_page_of_values_that_has_fallen_behind() -> None:
    assert values_page.PAGE.read_text(encoding="utf-8") == values_page.current(), (
        "docs/values.md is of an earlier values.yaml: run "
        "`PYTHONPATH=tests .venv/bin/python -m chart.values_page`"
    )


def test_a_value_that_the_page_leaves_out() -> None:
    def paths(values: Values, prefix: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        return {
            path
            for key, value in values.items()
            for path in (
                paths(value, (*prefix, key))
                if isinstance(value, dict) and value and _has_lines(value, key)
                else {(*prefix, key)}
            )
        }

    found = {each.path for each in values_page.entries(TEXT) if each.value is not None}
    assert found == paths(yaml.safe_load(TEXT))


def _has_lines(value: Values, key: str) -> bool:
    """Whether this map's keys stand on lines of their own, rather than on the line of its key."""
    first = next(iter(value))
    return not any(
        line.strip().startswith(f"{key}: {{") and first in line for line in TEXT.splitlines()
    )


def test_a_default_that_the_schema_does_not_describe() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    for each in values_page.entries(TEXT):
        assert values_page.kind_of(schema, each.path), ".".join(each.path)


def test_an_example_taken_for_the_comment_of_the_next_value() -> None:
    text = (
        "# Files by name.\nfiles: {}\n#  one: |\n#    text\n\n# The next.\nother:\n"
        "  # Of it.\n  list: []\n  #  - name: x\n  # What follows:\n  #   a: first\n"
        "  #     and on\n  last: 1\n"
    )
    files, other, items, last = values_page.entries(text)
    assert (files.comment, files.example) == ("Files by name.", ["one: |", "  text"])
    assert (other.comment, other.value) == ("The next.", None)
    assert (items.path, items.example) == (("other", "list"), ["- name: x"])
    assert last.comment == "What follows:<br>a: first and on"


def test_a_list_over_several_lines_that_is_lost_in_silence() -> None:
    with pytest.raises(ValueError, match="one line"):
        list(values_page.entries("things:\n  - one\n"))
