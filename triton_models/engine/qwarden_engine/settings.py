"""What a person may set of the engine, and why each has the value that it has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class SettingsError(ValueError):
    """The settings are wrong; the message says which one and what would be right."""


def usable_cores() -> int:
    """The cores that this process may use: its affinity, and the quota of its cgroup (v2)."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else (os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cores


class DeviceSettings(BaseModel):
    """What every engine is set: its checkpoint, and what it runs on. In the environment: `prefix`
    and the name in capitals."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefix: ClassVar[str]

    checkpoint: str = Field(min_length=1)
    """A directory, or a hub id. No default: nobody should learn from a verdict that another guard
    than theirs was running."""

    hub_revision: str | None = None
    """The commit, tag or branch of a hub id. Set a commit in production: a branch can move
    between two replicas, whose answers then carry different revisions."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where torch sees it."""

    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """Of weights and activations; scores are float32 always. `auto` is bfloat16 on CUDA, and for
    a network of some width on a CPU that multiplies in it (avx512_bf16, amx_bf16); else float32.
    `int8` is for CPUs: a quarter of float32's memory, and on one with vnni about as fast as
    bfloat16. What it moves scores by, `make bench-gen` measures (dtypes)."""

    threads: int = Field(default_factory=usable_cores, ge=1)
    """Of torch, on a CPU. One a core: torch's own default counts the machine's cores, and more
    threads than the process may use spend their time waiting for each other."""

    state: Path | None = None
    """A folder in shared memory where the engine leaves its sign of life and the rows that it is
    running, for its supervisor and its next life. The supervisor sets it."""

    def left_in(self, name: str) -> Path | None:
        """The file of that name in `state`; None where nobody supervises the engine."""
        return None if self.state is None else self.state / name

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Reads those with the prefix; raises `SettingsError` with a sentence a wrong setting."""
        source = os.environ if environ is None else environ
        given = {
            key.removeprefix(cls.prefix).lower(): value
            for key, value in source.items()
            if key.startswith(cls.prefix)
        }
        unknown = sorted(set(given) - set(cls.model_fields))
        if unknown:
            known = ", ".join(cls.prefix + name.upper() for name in cls.model_fields)
            names = ", ".join(cls.prefix + name.upper() for name in unknown)
            raise SettingsError(f"{names}: no such setting of the engine; there are {known}")
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            name = cls.prefix + str(first["loc"][0]).upper()
            raise SettingsError(f"{name}: {first['msg']}; change or unset it") from None


class EngineSettings(DeviceSettings):
    """The Gen engine's settings: `QWARDEN_ENGINE__*`. `checkpoint` such as
    `Qwen/Qwen3Guard-Gen-0.6B`."""

    prefix = "QWARDEN_ENGINE__"

    floor: float = Field(default=0.9, ge=0, le=1)
    """Categories are decoded where P(Safe) is below it. 0.9 leaves them out for what is clearly
    safe, most of any traffic, and keeps them for what a strict policy may act on."""

    refusal: bool = True
    """Whether refusal is read for responses. It costs some ten tokens a row; who filters data by
    the scores alone has no use for it."""

    token_budget: int = Field(default=2048, ge=64)
    """Tokens a forward. A micro-batch is as large as this allows, and a longer row goes in slices
    of at most as many. It bounds the activations held at once, and how long a row waits for the
    one before it. On a CPU more gains nothing: a tiny guard judges as many short texts a second at
    1,024 as at 4,096. A GPU wants more: as much as it forwards in some 50 ms."""

    slice_tokens: int = Field(default=4096, ge=64)
    """The most tokens of a slice, where the budget allows more: a slice behind 30,000 tokens costs
    many times what it costs at the start, and it gets shorter as the row goes on."""

    memory_mib: int | None = Field(default=None, ge=1)
    """What the engine may take of the device for weights, prefixes, a micro-batch and one sliced
    row; the start is refused, with the figure, where that is not enough. On CUDA torch is held to
    it, so that the guard can stand beside a team's main model on one card. None is no bound."""

    max_pieces: int = Field(default=8, ge=1)
    """A turn that is longer than the context is cut into pieces; one with more is `too_long`.
    Eight of 32,768 tokens are about a megabyte of text, as much as a Kafka record holds."""

    second_look: bool = True
    """Whether a row with a near tie is judged once more alone, so that the same content has the
    same answer in any batch. False only to measure what it costs and what it changes."""
