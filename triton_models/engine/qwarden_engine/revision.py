"""The name under which an engine's answers are kept: equal names, equal answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qwarden.guard.normaliser import VERSION as NORMALISER
from qwarden_engine.template import OVERLAP

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SEMANTICS = 3
"""Version of what the engine makes of a checkpoint: raise it with every change that can change
an answer (rendering, dropping of turns, grammar, probabilities)."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """All that answers depend on beside the checkpoint's files.

    `architecture`: of the device, such as `cpu-x86_64` or `cuda-sm_90`. `torch`: its version.
    The others are those of the settings that an answer can depend on, and the rules of this engine:
    `slice_tokens` is the most that a forward takes of a row, `overlap` what pieces share,
    `normaliser` the version of what makes the normalised view.
    """

    dtype: str
    architecture: str
    torch: str
    floor: float
    refusal: bool
    slice_tokens: int
    max_pieces: int
    second_look: bool
    overlap: int = OVERLAP
    normaliser: int = NORMALISER
    semantics: int = SEMANTICS


def revision_of(name: str, files: Iterable[Path], conditions: DataclassInstance) -> str:
    """`{name}@{12 hex}`: a hash over every file's name and bytes, and an engine's conditions."""
    digest = hashlib.sha256(json.dumps(asdict(conditions), sort_keys=True).encode())
    for file in sorted(files, key=lambda path: path.name):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"\n{file.name}\0{content}".encode())
    return f"{name}@{digest.hexdigest()[:12]}"
