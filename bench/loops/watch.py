"""Sees, from outside of whoever consumes in this process, when its first poll and last commit were.

Both are taken where aiokafka does them for everybody, the moderator and FastStream alike: a
commit counts when the broker has confirmed it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.group_coordinator import GroupCoordinator


class Watch:
    """Of one topic with `count` records, from offset 0 on, for the life of this process."""

    def __init__(self, topic: str, count: int) -> None:
        self._topic = topic
        self._count = count
        self._committed: dict[int, int] = {}
        self._all = asyncio.Event()
        self._began: tuple[float, float] | None = None
        self._ended = (0.0, 0.0)
        getmany, commit = AIOKafkaConsumer.getmany, GroupCoordinator._do_commit_offsets

        async def watched_getmany(consumer: Any, *partitions: Any, **options: Any) -> Any:
            polled = await getmany(consumer, *partitions, **options)
            if self._began is None and any(each.topic == topic for each in polled):
                self._began = _now()
            return polled

        async def watched_commit(coordinator: Any, assignment: Any, offsets: Any) -> None:
            await commit(coordinator, assignment, offsets)
            self._take(offsets)

        AIOKafkaConsumer.getmany = watched_getmany
        GroupCoordinator._do_commit_offsets = watched_commit

    async def all_committed(self, within_s: float) -> None:
        """Waits until every record is committed."""
        try:
            await asyncio.wait_for(self._all.wait(), within_s)
        except TimeoutError:
            raise TimeoutError(
                f"{sum(self._committed.values())} of {self._count} records of {self._topic} were "
                f"committed within {within_s:.0f} s; the log above says why"
            ) from None

    @property
    def rate(self) -> float:
        """Records a second, from the first poll that gave some to the last commit."""
        return self._count / (self._ended[0] - self._start[0])

    @property
    def cpu_us(self) -> float:
        """CPU time of this process in it, µs a record."""
        return (self._ended[1] - self._start[1]) / self._count * 1e6

    @property
    def _start(self) -> tuple[float, float]:
        assert self._began is not None, "records were committed that no getmany() gave"
        return self._began

    def _take(self, offsets: Any) -> None:
        for partition, mark in offsets.items():
            if partition.topic == self._topic:
                self._committed[partition.partition] = mark.offset
        if not self._all.is_set() and sum(self._committed.values()) >= self._count:
            self._ended = _now()
            self._all.set()


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
