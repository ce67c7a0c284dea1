"""How much memory an engine needs, told before it is taken. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from qwarden_engine.checkpoint import Config

MIB = 1024 * 1024

_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
"""Of one number."""

COPIES = 2
"""Times the token budget that rows which go on behind `Safety:` are copied out into at once, padded
to the longest of them: rows of about one length, with room for an answer, fit in one block."""


@dataclass(frozen=True, slots=True)
class Need:
    """MiB for what stays (`weights`, `prefixes`) and for what a forward takes at most: the states
    of one micro-batch (`batch`), and the keys and values of one sliced row (`sliced`)."""

    weights: float
    prefixes: float
    batch: float
    sliced: float

    @property
    def total(self) -> int:
        return round(self.weights + self.prefixes + self.batch + self.sliced)

    def __str__(self) -> str:
        return (
            f"{self.total} MiB: {self.weights:.0f} for the weights, {self.prefixes:.0f} for the "
            f"prefixes, {self.batch:.0f} for a micro-batch, {self.sliced:.0f} for a sliced row"
        )


def need(
    config: Config,
    *,
    dtype: str,
    stored_embedding_bytes: int,
    prefix_tokens: int,
    token_budget: int,
) -> Need:
    """What a checkpoint of these sizes needs.

    `stored_embedding_bytes`: of one number of the embeddings as they are stored, since they stay
    so. `prefix_tokens`: of all different prefixes.
    """
    heads = config.heads * config.head_dim
    keys = 2 * config.kv_heads * config.head_dim
    a_layer = config.hidden * (2 * heads + keys + 3 * config.intermediate)
    weights = config.layers * a_layer * _BYTES[dtype]
    weights += config.vocabulary * config.hidden * stored_embedding_bytes
    weights += config.context * config.head_dim * 4  # cosines and sines
    number = 2 if dtype == "bfloat16" else 4
    kept = config.kv_numbers * number  # bytes of keys and values, a token
    # At its widest a layer holds the hidden state four times (as it is, normed, in float32, what
    # comes), queries and attention in both parts, gate and up.
    states = 4 * (4 * config.hidden + 5 * heads + keys) + number * 2 * config.intermediate
    batch = token_budget * (states + (1 + COPIES) * kept)
    sliced = config.context * kept
    prefixes = prefix_tokens * config.layers * keys * 4  # in float32, on a CPU in any dtype
    return Need(weights / MIB, prefixes / MIB, batch / MIB, sliced / MIB)
