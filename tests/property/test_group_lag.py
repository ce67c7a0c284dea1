"""How a group stands, against a log that is kept beside it record by record."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from qwarden.delivery.group_lag import Log, Standing, retention_of

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["publish", "marker", "commit", "reset", "retain", "compact", "made again", "look"]
        ),
        st.integers(0, 2),
        st.integers(1, 4),
        st.floats(0, 100),
        st.booleans(),
    ),
    max_size=60,
)


@dataclass
class _Partition:
    """A log with its records' timestamps (ms) by offset, and what nobody can read of it."""

    begin: int = 0
    end: int = 0
    committed: int | None = None
    records: dict[int, int] = field(default_factory=dict)
    since: float | None = None
    """When a look first saw that it lags with this commit."""
    seen: int | None = None

    @property
    def undone(self) -> list[int]:
        """The offsets of the records that nobody is known to have done."""
        known = self.committed is not None and self.begin <= self.committed <= self.end
        at = self.committed if known and self.committed is not None else self.begin
        return sorted(each for each in self.records if each >= at)


@pytest.mark.long
@settings(max_examples=examples(500))
@given(STEPS)
def test_a_figure_of_a_group_is_another_than_its_log_says(
    steps: list[tuple[str, int, int, float, bool]],
) -> None:
    logs = [_Partition() for _ in range(3)]
    standing = Standing()
    now = 1000.0
    for what, which, count, later, readable in steps:
        now += later
        log = logs[which]
        if what == "publish":
            for _ in range(count):
                log.records[log.end] = int(now * 1000)
                log.end += 1
        elif what == "marker":
            log.end += count
        elif what == "commit":
            log.committed = min(log.end, (log.committed or log.begin) + count)
        elif what == "reset":
            log.committed = max(0, (log.committed or 0) - count)
        elif what == "retain":
            log.begin = min(log.end, log.begin + count)
            log.records = {at: of for at, of in log.records.items() if at >= log.begin}
        elif what == "compact":
            # The oldest stays: a broker never takes what a look has just read (see the module).
            for at in sorted(log.records)[1:count]:
                del log.records[at]
        elif what == "made again":
            logs[which] = _Partition(committed=log.committed)
            _looks(standing, logs, now, readable)  # it is empty for longer than that
        else:
            _looks(standing, logs, now, readable)


def _looks(standing: Standing, logs: list[_Partition], now: float, readable: bool) -> None:
    asked = standing.look(
        {n: Log(log.begin, log.end, log.committed) for n, log in enumerate(logs)}, now
    )
    for partition, at in asked.items():
        log = logs[partition]
        behind = [each for each in sorted(log.records) if each >= at]
        if not behind:
            standing.has_none(partition, log.end)
        elif readable:
            standing.read(partition, log.records[behind[0]])
    said = standing.figures(now, now * 1000)
    lagging = [log for log in logs if log.undone]
    assert (said.records > 0) is bool(lagging), "lag without a record, or the other way round"
    for log in logs:
        if not log.undone:
            log.since = log.seen = None
        elif log.since is None or log.seen != log.committed:
            log.since, log.seen = now, log.committed
    still = max((now - log.since for log in lagging if log.since is not None), default=0.0)
    assert abs(said.stuck_seconds - still) < 1e-6
    oldest = max((now - log.records[log.undone[0]] / 1000 for log in lagging), default=0.0)
    assert said.seconds <= oldest + 0.002, "older than any record"
    if readable and set(asked) == {n for n, log in enumerate(logs) if log.undone}:
        assert abs(said.seconds - max(0.0, oldest)) < 0.002


def test_a_partition_without_a_consumer_hides_behind_one_that_is_read() -> None:
    standing = Standing()
    alive, dead = Log(0, 100, 100), Log(0, 50, None)
    assert standing.look({0: alive, 1: dead}, 0.0) == {1: 0}
    standing.read(1, 40_000)
    said = standing.figures(60.0, 100_000)
    assert (said.records, said.seconds, said.stuck_seconds) == (50, 60.0, 60.0)


def test_retention_that_eats_what_nobody_reads_passes_for_progress() -> None:
    standing = Standing()
    for second in range(0, 60, 15):
        asked = standing.look({0: Log(second, 1000, 0)}, float(second))
        assert asked == {0: second}, "another record is the oldest now"
        standing.read(0, second * 1000)
    assert standing.figures(60.0, 60_000).stuck_seconds == 60.0


def test_an_unreadable_record_makes_a_partition_young() -> None:
    standing = Standing()
    standing.look({0: Log(0, 1, 0)}, 100.0)
    assert standing.figures(400.0, 0).seconds == 300.0
    standing.read(0, -1)
    assert standing.figures(400.0, 0).seconds == 300.0, "a record without a timestamp"


def test_what_was_read_once_is_read_at_every_look() -> None:
    standing = Standing()
    assert standing.look({0: Log(0, 5, 1)}, 0.0) == {0: 1}
    standing.read(0, 7)
    assert standing.look({0: Log(0, 9, 1)}, 1.0) == {}
    assert standing.look({0: Log(0, 9, 2)}, 2.0) == {0: 2}


def test_a_topic_without_a_limit_of_time_is_over_half_of_its_retention() -> None:
    unlimited = float("inf")
    assert retention_of({"cleanup.policy": "delete", "retention.ms": "60000"}) == 60.0
    assert retention_of({"cleanup.policy": "compact,delete", "retention.ms": "60000"}) == 60.0
    assert retention_of({"cleanup.policy": "compact", "retention.ms": "60000"}) == unlimited
    assert retention_of({"cleanup.policy": "delete", "retention.ms": "-1"}) == unlimited


def test_records_of_a_topic_without_a_retention_are_thought_to_be_kept_for_ever() -> None:
    assert retention_of({}) == retention_of({"retention.ms": None}) == 7 * 86_400.0


def test_a_partition_without_a_leader_hides_the_others_or_is_forgotten() -> None:
    standing = Standing()
    assert standing.look({0: Log(0, 9, 4), 1: Log(0, 9, 9)}, 0.0) == {0: 4}
    assert standing.look({0: None, 1: Log(0, 12, 9)}, 60.0) == {1: 9}, "what is away is not read"
    said = standing.figures(90.0, 0)
    assert (said.records, said.stuck_seconds) == (5 + 3, 90.0)
    standing.look({0: Log(0, 9, 4), 1: None}, 100.0)
    assert standing.figures(100.0, 0).stuck_seconds == 100.0, "it has stood still all the time"
    standing.look({0: Log(0, 9, 9), 1: None}, 110.0)
    assert standing.figures(110.0, 0).stuck_seconds == 50.0
    standing.look({0: Log(0, 9, 9)}, 120.0)
    assert standing.figures(120.0, 0).records == 0, "a partition that is no more"


def test_a_partition_that_was_never_told_of_lags() -> None:
    standing = Standing()
    assert standing.look({0: None, 1: Log(0, 3, 1)}, 0.0) == {1: 1}
    assert standing.figures(9.0, 0).records == 2
