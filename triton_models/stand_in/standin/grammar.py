"""A small text grammar: lists of phrases whose names in braces are replaced by other phrases."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import yaml

FOLDER: Final = Path(__file__).parent / "phrases" / "english"
_NAME: Final = re.compile(r"\{(\w+)\}")


class Grammar:
    """Named lists of phrases; ``{name}`` in a phrase stands for any phrase of that list.

    A name that no list has is left as it stands, so that code may hold braces.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.lists: dict[str, list[str]] = {}
        for path in paths:
            for name, phrases in yaml.safe_load(path.read_text()).items():
                if name in self.lists:
                    raise ValueError(f"{path.name}: {name} is defined twice")
                self.lists[name] = [str(phrase) for phrase in phrases]

    def make(
        self, chooser: random.Random, name: str, given: Mapping[str, str] | None = None
    ) -> str:
        """One text; ``given`` replaces lists by a fixed text."""
        fixed = given or {}

        def replace(match: re.Match[str]) -> str:
            inner = match[1]
            if inner in fixed:
                return fixed[inner]
            return self.make(chooser, inner, given) if inner in self.lists else match[0]

        return _NAME.sub(replace, chooser.choice(self.lists[name]))


def load_grammar() -> Grammar:
    """The project's own lists."""
    return Grammar(sorted(FOLDER.glob("*.yaml")))
