"""The name under which an engine's answers are kept: equal names, equal answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

SEMANTICS = 1
"""Version of what the engine makes of a checkpoint: raise it with every change that can change
an answer (rendering, dropping of turns, grammar, probabilities)."""

PIECES = "whole"
"""How a turn is cut for the guard: it is judged whole, and what is longer is `too_long`."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """All that answers depend on beside the checkpoint's files.

    `architecture`: of the device, such as `cpu-x86_64` or `cuda-sm_90`. `torch`: its version.
    `floor`, `slice_tokens`: as in the settings. `semantics`, `pieces`: of this engine.
    """

    dtype: str
    architecture: str
    torch: str
    floor: float
    slice_tokens: int
    semantics: int = SEMANTICS
    pieces: str = PIECES


def revision_of(name: str, files: Iterable[Path], conditions: Conditions) -> str:
    """`{name}@{12 hex}`: a hash over every file's name and bytes, and the conditions."""
    digest = hashlib.sha256(json.dumps(asdict(conditions), sort_keys=True).encode())
    for file in sorted(files, key=lambda path: path.name):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"\n{file.name}\0{content}".encode())
    return f"{name}@{digest.hexdigest()[:12]}"
