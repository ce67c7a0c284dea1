"""The yardstick: a hashed n-gram logistic regression, trained on the same draws as the network.

Features are words, pairs of words and runs of two to five characters, in lower case, of the judged
text and, apart from them, of what came before it. They are hashed into one table; three outputs
give the safety class, nine the category, one the refusal.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from .labels import PROMPT_CATEGORIES, RESPONSE_CATEGORIES, SAFETIES
from .measure import Judged
from .row import Row

BUCKETS: Final = 1 << 20  # of hashed features: the 20 bits that `_of_text` keeps
KEEP: Final = 4_000  # characters of one text
PASSES: Final = 3
BATCH: Final = 256
RATE: Final = 0.3
_WORD: Final = re.compile(r"\w+|[^\w\s]")
_SAFE, _NAMED = len(SAFETIES), len(SAFETIES) + len(PROMPT_CATEGORIES)
Features = npt.NDArray[np.int64]


def features(row: Row) -> Features:
    """The hashed features of a row, each once."""
    parts = [_of_text(row.messages[-1][1], 1 if row.task == "prompt" else 2)]
    if len(row.messages) > 1:
        parts.append(_of_text("\n".join(text for _, text in row.messages[:-1]), 3))
    return np.unique(np.concatenate(parts))


def _of_text(text: str, salt: int) -> Features:
    text = text[:KEEP].lower()
    words = _WORD.findall(text)
    pairs = [f"{first} {second}" for first, second in pairwise(words)]
    hashes = np.array([zlib.crc32(word.encode()) for word in (*words, *pairs)], dtype=np.uint64)
    runs = [hashes]
    points = np.frombuffer(f" {text} ".encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    for length in range(2, 6):
        if len(points) < length:
            break
        run = np.full(len(points) - length + 1, length, dtype=np.uint64)
        for place in range(length):
            run = run * np.uint64(0x100000001B3) + points[place : place + len(run)]
        runs.append(run)
    mixed = (np.concatenate(runs) + np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(44)).astype(np.int64)


class Baseline:
    """The regression; ``train`` once, then ``judge``."""

    def __init__(self) -> None:
        self._table = torch.nn.EmbeddingBag(BUCKETS, _NAMED + 1, mode="sum", sparse=True)
        torch.nn.init.zeros_(self._table.weight)
        self._bias = torch.nn.Parameter(torch.zeros(2, _NAMED + 1))  # one row a task

    def train(self, rows: Sequence[Row], seed: int, say: Callable[[str], None]) -> None:
        """Adagrad over the rows, several times."""
        kept = [features(row) for row in rows]
        say(f"features of {len(rows)} rows made")
        optimizer = torch.optim.Adagrad([self._table.weight, self._bias], lr=RATE)
        order = list(range(len(rows)))
        chooser = random.Random(seed)
        for number in range(PASSES):
            chooser.shuffle(order)
            total = 0.0
            for start in range(0, len(order), BATCH):
                picked = order[start : start + BATCH]
                some = [rows[place] for place in picked]
                loss = _loss(self._outputs(some, [kept[place] for place in picked]), some)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
                total += float(loss.detach()) * len(picked)
            say(f"baseline, pass {number + 1} of {PASSES}: loss {total / len(order):.3f}")

    def judge(self, rows: Sequence[Row]) -> list[Judged]:
        """As ``measure.judge`` does for the network."""
        judged: list[Judged] = []
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            with torch.inference_mode():
                outputs = self._outputs(some, [features(row) for row in some])
            safeties = outputs[:, :_SAFE].softmax(-1)
            for row, scores, output in zip(some, safeties, outputs, strict=True):
                names = RESPONSE_CATEGORIES if row.task == "response" else PROMPT_CATEGORIES
                best = names[int(output[_SAFE : _SAFE + len(names)].argmax())]
                refusal = bool(output[_NAMED] > 0) if row.task == "response" else None
                probabilities = dict(zip(SAFETIES, scores.tolist(), strict=True))
                chosen = SAFETIES[int(scores.argmax())]
                judged.append(Judged(chosen, probabilities, best, refusal))
        return judged

    def state(self) -> dict[str, Tensor]:
        """What ``restore`` needs."""
        return {"table": self._table.weight.detach(), "bias": self._bias.detach()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to a state."""
        self._table.weight.data.copy_(state["table"])
        self._bias.data.copy_(state["bias"])

    def _outputs(self, rows: Sequence[Row], kept: Sequence[Features]) -> Tensor:
        lengths = torch.tensor([0, *(len(found) for found in kept)])
        weights = torch.cat([torch.full((len(found),), len(found) ** -0.5) for found in kept])
        found = torch.from_numpy(np.concatenate(kept))
        out: Tensor = self._table(found, lengths.cumsum(0)[:-1], per_sample_weights=weights)
        return out + self._bias[[int(row.task == "response") for row in rows]]


def _loss(outputs: Tensor, rows: Sequence[Row]) -> Tensor:
    safeties = torch.tensor([SAFETIES.index(row.safety) for row in rows])
    loss = functional.cross_entropy(outputs[:, :_SAFE], safeties)
    named = [place for place, row in enumerate(rows) if row.category is not None]
    if named:
        wanted = [PROMPT_CATEGORIES.index(str(rows[place].category)) for place in named]
        categories = outputs[named, _SAFE:_NAMED]
        loss = loss + functional.cross_entropy(categories, torch.tensor(wanted))
    answers = [place for place, row in enumerate(rows) if row.refusal is not None]
    if answers:
        refusals = torch.tensor([float(bool(rows[place].refusal)) for place in answers])
        refused = outputs[answers, _NAMED]
        loss = loss + functional.binary_cross_entropy_with_logits(refused, refusals)
    return loss
