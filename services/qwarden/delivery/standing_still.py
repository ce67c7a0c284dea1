"""Whether partitions are read on.

One that aiokafka cannot read (a header's name that is not UTF-8 ends its fetches, 0.14) says
nothing by itself, and no lag shows it: what was never delivered is no lag of ours.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Container

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from qwarden.aiokafka_insides import position_of
from qwarden.delivery.window import Partition

_log = logging.getLogger(__name__)


class StandingStill:
    """Partitions whose position has not moved for two looks though records stand behind it."""

    def __init__(self) -> None:
        self.partitions: dict[Partition, int] = {}
        """With that position."""
        self._unread: dict[Partition, int] = {}
        """As of the last look: the positions of those behind which there are records."""

    async def look(self, consumer: AIOKafkaConsumer, but: Container[Partition]) -> None:
        """Looks at all that are assigned, `but` for some, which are stopped."""
        unread: dict[Partition, int] = {}
        with contextlib.suppress(KafkaError):
            unread = await _unread(consumer, but)
        self._took(unread)

    def nothing(self) -> None:
        """Nothing is read on purpose."""
        self._took({})

    def _took(self, unread: dict[Partition, int]) -> None:
        still = {where: at for where, at in unread.items() if self._unread.get(where) == at}
        for where, at in still.items():
            if where not in self.partitions:
                _log.error("%s/%s is not read on from offset %s", *where, at)
        self.partitions, self._unread = still, unread


async def _unread(consumer: AIOKafkaConsumer, but: Container[Partition]) -> dict[Partition, int]:
    assigned = [each for each in consumer.assignment() if Partition(*each) not in but]
    ends = await consumer.end_offsets(assigned)
    found = {}
    for partition, end in ends.items():
        if partition in consumer.assignment():
            position = position_of(consumer, partition)
            if position is not None and position < end:
                found[Partition(*partition)] = position
    return found
