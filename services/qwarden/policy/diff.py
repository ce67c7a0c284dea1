"""What another policy would have said of content that was judged already. Pure.

- A record is read as its rules read it (`records.reading_of`); the guard is not asked again.
- What a record does not say is not guessed: where a rule needs it, the record is undecided.
- The old policy's word is the recorded action where that policy's very version gave the verdict. It
  is decided anew where another one did, or where a quota stood between its rule and the action.
- Verdicts that were published twice count once. What was judged anew counts by its first verdict.
  Withdrawals, and what is no policy's word, are left alone and counted.
- Records that no rule tells apart are decided once (`Cells`), so that a million take seconds.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from qwarden.contracts.verdict import SEVERITY, Action, Basis
from qwarden.policy.cells import Cells
from qwarden.policy.conditions import When, compiled, holds, metadata_fact, unjudged
from qwarden.policy.estimates import Estimate, Share, Sum, added, share
from qwarden.policy.file import Handling, OnExpired, OnOutage, OnUnjudged, PolicyFile
from qwarden.policy.policy import Decided, Policy, Undecided
from qwarden.policy.reading import Circumstances, Reading
from qwarden.policy.records import (
    Recorded,
    Records,
    about_of,
    is_always_kept,
    lacking,
    reading_of,
    text_of,
)

UNDECIDED = "undecided"
"""Stands beside the actions where nothing can be said."""
WORDS: tuple[str, ...] = (*Action, UNDECIDED)
NO_CATEGORY, NOT_JUDGED = "none", "not judged"
"""Stand beside the categories."""
OUTAGE, DEADLINE = "outage", "deadline"
"""Causes for which nothing was judged, where the policy has a key of their own."""

_BY_POLICY = frozenset({Basis.GUARD, Basis.QUOTA, Basis.EXPIRED, Basis.DEGRADED})
_UNTOLD = {
    "views": "the guard might have said something else: records say what it said of the old ones",
    "flagging": "sessions might have been flagged elsewhere: records say where they were",
    "final_look": "the guard might have looked at other sessions: records say what it said",
    "quotas": "neither policy's are counted: actions here are those of the rules",
}
"""Fields of a policy that bear on actions, and why records do not tell how."""
_NOT_DECODED = "its categories were not decoded: P(Safe) was over the guard's floor"
_WAITS = "it would have waited for the guard"


class RateMissing(ValueError):
    """A sampled record without its sample's rate."""


@dataclass(frozen=True, slots=True)
class Untold:
    """A policy's word that is not known: which rule may match or not, and why."""

    rule: str
    reason: str


Told = Decided | Untold


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two policies."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Flow:
    """Records that were `old` and would be `new`: actions, or undecided."""

    old: str
    new: str
    records: Estimate


@dataclass(frozen=True, slots=True)
class RuleFlow:
    """Records whose action would change, by the rules that gave it."""

    old_rule: str
    old: str
    new_rule: str
    new: str
    records: Estimate


@dataclass(frozen=True, slots=True)
class Part:
    """The records of one tenant or category. A record of two categories counts in both."""

    name: str
    records: Estimate
    changed: Estimate
    stricter: Estimate
    milder: Estimate
    undecided: Estimate


@dataclass(frozen=True, slots=True)
class Doubt:
    """Records that are undecided. `side`: `old` or `new`, whose rule it is."""

    side: str
    rule: str
    reason: str
    records: Estimate


@dataclass(frozen=True, slots=True)
class Load:
    """What one queue gets, or all together. `sla_s`: of the new policy, the shortest, else of the
    old one. An hour's figures are null where nobody knows over what time the records came.
    `reviewers`: people who decide all the time, so many seconds each."""

    queue: str
    sla_s: int | None
    old: Estimate
    new: Estimate
    old_an_hour: float | None
    new_an_hour: float | None
    old_reviewers: float | None
    new_reviewers: float | None


