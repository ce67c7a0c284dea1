"""The training loop: sampled rows, a learning rate that follows the clock, atomic saves."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3ForCausalLM

from .encoding import CLASS_WEIGHT, Encoder, pack
from .labels import PROMPT_CATEGORIES, SAFETIES
from .network import Batch, Helpers, fast, forward, write_weights
from .row import Row
from .rows import Sampler
from .teacher import Teachers

POOL: Final = 2_048  # rows drawn at a time and sorted by length
WARM_UP: Final = 60  # steps
CLIP: Final = 1.0
HELP: Final = 0.3  # weight of the helper heads' loss
DROP: Final = 0.08  # share of the conversation's tokens that are blanked
LEAN: Final = 0.5  # nats towards Safe, for fewer false alarms; at 0.8 too much was missed
BETAS: Final = (0.9, 0.95)
DECAY: Final = 0.05
RESUME_FILE: Final = "resume.pt"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does; ``minutes`` of wall time, ``budget`` padded tokens in a batch."""

    out: Path
    minutes: float
    seed: int
    budget: int = 2_048
    rate: float = 1e-3
    save_every: float = 180.0  # seconds
    report_every: float = 15.0  # seconds


class Trainer:
    """One run: the optimizer, what was done so far, and the clock."""

    def __init__(
        self,
        model: Qwen3ForCausalLM,
        encoder: Encoder,
        plan: Plan,
        say: Callable[[str], None],
        teachers: Teachers | None = None,
    ) -> None:
        self._model = model
        self._encoder = encoder
        self._plan = plan
        self._say = say
        self._teachers = teachers
        self._device = next(model.parameters()).device
        self._fast = fast(self._device)
        hidden = int(model.config.hidden_size)
        self._helpers = Helpers(hidden, len(SAFETIES), len(PROMPT_CATEGORIES) + 1).to(self._device)
        groups = _groups(model)
        groups.append({"params": list(self._helpers.parameters()), "weight_decay": 0.0})
        self._optimizer = torch.optim.AdamW(groups, lr=plan.rate, betas=BETAS, fused=True)
        self._step = 0
        self._seen = 0  # rows
        self._spent = 0.0  # seconds

    def resume(self) -> None:
        """Go on from what an earlier run left in ``plan.out``."""
        state = torch.load(
            self._plan.out / RESUME_FILE, map_location=self._device, weights_only=True
        )
        self._model.load_state_dict(state["model"])
        self._helpers.load_state_dict(state["helpers"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._step, self._seen = state["step"], state["rows"]
        self._spent = state["seconds"]
        self._say(f"resumed at step {self._step}, after {self._spent / 60:.1f} minutes")

    def run(self, rows: Iterable[Row]) -> None:
        """Train until the time is up; weights are saved at intervals and at the end."""
        total = self._plan.minutes * 60
        began = time.monotonic() - self._spent
        batches = self._batches(Sampler(rows, self._plan.seed + self._step))
        saved = reported = time.monotonic()
        losses: list[float] = []
        tokens = 0
        self._model.train()
        try:
            while self._spent < total:
                batch, count = next(batches)
                losses.append(self._learn(batch, count, self._spent / total))
                tokens += batch.tokens.numel()
                now = time.monotonic()
                self._spent = now - began
                if now - reported >= self._plan.report_every:
                    self._say(
                        f"step {self._step}  rows {self._seen}  "
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
        self._model.train(False)

    def _batches(self, sampler: Sampler) -> Iterator[tuple[Batch, int]]:
        """Batches without end, each with its number of rows."""
        chooser = random.Random(self._plan.seed + self._step)
        while True:
            drawn = sampler.draw(POOL)
            taught = self._teachers.soften(drawn) if self._teachers else [None] * POOL
            encoded = [self._encoder.encode(*pair) for pair in zip(drawn, taught, strict=True)]
            for chosen in pack(encoded, self._plan.budget, chooser):
                yield self._encoder.batch(chosen, self._device), len(chosen)

    def _learn(self, batch: Batch, count: int, share: float) -> float:
        """One step; the loss a row, in nats."""
        rate = self._plan.rate * schedule(self._step, share)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._fast):
            logits, means = forward(self._model, batch, DROP)
            helped = self._helpers.loss(means, batch.category, batch.soft)
        loss = self._loss(logits, batch) / count
        (loss + HELP * helped).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._step += 1
        self._seen += count
        return float(loss.detach())

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the answers, in nats; at the class against the soft targets.

        There the logit of Safe is lowered by ``LEAN``, so that the network learns to hold it that
        much higher.
        """
        place, rows = self._encoder.class_place, batch.soft.shape[0]
        hard = functional.cross_entropy(logits, batch.targets, reduction="none") * batch.weights
        lean = torch.zeros(logits.shape[-1], device=logits.device)
        lean[self._encoder.firsts[SAFETIES.index("Safe")]] = LEAN
        classes = (logits.view(rows, -1, logits.shape[-1])[:, place] - lean).log_softmax(-1)
        soft = (classes[:, self._encoder.firsts] * batch.soft).sum()
        return hard.sum() - hard.view(rows, -1)[:, place].sum() - CLASS_WEIGHT * soft

    def save(self) -> None:
        """The weights, and what ``resume`` needs; each file is replaced whole."""
        write_weights(self._model, self._plan.out / "model.safetensors")
        state = {
            "model": self._model.state_dict(),
            "helpers": self._helpers.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self._step,
            "rows": self._seen,
            "seconds": self._spent,
        }
        part = self._plan.out / (RESUME_FILE + ".part")
        torch.save(state, part)
        part.replace(self._plan.out / RESUME_FILE)


def _groups(model: Qwen3ForCausalLM) -> list[dict[str, Any]]:
    """Weight decay for matrices, none for norms and embeddings."""
    decayed: list[torch.Tensor] = []
    plain: list[torch.Tensor] = []
    for name, value in model.named_parameters():
        (decayed if value.dim() == 2 and "embed" not in name else plain).append(value)
    return [
        {"params": decayed, "weight_decay": DECAY},
        {"params": plain, "weight_decay": 0.0},
    ]


def schedule(step: int, share: float) -> float:
    """Linear warm-up by steps, then a cosine down to 2 % by the share of the time spent."""
    cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    return min(1.0, (step + 1) / WARM_UP) * cosine
