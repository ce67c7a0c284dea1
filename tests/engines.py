"""The settings of the engines that tests start in a Triton: the stand-ins, and small batches."""

from __future__ import annotations

from typing import Final

from qwarden.stack.local import STAND_IN, STREAM_STAND_IN

GEN: Final = {
    "QWARDEN_ENGINE__CHECKPOINT": str(STAND_IN),
    # Full micro-batches are judged at each start, with 2,048 tokens 1.8 s of CPU longer, and no
    # test of a service asks how many rows one holds.
    "QWARDEN_ENGINE__TOKEN_BUDGET": "256",
}
STREAM: Final = {"QWARDEN_STREAM__CHECKPOINT": str(STREAM_STAND_IN)}