@dataclass(frozen=True, slots=True)
class Example:
    """One record whose action would change. `text`: masked, unless it was asked for; null where the
    record has no content."""

    verdict_id: str
    tenant: str
    event_id: str
    task: str | None
    safety: str | None
    scores: tuple[float, float, float] | None
    categories: tuple[str, ...]
    old: str
    old_rule: str
    new: str
    new_rule: str
    text: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """A comparison's result. `recorded`: records whose own action was compared, and `redone`: those
    that the old policy decided anew. `moved`: the same action, and another queue or another
    `meanwhile`. `left`: records that were not compared, by why. `hours`: over which they came.
    `notes`: what else differs and cannot be told from records, a sentence each."""

    old: Side
    new: Side
    records: Estimate
    recorded: int
    redone: int
    repeated: int
    left: Mapping[str, int]
    changed: Estimate
    changed_share: Share
    stricter: Estimate
    milder: Estimate
    moved: Estimate
    undecided: Estimate
    actions: tuple[Flow, ...]
    rules: tuple[RuleFlow, ...]
    categories: tuple[Part, ...]
    tenants: tuple[Part, ...]
    doubts: tuple[Doubt, ...]
    hours: float | None
    seconds_a_decision: float
    queues: tuple[Load, ...]
    reviews: Load
    examples: tuple[Example, ...]
    notes: tuple[str, ...]


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


@dataclass(slots=True)
class _Words:
    """What the two policies say of the records of one cell, and how many of those there are: by
    tenant, categories and rate. `is_redone`: the old one decided anew."""

    is_redone: bool
    old: Told
    new: Told
    flow: tuple[str, str]
    examples: _Examples | None
    rows: defaultdict[tuple[str, tuple[str, ...], float], int] = field(
        default_factory=lambda: defaultdict(int)
    )


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
        self._words: dict[tuple[object, ...], _Words] = {}
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
        words = self._words.get(key)
        if words is None:
            words = self._words[key] = self._words_of(recorded)
        words.rows[recorded.tenant, _categories_of(recorded), rate] += 1
        if words.examples is not None:
            words.examples.take(recorded, content if self._keeps_content else None)
        return words.flow

    def report(
        self, *, hours: float | None = None, seconds_a_decision: float = 45.0, show: bool = False
    ) -> Report:
        """What has been found. `hours`: over which the records came, where that is known. `show`:
        whether examples have their text, else it is masked."""
        return _Folding(self._words.values()).report(
            self._old,
            self._new,
            repeated=self._repeated,
            left=dict(self._left),
            hours=hours,
            seconds_a_decision=seconds_a_decision,
            examples=tuple(self._shown(show)),
        )

    def _words_of(self, recorded: Recorded) -> _Words:
        unknown = lacking(recorded, self._reads, self._named_by)
        own = self._own_word(recorded)
        old = told(self._old, recorded, unknown) if own is None else own
        new = told(self._new, recorded, unknown)
        flow = word_of(old), word_of(new)
        examples = None
        if UNDECIDED not in flow and flow[0] != flow[1] and self._most:
            examples = self._examples.setdefault(flow, _Examples(self._most))
        return _Words(own is None, old, new, flow, examples)

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
        for flow in sorted(self._examples, key=_order):
            for _, recorded, content in self._examples[flow].kept:
                words = self._words_of(recorded)
                scores = recorded.scores
                text = None if content is None else text_of(content)
                yield Example(
                    recorded.verdict_id,
                    recorded.tenant,
                    recorded.event_id,
                    recorded.task,
                    recorded.safety,
                    (scores.safe, scores.controversial, scores.unsafe) if scores else None,
                    tuple(recorded.categories or ()),
                    words.flow[0],
                    words.old.rule,
                    words.flow[1],
                    words.new.rule,
                    text if show or text is None else masked(text),
                )


def told(policy: Policy, recorded: Recorded, unknown: frozenset[str]) -> Told:
    """What a policy says of a record."""
    reading = reading_of(recorded, unknown)
    if reading is not None:
        said = policy.decide_or_tell(reading)
        if isinstance(said, Undecided):
            return Untold(said.rule, _why(policy.file, said.rule, reading))
        return said
    about = about_of(recorded, unknown)
    file = policy.file
    if recorded.cause == DEADLINE:
        return _otherwise("on_expired", file.on_expired, about, policy.expired)
    if recorded.cause == OUTAGE:
        return _otherwise("on_outage", file.on_outage, about, policy.in_outage)
    return _otherwise("on_unjudged", file.on_unjudged, about, policy.unjudged)


