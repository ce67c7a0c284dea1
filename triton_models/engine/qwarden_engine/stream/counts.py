"""What the stream engine counts of itself, since its start, and what it holds now."""

from __future__ import annotations

from dataclasses import dataclass

HELP = {
    "appends": "Appends that were answered with all that their text gave.",
    "steps": "Forwards: each takes what has come of any session.",
    "tokens": "Tokens forwarded.",
    "replayed_tokens": "Of these, tokens of sessions that were sent again after they were lost.",
    "forward_seconds": "Seconds of forwards.",
    "queue_seconds": "Seconds that appends waited for their first step, summed.",
    "cuts": "Stretches of text without a boundary that were cut for their length.",
    "replays": "Appends to a session that was not known, or not up to there.",
    "evictions": "Sessions whose keys and values gave way to another's.",
    "full": "Appends that memory had no room for.",
    "closed": "Sessions that came to the context's end.",
    "refused": "Appends that are wrong and always will be.",
    "failed": "Appends that the engine failed on alone.",
    "out_of_memory": "Steps that memory could not hold.",
    "cancelled": "Requests that nobody waited for any more.",
    "crashed": "Appends refused without a forward, since their session had ended the process.",
}
"""Each count, and what an operator reads of it."""

GAUGES = {
    "sessions": "Sessions that are known.",
    "kv_used_bytes": "Bytes of keys and values that they have, in steps.",
    "kv_total_bytes": "Bytes of keys and values that there is room for.",
    "token_bytes": "Bytes of keys and values that a token costs.",
    "queue_oldest_seconds": "How long the oldest append waits of which no step has begun; 0 where "
    "none does.",
    "pending_tokens": "Tokens of appends that wait, and of the step that runs; of texts that are "
    "not tokens yet nothing.",
}
"""What goes up and down, or stands."""


@dataclass(slots=True)
class StreamCounts:
    """The counts, see `HELP`. Others may read."""

    appends: int = 0
    steps: int = 0
    tokens: int = 0
    replayed_tokens: int = 0
    forward_seconds: float = 0.0
    queue_seconds: float = 0.0
    cuts: int = 0
    replays: int = 0
    evictions: int = 0
    full: int = 0
    closed: int = 0
    refused: int = 0
    failed: int = 0
    out_of_memory: int = 0
    cancelled: int = 0
    crashed: int = 0
