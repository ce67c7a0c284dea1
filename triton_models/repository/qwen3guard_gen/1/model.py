"""Triton's Python backend for Qwen3Guard-Gen: rows in and answers out of `Gen`.

Needs `qwarden` and `qwarden_engine` installed or on PYTHONPATH, and the settings in
`QWARDEN_ENGINE__*`. In: `ROW` [B, 1], what `row_of` writes; an empty object is answered `refused`
under the revision, which is how clients learn it. Out: `ANSWER` [B, 1], what `encode_answer`
writes. `execute` only hands over: the engine answers each request when its rows are done, and
meanwhile Triton brings the next ones.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import triton_python_backend_utils as pb_utils

# The stub of nvidia-pytriton 0.7.0 starts Python isolated (sys.flags.ignore_environment is 1): it
# finds its venv through PATH and reads neither of these, so that is done here.
_given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
sys.path[:0] = [path for path in _given if path and path not in sys.path]
sys.pycache_prefix = os.environ.get("PYTHONPYCACHEPREFIX")

from qwarden.guard.answer import Answer, encode_answer  # noqa: E402
from qwarden_engine.counts import GAUGES, HELP  # noqa: E402
from qwarden_engine.gen import Gen  # noqa: E402
from qwarden_engine.settings import EngineSettings  # noqa: E402
from qwarden_engine.triton_backend import Metrics, elements_of, respond  # noqa: E402


class TritonPythonModel:
    """One instance, one loaded checkpoint. A failure to load is Triton's to report."""

    def initialize(self, args: dict[str, str]) -> None:
        self._gen = Gen.load(EngineSettings.from_env(), pb_utils.Logger.log_info)
        self._metrics = Metrics("qwarden_engine", HELP, GAUGES, self._gen.measures)

    def execute(self, requests: Sequence[Any]) -> None:
        """Hands the rows of each request to the engine; waits while it has enough of them."""
        for request in requests:
            sender = request.get_response_sender()
            self._gen.submit(
                elements_of(request, "ROW"), partial(_respond, sender), sender.is_cancelled
            )

    def finalize(self) -> None:
        """Triton ends."""
        self._metrics.close()
        self._gen.close()


def _respond(sender: Any, answers: list[Answer] | None) -> None:
    encoded = None if answers is None else [encode_answer(answer) for answer in answers]
    respond(sender, "ANSWER", encoded)
