"""The engine behind the Triton models: Qwen3Guard checkpoints in plain PyTorch.

Imports `qwarden.guard`, never a service. Importing this package does not import torch: the
settings and the supervisor are used where there is no need for it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from qwarden_engine.settings import EngineSettings

if TYPE_CHECKING:
    from qwarden_engine.gen import Gen

# OpenMP reads this when torch is loaded. Its threads spin while they wait for each other; beside
# another busy process on the same cores (the broker, the moderator) that costs most of the speed:
# 36 to 46 verdicts a second against 104 to 178 with sleeping threads, two threads on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = ["EngineSettings", "Gen"]


def __getattr__(name: str) -> object:
    """`Gen`, imported when it is first asked for, since it brings torch."""
    if name == "Gen":
        from qwarden_engine.gen import Gen

        return Gen
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
