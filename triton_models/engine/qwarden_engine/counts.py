"""What the engine counts of itself, since its start, and what waits now."""

from __future__ import annotations

from dataclasses import dataclass

HELP = {
    "jobs": "Views and pieces of rows that were judged; near ties twice.",
    "tokens": "Tokens forwarded for them, without the prefix that is kept.",
    "padding": "Slots held for rows whose categories were decoded that took no token.",
    "forwards": "Micro-batches and slices.",
    "forward_seconds": "Seconds of these.",
    "queue_seconds": "Seconds from a row's arrival to the micro-batch of each of its jobs, summed; "
    "of a near tie to both of its own.",
    "near_ties": "Jobs that were judged once more, alone, since two answers were near.",
    "out_of_memory": "Micro-batches and slices that memory could not hold.",
    "cancelled": "Requests that nobody waited for any more.",
    "crashed": "Rows answered without a forward, since they had ended the process.",
}
"""Each count, and what an operator reads of it."""

GAUGES = {
    "queue_oldest_seconds": "How long ago the oldest row came of which a job waits for a forward, "
    "the second one of a near tie too; 0 where none does. What Triton still holds waits longer: "
    "nv_inference_pending_request_count.",
    "pending_tokens": "Tokens of jobs that wait, and of those in the forward that runs.",
}
"""What goes up and down."""


@dataclass(slots=True)
class Counts:
    """The counts, see `HELP`. Written by the engine's thread; others may read."""

    jobs: int = 0
    tokens: int = 0
    padding: int = 0
    forwards: int = 0
    forward_seconds: float = 0.0
    queue_seconds: float = 0.0
    near_ties: int = 0
    out_of_memory: int = 0
    cancelled: int = 0
    crashed: int = 0
