"""How the Gen stand-in learns: sampled rows, answers as targets, teachers' scores beside them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
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
from .run import DECAY, Plan, Run
from .teacher import Teachers

BUDGET: Final = 2_048  # padded tokens in a batch
POOL: Final = 2_048  # rows drawn at a time and sorted by length
HELP: Final = 0.3  # weight of the helper heads' loss
DROP: Final = 0.08  # share of the conversation's tokens that are blanked
LEAN: Final = 0.5  # nats towards Safe, for fewer false alarms; at 0.8 too much was missed


class Trainer(Run[Batch]):
    """One run over rows."""

    def __init__(
        self,
        model: Qwen3ForCausalLM,
        encoder: Encoder,
        plan: Plan,
        say: Callable[[str], None],
        teachers: Teachers | None = None,
    ) -> None:
        hidden = int(model.config.hidden_size)
        helpers = Helpers(hidden, len(SAFETIES), len(PROMPT_CATEGORIES) + 1)
        helpers = helpers.to(next(model.parameters()).device)
        groups = _groups(model)
        groups.append({"params": list(helpers.parameters()), "weight_decay": 0.0})
        super().__init__({"model": model, "helpers": helpers}, groups, plan, say, "rows")
        self._model = model
        self._helpers = helpers
        self._encoder = encoder
        self._teachers = teachers
        self._fast = fast(self._device)

    def run(self, rows: Iterable[Row]) -> None:
        """Train until the time is up."""
        self.train(self._batches(Sampler(rows, self._plan.seed + self.step)))

    def _batches(self, sampler: Sampler) -> Iterator[tuple[Batch, int]]:
        """Batches without end, each with its number of rows."""
        chooser = random.Random(self._plan.seed + self.step)
        while True:
            drawn = sampler.draw(POOL)
            taught = self._teachers.soften(drawn) if self._teachers else [None] * POOL
            encoded = [self._encoder.encode(*pair) for pair in zip(drawn, taught, strict=True)]
            for chosen in pack(encoded, BUDGET, chooser):
                yield self._encoder.batch(chosen, self._device), len(chosen)

    def _loss(self, batch: Batch, count: int) -> tuple[Tensor, Tensor]:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._fast):
            logits, means = forward(self._model, batch, DROP)
            helped = self._helpers.loss(means, batch.category, batch.soft)
        loss = self._of_answers(logits, batch) / count
        return loss, loss + HELP * helped

    def _of_answers(self, logits: Tensor, batch: Batch) -> Tensor:
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

    def _write(self, file: Path) -> None:
        write_weights(self._model, file)


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
