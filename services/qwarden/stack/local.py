"""The stack that a checkout runs by default: its own guard, its own policies."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwarden.stack import triton
from qwarden.stack.errors import StackError
from qwarden.stack.home import checkout
from qwarden.stack.stack import PARTS, SERVICES

STAND_IN: Path = checkout() / "triton_models" / "stand_in" / "checkpoint"
"""A toy that has the real guard's format: for tests and demonstrations only."""

POLICIES: Path = checkout() / "deploy" / "policies"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a stack consists of: arguments of `Stack` and of `start_detached`."""

    services: Sequence[str]
    parts: Sequence[str]
    settings: Mapping[str, str]


def plan(
    *,
    only: Sequence[str] = (),
    without: Sequence[str] = (),
    guard: str | None = None,
    tell: Callable[[str], object],
) -> Plan:
    """The stack that `qwarden up` starts; `tell` gets sentences about what is different here.

    Settings come from the environment; what they do not say, the checkout does. Raises
    `StackError` for a name that is neither a part nor a service.
    """
    unknown = sorted({*only, *without} - {*PARTS, *SERVICES})
    if unknown:
        raise StackError(
            f"{', '.join(unknown)}: neither a part ({', '.join(PARTS)}) nor a service "
            f"({', '.join(SERVICES)})."
        )
    settings = {name: value for name, value in os.environ.items() if name.startswith("QWARDEN_")}
    if guard is not None:
        settings["QWARDEN_ENGINE__CHECKPOINT"] = guard
    settings.setdefault("QWARDEN_ENGINE__CHECKPOINT", str(STAND_IN))
    if settings["QWARDEN_ENGINE__CHECKPOINT"] == str(STAND_IN):
        tell("The guard is the stand-in, a toy: --guard names a real Qwen3Guard-Gen.")
    if POLICIES.is_dir():
        settings.setdefault("QWARDEN_POLICY__PATH", str(POLICIES))

    left_out = set(without)
    if only:
        left_out |= {*PARTS, *SERVICES} - {*only, "kafka"}
    if "QWARDEN_KAFKA__BOOTSTRAP_SERVERS" in settings:
        left_out.add("kafka")
        tell(f"Using the broker at {settings['QWARDEN_KAFKA__BOOTSTRAP_SERVERS']}.")
    reason = None if "triton" in left_out else triton.available()
    if reason is not None:
        left_out.add("triton")
        tell(f"{reason.split('. ')[0]}.")
    if (
        "triton" in left_out
        and "moderator" not in left_out
        and "QWARDEN_TRITON__URL" not in settings
    ):
        tell("Without Triton: the engine runs in the moderator's process.")
    return Plan(
        services=[name for name in SERVICES if name not in left_out],
        parts=[name for name in PARTS if name not in left_out],
        settings=settings,
    )
