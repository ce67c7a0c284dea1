"""Records of a file, fed to a comparison."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from itertools import islice
from typing import BinaryIO

from qwarden.policy.diff import Comparison

LINES_A_STEP = 5000
"""Lines between two looks at the progress: some hundredths of a second."""


def compare(
    source: BinaryIO,
    comparison: Comparison,
    *,
    rate: float | None,
    step: Callable[[int, int], object],
) -> None:
    """Feeds the lines of a JSONL. `rate`: of the sample that evidence is. `step` is told how many
    records and bytes it has read. Raises `RateMissing`."""
    read = comparison.read
    is_first = True
    while lines := list(islice(source, LINES_A_STEP)):
        if is_first:
            lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
            is_first = False
        records = 0
        for line in lines:
            if not line.isspace():
                read(line, rate)
                records += 1
        step(records, sum(map(len, lines)))
