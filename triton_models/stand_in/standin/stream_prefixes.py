"""Where a labelled answer begins to deserve its label: the Gen stand-in judges its beginnings.

The shortest beginning that the Gen stand-in judges as the whole answer is labelled is looked for by
bisection, as if longer ones were judged so too. Where even the whole is judged otherwise, the label
holds from the last character on: the label says that the whole deserves it.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from transformers import Qwen3ForCausalLM

from .encoding import Encoder
from .labels import SAFETIES
from .measure import logits_after
from .row import Row

CUTS: Final = 31  # beginnings of one text that come into question
TOGETHER: Final = 256  # texts judged at a time
#: The end of a word, or of any character of the scripts that write without spaces.
_WORD: Final = re.compile(r"[^\W\u2e80-\uffff]+|[\u2e80-\uffff]")

#: Whether each row, its answer cut to so many code points, is judged as it is labelled.
Judge = Callable[[Sequence[Row], Sequence[int]], list[bool]]


def cuts_of(text: str) -> list[int]:
    """Ends of words, at most ``CUTS`` of them and the whole; dense at the beginning."""
    ends = [found.end() for found in _WORD.finditer(text)]
    if len(ends) > CUTS:
        last = len(ends) - 1
        ends = sorted({ends[round(last * (place / CUTS) ** 1.5)] for place in range(CUTS)})
    return [*(end for end in ends if end < len(text)), len(text)]


def first_judged(rows: Sequence[Row], judge: Judge) -> list[int]:
    """Code points of the shortest beginning of each answer that is judged as it is labelled."""
    cuts = [cuts_of(row.messages[-1][1]) for row in rows]
    whole = judge(rows, [len(row.messages[-1][1]) for row in rows])
    # Judged as labelled at ``high``, not so at ``low``.
    low = [-1] * len(rows)
    high = [len(each) - 1 for each in cuts]
    while open_ := [n for n in range(len(rows)) if whole[n] and high[n] - low[n] > 1]:
        middle = {n: (low[n] + high[n]) // 2 for n in open_}
        said = judge([rows[n] for n in open_], [cuts[n][middle[n]] for n in open_])
        for n, yes in zip(open_, said, strict=True):
            (high if yes else low)[n] = middle[n]
    return [cuts[n][high[n]] for n in range(len(rows))]


def gen_judge(model: Qwen3ForCausalLM, encoder: Encoder) -> Judge:
    """The judgement of a Gen checkpoint."""

    def judge(rows: Sequence[Row], cuts: Sequence[int]) -> list[bool]:
        begun = [
            replace(row, messages=(*row.messages[:-1], ("assistant", row.messages[-1][1][:cut])))
            for row, cut in zip(rows, cuts, strict=True)
        ]
        logits = logits_after(model, encoder, begun, ["Safety:"] * len(begun))
        best: list[int] = logits[:, 0, encoder.firsts].argmax(-1).tolist()
        return [SAFETIES[place] == row.safety for place, row in zip(best, rows, strict=True)]

    return judge


def key_of(row: Row) -> str:
    """By what a row's result is kept."""
    return format(zlib.crc32(repr(row.messages).encode()), "08x")


def find_all(
    rows: Sequence[Row], judge: Judge, kept: Path, say: Callable[[str], None]
) -> dict[str, int]:
    """Code points by key; what ``kept`` (a JSON file) has is not judged again."""
    found: dict[str, int] = json.loads(kept.read_text()) if kept.exists() else {}
    left = [row for row in rows if key_of(row) not in found]
    for start in range(0, len(left), TOGETHER):
        some = left[start : start + TOGETHER]
        with torch.inference_mode():
            since = first_judged(some, judge)
        found.update(zip(map(key_of, some), since, strict=True))
        part = kept.with_name(kept.name + ".part")
        part.write_text(json.dumps(found))
        part.replace(kept)
        say(f"beginnings of {start + len(some)} of {len(left)} answers judged")
    return found
