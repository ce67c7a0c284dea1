"""The account of a run: which outcomes each record got, matched by `qw-origin`. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

_WHOLE = ""
"""Stands for the task of an outcome of the whole record: a dead letter, or a withdrawal."""


class Account:
    """Records by their origin (`topic/partition/offset`), and the outcomes that named them.

    An outcome has an identity, its `verdict_id` or `dead-letter`, and a task, unless it is of the
    whole record. A record is in order when all its outcomes of one task have one identity, and an
    outcome of the whole record stands alone. Repeats are allowed, after a crash, and counted.
    """

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._expected: dict[str, frozenset[str]] = dict.fromkeys(origins, frozenset())
        self._seen: dict[str, dict[str, Counter[str]]] = {}

    def expect(self, origin: str, tasks: Iterable[str] = ()) -> None:
        """A record that must get its outcome: one of the whole record, or one for each of these
        tasks. Without tasks any outcome will do."""
        self._expected[origin] = frozenset(tasks)

    def saw(self, origin: str, identity: str, task: str | None = None) -> None:
        """One outcome, as it was read from a topic."""
        tasks = self._seen.setdefault(origin, {})
        tasks.setdefault(task or _WHOLE, Counter())[identity] += 1

    @property
    def expected(self) -> int:
        return len(self._expected)

    def answered(self) -> int:
        """How many of the expected records have all their outcomes."""
        return len(self._expected) - len(self.missing())

    def missing(self) -> set[str]:
        """Expected records that lack an outcome."""
        return {origin for origin in self._expected if not self._is_answered(origin)}

    def contradicted(self) -> set[str]:
        """Records whose outcomes differ in identity, or in whether they are of the whole."""
        return {
            origin
            for origin, tasks in self._seen.items()
            if (_WHOLE in tasks and len(tasks) > 1)
            or any(len(identities) > 1 for identities in tasks.values())
        }

    def repeats(self) -> int:
        """Outcomes beyond the first of each task of each record."""
        return sum(
            identities.total() - 1 for tasks in self._seen.values() for identities in tasks.values()
        )

    def _is_answered(self, origin: str) -> bool:
        tasks = self._seen.get(origin)
        return tasks is not None and (_WHOLE in tasks or self._expected[origin] <= tasks.keys())
