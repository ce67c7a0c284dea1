"""The window against a plain model of it: every record ever delivered, and who still owes what."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from examples import examples
from qwarden.delivery.window import Partition, Window

pytestmark = pytest.mark.long

PARTITIONS = [Partition("content.events", 0), Partition("content.events", 1)]


@dataclass
class _Epoch:
    """One assignment: what was delivered in it, what of that is done, what the broker took."""

    number: int
    delivered: list[tuple[int, int]] = field(default_factory=list)
    done: set[int] = field(default_factory=set)
    position: int | None = None
    committed: int | None = None
    highest_watermark: int = 0
    sent: int = -1
    let_go: bool = False

    def uncommitted(self) -> list[tuple[int, int]]:
        below = self.committed if self.committed is not None else -1
        return [each for each in self.delivered if each[0] >= below]

    def watermark(self) -> int | None:
        for offset, _ in self.delivered:
            if offset not in self.done:
                return offset
        return self.position

    def unfinished(self) -> list[tuple[int, int]]:
        return [each for each in self.delivered if each[0] not in self.done]


class WindowMachine(RuleBasedStateMachine):
    """Polls, outcomes in any order, revokes in between, and commits that fail."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window()
        self.current: dict[Partition, _Epoch] = {}
        self.ended: list[tuple[Partition, _Epoch]] = []
        self.log: dict[Partition, list[int]] = {partition: [] for partition in PARTITIONS}
        self.read = dict.fromkeys(PARTITIONS, 0)
        self.broker_committed = dict.fromkeys(PARTITIONS, 0)
        self.sent: list[dict[Partition, tuple[int, int]]] = []

    @initialize()
    def one_is_assigned(self) -> None:
        self.assign(PARTITIONS[0])

    @rule(partition=st.sampled_from(PARTITIONS))
    def assign(self, partition: Partition) -> None:
        """Also without a revoke before it, as when a rebalance gives the same one back."""
        number = self.window.assign(partition)
        before = [epoch.number for _, epoch in self.ended]
        before += [epoch.number for epoch in self.current.values()]
        assert number not in before, "an epoch's number is used twice"
        if partition in self.current:
            self.ended.append((partition, self.current[partition]))
        self.current[partition] = _Epoch(number)
        # A new owner reads again what was not committed, so that offsets come back.
        self.read[partition] = bisect_left(self.log[partition], self.broker_committed[partition])

    @rule(partition=st.sampled_from(PARTITIONS))
    def revoke(self, partition: Partition) -> None:
        self.window.revoke(partition)
        if partition in self.current:
            self.ended.append((partition, self.current.pop(partition)))

    @rule(
        partition=st.sampled_from(PARTITIONS),
        holes=st.lists(st.integers(1, 5), max_size=6),
        timestamp=st.integers(0, 9),
    )
    def deliver(self, partition: Partition, holes: list[int], timestamp: int) -> None:
        log, first = self.log[partition], self.read[partition]
        for hole in holes[max(0, len(log) - first) :]:
            log.append((log[-1] if log else 0) + hole + 1)
        records = [(offset, timestamp) for offset in log[first : first + len(holes)]]
        if not records:
            return
        # Behind the last record there may be a marker: the next one stands two further at least.
        position = records[-1][0] + 1 + timestamp % 2
        epoch = self.window.deliver(partition, records, position)
        if partition not in self.current or self.current[partition].let_go:
            assert epoch is None, "records of a partition that is gone must not be handled"
            return
        assert epoch == self.current[partition].number
        self.read[partition] += len(records)
        self.current[partition].delivered += records
        self.current[partition].position = position

    @precondition(lambda self: any(epoch.unfinished() for epoch in self.current.values()))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        partition, epoch, offset = data.draw(
            st.sampled_from(
                [
                    (partition, epoch, offset)
                    for partition, epoch in self.current.items()
                    for offset, _ in epoch.unfinished()
                ]
            )
        )
        counts = not epoch.let_go or offset <= epoch.sent
        assert self.window.finish(partition, epoch.number, offset) == counts
        if counts:
            epoch.done.add(offset)

    @precondition(lambda self: any(epoch.delivered for epoch in self.current.values()))
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        """Also once more, as when publication begins anew."""
        partition, epoch, offset = data.draw(
            st.sampled_from(
                [
                    (partition, epoch, offset)
                    for partition, epoch in self.current.items()
                    for offset, _ in epoch.delivered
                ]
            )
        )
        goes = not epoch.let_go or offset <= epoch.sent
        assert self.window.send(partition, epoch.number, offset) == goes
        if goes:
            epoch.sent = max(epoch.sent, offset)

    @rule()
    def let_go(self) -> None:
        self.window.let_go()
        for epoch in self.current.values():
            epoch.let_go = True

    @precondition(lambda self: any(epoch.delivered for _, epoch in self.ended))
    @rule(data=st.data())
    def finish_of_an_older_epoch(self, data: st.DataObject) -> None:
        partition, epoch, offset = data.draw(
            st.sampled_from(
                [
                    (partition, epoch, offset)
                    for partition, epoch in self.ended
                    for offset, _ in epoch.delivered
                ]
            )
        )
        before = self.window.watermarks(), self.window.in_flight
        assert not self.window.send(partition, epoch.number, offset)
        assert not self.window.finish(partition, epoch.number, offset)
        assert before == (self.window.watermarks(), self.window.in_flight)

    @precondition(lambda self: any(epoch.done for epoch in self.current.values()))
    @rule(data=st.data())
    def finish_again(self, data: st.DataObject) -> None:
        partition, epoch, offset = data.draw(
            st.sampled_from(
                [
                    (partition, epoch, offset)
                    for partition, epoch in self.current.items()
                    for offset in sorted(epoch.done)
                ]
            )
        )
        assert not self.window.finish(partition, epoch.number, offset)

    @rule()
    def send_commit(self) -> None:
        to_commit = self.window.to_commit()
        assert to_commit == {
            partition: (epoch.number, epoch.watermark())
            for partition, epoch in self.current.items()
            if epoch.watermark() not in (None, epoch.committed)
        }
        if to_commit:
            self.sent.append(to_commit)

    @precondition(lambda self: self.sent)
    @rule(succeeds=st.booleans())
    def commit_returns(self, succeeds: bool) -> None:
        """The oldest commit on its way, perhaps of an epoch that has ended meanwhile."""
        taken = self.sent.pop(0)
        if not succeeds:
            return
        self.window.committed(taken)
        for partition, (number, watermark) in taken.items():
            self.broker_committed[partition] = watermark
            epoch = self.current.get(partition)
            if epoch is not None and epoch.number == number:
                epoch.committed = watermark

    @invariant()
    def nothing_undone_is_below_a_watermark(self) -> None:
        for partition, watermark in self.window.watermarks().items():
            epoch = self.current[partition]
            assert all(offset >= watermark for offset, _ in epoch.unfinished())

    @invariant()
    def a_watermark_is_where_the_model_says(self) -> None:
        assert self.window.watermarks() == {
            partition: epoch.watermark()
            for partition, epoch in self.current.items()
            if epoch.watermark() is not None
        }

    @invariant()
    def a_watermark_never_goes_back(self) -> None:
        for partition, watermark in self.window.watermarks().items():
            epoch = self.current[partition]
            assert watermark >= epoch.highest_watermark
            epoch.highest_watermark = watermark

    @invariant()
    def what_is_in_flight_is_what_the_model_says(self) -> None:
        unfinished = [each for epoch in self.current.values() for each in epoch.unfinished()]
        assert self.window.in_flight == len(unfinished)
        firsts = [each[0] for e in self.current.values() if (each := e.uncommitted())]
        oldest = min((timestamp for _, timestamp in firsts), default=None)
        assert self.window.oldest_timestamp() == oldest
        assert self.window.partitions == self.current.keys()
        for partition, epoch in self.current.items():
            assert self.window.is_worth_judging(partition, epoch.number) != epoch.let_go
        assert self.window.uncommitted == sum(
            len(epoch.uncommitted()) for epoch in self.current.values()
        )

    @invariant()
    def it_is_torn_where_something_undone_is_not_behind_all_that_was_sent(self) -> None:
        assert self.window.is_torn == any(
            offset <= epoch.sent
            for epoch in self.current.values()
            for offset, _ in epoch.unfinished()
        )


TestWindow = WindowMachine.TestCase
TestWindow.settings = settings(max_examples=examples(200), stateful_step_count=30)
