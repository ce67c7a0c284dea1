"""Triton's Python backend for Qwen3Guard-Gen: rows in and answers out of `qwarden_engine.Gen`.

Needs `qwarden` and `qwarden_engine` installed or on PYTHONPATH, and the settings in
`QWARDEN_ENGINE__*`. In: `ROW` [B, 1], what `row_of` writes; an empty object is answered `refused`
under the revision, which is how clients learn it. Out: `ANSWER` [B, 1], what `encode_answer`
writes. `execute` only hands over: the engine answers each request when its rows are done, and
meanwhile Triton brings the next ones.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# The stub of nvidia-pytriton 0.7.0 starts Python isolated (sys.flags.ignore_environment is 1): it
# finds its venv through PATH and reads neither of these, so that is done here.
_given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
sys.path[:0] = [path for path in _given if path and path not in sys.path]
sys.pycache_prefix = os.environ.get("PYTHONPYCACHEPREFIX")

from qwarden.guard.answer import Answer, encode_answer  # noqa: E402
from qwarden_engine.counts import HELP, Counts  # noqa: E402
from qwarden_engine.gen import Gen  # noqa: E402
from qwarden_engine.settings import EngineSettings  # noqa: E402

_PUBLISH_EVERY_S = 1.0


class TritonPythonModel:
    """One instance, one loaded checkpoint. A failure to load is Triton's to report."""

    def initialize(self, args: dict[str, str]) -> None:
        self._gen = Gen.load(EngineSettings.from_env(), pb_utils.Logger.log_info)
        self._metrics = _Metrics(self._gen.counts)

    def execute(self, requests: Sequence[Any]) -> None:
        """Hands the rows of each request to the engine; waits while it has enough of them."""
        for request in requests:
            rows = pb_utils.get_input_tensor_by_name(request, "ROW").as_numpy().reshape(-1)
            sender = request.get_response_sender()
            self._gen.submit(
                [bytes(row) for row in rows], partial(_respond, sender), sender.is_cancelled
            )

    def finalize(self) -> None:
        """Triton ends."""
        self._metrics.close()
        self._gen.close()


def _respond(sender: Any, answers: list[Answer] | None) -> None:
    if answers is None:
        reason = "cancelled" if sender.is_cancelled() else "the engine cannot judge; restart it"
        response = pb_utils.InferenceResponse(error=pb_utils.TritonError(reason))
    else:
        values = np.array([encode_answer(answer) for answer in answers], dtype=np.object_)
        response = pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor("ANSWER", values.reshape(-1, 1))]
        )
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class _Metrics:
    """The engine's counts among Triton's own metrics, brought up to date once a second."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._told = dict.fromkeys(HELP, 0.0)
        self._families = {
            name: pb_utils.MetricFamily(
                name=f"qwarden_engine_{name}_total",
                description=text,
                kind=pb_utils.MetricFamily.COUNTER,
            )
            for name, text in HELP.items()
        }
        self._metrics = {name: family.Metric() for name, family in self._families.items()}
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="metrics", daemon=True).start()

    def close(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(_PUBLISH_EVERY_S):
            for name, value in asdict(self._counts).items():
                more = value - self._told[name]
                if more > 0:
                    self._metrics[name].increment(more)
                    self._told[name] = value
