"""What a person may set of the stream engine, and why each has the value that it has."""

from __future__ import annotations

from pydantic import Field

from qwarden_engine.settings import DeviceSettings


class StreamSettings(DeviceSettings):
    """The Stream engine's settings: `QWARDEN_STREAM__*`. `checkpoint` such as
    `Qwen/Qwen3Guard-Stream-0.6B`."""

    prefix = "QWARDEN_STREAM__"

    kv_mib: int = Field(default=2048, ge=1)
    """For keys and values of all sessions, taken at the start. The start is refused where one whole
    context does not fit under the high-water mark: 1,792 MiB at 0.6B in float32, half of it in
    bfloat16. A GPU wants what it has: 1,000 sessions of 600 tokens are 64 GiB at 0.6B."""

    high_water: float = Field(default=0.9, gt=0, le=1)
    """The share of that from which no session is begun. The rest is for those there are to grow
    into; who still finds no room drops another, and each drop costs a replay."""

    silent_s: float = Field(default=30.0, ge=0)
    """A session without an append for so long may be dropped for another. It costs one replay where
    it goes on after all; a model that pauses so long, as for a tool, is seldom."""

    step_tokens: int | None = Field(default=None, ge=64)
    """Tokens a forward, at most: how long an append waits for the step before it. None is 256 on a
    CPU, which fill its products, and 2,048 on CUDA, where 1,000 sessions at 50 tokens a second have
    as many in 40 ms."""
