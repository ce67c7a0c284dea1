"""The commands of a page of docs/, in their order, and what stands between them.

A fenced block of `sh` is run, unless its first line says `# not run here: WHY`. A comment
`<!-- says: TEXT -->` behind a block is what its output must hold; `<!-- here the test … -->` is
something that the test does at that point.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = ("operations", "backup", "upgrades")

_PART = re.compile(r"^```sh\n(?P<block>.*?)^```$|^<!-- (?P<comment>.*?) -->$", re.M | re.S)
_NOT_RUN = re.compile(r"# not run here: (?P<why>\S.*)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """`says`: what its output must hold; `why_not`: why it is not run, None where it is."""

    page: str
    line: int
    script: str
    says: tuple[str, ...] = ()
    why_not: str | None = None


@dataclass(frozen=True, slots=True)
class Happening:
    """What the test does here, in the page's words."""

    what: str


def read(page: str) -> list[Block | Happening]:
    """The parts of docs/PAGE.md. Raises ValueError for a comment that nobody understands."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    parts: list[Block | Happening] = []
    for found in _PART.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        script, comment = found["block"], found["comment"]
        if script is not None:
            why = _NOT_RUN.match(script)
            parts.append(Block(page, line, script, why_not=why["why"] if why else None))
            continue
        kind, _, said = comment.partition(": ")
        last = parts[-1] if parts else None
        if kind == "says" and isinstance(last, Block) and last.why_not is None:
            parts[-1] = Block(last.page, last.line, last.script, (*last.says, said))
        elif comment.startswith("here the test "):
            parts.append(Happening(comment.removeprefix("here the test ")))
        else:
            raise ValueError(f"docs/{page}.md:{line}: what is meant by {comment!r}?")
    return parts


def blocks(page: str, *, run: bool) -> list[Block]:
    """Those that are run, or those that are not."""
    found = [each for each in read(page) if isinstance(each, Block)]
    return [each for each in found if (each.why_not is None) is run]
