"""The engine behind the Triton models: Qwen3Guard checkpoints in plain PyTorch.

Imports `qwarden.guard`, never a service. Importing this package imports neither torch nor pydantic:
the supervisor, and the probe that asks whether the server lives, start without them.
"""

from __future__ import annotations

import os

# OpenMP reads this when torch is loaded. Its threads spin while they wait for each other; beside
# another busy process on the same cores (the broker, the moderator) that costs most of the speed:
# 36 to 46 verdicts a second against 104 to 178 with sleeping threads, two threads on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Torch reads this at its first allocation: huge pages for what is large, where the system grants
# them. With pages of 4 KiB the tables that say where weights lie are driven out of the caches by a
# long session's keys and values: behind 4,096 tokens the same products take 13 % longer than behind
# 32, with huge pages 0 to 5 %; a tiny Gen takes 5 % less.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
