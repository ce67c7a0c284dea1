"""The pages that people read, and what stands in them: fenced blocks, links, headings, code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "bench" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```[ \t]*$", re.M | re.S)
_COMMENT = re.compile(r"<!--.*?-->", re.S)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (?P<text>.+?)\s*$", re.M)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `kind`: the words behind its fence, such as `yaml policy`."""

    page: Path
    line: int
    kind: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def prose_of(page: Path) -> str:
    """The page without its blocks and comments."""
    return _COMMENT.sub("", _FENCE.sub("", text_of(page)))


def blocks_of(page: Path) -> list[Block]:
    text = text_of(page)
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found["info"].strip(), found["text"])
        for found in _FENCE.finditer(text)
    ]


def all_blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks_of(page)]


def links_of(page: Path) -> list[str]:
    return [found["target"] for found in _LINK.finditer(_unquoted(prose_of(page)))]


@cache
def anchors_of(page: Path) -> set[str]:
    """What a link may have behind its `#`, by GitHub's rule."""
    found: set[str] = set()
    for heading in _HEADING.finditer(prose_of(page)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading["text"]).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        copies = [anchor, *(f"{anchor}-{count}" for count in range(1, 99))]
        found.add(next(each for each in copies if each not in found))
    return found


@cache
def quoted_in(page: Path) -> list[str]:
    """What stands between backticks in its prose, each on one line."""
    text = " ".join(prose_of(page).split())
    return [found[1] for found in re.finditer(r"(?<!`)`([^`]+)`(?!`)", text)]


def _unquoted(text: str) -> str:
    return re.sub(r"`[^`]*`", "``", text)
