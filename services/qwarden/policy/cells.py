"""Which records no rule of some policies tells apart: those of one cell get one answer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from qwarden.policy.conditions import Condition
from qwarden.policy.file import PolicyFile
from qwarden.policy.reading import Score, score_of
from qwarden.policy.records import Recorded, decoded_of

Cell = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Cells:
    """What rules read of records: the numbers that they compare with, and the tenants, categories
    and metadata that they name; whether they ask for a task, a language, or a refusal."""

    scores: tuple[tuple[Score, tuple[float, ...]], ...]
    reach: tuple[float, ...]
    tenants: frozenset[str]
    categories: frozenset[str]
    metadata: tuple[str, ...]
    task: bool
    language: bool
    refusal: bool

    @classmethod
    def of(cls, files: Iterable[PolicyFile]) -> Cells:
        """Those that these policies tell apart."""
        files = list(files)
        whens = [when for file in files for when in file.whens]
        asked = [when for when in whens if isinstance(when, Condition)]
        numbers: dict[Score, set[float]] = {}
        for file in files:
            for name, number in file.thresholds:
                numbers.setdefault(name, set()).add(number)
        reach = {number for when in whens if when.reach for number in when.reach.given}
        return cls(
            scores=tuple((name, tuple(sorted(found))) for name, found in numbers.items()),
            reach=tuple(sorted(reach)),
            tenants=frozenset(name for when in whens for name in when.tenant or ()),
            categories=frozenset(name for when in asked for name in when.category or ()),
            metadata=tuple(sorted({name for file in files for name in file.metadata})),
            task=any(when.task is not None for when in whens),
            language=any(when.language is not None for when in whens),
            refusal=any(when.refusal is not None for when in asked),
        )

    def cell(self, recorded: Recorded) -> Cell:
        """The cell of a record. What was not judged is told apart by why."""
        scores, facts = recorded.scores, recorded.facts
        found: list[object] = [recorded.safety, facts.origin]
        if self.tenants:
            found.append(recorded.tenant if recorded.tenant in self.tenants else None)
        if self.task:
            found.append(recorded.task)
        if self.language:
            found.append(recorded.language)
        if self.reach:
            reach = facts.reach
            found.append(None if reach is None else bisect_right(self.reach, reach))
        for name in self.metadata:
            value = facts.metadata.get(name)
            found += (type(value), value)  # by type too: in Python 1 is True
        if scores is None:
            found += (recorded.basis, recorded.cause)
            return tuple(found)
        if self.refusal:
            found.append(recorded.refusal)
        if self.categories:
            decoded = decoded_of(recorded)
            found.append(decoded and tuple([name for name in decoded if name in self.categories]))
        if self.scores:
            triple = scores.safe, scores.controversial, scores.unsafe
            found += [
                bisect_right(numbers, score_of(name, triple)) for name, numbers in self.scores
            ]
        return tuple(found)
