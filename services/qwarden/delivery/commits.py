"""When watermarks are committed, and what a commit that fails leaves: everything still to be
committed, by the next one."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from qwarden import aiokafka_insides, telemetry
from qwarden.delivery.assignment import Assignment

_log = logging.getLogger(__name__)


class Commits:
    """Those of one consumer of `topic`. `interval_s` and `records`: how long, and after how many
    records that are done, one waits."""

    def __init__(
        self, topic: str, assignment: Assignment, *, interval_s: float, records: int
    ) -> None:
        self._topic = topic
        self._assignment = assignment
        self._interval_s = interval_s
        self._records = records
        self._done = 0
        """Records done since the last commit."""
        self._due = asyncio.Event()
        self._lock = asyncio.Lock()
        self._is_failing = False

    def done(self) -> None:
        """One more record is."""
        self._done += 1
        if self._done >= self._records:
            self._due.set()

    async def until_due(self) -> None:
        """Waits until one is, by the time or by the records that are done."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._interval_s):
                await self._due.wait()
        self._due.clear()

    async def commit(self, consumer: AIOKafkaConsumer) -> None:
        """Commits what is not committed."""
        async with self._lock:
            self._done = 0
            marks = self._assignment.to_commit()
            if not marks:
                return
            try:
                await aiokafka_insides.commit(
                    consumer,
                    {
                        TopicPartition(*where): OffsetAndMetadata(at, text)
                        for where, (_, at, text) in marks.items()
                    },
                )
            except KafkaError as error:
                telemetry.COMMITS.labels(self._topic, "failed").inc()
                if not self._is_failing:
                    _log.warning("a commit failed and stays to be made: %r", error)
                self._is_failing = True
                return
            telemetry.COMMITS.labels(self._topic, "done").inc()
            self._is_failing = False
            self._assignment.committed(marks)
