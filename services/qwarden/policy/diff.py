"""What another policy would have said of content that was judged already. Pure.

- The old policy's word is the recorded action where that policy's very version gave the verdict. It
  is decided anew where another one did, or where a quota stood between its rule and the action.
- Verdicts that were published twice count once. What was judged anew counts by its first verdict.
  Withdrawals, and what is no policy's word, are left alone and counted.
- Records that no rule tells apart are decided once (`Cells`), so that a million take seconds.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from qwarden.contracts.verdict import Action, Basis
from qwarden.policy.cells import Cells
from qwarden.policy.diff_report import Example, Folding, Report, Tally, order_of
from qwarden.policy.policy import Decided, Policy
from qwarden.policy.records import Recorded, Records, is_always_kept, lacking, text_of
from qwarden.policy.told import told, word_of

NO_CATEGORY, NOT_JUDGED = "none", "not judged"
"""Stand beside the categories."""

_BY_POLICY = frozenset({Basis.GUARD, Basis.QUOTA, Basis.EXPIRED, Basis.DEGRADED})


class RateMissing(ValueError):
    """A sampled record without its sample's rate."""


@dataclass(slots=True)
class _Examples:
    """The records of lowest verdict ids: those are hashes, so it is a sample of them all."""

    most: int
    kept: list[tuple[str, Recorded, bytes | None]] = field(default_factory=list)

    def take(self, recorded: Recorded, content: msgspec.Raw | bytes | None) -> None:
        kept = self.kept
        if len(kept) < self.most or recorded.verdict_id < kept[-1][0]:
            insort(
                kept,
                (recorded.verdict_id, recorded, None if content is None else bytes(content)),
                key=lambda each: each[0],
            )
            del kept[self.most :]


class Comparison:
    """Takes records one by one; `report` may be asked for at any time.

    `examples`: how many records at most are kept for each change of action. `keeps_content`:
    whether the contents of those are kept too.
    """

    def __init__(
        self, old: Policy, new: Policy, *, examples: int = 3, keeps_content: bool = True
    ) -> None:
        self._old = old
        self._new = new
        self._most = examples
        self._keeps_content = keeps_content
        self._cells = Cells.of((old.file, new.file))
        self._reads = frozenset((*old.metadata, *new.metadata))
        self._named_by = {
            version: frozenset(policy.metadata)
            for policy in (old, new)
            for version in (
                policy.standing(serial=0, frozen=False).version,
                policy.standing(serial=0, frozen=True).version,
            )
        }
        self._records = Records()
        self._found: dict[tuple[object, ...], Tally] = {}
        self._examples: dict[tuple[str, str], _Examples] = {}
        self._seen: set[int] = set()
        self._repeated = 0
        self._left: Counter[str] = Counter()

    @property
    def records(self) -> int:
        """How many were compared."""
        return len(self._seen)

    def leave(self, why: str) -> None:
        """A record that cannot be compared."""
        self._left[why] += 1

    def read(self, value: bytes, rate: float | None = None) -> tuple[str, str] | None:
        """Takes a record as it was written, a verdict or evidence. `rate`: of the sample that
        evidence is. Raises `RateMissing`."""
        kind, recorded, content = self._records.read(value)
        if recorded is None:
            self._left[kind] += 1
            return None
        return self.take(recorded, rate=1.0 if kind == "verdict" else rate, content=content)

    def take(
        self,
        recorded: Recorded,
        *,
        rate: float | None = 1.0,
        content: msgspec.Raw | bytes | None = None,
    ) -> tuple[str, str] | None:
        """Takes a record, and gives its old word and its new one; None where it is left alone, or
        was there already.

        `rate`: with which records like this one were kept; what is always kept needs none. Raises
        `RateMissing`.
        """
        if recorded.action is None or recorded.basis not in _BY_POLICY:
            self._left[recorded.basis] += 1
            return None
        if recorded.supersedes is not None:
            self._left["superseding"] += 1
            return None
        if is_always_kept(recorded):
            rate = 1.0
        elif rate is None or not 0 < rate <= 1:
            raise RateMissing(
                "the records hold a sample, and nothing says of which rate; give it, such as 0.01"
            )
        identity = hash(recorded.verdict_id)
        if identity in self._seen:
            self._repeated += 1
            return None
        self._seen.add(identity)
        by = recorded.policy
        own = (by.name, by.version, by.rule, recorded.action) if by else None
        key = own, recorded.basis == Basis.QUOTA, self._cells.cell(recorded)
        tally = self._found.get(key)
        if tally is None:
            tally = self._found[key] = self._tally_of(recorded)
        tally.rows[recorded.tenant, _categories_of(recorded), rate] += 1
        if self._most and tally.is_change:
            examples = self._examples.setdefault(tally.flow, _Examples(self._most))
            examples.take(recorded, content if self._keeps_content else None)
        return tally.flow

    def report(
        self, *, hours: float | None = None, seconds_a_decision: float = 45.0, show: bool = False
    ) -> Report:
        """What has been found. `hours`: over which the records came, where that is known. `show`:
        whether examples have their text, else it is masked."""
        return Folding(self._found.values()).report(
            self._old,
            self._new,
            repeated=self._repeated,
            left=dict(self._left),
            hours=hours,
            seconds_a_decision=seconds_a_decision,
            examples=tuple(self._shown(show)),
        )

    def _tally_of(self, recorded: Recorded) -> Tally:
        unknown = lacking(recorded, self._reads, self._named_by)
        own = self._own_word(recorded)
        old = told(self._old, recorded, unknown) if own is None else own
        new = told(self._new, recorded, unknown)
        return Tally(own is None, old, new, (word_of(old), word_of(new)))

    def _own_word(self, recorded: Recorded) -> Decided | None:
        """What was done, where the old policy's very version said so and no quota bore on it."""
        by = recorded.policy
        if by is None or recorded.action is None or recorded.basis == Basis.QUOTA:
            return None
        if (by.name, by.version) != (self._old.name, self._old.version):
            return None
        is_review = recorded.action is Action.REVIEW
        handling = self._old.handling_of(by.rule) if is_review else None
        return Decided(recorded.action, by.rule, handling)

    def _shown(self, show: bool) -> Iterable[Example]:
        for flow in sorted(self._examples, key=order_of):
            for _, recorded, content in self._examples[flow].kept:
                tally = self._tally_of(recorded)
                scores = recorded.scores
                text = None if content is None else text_of(content)
                yield Example(
                    verdict_id=recorded.verdict_id,
                    tenant=recorded.tenant,
                    event_id=recorded.event_id,
                    task=recorded.task,
                    safety=recorded.safety,
                    scores=(scores.safe, scores.controversial, scores.unsafe) if scores else None,
                    categories=tuple(recorded.categories or ()),
                    old=tally.flow[0],
                    old_rule=tally.old.rule,
                    new=tally.flow[1],
                    new_rule=tally.new.rule,
                    text=text if show or text is None else masked(text),
                )


def masked(text: str, most: int = 60) -> str:
    """The shape of a text, without what it says: each letter and digit is a dot."""
    shape = "".join("·" if each.isalnum() else each for each in " ".join(text.split())[:most])
    return shape + ("…" if len(text) > most else "")


def _categories_of(recorded: Recorded) -> tuple[str, ...]:
    if recorded.safety is None:
        return (NOT_JUDGED,)
    return tuple(recorded.categories or ()) or (NO_CATEGORY,)
