"""How a consumer group stands on a topic, reckoned from what a broker says of all its partitions.
Pure.

A consumer that is dead says nothing of its partitions, and one that was never there said nothing of
them ever. So every process asks for its whole group's, and whoever is left alive tells of all.

Invariants, each held by `tests/property/test_group_lag.py`:
- A partition without a commit, or whose commit lies outside of its log, lags by all of its records:
  none of these is known to be done.
- Offsets have holes. Where there are only holes between the commit and the end, nothing lags.
- The age is that of the oldest record that is not done, whoever would have to do it. Where that
  record cannot be read it is at least as long as its partition was seen to stand still.
- A partition is stuck from the first look at which it lags at an offset until that offset moves;
  time in which no broker answered counts, since nothing was committed in it.
- A partition that is not told of now, as one without a leader, stands as it stood when it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_RETENTION_MS = 7 * 86_400_000
"""Where nobody has set it: Kafka's log.retention.hours, 168. A topic without its own has its
broker's log.retention.*, which the broker describes as the topic's."""


@dataclass(frozen=True, slots=True)
class Log:
    """A partition as a broker says it: its records stand in [begin, end). `committed`: by the
    group, None where it never has."""

    begin: int
    end: int
    committed: int | None

    @property
    def undone(self) -> int:
        """The offset below which all is done, or gone."""
        if self.committed is None or not self.begin <= self.committed <= self.end:
            return self.begin
        return self.committed


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a group on a topic: offsets behind the end, over all partitions; the age of the oldest
    record that is not done, and how long the partition stands still that does so the longest (s).
    """

    records: int
    seconds: float
    stuck_seconds: float


@dataclass(slots=True)
class _Behind:
    """A partition with lag since `since_s`, of which so much was `committed` then and is now.
    `timestamp_ms`: of the first record at `at` or behind it, where that was read; `holes_to`: up to
    where there is none."""

    committed: int | None
    at: int
    since_s: float
    records: int = 0
    timestamp_ms: int | None = None
    holes_to: int = 0


class Standing:
    """One group on one topic, from look to look. Clocks are the caller's: `now_s` must not jump,
    `at_ms` is the time since 1970."""

    def __init__(self) -> None:
        self._behind: dict[int, _Behind] = {}

    def look(self, logs: Mapping[int, Log | None], now_s: float) -> dict[int, int]:
        """Takes what the broker says of each partition, None where it says nothing; returns those
        of which a record is to be read, with the offset to read from. What was read at an offset is
        not asked again."""
        behind: dict[int, _Behind] = {}
        for partition, log in logs.items():
            if log is None:
                if partition in self._behind:
                    behind[partition] = self._behind[partition]
                continue
            at = log.undone
            if at >= log.end:
                continue
            one = self._behind.get(partition)
            if (
                one is None
                or one.committed != log.committed
                # Something may have come behind the holes: it lags from now on.
                or 0 < one.holes_to < log.end
            ):
                one = _Behind(log.committed, at, now_s)
            elif one.at != at:  # retention takes what nobody has read: it stands still all the same
                one = _Behind(log.committed, at, one.since_s)
            one.records = log.end - at
            behind[partition] = one
        self._behind = behind
        return {
            partition: one.at
            for partition, one in behind.items()
            if logs[partition] is not None and one.timestamp_ms is None and not one.holes_to
        }

    def read(self, partition: int, timestamp_ms: int) -> None:
        """The first record that is not done has this timestamp; a negative one is none (Kafka's
        word for a record without)."""
        if timestamp_ms >= 0:
            self._behind[partition].timestamp_ms = timestamp_ms

    def has_none(self, partition: int, up_to: int) -> None:
        """There is no record from the commit up to this offset: markers of transactions, or what
        compaction has taken."""
        self._behind[partition].holes_to = up_to

    def figures(self, now_s: float, at_ms: float) -> Figures:
        """As of the last look."""
        lagging = [one for one in self._behind.values() if not one.holes_to]
        stuck = [now_s - one.since_s for one in lagging]
        ages = [
            still if one.timestamp_ms is None else max(0.0, (at_ms - one.timestamp_ms) / 1000)
            for one, still in zip(lagging, stuck, strict=True)
        ]
        return Figures(
            records=sum(one.records for one in lagging),
            seconds=max(ages, default=0.0),
            stuck_seconds=max(stuck, default=0.0),
        )


def retention_of(config: Mapping[str, str | None]) -> float:
    """For how many seconds a topic of this configuration keeps a record; infinite where time takes
    none (`retention.ms` -1, or compacted alone)."""
    policies = (config.get("cleanup.policy") or "delete").split(",")
    kept_ms = int(config.get("retention.ms") or _RETENTION_MS)
    if "delete" not in (each.strip() for each in policies) or kept_ms < 0:
        return float("inf")
    return kept_ms / 1000
