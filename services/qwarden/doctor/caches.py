"""Whether a Redis is fit to be the shared cache. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwarden.doctor.durations import mebibytes, span
from qwarden.doctor.finding import Findings

_OLDEST = 6
"""Redis 6 brought users and TLS (2020); what is older gets no repairs any more."""


def judge(
    found: Findings, about: str, info: Mapping[str, Any], *, answer_s: float, timeout_s: float
) -> None:
    """`info`: what INFO says; `answer_s`: the median of some questions; `timeout_s`: how long the
    services wait for one."""
    before = len(found.all)
    version = str(info.get("redis_version", "0"))
    # A Valkey says which Redis it is like.
    if int(version.partition(".")[0]) < _OLDEST:
        found.wrong(about, f"it is Redis {version}; version {_OLDEST} or later is needed")
    if info.get("role") not in (None, "master"):
        found.wrong(
            about,
            "it is a replica, and takes no writes; name the primary in QWARDEN_REDIS__URL, or its "
            "Sentinels with redis+sentinel://",
        )
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if most == 0:
        found.note(
            about,
            f"maxmemory is not set: it uses {mebibytes(used)} and grows until the machine kills "
            "it; set maxmemory, and maxmemory-policy allkeys-lru",
        )
    elif policy == "noeviction":
        found.wrong(
            about,
            f"maxmemory-policy is noeviction: at {mebibytes(most)} (it uses {mebibytes(used)}) it "
            "refuses what is new and keeps what is old; set it to allkeys-lru",
        )
    if answer_s > timeout_s / 2:
        found.wrong(
            about,
            f"it answers in {span(answer_s)}, and the services wait {span(timeout_s)} "
            "(QWARDEN_REDIS__TIMEOUT_S): it will be left alone as often as it is asked; put it "
            "nearer, or find what keeps it busy (SLOWLOG GET)",
        )
    if len(found.all) == before:
        found.good(
            about,
            f"it answers in {span(answer_s)}; {mebibytes(used)} of {mebibytes(most)} used, "
            f"{policy}",
        )
