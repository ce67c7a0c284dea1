"""How the stream stand-in learns: a label at each token."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from .labels import SAFETIES
from .network import fast
from .run import DECAY, Plan, Run
from .stream_encoding import NONE, Batch, Layout, batch, pack
from .stream_network import StreamNetwork, write_stream_weights
from .stream_rows import StreamSampler

BUDGET: Final = 1_024  # padded tokens in a batch
POOL: Final = 1_024  # exchanges drawn at a time and sorted by length
DROP: Final = 0.05  # share of the content tokens that are blanked
#: Nats towards Safe in what is learnt at each token: a stream has hundreds of chances to be flagged
#: wrongly, so one token must be surer than a whole text.
LEAN: Final = 0.7
QUERY_LEAN: Final = 0.5  # as the Gen stand-in's
SMOOTH: Final = 0.03  # share of a target that is spread over the classes
CATEGORY: Final = 0.3  # weight of the category's loss
HEADS_RATE: Final = 4.0  # rate of the new heads, times that of the backbone


class StreamTrainer(Run[Batch]):
    """One run over exchanges.

    The embeddings stay as they are: the words of the made-up exchanges are few, and all others must
    keep their meaning beside them.
    """

    def __init__(
        self, network: StreamNetwork, layout: Layout, plan: Plan, say: Callable[[str], None]
    ) -> None:
        network.model.embed_tokens.weight.requires_grad_(False)
        super().__init__({"network": network}, _groups(network), plan, say, "exchanges")
        self._stream = network
        self._layout = layout

    def run(self, sampler: StreamSampler) -> None:
        """Train until the time is up."""
        self.train(self._batches(sampler))

    def _batches(self, sampler: StreamSampler) -> Iterator[tuple[Batch, int]]:
        chooser = random.Random(self._plan.seed + self.step)
        while True:
            encoded = [self._layout.encode(exchange) for exchange in sampler.draw(POOL)]
            for chosen in pack(encoded, BUDGET, chooser):
                yield batch(chosen, self._layout.turn_end, self._device), len(chosen)

    def _loss(self, batch: Batch, count: int) -> tuple[Tensor, Tensor]:
        blank = (torch.rand_like(batch.scaffold, dtype=torch.float) < DROP) & ~batch.scaffold
        with torch.autocast(self._device.type, torch.bfloat16, enabled=fast(self._device)):
            states = self._stream.states(batch.tokens, blank)
        loss = stream_loss(self._stream, states, batch) / count
        return loss, loss

    def _write(self, file: Path) -> None:
        write_stream_weights(self._stream, file)


def stream_loss(network: StreamNetwork, states: Tensor, some: Batch) -> Tensor:
    """The sum of the losses of all texts, in nats.

    Safety at every content token of the assistant and at the end of a user's turn; the category
    only where the true safety is not Safe.
    """
    answers = network.response(_at(states, some.places))
    loss = (_safety_loss(answers.risk, some.risk, LEAN) * some.weights).sum()
    loss = loss + CATEGORY * _category_loss(answers.category, some.category, some.weights)
    if len(some.query_places):
        asked = network.query(_at(states, some.query_places))
        ones = torch.ones(len(some.query_places), device=states.device)
        loss = loss + _safety_loss(asked.risk, some.query_risk, QUERY_LEAN).sum()
        loss = loss + CATEGORY * _category_loss(asked.category, some.query_category, ones)
    return loss


def _at(states: Tensor, places: Tensor) -> Tensor:
    return states[places[:, 0], places[:, 1]]


def _safety_loss(logits: Tensor, truth: Tensor, lean: float) -> Tensor:
    """Cross-entropy [n] with the logit of Safe lowered, so that it is learnt that much higher."""
    down = torch.zeros(len(SAFETIES), device=logits.device)
    down[SAFETIES.index("Safe")] = lean
    return functional.cross_entropy(logits - down, truth, reduction="none", label_smoothing=SMOOTH)


def _category_loss(logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    known = truth != NONE
    if not known.any():
        return logits.sum() * 0.0
    loss = functional.cross_entropy(
        logits[known], truth[known], reduction="none", label_smoothing=SMOOTH
    )
    return (loss * weights[known]).sum()


def _groups(network: StreamNetwork) -> list[dict[str, Any]]:
    """Weight decay for matrices, none for norms; a higher rate for the heads."""
    heads = {id(value) for value in network.heads()}
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for value in network.parameters():
        if value.requires_grad:
            groups.setdefault((value.dim() == 2, id(value) in heads), []).append(value)
    return [
        {
            "params": values,
            "weight_decay": DECAY if matrix else 0.0,
            "times": HEADS_RATE if head else 1.0,
        }
        for (matrix, head), values in groups.items()
    ]
