"""The partitions that are assigned: from where each is read, what is committed of it, and which
are stopped.

`positions` decides where one begins and the window counts its records; here brokers are asked, the
consumer is sought, and the keeper is told. None of it acts on a partition that has become somebody
else's while a broker was asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from qwarden import telemetry
from qwarden.aiokafka_insides import committed_of, position_of
from qwarden.delivery.keeper import Keeper
from qwarden.delivery.positions import Accepted, Lost, start_of
from qwarden.delivery.underway import Records
from qwarden.delivery.window import Partition, Window

_log = logging.getLogger(__name__)

_ASK_S = 10.0
"""How long a broker may take to say what is committed and what is there: over a slow answer, under
the service's hung_s, within which there must be a poll."""
_RETRY_S = 1.0
"""How long a broker that cannot say it is left alone: several polls within hung_s."""


class Assignment:
    """Those of one consumer of `topic`. `keeper`: who has something to say beside each commit, and
    to be told at each assignment. `is_paused`: whether nothing is read on for want of room."""

    def __init__(
        self,
        topic: str,
        window: Window,
        keeper: Keeper | None,
        is_paused: Callable[[], bool],
    ) -> None:
        self.lost: dict[Partition, Lost] = {}
        """Partitions that are stopped since records were lost, until a person has seen it."""
        self._topic = topic
        self._window = window
        self._keeper = keeper
        self._is_paused = is_paused
        self._accepted: Mapping[Partition, Accepted] = {}
        self._unplaced: set[Partition] = set()
        """Assigned, and their keeper does not know the commit yet."""
        self._reread: dict[Partition, int] = {}
        """Partitions that are read again, with the commit up to which they are."""
        self._committed: dict[Partition, tuple[int, str]] = {}
        """With a keeper: what is committed of each partition, as far as known here."""

    def assign(self, where: Partition) -> None:
        """A new epoch of it begins."""
        self._window.assign(where)
        self.lost.pop(where, None)
        if self._keeper is not None:
            self._unplaced.add(where)

    def revoke(self, where: Partition) -> None:
        """Its epoch is over."""
        self._window.revoke(where)
        self.lost.pop(where, None)
        self._forget(where)

    def is_placed(self, where: Partition) -> bool:
        """Whether what is polled of it stands behind its commit, or is read again up to that."""
        return where not in self._unplaced

    def is_read_again(self, where: Partition) -> bool:
        """Whether what is polled of it now is done already."""
        return where in self._reread

    # Commits.

    def to_commit(self) -> dict[Partition, tuple[int, int, str]]:
        """Partition to (epoch, watermark, metadata), where any of them is not committed yet. With a
        keeper the same offset is committed again when there is something new to say beside it."""
        if self._keeper is None:
            return {
                where: (epoch, at, "") for where, (epoch, at) in self._window.to_commit().items()
            }
        found = {}
        for where, at in self._window.watermarks().items():
            epoch = self._window.epoch_of(where)
            if epoch is None or where in self._unplaced or where in self._reread:
                continue  # what is not read again yet is not known
            text = self._keeper.metadata(where, at)
            if self._committed.get(where) != (at, text):
                found[where] = epoch, at, text
        return found

    def committed(self, marks: Mapping[Partition, tuple[int, int, str]]) -> None:
        """The broker has taken these."""
        self._window.committed({where: (epoch, at) for where, (epoch, at, _) in marks.items()})
        for where, (epoch, at, text) in marks.items():
            if self._keeper is not None and self._window.epoch_of(where) == epoch:
                self._committed[where] = at, text
                self._keeper.committed(where, at, text)

    # Places: where a partition with a keeper begins.

    async def place(self, consumer: AIOKafkaConsumer) -> bool:
        """Tells the keeper what is committed of the partitions that are new here. Whether all are
        placed: nothing is polled before."""
        if not self._unplaced:
            return True
        epochs = {where: self._window.epoch_of(where) for where in self._unplaced}
        partitions = [TopicPartition(*where) for where in epochs]
        try:
            # A revoke waits for none of it.
            async with asyncio.timeout(_ASK_S):
                committed = await committed_of(consumer, partitions)
                begins = await consumer.beginning_offsets(partitions)
                ends = await consumer.end_offsets(partitions)
        except TimeoutError:
            return False
        except KafkaError as error:
            _log.warning("cannot read what is committed of %s, waiting: %r", self._topic, error)
            await asyncio.sleep(_RETRY_S)
            return False
        for where, epoch in epochs.items():
            partition = TopicPartition(*where)
            if self._window.epoch_of(where) == epoch and partition in consumer.assignment():
                self._unplaced.discard(where)
                there = begins[partition], ends[partition]
                self._begin(consumer, where, committed.get(partition), *there)
        return not self._unplaced

    def delivered(
        self, consumer: AIOKafkaConsumer, polled: Mapping[TopicPartition, Records]
    ) -> Mapping[TopicPartition, Records]:
        """What of a poll stands behind the commits; what does not is given to the keeper."""
        if not self._reread:
            return polled
        assert self._keeper is not None
        delivered = dict(polled)
        for where, until in list(self._reread.items()):
            partition = TopicPartition(*where)
            records = polled.get(partition, ())
            below = [record for record in records if record.offset < until]
            if below:
                telemetry.REREAD.labels(self._topic).inc(len(below))
                self._keeper.read_again(where, below)
            delivered[partition] = records[len(below) :]
            position = position_of(consumer, partition)
            if delivered[partition] or (position is not None and position >= until):
                del self._reread[where]
                self._keeper.begins(where)
        return {partition: records for partition, records in delivered.items() if records}

    def _begin(
        self,
        consumer: AIOKafkaConsumer,
        where: Partition,
        committed: OffsetAndMetadata | None,
        begin: int,
        end: int,
    ) -> None:
        """Begins an epoch of a partition whose records stand in [begin, end): at its commit, or
        where it must be read again from."""
        epoch = self._window.epoch_of(where)
        assert self._keeper is not None and epoch is not None
        partition = TopicPartition(*where)
        if committed is None:
            self._begin_anew(where, epoch)
            # What a poll has taken before this is given again.
            consumer.seek(partition, begin)
            self._window.begin(where, begin)
            return
        until, text = committed.offset, committed.metadata or ""
        self._window.begin(where, until)
        self._window.committed({where: (epoch, until)})
        self._committed[where] = until, text
        start = self._keeper.assigned(where, epoch, until, text)
        if start is not None and start < begin:
            self._keeper.lost(where)
            start = begin
        # In a topic that was made again everything below the commit would pass for done.
        if start is None or start >= until or until > end:
            self._keeper.begins(where)
            start = until
        else:
            self._reread[where] = until
        consumer.seek(partition, start)

    def _begin_anew(self, where: Partition, epoch: int) -> None:
        """There is nothing to read again."""
        assert self._keeper is not None
        self._keeper.assigned(where, epoch, None, "")
        self._keeper.begins(where)

    def _forget(self, where: Partition) -> None:
        self._reread.pop(where, None)
        self._committed.pop(where, None)
        if self._keeper is not None and where not in self._unplaced:
            self._keeper.revoked(where)
        self._unplaced.discard(where)

    # Positions: where aiokafka has none, or one where there are no records any more.

    async def give_position(self, consumer: AIOKafkaConsumer, said: object) -> None:
        """Acts on partitions that have no position: `said` is what aiokafka's error carries, a
        partition, or a mapping from partitions to the offset that is out of range."""
        known: dict[Any, int | None] = said if isinstance(said, dict) else {said: None}
        for partition, offset in known.items():
            where = Partition(*partition)
            epoch = self._window.epoch_of(where)
            if epoch is None or where in self._unplaced:
                continue
            begin = (await consumer.beginning_offsets([partition]))[partition]
            end = (await consumer.end_offsets([partition]))[partition]
            if self._window.epoch_of(where) != epoch or partition not in consumer.assignment():
                continue  # somebody else's by now
            if where in self._reread and self._skips_to(consumer, where, begin):
                continue
            start = start_of(offset, begin, end)
            if isinstance(start, Lost):
                consumer.pause(partition)
                if where not in self.lost and not self._is_accepted(where, start):
                    _log.error("%s", start.sentence(where.topic, where.partition))
                self.lost[where] = start
                self._go_on_behind(consumer, where, start)
            elif start.seek:
                consumer.seek(partition, start.offset)
                # Committed, so that what retention takes from now on is a loss that is seen.
                self._window.begin(where, start.offset)

    def accept(
        self, accepted: Mapping[Partition, Accepted], consumer: AIOKafkaConsumer | None
    ) -> None:
        """Goes on where people have accepted a loss. A commit stands there only after a record has
        come, so that the next owner may meet the same loss: these stay known."""
        self._accepted = accepted
        if consumer is not None:
            for where, lost in list(self.lost.items()):
                self._go_on_behind(consumer, where, lost)

    def _skips_to(self, consumer: AIOKafkaConsumer, where: Partition, begin: int) -> bool:
        """Retention has taken what was to be read again: goes on at the topic's beginning. Whether
        nothing else is lost."""
        assert self._keeper is not None
        self._keeper.lost(where)
        if begin <= self._reread[where]:
            consumer.seek(TopicPartition(*where), begin)
            return True
        del self._reread[where]
        self._keeper.begins(where)
        return False

    def _is_accepted(self, where: Partition, lost: Lost) -> bool:
        return where in self._accepted and self._accepted[where].covers(lost)

    def _go_on_behind(self, consumer: AIOKafkaConsumer, where: Partition, lost: Lost) -> None:
        partition = TopicPartition(*where)
        if not self._is_accepted(where, lost) or partition not in consumer.assignment():
            return
        # A new epoch: in a topic that was made again offsets go back, and what was noted of the
        # old ones would pass for these.
        epoch = self._window.assign(where)
        if self._keeper is not None:
            self._forget(where)
            self._begin_anew(where, epoch)
        consumer.seek(partition, self._accepted[where].start_behind(lost))
        del self.lost[where]
        _log.warning("%s/%s goes on behind a loss that a person has accepted", *where)
        if not self._is_paused():
            consumer.resume(partition)
