"""The engine of this project, several of them on one checkpoint."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import torch

from contest.adapter import row_of, settings_of
from contest.rendering import Messages
from contest.worker import Ran
from qwarden.guard.answer import Assessment
from qwarden_engine.gen import Gen


class Ours:
    """Several engines on one checkpoint, by name."""

    def __init__(self) -> None:
        self._gens: dict[str, Gen] = {}

    def load(self, *, name: str, checkpoint: str, wanted: dict[str, Any]) -> dict[str, Any]:
        """Loads an engine under `name`, in place of the one that had it. Returns no `settings`
        where it does not have the wanted dtype."""
        self._gens.pop(name, None)
        settings, missing = settings_of(checkpoint, wanted)
        if wanted.get("dtype", "float32") != "float32" and "dtype" in missing:
            return {"missing": missing}
        self._gens[name] = Gen.load(settings)
        return {
            "missing": missing,
            "settings": settings.model_dump(mode="json", exclude={"checkpoint"}),
            "revision": self._gens[name].revision,
            "torch": metadata.version("torch"),
        }

    def forget(self, *, name: str) -> dict[str, Any]:
        """Frees what an engine holds."""
        self._gens.pop(name, None)
        return {}

    def prepare(self, conversations: Sequence[Messages], **_: Any) -> list[bytes]:
        return [row_of(messages) for messages in conversations]

    def run(self, rows: list[bytes], *, name: str, **_: Any) -> Any:
        return self._gens[name].judge(rows)

    def read(self, outcome: Any) -> Ran:
        answers = []
        for answer in outcome:
            if not isinstance(answer, Assessment):
                raise RuntimeError(f"a row of the contest has no answer: {answer}")
            answers.append(
                {
                    "scores": answer.scores,
                    "categories": [name for name, _ in answer.categories],
                    "refusal": answer.refusal,
                }
            )
        return Ran(answers)

    def peak(self, *, rows: int, linears: list[tuple[int, int]]) -> dict[str, Any]:
        """The float32 matmuls of one layer on `rows` tokens, by the library that does them:
        floating-point operations a second, each matmul at the best of several tries.

        torch takes MKL for float32, which on other processors than Intel's may leave half of the
        machine unused; oneDNN is in the same torch, and vLLM takes it.
        """
        total = sum(2 * rows * wide * out for wide, out in linears)
        seconds = {"torch.mm": 0.0, "oneDNN": 0.0}
        with torch.inference_mode():
            for wide, out in linears:
                left, right = torch.randn(rows, wide), torch.randn(out, wide)
                turned = right.T.contiguous()
                packed = torch.ops.mkldnn._reorder_linear_weight(right, rows)
                seconds["torch.mm"] += _best(functools.partial(torch.mm, left, turned))
                one: Any = torch.ops.mkldnn._linear_pointwise
                seconds["oneDNN"] += _best(
                    functools.partial(one, left, packed, None, "none", [], "")
                )
        return {name: total / spent for name, spent in seconds.items()}


def _best(work: Callable[[], object]) -> float:
    """The seconds of the fastest of at least ten tries, and of half a second of them."""
    best, tries, until = float("inf"), 0, time.perf_counter() + 0.5
    while tries < 10 or time.perf_counter() < until:
        began = time.perf_counter()
        work()
        best, tries = min(best, time.perf_counter() - began), tries + 1
    return best


def contestant() -> Ours:
    return Ours()
