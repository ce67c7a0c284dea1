"""Triton's Python backend for Qwen3Guard-Gen: tensors in and out of `qwarden_engine.Gen`.

Needs `qwarden` and `qwarden_engine` installed or on PYTHONPATH, and the settings in
`QWARDEN_ENGINE__*`.
Every tensor has the batch first. In: `CONVERSATION` [B, 1], `Conversation.to_json`; an empty
object is answered `refused` under the revision, which is how clients learn it. Out, a row each:
`STATUS` `ok`, `refused`, `too_long` or `no_answer`; `REASON`, empty where it is ok; `LOGITS`
Safe, Controversial, Unsafe, raw, and zeros where it is not ok (JSON knows no NaN); `CATEGORIES`,
a JSON list of [canonical name, probability]; `REFUSAL` `yes`, `no` or empty; `TOKENS`;
`DROPPED_TURNS`; `REVISION`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# The stub of nvidia-pytriton 0.7.0 starts Python isolated (sys.flags.ignore_environment is 1): it
# finds its venv through PATH and reads neither of these, so that is done here.
_given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
sys.path[:0] = [path for path in _given if path and path not in sys.path]
sys.pycache_prefix = os.environ.get("PYTHONPYCACHEPREFIX")

from qwarden.guard.answer import Answer, Assessment  # noqa: E402
from qwarden_engine.gen import Gen  # noqa: E402
from qwarden_engine.settings import EngineSettings  # noqa: E402


class TritonPythonModel:
    """One instance, one loaded checkpoint. A failure to load is Triton's to report."""

    def initialize(self, args: dict[str, str]) -> None:
        self._gen = Gen.load(EngineSettings.from_env(), pb_utils.Logger.log_info)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Judges the rows of all requests together and gives each request its own."""
        batches = [
            pb_utils.get_input_tensor_by_name(request, "CONVERSATION").as_numpy().reshape(-1)
            for request in requests
        ]
        answers = self._gen.judge([bytes(row) for batch in batches for row in batch])
        responses, start = [], 0
        for batch in batches:
            responses.append(_response(answers[start : start + len(batch)]))
            start += len(batch)
        return responses


def _response(answers: Sequence[Answer]) -> Any:
    rows = [_row(answer) for answer in answers]

    def column(name: str, at: int, dtype: type, width: int = 1) -> Any:
        values: Any = np.array([row[at] for row in rows], dtype=dtype).reshape(len(rows), width)
        return pb_utils.Tensor(name, values)

    return pb_utils.InferenceResponse(
        output_tensors=[
            column("STATUS", 0, np.object_),
            column("REASON", 1, np.object_),
            column("LOGITS", 2, np.float32, 3),
            column("CATEGORIES", 3, np.object_),
            column("REFUSAL", 4, np.object_),
            column("TOKENS", 5, np.int32),
            column("DROPPED_TURNS", 6, np.int32),
            column("REVISION", 7, np.object_),
        ]
    )


def _row(answer: Answer) -> tuple[object, ...]:
    revision = answer.revision.encode()
    if not isinstance(answer, Assessment):
        status = answer.failure.value.encode()
        return status, answer.reason.encode(), (0.0, 0.0, 0.0), b"[]", b"", 0, 0, revision
    categories = json.dumps(answer.categories, separators=(",", ":")).encode()
    refusal = {None: b"", True: b"yes", False: b"no"}[answer.refusal]
    tokens, dropped = answer.tokens, answer.dropped_turns
    return b"ok", b"", answer.logits, categories, refusal, tokens, dropped, revision
