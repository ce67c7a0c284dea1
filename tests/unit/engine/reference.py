"""What `transformers` answers with a checkpoint, a row at a time, without cache or batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qwarden.guard.answer import SAFETIES, Safety
from qwarden.guard.conversation import Conversation, Task


@dataclass(frozen=True)
class Constrained:
    """An answer that keeps the grammar. `margin`: the smallest distance of two logits between
    which it has chosen."""

    logits: list[float]
    categories: list[tuple[str, float]]
    refusal: bool | None
    margin: float

    @property
    def safety(self) -> Safety:
        return SAFETIES[max(range(3), key=lambda at: (self.logits[at], at))]


class Reference:
    """One checkpoint in `transformers`."""

    def __init__(self, checkpoint: Path) -> None:
        from transformers import AutoTokenizer, Qwen3ForCausalLM

        self.tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
        self.model: Any = Qwen3ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)

    def ids(self, conversation: Conversation) -> list[int]:
        messages = [{"role": t.role, "content": t.content} for t in conversation.turns]
        if conversation.task is Task.THINKING:
            messages[-1]["content"] = f"<think>\n{messages[-1]['content']}\n</think>"
        text = self.tokenizer.apply_chat_template(messages, tokenize=False)
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    @torch.no_grad()
    def logits(self, ids: list[int]) -> torch.Tensor:
        logits: torch.Tensor = self.model(torch.tensor([ids]), logits_to_keep=1).logits[0, -1]
        return logits

    @torch.no_grad()
    def generate(self, conversation: Conversation) -> str:
        ids = torch.tensor([self.ids(conversation)])
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False
        )
        text: str = self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        return text

    def constrained(
        self,
        conversation: Conversation,
        names: Sequence[str],
        floor: float,
        *,
        all_of: bool = False,
    ) -> Constrained:
        """The grammar by hand, a token at a time. `all_of`: the list goes on to its end."""
        start = self.ids(conversation) + self.encode("Safety:")
        whole = self.logits(start)
        logits = [float(whole[self.encode(f" {word}")[0]]) for word in SAFETIES]
        safe, controversial, unsafe = logits
        first, second = sorted(logits)[:0:-1]
        margins = [first - second]
        if 0 < floor < 1:
            others = float(torch.tensor([controversial, unsafe], dtype=torch.float64).logsumexp(0))
            margins.append(abs(safe - others - math.log(floor / (1 - floor))))
        safety = Constrained(logits, [], None, 0).safety
        text = ""
        categories: list[tuple[str, float]] = []
        if float(torch.tensor(logits, dtype=torch.float64).softmax(0)[0]) < floor:
            margins.append(abs(controversial - unsafe))
            word = Safety.CONTROVERSIAL if controversial > unsafe else Safety.UNSAFE
            text = f" {word}\nCategories:"
            left, through = list(names), 1.0
            while True:
                at = self.logits(start + self.encode(text))
                values = {name: float(at[self.encode(f" {name}")[0]]) for name in left}
                best = max(left, key=values.__getitem__)
                through *= self._chosen(list(values.values()), values[best], margins)
                categories.append((best, through))
                left.remove(best)
                text += f" {best}"
                if not left:
                    break
                at = self.logits(start + self.encode(text))
                ends = [self.encode("\n")[0]]
                if conversation.task is Task.PROMPT:
                    stated = self.model.generation_config.eos_token_id
                    ends = stated if isinstance(stated, list) else [stated]
                comma, end = float(at[self.encode(",")[0]]), max(float(at[end]) for end in ends)
                if not all_of and comma <= end:
                    margins.append(end - comma)
                    break
                share = self._chosen([comma, end], comma, margins)
                through *= 1 if all_of else share
                text += ","
        refusal = None
        if conversation.task is not Task.PROMPT and (safety is Safety.SAFE or text):
            if safety is Safety.SAFE:
                text = " Safe\nCategories: None"
            at = self.logits(start + self.encode(text + "\nRefusal:"))
            yes, no = (float(at[self.encode(word)[0]]) for word in (" Yes", " No"))
            refusal = yes > no
            margins.append(abs(yes - no))
        return Constrained(logits, categories, refusal, min(margins))

    @staticmethod
    def _chosen(values: list[float], best: float, margins: list[float]) -> float:
        """The share of the best among all; how far it is from the next goes into the margins."""
        others = sorted(values, reverse=True)[1:]
        if others:
            margins.append(best - others[0])
        return 1 / sum(math.exp(value - best) for value in values)
