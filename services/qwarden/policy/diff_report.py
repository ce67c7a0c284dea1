"""What a comparison of two policies has found: each record counted once, in groups. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from qwarden.contracts.verdict import SEVERITY, Action
from qwarden.policy.estimates import Estimate, Share, Sum, added, share
from qwarden.policy.file import Handling, PolicyFile
from qwarden.policy.policy import Decided, Policy
from qwarden.policy.told import UNDECIDED, WORDS, Told, Untold

_UNTOLD = {
    "views": "the guard might have said something else: records say what it said of the old ones",
    "flagging": "sessions might have been flagged elsewhere: records say where they were",
    "final_look": "the guard might have looked at other sessions: records say what it said",
    "quotas": "neither policy's are counted: actions here are those of the rules",
}
"""Fields of a policy that bear on actions, and why records do not tell how."""


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
class Tally:
    """What the two policies say of records that no rule tells apart, and how many of those there
    are: by tenant, categories and rate. `is_redone`: the old one decided anew. `flow`: the two
    words."""

    is_redone: bool
    old: Told
    new: Told
    flow: tuple[str, str]
    rows: defaultdict[tuple[str, tuple[str, ...], float], int] = field(
        default_factory=lambda: defaultdict(int)
    )

    @property
    def is_change(self) -> bool:
        """Whether both policies say something, and not the same action."""
        return UNDECIDED not in self.flow and self.flow[0] != self.flow[1]


def order_of(flow: tuple[str, str]) -> tuple[int, int]:
    """Where a flow stands in a table: by the old word, then by the new one."""
    return WORDS.index(flow[0]), WORDS.index(flow[1])


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


class Folding:
    """All tallies, put together."""

    def __init__(self, tallies: Iterable[Tally]) -> None:
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
        for tally in tallies:
            self._add(tally)

    def _add(self, tally: Tally) -> None:
        flow = tally.flow
        rows = Sum()
        for (tenant, categories, rate), count in tally.rows.items():
            some = Sum.of(count, rate)
            rows += some
            self.tenants.add(tenant, some, flow)
            for category in categories:
                self.categories.add(category, some, flow)
        if tally.is_redone:
            self.redone += rows.rows
        else:
            self.recorded += rows.rows
        self.whole.add("", rows, flow)
        self.actions[flow] += rows
        for side, said in (("old", tally.old), ("new", tally.new)):
            if isinstance(said, Untold):
                self.doubts[side, said.rule, said.reason] += rows
        if isinstance(tally.old, Decided) and isinstance(tally.new, Decided):
            if flow[0] != flow[1]:
                self.rules[tally.old.rule, flow[0], tally.new.rule, flow[1]] += rows
            elif _is_moved(tally.old.handling, tally.new.handling):
                self.moved += rows
        for queued, slas, said in zip(self.queued, self.slas, (tally.old, tally.new), strict=True):
            handling = said.handling if isinstance(said, Decided) else None
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
        queues = sorted({*self.queued[0], *self.queued[1]})
        return Report(
            old=Side(old.name, old.version),
            new=Side(new.name, new.version),
            records=everything.records,
            recorded=self.recorded,
            redone=self.redone,
            repeated=repeated,
            left=left,
            changed=everything.changed,
            changed_share=share(self.whole.changed[""], whole),
            stricter=everything.stricter,
            milder=everything.milder,
            moved=self.moved.estimate(spread),
            undecided=everything.undecided,
            actions=tuple(self._flows(spread)),
            rules=tuple(
                RuleFlow(*which, rows.estimate(spread))
                for which, rows in sorted(self.rules.items(), key=lambda each: -each[1].total)
            ),
            categories=self.categories.told(spread),
            tenants=self.tenants.told(spread),
            doubts=tuple(
                Doubt(*which, rows.estimate(spread))
                for which, rows in sorted(self.doubts.items(), key=lambda each: -each[1].total)
            ),
            hours=hours,
            seconds_a_decision=seconds_a_decision,
            queues=tuple(
                self._load(queue, [queue], spread, hours, seconds_a_decision) for queue in queues
            ),
            reviews=self._load("", queues, spread, hours, seconds_a_decision),
            examples=examples,
            notes=tuple(_notes(old.file, new.file)),
        )

    def _flows(self, spread: float) -> Iterable[Flow]:
        for flow in sorted(
            {*self.actions, *((Action.ALLOW, word) for word in WORDS)}, key=order_of
        ):
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
