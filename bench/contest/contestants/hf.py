"""transformers, as a service would write it that has nothing else: `generate`, and forced.

Rows are sorted by length and padded in front, a batch holds one task, and the forced way keeps the
last position's logits alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from contest.rendering import Messages, Renderer, answer_tokens
from contest.wording import SAFETIES
from contest.worker import Ran


class Transformers:
    def load(self, *, checkpoint: str, threads: int) -> dict[str, Any]:
        torch.set_num_threads(threads)
        self._renderer = Renderer(Path(checkpoint))
        self._words = [self._renderer.plain(f" {word}")[0] for word in SAFETIES]
        self._pad = self._renderer.tokenizer.pad_token_id
        model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        # Random weights never end, so nobody may end early.
        model.generation_config.eos_token_id = None
        self._model = model.eval()
        return {"version": metadata.version("transformers"), "torch": metadata.version("torch")}

    def prepare(self, conversations: Sequence[Messages], **_: Any) -> Sequence[Messages]:
        return conversations

    @torch.inference_mode()
    def run(self, conversations: Sequence[Messages], *, mode: str, batch: int) -> Any:
        rows = (self._renderer.forced_ids if mode == "forced" else self._renderer.ids)(
            conversations
        )
        lengths = [answer_tokens(messages) for messages in conversations]
        answers: list[dict[str, Any]] = [{} for _ in rows]
        for at in _batches(rows, lengths, batch):
            ids, mask = self._padded([rows[row] for row in at])
            if mode == "forced":
                positions = (mask.cumsum(1) - 1).clamp(min=0)
                logits = self._model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    logits_to_keep=1,
                    use_cache=False,
                ).logits[:, -1, self._words]
                for row, scores in zip(at, logits.float().softmax(1).tolist(), strict=True):
                    answers[row] = {"scores": scores}
            else:
                out = self._model.generate(
                    ids,
                    attention_mask=mask,
                    max_new_tokens=lengths[at[0]],
                    do_sample=False,
                    pad_token_id=self._pad,
                )
                for row, new in zip(at, out[:, ids.shape[1] :].tolist(), strict=True):
                    answers[row] = {"generated": len(new)}
        return answers

    def read(self, outcome: Any) -> Ran:
        return Ran(outcome)

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self._pad)
        mask = torch.zeros_like(ids)
        for at, row in enumerate(rows):
            ids[at, width - len(row) :] = torch.tensor(row)
            mask[at, width - len(row) :] = 1
        return ids, mask


def _batches(
    rows: Sequence[Sequence[int]], lengths: Sequence[int], batch: int
) -> Iterator[list[int]]:
    """Indices of rows with one length of answer, the longest first, `batch` at a time."""
    for length in sorted(set(lengths)):
        same = [at for at in range(len(rows)) if lengths[at] == length]
        same.sort(key=lambda at: -len(rows[at]))
        for start in range(0, len(same), batch):
            yield same[start : start + batch]


def contestant() -> Transformers:
    return Transformers()
