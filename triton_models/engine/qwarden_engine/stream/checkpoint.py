"""A Qwen3Guard-Stream checkpoint: a Qwen3 network without its own head, and two heads of a guard.

Source: Qwen3Guard technical report (arXiv 2510.14276), section 4, and the names of the published
checkpoints' tensors and `config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from qwarden.guard.answer import SAFETIES
from qwarden.guard.taxonomy import CATEGORIES
from qwarden_engine.checkpoint import (
    Checkpoint,
    CheckpointError,
    Family,
    check_shapes,
    open_checkpoint,
)

Of = Literal["response", "query"]

_TAXONOMY: Mapping[str, str] = MappingProxyType(
    {name: name for name in CATEGORIES}
    | {
        "Sexual Content": "Sexual Content or Sexual Acts",
        "Self-Harm": "Suicide & Self-Harm",
        "Political": "Politically Sensitive Topics",
        "Personally Identifiable Information": "PII",
        "Copyright": "Copyright Violation",
        "Illegal Acts": "Non-violent Illegal Acts",
        "Unethical": "Unethical Acts",
    }
)
"""The published checkpoints' names, short as in their `config.json` and long as in their
evaluation, where no `profile.yaml` says otherwise."""


@dataclass(frozen=True, slots=True)
class Head:
    """What one head answers. `of`: answers and thoughts, or the query. `risks`: the places of Safe,
    Controversial and Unsafe among its outputs; the published order is none of severity.
    `categories`: canonical names, in the order of its outputs."""

    of: Of
    risks: tuple[int, int, int]
    categories: tuple[str, ...]

    def tensor(self, name: str) -> str:
        """The checkpoint's name of one of its tensors."""
        return f"{'query_' if self.of == 'query' else ''}{name}.weight"

    def shapes(self, hidden: int, inner: int) -> dict[str, tuple[int, ...]]:
        """Its tensors, with their shapes."""
        return {
            self.tensor("risk_level_category_pre"): (inner, hidden),
            self.tensor("risk_level_category_layernorm"): (inner,),
            self.tensor("risk_level_head"): (len(self.risks), inner),
            self.tensor("category_head"): (len(self.categories), inner),
        }


@dataclass(frozen=True, slots=True)
class StreamCheckpoint:
    """An opened and checked checkpoint. `inner`: the width of the heads. `response`: for the tokens
    of answers and thoughts; `query`: for the end of a user's turn."""

    base: Checkpoint
    inner: int
    response: Head
    query: Head


def open_stream_checkpoint(checkpoint: str, hub_revision: str | None = None) -> StreamCheckpoint:
    """Opens a directory, or a hub id at a revision. Raises `CheckpointError`."""
    base = open_checkpoint(checkpoint, hub_revision, Family.STREAM)
    inner = base.stated["guard_inner_size"]
    if not isinstance(inner, int) or isinstance(inner, bool) or inner < 1:
        raise CheckpointError(
            f"{base.config_file}: expected guard_inner_size as a number above 0, not {inner!r}"
        )
    response, query = _head(base, "response"), _head(base, "query")
    for head in (response, query):
        check_shapes(base.directory, head.shapes(base.config.hidden, inner), base.weights)
    return StreamCheckpoint(base, inner, response, query)


def _head(base: Checkpoint, of: Of) -> Head:
    risks = _map(base, f"{of}_risk_level_map")
    if sorted(risks) != sorted(SAFETIES):
        raise CheckpointError(
            f"{base.config_file}: expected {of}_risk_level_map to name {', '.join(SAFETIES)}, "
            f"not {', '.join(risks)}"
        )
    safe, controversial, unsafe = (risks.index(name) for name in SAFETIES)
    key = f"{of}_category_map"
    taxonomy = _TAXONOMY if base.taxonomy is None else base.taxonomy
    names = _map(base, key)
    categories = [taxonomy.get(name, name) for name in names]
    for name, canonical in zip(names, categories, strict=True):
        if canonical not in CATEGORIES:
            raise CheckpointError(
                f"{base.directory / 'profile.yaml'}: expected taxonomy here to map {name!r} of "
                f"{key} to one of {', '.join(CATEGORIES)}"
            )
    if len(set(categories)) != len(categories):
        raise CheckpointError(
            f"{base.config_file}: expected each category once in {key}, and they are "
            f"{', '.join(categories)}"
        )
    return Head(of, (safe, controversial, unsafe), tuple(categories))


def _map(base: Checkpoint, key: str) -> list[str]:
    """The names that a map of `config.json` numbers from "0", in that order."""
    stated: Any = base.stated.get(key)
    wanted = f"expected {key} as names by their numbers from 0"
    if not isinstance(stated, dict) or not stated:
        raise CheckpointError(f"{base.config_file}: {wanted}, not {stated!r}")
    names = [stated.get(str(at)) for at in range(len(stated))]
    if not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{base.config_file}: {wanted}, not {stated!r}")
    # The published evaluation has one name in quotation marks of its own.
    return [str(name).strip('"') for name in names]