def word_of(said: Told) -> str:
    """The action, or that there is none."""
    return UNDECIDED if isinstance(said, Untold) else str(said.action)


def masked(text: str, most: int = 60) -> str:
    """The shape of a text, without what it says: each letter and digit is a dot."""
    shape = "".join("·" if each.isalnum() else each for each in " ".join(text.split())[:most])
    return shape + ("…" if len(text) > most else "")


def _otherwise(
    name: str,
    others: Sequence[OnExpired | OnOutage | OnUnjudged],
    about: Circumstances,
    decide: Callable[[Circumstances], Decided | None],
) -> Told:
    """What is done without a judgement, where the circumstances say so."""
    reading = unjudged(about)
    for each in others:
        matches = holds(compiled(each.when), reading)
        if matches is None:
            return Untold(name, _why_not(each.when, about))
        if matches:
            break
    return decide(about) or Untold(name, _WAITS)


def _why(file: PolicyFile, rule: str, reading: Reading) -> str:
    when = next(each.when for each in file.rules if each.name == rule)
    if reading.categories is None and when.category is not None:
        return _NOT_DECODED
    return _why_not(when, reading.about)


def _why_not(when: When, about: Circumstances) -> str:
    names = [name for name in when.metadata if metadata_fact(name) in about.unknown]
    return f"its facts lack {', '.join(map(metadata_fact, names))}"


def _categories_of(recorded: Recorded) -> tuple[str, ...]:
    if recorded.safety is None:
        return (NOT_JUDGED,)
    return tuple(recorded.categories or ()) or (NO_CATEGORY,)


def _order(flow: tuple[str, str]) -> tuple[int, int]:
    return WORDS.index(flow[0]), WORDS.index(flow[1])


def _handling_of(said: Told) -> Handling | None:
    return said.handling if isinstance(said, Decided) else None


Sums = defaultdict[str, Sum]


@dataclass(slots=True)
class _Parts:
    records: Sums = field(default_factory=lambda: defaultdict(Sum))
    changed: Sums = field(default_factory=lambda: defaultdict(Sum))
    stricter: Sums = field(default_factory=lambda: defaultdict(Sum))
    milder: Sums = field(default_factory=lambda: defaultdict(Sum))
    undecided: Sums = field(default_factory=lambda: defaultdict(Sum))

    def add(self, name: str, rows: Sum, flow: tuple[str, str]) -> None:
        self.records[name] += rows
        if UNDECIDED in flow:
            self.undecided[name] += rows
        elif flow[0] != flow[1]:
            self.changed[name] += rows
            is_stricter = SEVERITY[Action(flow[1])] > SEVERITY[Action(flow[0])]
            (self.stricter if is_stricter else self.milder)[name] += rows

    def told(self, a_record: float) -> tuple[Part, ...]:
        """The parts, those that change most first."""
        names = sorted(
            self.records, key=lambda each: (-self.changed[each].total, -self.records[each].total)
        )
        return tuple(
            Part(
                name,
                *(
                    sums[name].estimate(a_record)
                    for sums in (
                        self.records,
                        self.changed,
                        self.stricter,
                        self.milder,
                        self.undecided,
                    )
                ),
            )
            for name in names
        )


