"""From rows to tokens: the template, the fixed prefix of each task and padded batches."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from .labels import PROMPT_CATEGORIES, SAFETIES, Task, answer_text
from .network import Batch
from .row import Row
from .tokenizer import TURN_END, plain_tokenizer, token_id

_OPEN: Final = "<BEGIN CONVERSATION>\n\nUSER:"
_CLOSE: Final = "<END CONVERSATION>"
_THOUGHT: Final = "\ue000"  # stands for the reasoning while the template is rendered
TAUGHT: Final = 0.7  # share of the class target that is a teacher's, where there is one
SMOOTH: Final = 0.06  # share of the class target that is spread over the three classes
#: How much each learnt token counts: the class, the category, the refusal, the rest.
CLASS_WEIGHT: Final = 1.0
CATEGORY_WEIGHT: Final = 0.5
REFUSAL_WEIGHT: Final = 0.3
OTHER_WEIGHT: Final = 0.05


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row's ids after the prefix: conversation and tail, then the answer with its end.

    ``category`` numbers the category, 0 for None; ``soft`` is what the probabilities of the three
    classes should be.
    """

    task: Task
    body: list[int]
    answer: list[int]
    weights: list[float]
    category: int = 0
    soft: tuple[float, ...] = (0.0,) * len(SAFETIES)


class Encoder:
    """Renders rows by the checkpoint's template and encodes what follows the fixed prefix."""

    def __init__(self, tokenizer: Tokenizer, template: str) -> None:
        self._tokenizer = tokenizer
        self._plain = plain_tokenizer(tokenizer)
        self._think = (token_id(tokenizer, "<think>"), token_id(tokenizer, "</think>"))
        self._template = ImmutableSandboxedEnvironment().from_string(template)
        self.end = token_id(tokenizer, TURN_END)
        self.prefix: dict[Task, list[int]] = {}
        self._tail: dict[Task, list[int]] = {}
        for task in ("prompt", "response"):
            example = [("user", "x"), ("assistant", "x")][: 1 if task == "prompt" else 2]
            text = self.render(example)
            cut = text.index(_OPEN) + len(_OPEN)
            name: Task = "prompt" if task == "prompt" else "response"
            self.prefix[name] = list(tokenizer.encode(text[:cut]).ids)
            self._tail[name] = list(tokenizer.encode(text[text.rindex(_CLOSE) :]).ids)
        self._colon = self.ids("Safety:")[-1]
        self.size = tokenizer.get_vocab_size()
        self.class_place = len(self.ids("Safety:"))
        self.firsts = [self.ids(f" {name}")[0] for name in SAFETIES]

    def render(self, messages: Sequence[tuple[str, str]]) -> str:
        """The whole text that the model reads."""
        listed = [{"role": role, "content": text} for role, text in messages]
        return self._template.render(messages=listed)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text on its own."""
        return list(self._tokenizer.encode(text).ids)

    def body(self, row: Row) -> list[int]:
        """Ids after the prefix, up to where the answer begins.

        What people wrote is encoded without the added tokens; only the markers around a
        reasoning, which the template's user puts there, are tokens.
        """
        messages = list(row.messages)
        role, last = messages[-1]
        if row.thinking:
            messages[-1] = (role, _THOUGHT)
        text = self.render(messages)
        cut = text.index(_OPEN) + len(_OPEN)
        inner = text[cut : text.rindex(_CLOSE)]
        if not row.thinking:
            return self._content(inner) + self._tail[row.task]
        head, foot = inner.rsplit(_THOUGHT, 1)
        opened, closed = self._think
        return [
            *self._content(head),
            opened,
            *self._content(f"\n{last}\n"),
            closed,
            *self._content(foot),
            *self._tail[row.task],
        ]

    def _content(self, text: str) -> list[int]:
        return list(self._plain.encode(text).ids)

    def encode(self, row: Row, taught: tuple[float, ...] | None = None) -> Encoded:
        """A row with its answer and the weight of each answer token.

        ``taught``: a teacher's probabilities of the classes.
        """
        answer = [*self.ids(answer_text(row.safety, row.category, row.refusal)), self.end]
        weights = [OTHER_WEIGHT] * len(answer)
        colons = [place for place, token in enumerate(answer) if token == self._colon]
        for place, weight in zip(
            colons, (CLASS_WEIGHT, CATEGORY_WEIGHT, REFUSAL_WEIGHT), strict=False
        ):
            weights[place + 1] = weight
        category = 0 if row.category is None else 1 + PROMPT_CATEGORIES.index(row.category)
        share = SMOOTH / len(SAFETIES)
        soft = tuple(share + (1 - SMOOTH) * (name == row.safety) for name in SAFETIES)
        if taught is not None:
            pairs = zip(soft, taught, strict=True)
            soft = tuple((1 - TAUGHT) * hard + TAUGHT * given for hard, given in pairs)
        return Encoded(row.task, self.body(row), answer, weights, category, soft)

    def batch(self, rows: Sequence[Encoded], device: torch.device) -> Batch:
        """Rows of one task, padded; each has the same number of answer positions."""
        lengths = [len(row.body) + len(row.answer) - 1 for row in rows]
        each = max(len(row.answer) for row in rows)
        tokens = torch.full((len(rows), max(lengths)), self.end, dtype=torch.long)
        places = torch.zeros(len(rows), each, 2, dtype=torch.long)
        targets = torch.zeros(len(rows), each, dtype=torch.long)
        weights = torch.zeros(len(rows), each)
        for number, row in enumerate(rows):
            tokens[number, : lengths[number]] = torch.tensor(row.body + row.answer[:-1])
            start = len(row.body) - 1
            learnt = len(row.answer)
            places[number, :, 0] = number
            places[number, :, 1] = start
            places[number, :learnt, 1] = torch.arange(start, start + learnt)
            targets[number, :learnt] = torch.tensor(row.answer)
            weights[number, :learnt] = torch.tensor(row.weights)
        prefix = torch.tensor(self.prefix[rows[0].task])
        tail = len(self._tail[rows[0].task])
        return Batch(
            prefix.to(device),
            tokens.to(device),
            places.flatten(0, 1).to(device),
            targets.flatten().to(device),
            weights.flatten().to(device),
            torch.tensor([len(row.body) - tail for row in rows], device=device),
            torch.tensor([row.category for row in rows], device=device),
            torch.tensor([row.soft for row in rows], device=device),
        )


def read_template(path: Path) -> str:
    """The text of a chat template, exactly."""
    return path.read_text()


def pack(rows: Sequence[Encoded], budget: int, chooser: random.Random) -> Iterator[list[Encoded]]:
    """Batches of one task and like length, at most ``budget`` padded tokens each, shuffled."""
    batches: list[list[Encoded]] = []
    for task in ("prompt", "response"):
        ordered = sorted((row for row in rows if row.task == task), key=lambda row: len(row.body))
        current: list[Encoded] = []
        for row in ordered:
            if current and (len(current) + 1) * (len(row.body) + len(row.answer)) > budget:
                batches.append(current)
                current = []
            current.append(row)
        if current:
            batches.append(current)
    chooser.shuffle(batches)
    yield from batches
