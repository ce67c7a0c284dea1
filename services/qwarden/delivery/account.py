"""The account of a run: which outcome each record got, matched by `qw-origin`. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class Account:
    """Records by their origin (`topic/partition/offset`), and the outcomes that named them.

    An outcome's identity is its `verdict_id`, or `dead-letter` for a dead letter: a record is in
    order when all its outcomes have one identity. Repeats are allowed, after a crash, and counted.
    """

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._expected = set(origins)
        self._seen: dict[str, Counter[str]] = {}

    def expect(self, origin: str) -> None:
        """A record that must get its outcome."""
        self._expected.add(origin)

    def saw(self, origin: str, identity: str) -> None:
        """One outcome, as it was read from a topic."""
        self._seen.setdefault(origin, Counter())[identity] += 1

    @property
    def expected(self) -> int:
        return len(self._expected)

    def answered(self) -> int:
        """How many of the expected records have an outcome."""
        return len(self._expected & self._seen.keys())

    def missing(self) -> set[str]:
        """Expected records without an outcome."""
        return self._expected - self._seen.keys()

    def contradicted(self) -> set[str]:
        """Records whose outcomes differ in identity."""
        return {origin for origin, identities in self._seen.items() if len(identities) > 1}

    def repeats(self) -> int:
        """Outcomes beyond the first of each record."""
        return sum(sum(identities.values()) - 1 for identities in self._seen.values())