class _Folding:
    """What the policies say of all cells, put together."""

    def __init__(self, cells: Iterable[_Words]) -> None:
        self.whole = _Parts()
        self.categories = _Parts()
        self.tenants = _Parts()
        self.moved = Sum()
        self.recorded = 0
        self.redone = 0
        self.actions: defaultdict[tuple[str, str], Sum] = defaultdict(Sum)
        self.rules: defaultdict[tuple[str, str, str, str], Sum] = defaultdict(Sum)
        self.doubts: defaultdict[tuple[str, str, str], Sum] = defaultdict(Sum)
        self.queued: tuple[Sums, Sums] = (defaultdict(Sum), defaultdict(Sum))
        self.slas: tuple[dict[str, int], dict[str, int]] = ({}, {})
        for words in cells:
            self._add(words)

    def _add(self, words: _Words) -> None:
        flow = words.flow
        rows = Sum()
        for (tenant, categories, rate), count in words.rows.items():
            some = Sum.of(count, rate)
            rows += some
            self.tenants.add(tenant, some, flow)
            for category in categories:
                self.categories.add(category, some, flow)
        if words.is_redone:
            self.redone += rows.rows
        else:
            self.recorded += rows.rows
        self.whole.add("", rows, flow)
        self.actions[flow] += rows
        for side, said in (("old", words.old), ("new", words.new)):
            if isinstance(said, Untold):
                self.doubts[side, said.rule, said.reason] += rows
        if isinstance(words.old, Decided) and isinstance(words.new, Decided):
            if flow[0] != flow[1]:
                self.rules[words.old.rule, flow[0], words.new.rule, flow[1]] += rows
            elif _is_moved(words.old.handling, words.new.handling):
                self.moved += rows
        for queued, slas, said in zip(self.queued, self.slas, (words.old, words.new), strict=True):
            handling = _handling_of(said)
            if handling is not None:
                queued[handling.queue] += rows
                slas[handling.queue] = min(handling.sla, slas.get(handling.queue, handling.sla))

    def report(
        self,
        old: Policy,
        new: Policy,
        *,
        repeated: int,
        left: Mapping[str, int],
        hours: float | None,
        seconds_a_decision: float,
        examples: tuple[Example, ...],
    ) -> Report:
        whole = self.whole.records[""]
        spread = whole.a_record
        (everything,) = self.whole.told(spread)
        return Report(
            Side(old.name, old.version),
            Side(new.name, new.version),
            everything.records,
            self.recorded,
            self.redone,
            repeated,
            left,
            everything.changed,
            share(self.whole.changed[""], whole),
            everything.stricter,
            everything.milder,
            self.moved.estimate(spread),
            everything.undecided,
            tuple(self._flows(spread)),
            tuple(
                RuleFlow(*which, rows.estimate(spread))
                for which, rows in sorted(self.rules.items(), key=lambda each: -each[1].total)
            ),
            self.categories.told(spread),
            self.tenants.told(spread),
            tuple(
                Doubt(*which, rows.estimate(spread))
                for which, rows in sorted(self.doubts.items(), key=lambda each: -each[1].total)
            ),
            hours,
            seconds_a_decision,
            tuple(
                self._load(queue, [queue], spread, hours, seconds_a_decision)
                for queue in sorted({*self.queued[0], *self.queued[1]})
            ),
            self._load(
                "", [*{*self.queued[0], *self.queued[1]}], spread, hours, seconds_a_decision
            ),
            examples,
            tuple(_notes(old.file, new.file)),
        )

    def _flows(self, spread: float) -> Iterable[Flow]:
        for flow in sorted({*self.actions, *((Action.ALLOW, word) for word in WORDS)}, key=_order):
            # Of what was allowed the sample may have missed some. What the old policy decides anew
            # may be any action's: another one has allowed it.
            is_missed = self.redone or flow[0] in (Action.ALLOW, UNDECIDED)
            missed = spread if is_missed else 0.0
            found = self.actions[flow].estimate(missed)
            if found.high:
                yield Flow(str(flow[0]), str(flow[1]), found)

    def _load(
        self,
        name: str,
        queues: Sequence[str],
        spread: float,
        hours: float | None,
        seconds: float,
    ) -> Load:
        old, new = (added(sums[queue] for queue in queues) for sums in self.queued)
        an_hour = [each.total / hours if hours else None for each in (old, new)]
        people = [None if each is None else each * seconds / 3600 for each in an_hour]
        slas = [self.slas[1].get(queue, self.slas[0].get(queue)) for queue in queues]
        known = [each for each in slas if each is not None]
        return Load(
            name,
            min(known) if known else None,
            old.estimate(spread if self.redone else 0.0),
            new.estimate(spread),
            *an_hour,
            *people,
        )


def _notes(old: PolicyFile, new: PolicyFile) -> Iterable[str]:
    """What bears on actions and is not read from records."""
    for name, what in _UNTOLD.items():
        if getattr(old, name) != getattr(new, name):
            yield f"{name} differ, and {what}"


def _is_moved(old: Handling | None, new: Handling | None) -> bool:
    if old is None or new is None:
        return False
    return (old.queue, old.meanwhile) != (new.queue, new.meanwhile)
