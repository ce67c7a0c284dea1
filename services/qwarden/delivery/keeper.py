"""What a consumer knows beside its offsets, so that it outlives the consumer: the port.

A record may be done and its partition still not be known by the records above the watermark alone:
a session that goes on began long before. So the keeper says with each commit, in the commit's
metadata, from where its partition must be read again, and whoever gets the partition next is given
what stands from there up to the commit, in silence, before anything new.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aiokafka import ConsumerRecord

from qwarden.delivery.window import Partition


class Keeper(Protocol):
    """None of these may wait: between them and what the delivery does nothing else may happen."""

    def assigned(
        self, where: Partition, epoch: int, committed: int | None, metadata: str
    ) -> int | None:
        """A new epoch of a partition begins at this commit (None: there is none), with the metadata
        that stands beside it. From where to read again, below the commit; None: from nowhere."""
        ...

    def lost(self, where: Partition) -> None:
        """The topic does not have all that should be read again."""
        ...

    def read_again(self, where: Partition, records: Sequence[ConsumerRecord]) -> None:
        """Records below the commit, in order. They are done, and are no part of the window."""
        ...

    def begins(self, where: Partition) -> None:
        """All below the commit is read again: what comes now is delivered."""
        ...

    def metadata(self, where: Partition, watermark: int) -> str:
        """What stands beside a commit of this watermark, made now. At most 4,096 bytes, which is
        Kafka's own limit."""
        ...

    def committed(self, where: Partition, watermark: int, metadata: str) -> None:
        """The broker has taken that."""
        ...

    def revoked(self, where: Partition) -> None:
        """The epoch is over: whatever is in flight of it counts for nothing, and every record of it
        that was delivered is to be finished, with nothing owed."""
        ...
