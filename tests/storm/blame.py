"""Whether every repeat is the fault of a strike: nothing but what a victim had published above the
committed offset may come twice. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Where = tuple[str, int]
"""A topic and a partition."""


@dataclass(frozen=True, slots=True)
class Published:
    """One verdict, as it stands on its topic: whose record it answers, and which process, by name
    and start, has published it."""

    topic: str
    partition: int
    offset: int
    task: str
    by: str
    at_ms: int = 0
    """Kafka's timestamp."""


@dataclass(frozen=True, slots=True)
class Struck:
    """A strike that was made: the process, what its group had committed right after it, and until
    when (ms since 1970) the process may have published what it had in hand: one that was frozen
    learns a while after it is back that others have its partitions."""

    by: str
    committed: Mapping[Where, int]
    in_flight: int
    until_ms: float = math.inf


@dataclass(slots=True)
class Blamed:
    """`repeats`: verdicts beyond the first of each record and task. `by_strike`: how many of the
    repeated ones each strike explains, beside how many it might have caused. `unexplained`: those
    that none does."""

    repeats: int = 0
    by_strike: list[tuple[Struck, int, int]] = field(default_factory=list)
    unexplained: list[Published] = field(default_factory=list)


def blame(published: Iterable[Published], strikes: Iterable[Struck]) -> Blamed:
    """Lays each repeat at a strike's door: one whose victim had published that record's verdict,
    at or above the offset that was committed then."""
    seen: dict[tuple[str, int, int, str], list[Published]] = {}
    by_whom: dict[str, list[Published]] = {}
    for each in published:
        seen.setdefault((each.topic, each.partition, each.offset, each.task), []).append(each)
        by_whom.setdefault(each.by, []).append(each)
    repeated = {where: found for where, found in seen.items() if len(found) > 1}
    blamed = Blamed(repeats=sum(len(found) - 1 for found in repeated.values()))
    explained: Counter[tuple[str, int, int, str]] = Counter()
    for strike in strikes:
        above = {
            (each.topic, each.partition, each.offset, each.task)
            for each in by_whom.get(strike.by, ())
            if each.at_ms <= strike.until_ms
            and each.offset >= strike.committed.get((each.topic, each.partition), 0)
        }
        due = above & repeated.keys()
        explained.update(due)
        blamed.by_strike.append((strike, len(due), len(above)))
    for where, found in repeated.items():
        blamed.unexplained += found[1 + explained[where] :]
    return blamed
