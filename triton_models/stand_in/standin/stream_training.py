"""The training loop of the stream stand-in: token labels, a rate that follows the clock."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from .labels import SAFETIES
from .network import fast
from .stream_encoding import NONE, Batch, Layout, batch, pack
from .stream_network import StreamNetwork, write_stream_weights
from .stream_rows import StreamSampler
from .training import BETAS, CLIP, DECAY, RESUME_FILE, schedule

POOL: Final = 1_024  # exchanges drawn at a time and sorted by length
DROP: Final = 0.05  # share of the content tokens that are blanked
#: Nats towards Safe in what is learnt at each token: a stream has hundreds of chances to be flagged
#: wrongly, so one token must be surer than a whole text.
LEAN: Final = 0.7
QUERY_LEAN: Final = 0.5  # as the Gen stand-in's
SMOOTH: Final = 0.03  # share of a target that is spread over the classes
CATEGORY: Final = 0.3  # weight of the category's loss
HEADS_RATE: Final = 4.0  # rate of the new heads, times that of the backbone


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does; ``minutes`` of wall time, ``budget`` padded tokens in a batch."""

    out: Path
    minutes: float
    seed: int
    budget: int = 1_024
    rate: float = 1e-3
    save_every: float = 240.0  # seconds
    report_every: float = 20.0  # seconds


class StreamTrainer:
    """One run: the optimizer, what was done so far, and the clock.

    The embeddings stay as they are: the words of the made-up exchanges are few, and all others must
    keep their meaning beside them.
    """

    def __init__(
        self, network: StreamNetwork, layout: Layout, plan: Plan, say: Callable[[str], None]
    ) -> None:
        self._network = network
        self._layout = layout
        self._plan = plan
        self._say = say
        self._device = next(network.parameters()).device
        network.model.embed_tokens.weight.requires_grad_(False)
        self._optimizer = torch.optim.AdamW(_groups(network), lr=plan.rate, betas=BETAS, fused=True)
        self.step = 0
        self._seen = 0  # exchanges
        self._spent = 0.0  # seconds

    def resume(self) -> None:
        """Go on from what an earlier run left in ``plan.out``."""
        path = self._plan.out / RESUME_FILE
        state = torch.load(path, map_location=self._device, weights_only=True)
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self._seen = state["step"], state["exchanges"]
        self._spent = state["seconds"]
        self._say(f"resumed at step {self.step}, after {self._spent / 60:.1f} minutes")

    def run(self, sampler: StreamSampler) -> None:
        """Train until the time is up; weights are saved at intervals and at the end."""
        total = self._plan.minutes * 60
        began = time.monotonic() - self._spent
        batches = self._batches(sampler)
        saved = reported = time.monotonic()
        losses: list[float] = []
        tokens = 0
        self._network.train()
        try:
            while self._spent < total:
                some, count = next(batches)
                losses.append(self._learn(some, count, self._spent / total))
                tokens += some.tokens.numel()
                now = time.monotonic()
                self._spent = now - began
                if now - reported >= self._plan.report_every:
                    self._say(
                        f"step {self.step}  exchanges {self._seen}  "
                        f"loss {sum(losses) / len(losses):.3f}  "
                        f"{tokens / (now - reported):.0f} tokens/s  "
                        f"{max(0.0, total - self._spent) / 60:.1f} min left"
                    )
                    losses, tokens, reported = [], 0, now
                if now - saved >= self._plan.save_every:
                    self.save()
                    saved = now
        except KeyboardInterrupt:
            self._say("interrupted: saving; --resume continues")
        self.save()
        self._network.train(False)

    def _batches(self, sampler: StreamSampler) -> Iterator[tuple[Batch, int]]:
        chooser = random.Random(self._plan.seed + self.step)
        while True:
            encoded = [self._layout.encode(exchange) for exchange in sampler.draw(POOL)]
            for chosen in pack(encoded, self._plan.budget, chooser):
                yield batch(chosen, self._layout.turn_end, self._device), len(chosen)

    def _learn(self, some: Batch, count: int, share: float) -> float:
        """One step; the loss an exchange, in nats."""
        rate = self._plan.rate * schedule(self.step, share)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["times"]
        blank = (torch.rand_like(some.scaffold, dtype=torch.float) < DROP) & ~some.scaffold
        with torch.autocast(self._device.type, torch.bfloat16, enabled=fast(self._device)):
            states = self._network.states(some.tokens, blank)
        loss = stream_loss(self._network, states, some) / count
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        self._seen += count
        return float(loss.detach())

    def save(self) -> None:
        """The weights, and what ``resume`` needs; each file is replaced whole."""
        write_stream_weights(self._network, self._plan.out / "model.safetensors")
        state = {
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "exchanges": self._seen,
            "seconds": self._spent,
        }
        part = self._plan.out / (RESUME_FILE + ".part")
        torch.save(state, part)
        part.replace(self._plan.out / RESUME_FILE)


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
