"""Where the fields of a policy are written, also those of rules that it takes from another file."""

from __future__ import annotations

from dataclasses import dataclass

from qwarden.policy.document import Marks, Path


@dataclass(frozen=True, slots=True)
class Places:
    """`own`: of the policy's own file. `rules`: of each rule in the order in which they are asked,
    the marks of its file and its number there."""

    own: Marks
    rules: tuple[tuple[Marks, int], ...]

    @classmethod
    def of(cls, marks: Marks, rules: int) -> Places:
        return cls(marks, tuple((marks, index) for index in range(rules)))

    @classmethod
    def nowhere(cls, name: str, rules: int) -> Places:
        """Of a policy that was not read from a file of its own."""
        return cls.of(Marks(name), rules)

    def sentence(self, path: Path, reason: str) -> str:
        return self.own.sentence(path, reason)

    def of_rule(self, rule: int, path: Path, reason: str) -> str:
        """A sentence at a field of a rule, by its number in the order in which they are asked."""
        marks, index = self.rules[rule]
        return marks.sentence(("rules", str(index), *path), reason)
