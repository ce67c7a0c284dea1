"""The stack that a checkout runs by default: its own guard, its own policies."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwarden.stack import triton
from qwarden.stack.errors import StackError
from qwarden.stack.home import checkout
from qwarden.stack.stack import GEN, PARTS, SERVICES, STREAM

STAND_IN: Path = checkout() / "triton_models" / "stand_in" / "checkpoint"
STREAM_STAND_IN: Path = checkout() / "triton_models" / "stand_in" / "stream"
"""Toys that have the real guards' formats: for tests and demonstrations only."""

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
    guards: Sequence[str] = (),
    tell: Callable[[str], object],
) -> Plan:
    """The stack that `qwarden up` starts; `tell` gets sentences about what is different here.

    `guards`: checkpoints, each Gen or Stream. Settings come from the environment; what they do not
    say, the checkout does; but where any guard is named, the stand-in stands in for no other.
    Raises `StackError` for a name that is neither a part nor a service, and for a checkpoint that
    is no guard's; `SettingsError` and `DocumentError` for what no service would start with.
    """
    unknown = sorted({*only, *without} - {*PARTS, *SERVICES})
    if unknown:
        raise StackError(
            f"{', '.join(unknown)}: neither a part ({', '.join(PARTS)}) nor a service "
            f"({', '.join(SERVICES)})."
        )
    settings = {name: value for name, value in os.environ.items() if name.startswith("QWARDEN_")}
    settings |= {_setting_of(guard): guard for guard in guards}
    if not settings.keys() & {GEN, STREAM}:
        settings |= {GEN: str(STAND_IN), STREAM: str(STREAM_STAND_IN)}
        tell("The guards are the stand-ins, toys: --guard names a real Qwen3Guard.")
    if POLICIES.is_dir():
        settings.setdefault("QWARDEN_POLICY__PATH", str(POLICIES))
    _check(settings)

    left_out = set(without)
    if only:
        left_out |= {*PARTS, *SERVICES} - {*only, "kafka"}
    if STREAM not in settings and "streamer" not in left_out:
        left_out.add("streamer")
        tell("Without the streamer: no Qwen3Guard-Stream is named.")
    if "QWARDEN_KAFKA__BOOTSTRAP_SERVERS" in settings:
        left_out.add("kafka")
        tell(f"Using the broker at {settings['QWARDEN_KAFKA__BOOTSTRAP_SERVERS']}.")
    reason = None if "triton" in left_out else triton.available()
    if reason is not None:
        left_out.add("triton")
        tell(f"{reason.split('. ')[0]}.")
    services = [name for name in SERVICES if name not in left_out]
    if "triton" in left_out and services and "QWARDEN_TRITON__URL" not in settings:
        tell("Without Triton: the engines run in the services' own processes.")
    return Plan(
        services=services,
        parts=[name for name in PARTS if name not in left_out],
        settings=settings,
    )


def _check(settings: Mapping[str, str]) -> None:
    """What the services would say of their settings and files, half a minute earlier."""
    from qwarden import bootstrap
    from qwarden.settings import load

    # The home's own content key comes later; any will do here.
    loaded = load({"QWARDEN_CONTENT_KEY": "00" * 32, **settings})
    bootstrap.topics_of(loaded, bootstrap.tenants_of(loaded, activated=True))


def _setting_of(guard: str) -> str:
    """The setting that names a checkpoint of this kind."""
    from qwarden_engine.checkpoint import CheckpointError, Family, family_of

    try:
        return GEN if family_of(guard) is Family.GEN else STREAM
    except CheckpointError as error:
        raise StackError(f"--guard {guard}: {error}.") from None
