"""A training run: a learning rate that follows the clock, atomic saves, and going on from one."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

import torch
from torch import Tensor

WARM_UP: Final = 60  # steps
CLIP: Final = 1.0
BETAS: Final = (0.9, 0.95)
DECAY: Final = 0.05  # of matrices
SAVE_EVERY: Final = 180.0  # seconds
REPORT_EVERY: Final = 15.0  # seconds
RESUME_FILE: Final = "resume.pt"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does; ``minutes`` of wall time."""

    out: Path
    minutes: float
    seed: int
    rate: float


class Learnt(Protocol):
    """What one step is about; ``tokens`` [rows, length], padded."""

    @property
    def tokens(self) -> Tensor: ...


B = TypeVar("B", bound=Learnt)


class Run(ABC, Generic[B]):
    """One run: the optimizer, what was done so far, and the clock.

    ``kept``: by name what a later run goes on with, the network first. ``groups``: its parameters,
    as the optimizer takes them; ``times`` of a group multiplies the rate. ``unit``: what is learnt,
    in the plural.
    """

    def __init__(
        self,
        kept: Mapping[str, torch.nn.Module],
        groups: list[dict[str, Any]],
        plan: Plan,
        say: Callable[[str], None],
        unit: str,
    ) -> None:
        self._kept = kept
        self._network = next(iter(kept.values()))
        self._plan = plan
        self._say = say
        self._unit = unit
        self._device = next(self._network.parameters()).device
        self._optimizer = torch.optim.AdamW(groups, lr=plan.rate, betas=BETAS, fused=True)
        self.step = 0
        self._seen = 0  # of the unit
        self._spent = 0.0  # seconds

    @abstractmethod
    def _loss(self, batch: B, count: int) -> tuple[Tensor, Tensor]:
        """The loss of one of ``count``, in nats: as it is told, and as it is made small."""

    @abstractmethod
    def _write(self, file: Path) -> None:
        """Writes the network's weights."""

    def resume(self) -> None:
        """Go on from what an earlier run left in ``plan.out``."""
        path = self._plan.out / RESUME_FILE
        state = torch.load(path, map_location=self._device, weights_only=True)
        for name, module in self._kept.items():
            module.load_state_dict(state[name])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self._seen, self._spent = state["step"], state["seen"], state["seconds"]
        self._say(f"resumed at step {self.step}, after {self._spent / 60:.1f} minutes")

    def train(self, batches: Iterator[tuple[B, int]]) -> None:
        """Learn batches, each with its number of rows, until the time is up; weights are saved at
        intervals and at the end."""
        total = self._plan.minutes * 60
        began = time.monotonic() - self._spent
        saved = reported = time.monotonic()
        losses: list[float] = []
        tokens = 0
        self._network.train()
        try:
            while self._spent < total:
                batch, count = next(batches)
                losses.append(self._learn(batch, count, self._spent / total))
                tokens += batch.tokens.numel()
                now = time.monotonic()
                self._spent = now - began
                if now - reported >= REPORT_EVERY:
                    self._say(
                        f"step {self.step}  {self._unit} {self._seen}  "
                        f"loss {sum(losses) / len(losses):.3f}  "
                        f"{tokens / (now - reported):.0f} tokens/s  "
                        f"{max(0.0, total - self._spent) / 60:.1f} min left"
                    )
                    losses, tokens, reported = [], 0, now
                if now - saved >= SAVE_EVERY:
                    self._save()
                    saved = now
        except KeyboardInterrupt:
            self._say("interrupted: saving; --resume continues")
        self._save()
        self._network.train(False)

    def _learn(self, batch: B, count: int, share: float) -> float:
        rate = self._plan.rate * schedule(self.step, share)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group.get("times", 1.0)
        told, loss = self._loss(batch, count)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        self._seen += count
        return float(told.detach())

    def _save(self) -> None:
        """The weights, and what ``resume`` needs; each file is replaced whole."""
        self._write(self._plan.out / "model.safetensors")
        state = {
            **{name: module.state_dict() for name, module in self._kept.items()},
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "seen": self._seen,
            "seconds": self._spent,
        }
        part = self._plan.out / (RESUME_FILE + ".part")
        torch.save(state, part)
        part.replace(self._plan.out / RESUME_FILE)


def schedule(step: int, share: float) -> float:
    """Linear warm-up by steps, then a cosine down to 2 % by the share of the time spent."""
    cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    return min(1.0, (step + 1) / WARM_UP) * cosine
