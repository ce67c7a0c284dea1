"""Conversations as the token ids that every contestant has to judge: the template's whole text.

Runs in the environments of all of them, so it needs transformers alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Messages = list[dict[str, str]]


class Renderer:
    """The template and the tokenizer of a checkpoint. `forced`: the ids of `Safety:`."""

    def __init__(self, checkpoint: Path) -> None:
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
        self.forced = self.plain("Safety:")

    def plain(self, text: str) -> list[int]:
        """The ids of a text."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def ids(self, conversations: Sequence[Messages]) -> list[list[int]]:
        """The ids of conversations in the template."""
        texts = self.tokenizer.apply_chat_template(list(conversations), tokenize=False)
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def forced_ids(self, conversations: Sequence[Messages]) -> list[list[int]]:
        """The same with `Safety:` behind it."""
        return [[*ids, *self.forced] for ids in self.ids(conversations)]


def shared_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows begin with."""
    first, *others = rows
    for at, token in enumerate(first):
        if any(at >= len(other) or other[at] != token for other in others):
            return at
    return len(first)


def answer_tokens(messages: Messages) -> int:
    """Tokens of a real answer: `Safety: Unsafe`, `Categories: Violent`; five more for a refusal."""
    return 8 if messages[-1]["role"] == "user" else 13
