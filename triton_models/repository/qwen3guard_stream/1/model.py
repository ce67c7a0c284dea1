"""Triton's Python backend for Qwen3Guard-Stream: appends in and scores out of `Stream`.

Needs `qwarden` and `qwarden_engine` installed or on PYTHONPATH, and the settings in
`QWARDEN_STREAM__*`. In: `APPEND` [B, 1], what `Append.to_json` writes; an empty object is answered
`refused` under the revision, which is how clients learn it. Out: `APPENDED` [B, 1], what
`Appended.to_json` writes. `execute` only hands over: the engine answers each request when its
appends are done, and meanwhile Triton brings the next ones.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import triton_python_backend_utils as pb_utils

# As in `qwen3guard_gen`: the stub starts Python isolated, and what it does not read is read here.
_given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
sys.path[:0] = [path for path in _given if path and path not in sys.path]
sys.pycache_prefix = os.environ.get("PYTHONPYCACHEPREFIX")

from qwarden.guard.stream import Appended  # noqa: E402
from qwarden_engine.stream.counts import GAUGES, HELP  # noqa: E402
from qwarden_engine.stream.engine import Stream  # noqa: E402
from qwarden_engine.stream.jobs import Request  # noqa: E402
from qwarden_engine.stream.settings import StreamSettings  # noqa: E402
from qwarden_engine.triton_backend import Metrics, elements_of, respond  # noqa: E402


class TritonPythonModel:
    """One instance, one loaded checkpoint. A failure to load is Triton's to report."""

    def initialize(self, args: dict[str, str]) -> None:
        self._stream = Stream.load(StreamSettings.from_env(), pb_utils.Logger.log_info)
        self._metrics = Metrics("qwarden_stream", HELP, GAUGES, self._stream.measures)

    def execute(self, requests: Sequence[Any]) -> None:
        """Hands over all that Triton has joined at once: of one session it is put in order."""
        together = []
        for request in requests:
            sender = request.get_response_sender()
            together.append(
                Request(
                    elements_of(request, "APPEND"), partial(_respond, sender), sender.is_cancelled
                )
            )
        self._stream.submit_all(together)

    def finalize(self) -> None:
        """Triton ends."""
        self._metrics.close()
        self._stream.close()


def _respond(sender: Any, answers: list[Appended] | None) -> None:
    encoded = None if answers is None else [answer.to_json() for answer in answers]
    respond(sender, "APPENDED", encoded)
