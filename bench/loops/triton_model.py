"""Triton's Python backend without a model: every row gets the bytes of `answer.json` beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """In: `ROW` [B, 1]. Out: `ANSWER` [B, 1]."""

    def initialize(self, args: dict[str, str]) -> None:
        folder = Path(args["model_repository"]) / args["model_version"]
        self._answer = (folder / "answer.json").read_bytes()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        responses = []
        for request in requests:
            rows = pb_utils.get_input_tensor_by_name(request, "ROW").as_numpy()
            answers = np.full(rows.shape, self._answer, dtype=np.object_)
            responses.append(
                pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("ANSWER", answers)])
            )
        return responses
