"""Where to read a partition from when it is assigned. Pure.

Kafka's own resets lose records: `latest` jumps over those of a new partition, and `earliest` jumps
where a committed offset has been deleted, without a word. So nothing is reset: a partition without
a commit starts at its beginning, and an offset out of range is a loss that a person must see.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StartAt:
    """Read from this offset; `seek` says whether the consumer must be told."""

    offset: int
    seek: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """Records from `first` up to, and not with, `end` were not read and are not there."""

    first: int
    end: int

    def sentence(self, topic: str, partition: int) -> str:
        if self.first < self.end:
            return (
                f"{topic}/{partition} is stopped: the group committed offset {self.first} and the "
                f"topic begins at {self.end}, so the records {self.first} to {self.end - 1} are "
                "lost; see why its retention was shorter than the outage, then go on with: "
                f"qwarden dlq accept-loss {topic}/{partition} --from {self.first}"
            )
        return (
            f"{topic}/{partition} is stopped: the group committed offset {self.first} and the "
            f"topic ends at {self.end}; it was probably deleted and made again, so go on with: "
            f"qwarden dlq accept-loss {topic}/{partition} --from {self.first}"
        )


@dataclass(frozen=True, slots=True)
class Accepted:
    """A person has seen that what stood behind the offset `committed` is lost."""

    committed: int
    resume_at: int

    def covers(self, lost: Lost) -> bool:
        """Whether that is this loss. A consumer that has read on from the commit before it came
        upon the gap meets it later than the commit says."""
        return lost.first == self.committed or (
            self.committed < lost.first and lost.end <= self.resume_at
        )

    def start_behind(self, lost: Lost) -> int:
        """Where to go on behind a loss that this one covers: never over a record that is there."""
        return self.resume_at if lost.first == self.committed else lost.end


def start_of(committed: int | None, begin: int, end: int) -> StartAt | Lost:
    """The decision for one partition whose records stand in [begin, end)."""
    if committed is None:
        return StartAt(begin, seek=True)
    if committed < begin:
        return Lost(committed, begin)
    if committed > end:
        return Lost(committed, end)
    return StartAt(committed, seek=False)
