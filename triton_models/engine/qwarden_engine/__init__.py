"""The engine behind the Triton models: Qwen3Guard checkpoints in plain PyTorch.

Imports `qwarden.guard`, never a service. Importing this package does not import torch: the
settings and the supervisor are used where there is no need for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwarden_engine.settings import EngineSettings

if TYPE_CHECKING:
    from qwarden_engine.gen import Gen

__all__ = ["EngineSettings", "Gen"]


def __getattr__(name: str) -> object:
    """`Gen`, imported when it is first asked for, since it brings torch."""
    if name == "Gen":
        from qwarden_engine.gen import Gen

        return Gen
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
