"""What the models share inside Triton's Python backend: bytes in and out, and metrics.

Imported there alone: `triton_python_backend_utils` is the stub's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

PUBLISH_EVERY_S = 1.0
"""Seconds; well within any scrape, and next to no work."""


def elements_of(request: Any, name: str) -> list[bytes]:
    """The elements of a request's [B, 1] tensor of bytes."""
    tensor = pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)
    return [bytes(element) for element in tensor]


def respond(sender: Any, name: str, elements: Sequence[bytes] | None) -> None:
    """Answers a request with a [B, 1] tensor of bytes; None where there are no answers."""
    if elements is None:
        reason = "cancelled" if sender.is_cancelled() else "the engine cannot judge; restart it"
        response = pb_utils.InferenceResponse(error=pb_utils.TritonError(reason))
    else:
        values = np.array(elements, dtype=np.object_)
        response = pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor(name, values.reshape(-1, 1))]
        )
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class Metrics:
    """An engine's counts and gauges among Triton's own metrics, brought up to date once a second.

    `prefix`: such as `qwarden_engine`. `counters`, `gauges`: each name, and what an operator reads
    of it. `read`: all their values now.
    """

    def __init__(
        self,
        prefix: str,
        counters: Mapping[str, str],
        gauges: Mapping[str, str],
        read: Callable[[], Mapping[str, float]],
    ) -> None:
        self._read = read
        self._told = dict.fromkeys(counters, 0.0)
        count, gauge = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
        self._families = {
            name: pb_utils.MetricFamily(name=f"{prefix}_{name}_total", description=text, kind=count)
            for name, text in counters.items()
        } | {
            name: pb_utils.MetricFamily(name=f"{prefix}_{name}", description=text, kind=gauge)
            for name, text in gauges.items()
        }
        self._metrics = {name: family.Metric() for name, family in self._families.items()}
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="metrics", daemon=True).start()

    def close(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(PUBLISH_EVERY_S):
            for name, value in self._read().items():
                if name not in self._told:
                    self._metrics[name].set(value)
                elif (more := value - self._told[name]) > 0:
                    self._metrics[name].increment(more)
                    self._told[name] = value
