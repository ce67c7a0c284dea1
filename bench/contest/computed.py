"""How many tokens each contestant has to compute, by the rows and the answers themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contest.rendering import Messages, Renderer, answer_tokens, shared_prefix


class Counter:
    """Counts with a checkpoint's own tokenizer and template."""

    def __init__(self, checkpoint: Path) -> None:
        self._renderer = Renderer(checkpoint)
        self.prefix = {role: self._prefix(role) for role in ("user", "assistant")}

    def tokens(self, text: str) -> int:
        """How many a text has."""
        return len(self._renderer.plain(text))

    def whole(self, rows: Sequence[Messages]) -> list[int]:
        """Tokens of each row in the template."""
        return [len(ids) for ids in self._renderer.ids(rows)]

    def engine(self, rows: Sequence[Messages], answers: Sequence[dict[str, Any]]) -> list[int]:
        """Tokens that the engine forwards for each row: all behind the prefix, `Safety:`, and what
        it feeds for categories and refusal."""
        forced = len(self._renderer.forced)
        return [
            length - self.prefix[row[-1]["role"]] + forced + self._fed(answer)
            for row, length, answer in zip(rows, self.whole(rows), answers, strict=True)
        ]

    def generating(self, rows: Sequence[Messages]) -> list[int]:
        """Tokens that a peer forwards which generates and has no prefix: the last one of an answer
        is only read."""
        return [
            length + answer_tokens(row) - 1
            for row, length in zip(rows, self.whole(rows), strict=True)
        ]

    def forced(self, rows: Sequence[Messages]) -> list[int]:
        """The same for a forced one."""
        return [length + len(self._renderer.forced) for length in self.whole(rows)]

    def _fed(self, answer: dict[str, Any]) -> int:
        fed, safe = 0, max(answer["scores"]) == answer["scores"][0]
        if answer["categories"]:
            word = max((1, 2), key=lambda at: (answer["scores"][at], at))
            name = (" Controversial", " Unsafe")[word - 1]
            fed += self.tokens(f"{name}\nCategories: " + ", ".join(answer["categories"]))
        if answer["refusal"] is not None:
            fed += self.tokens(" Safe\nCategories: None" if safe else "")
            fed += self.tokens("\nRefusal:")
        return fed

    def _prefix(self, role: str) -> int:
        """What the rows of a task share: up to and with `USER:`."""
        rows = []
        for content in ("a", "7"):
            row = [{"role": "user", "content": content}]
            if role == "assistant":
                row.append({"role": "assistant", "content": content})
            rows.append(row)
        return shared_prefix(self._renderer.ids(rows))
