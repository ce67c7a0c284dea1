"""The storm's moderator with a clock that jumps: SIGUSR1 moves it an hour forward, SIGUSR2 an hour
back. What waits (the event loop, the group, time-outs) reads another clock, as it does when a real
one is set.

Environment beside the storm's: STORM_MOST_S, how long its guard takes at most.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from types import FrameType
from typing import Any

from aiokafka import AIOKafkaProducer

from qwarden import kafka
from qwarden.moderator import moderator
from qwarden.stack.child import Child
from storm import member
from storm.storm import Member

JUMP_S = 3600.0
_ahead_s = 0.0
_true_time = time.time


def _time() -> float:
    return _true_time() + _ahead_s


class _Jumping(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + timedelta(seconds=_ahead_s)


class _Stamping(AIOKafkaProducer):  # type: ignore[misc]
    """aiokafka's compiled half asks the system for the time, and not Python."""

    async def send(  # aiokafka's own
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Any = None,
    ) -> Any:
        at_ms = int(_time() * 1000)
        return await super().send(topic, value, key, partition, at_ms, headers)


def _jump(number: int, frame: FrameType | None) -> None:
    global _ahead_s  # noqa: PLW0603 - a clock is one for a whole process
    _ahead_s += JUMP_S if number == signal.SIGUSR1 else -JUMP_S


@dataclass
class Jumper(Member):
    """Such a moderator's process."""

    most_s: float = 0.2

    def __post_init__(self) -> None:
        env = {
            **self.environ,
            "QWARDEN_HTTP__HOST": "127.0.0.1",
            "QWARDEN_HTTP__PORT": str(self.port),
            "STORM_NAME": self.name,
            "STORM_MOST_S": str(self.most_s),
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        self.child = Child(self.home, self.name, [sys.executable, "-m", "chaos.jumping"], env=env)

    def jump(self, hours: int) -> None:
        for _ in range(abs(hours)):
            self.child.signal(signal.SIGUSR1 if hours > 0 else signal.SIGUSR2)
            time.sleep(0.1)  # two signals of a kind that meet are one


if __name__ == "__main__":
    time.time = _time
    moderator.datetime = _Jumping  # type: ignore[attr-defined]
    kafka.AIOKafkaProducer = _Stamping  # type: ignore[attr-defined]
    signal.signal(signal.SIGUSR1, _jump)
    signal.signal(signal.SIGUSR2, _jump)
    member.MOST_S = float(os.environ["STORM_MOST_S"])
    sys.exit(asyncio.run(member.main()))
