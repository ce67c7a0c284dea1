"""The account: which records came, which outcomes they got, and what is wrong with them. Pure.

Records and outcomes are matched by origin (`topic/partition/offset`), so that a producer's own
repeat is two events and no duplicate. A record of the backlog that names an origin is that event
again. Invariants, each held by `tests/property/test_verify.py`:
- An event is judged where one of its records lies below its partition's bound: the backlog's where
  it was relayed, since a relay makes the record done where it came from; else its own. A replay
  owes an outcome of its own, beside the dead letter that it repeats.
- A judged event lacks nothing where it has a dead letter, or a withdrawal that is whole, or for
  each of its tasks a verdict that is whole. A verdict is whole where its escalation and its
  evidence are there, as far as it says itself that it owes them. Of several verdicts on one task
  one must be whole: a crash may tear an outcome whose repeat has another id.
- A verdict that supersedes another is no outcome of its event, and no revision: it comes on top of
  one that is whole, when a person takes that back. It must be whole itself: published last, no
  crash may tear it.
- Whatever a correct fleet does (crashes, redeliveries, relays), nothing is found but duplicates and
  revisions. Whatever is left out, altered or published too early is found, and nothing else.
- Neither the order in which topics are read nor that of the calls changes what is found, but for
  which of two values under one id counts as the first.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

from qwarden.contracts.escalation import escalation_of, must_be_kept
from qwarden.contracts.headers import parsed_origin
from qwarden.contracts.verdict import Verdict
from qwarden.delivery.window import Partition
from qwarden.verify.report import Example, Finding, Report, Row

T = TypeVar("T")

Bounds = Mapping[Partition, int]
"""By input partition the offset below which its records are judged; without one none is."""

_LONGEST_KEY = 64
"""Bytes of a key that are kept: of a longer one its beginning and its hash."""
_DIGEST_BYTES = 16
"""Of the hash: no two keys of a topic share 128 bits, and half of the 64 are left to be read."""


class Place(NamedTuple):
    """Where a record stands."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    def is_below(self, bounds: Bounds) -> bool:
        return self.offset < bounds.get(Partition(self.topic, self.partition), 0)


def place_of(origin: str) -> Place | None:
    """What an origin names, or None for what is none."""
    parsed = parsed_origin(origin)
    place = None if parsed is None else Place(*parsed)
    return place if str(place) == origin else None


class _Said:
    """One verdict id of one event: what of it was read, how often, and what goes with it."""

    __slots__ = (
        "escalations", "evidence", "first", "id", "is_superseding", "owes", "task", "verdicts",
    )  # fmt: skip

    def __init__(self, verdict: Verdict) -> None:
        self.id = verdict.verdict_id
        self.task = verdict.task
        self.is_superseding = verdict.supersedes is not None
        self.owes = (escalation_of(verdict) is not None, must_be_kept(verdict))
        self.verdicts = self.escalations = self.evidence = 0
        self.first: tuple[int, int] | None = None
        """Partition and offset of the first on the verdicts' topic."""

    @property
    def repeats(self) -> int:
        return max(self.verdicts, self.escalations, self.evidence) - 1

    def lacks(self) -> tuple[Finding, ...]:
        escalation, evidence = self.owes
        lacking = (
            (not self.verdicts, Finding.NO_VERDICT),
            (escalation and not self.escalations, Finding.NO_ESCALATION),
            (evidence and not self.evidence, Finding.NO_EVIDENCE),
        )
        return tuple(finding for is_lacking, finding in lacking if is_lacking)


class _Event:
    """One origin: its records and its outcomes. 100,000 of them are kept: slots, and tuples that
    are mostly empty or of one."""

    __slots__ = ("came", "key", "letters", "relays", "replays", "said", "tasks")

    def __init__(self) -> None:
        self.came = False
        """Whether its own record was read, and not only relays or outcomes that name it."""
        self.key: bytes | None = None
        self.tasks: tuple[str, ...] = ()
        self.relays: tuple[Place, ...] = ()
        self.replays: tuple[tuple[str, Place], ...] = ()
        """The dead letter that each repeats, and where it stands."""
        self.letters = 0
        self.said: tuple[_Said, ...] = ()

    @property
    def has_outcome(self) -> bool:
        return self.letters > 0 or bool(self.said)

    def due(self, origin: Place, bounds: Bounds) -> int:
        """How many outcomes it must have got by now."""
        if self.relays:
            owed = any(relay.is_below(bounds) for relay in self.relays)
        else:
            owed = self.came and origin.is_below(bounds)
        return owed + len({letter for letter, at in self.replays if at.is_below(bounds)})

    def lacks(self, due: int) -> tuple[Finding, ...]:
        """What it lacks, once for each task that lacks it, and what its superseding verdicts do."""
        return self._lacking_outcomes(due) + tuple(
            finding
            for each in self.said
            if each.is_superseding and each.verdicts
            for finding in each.lacks()
        )

    def _lacking_outcomes(self, due: int) -> tuple[Finding, ...]:
        if self.letters >= due:
            return ()
        by_task = self._by_task()
        whole = by_task.pop(None, ())
        if self.tasks:
            said = [by_task.get(task, ()) for task in self.tasks]
        else:  # What its tasks are is not known: any outcome will do.
            said = [(*whole, *(each for group in by_task.values() for each in group))]
        lacking = tuple(finding for group in said for finding in _least_lacking(group))
        if whole:
            lacking = min(lacking, _least_lacking(whole), key=len)
        got = max(sum(each.verdicts for each in whole), min(map(_verdicts, said)))
        return lacking or (() if self.letters + got >= due else (Finding.NO_VERDICT,))

    def repeats(self) -> int:
        """Outcomes that were published before; a replay may be dead-lettered again."""
        letters = max(0, self.letters - 1 - len({letter for letter, _ in self.replays}))
        return letters + sum(each.repeats for each in self.said)

    def revisions(self) -> int:
        """Outcomes beyond the first of each task, and kinds of outcome beyond the first: of the
        whole event a dead letter or a withdrawal, else verdicts on its tasks."""
        by_task = self._by_task()
        outcomes = sum(map(len, by_task.values()))
        kinds = (
            self.letters > 0 and not self.replays,
            None in by_task,
            any(task is not None for task in by_task),
        )
        return outcomes - len(by_task) + max(0, sum(kinds) - 1)

    def span(self) -> tuple[int, int, int] | None:
        """The verdicts' partition where it was answered, the offset of its first verdict, and
        where the last of its tasks got its first one; None where it was answered in several."""
        firsts: dict[str | None, tuple[int, int]] = {}
        for each in self.said:
            if each.first is not None and not each.is_superseding:
                firsts[each.task] = min(firsts.get(each.task, each.first), each.first)
        if len({partition for partition, _ in firsts.values()}) != 1:
            return None
        partition, start = min(firsts.values())
        return partition, start, max([start, *(firsts[t][1] for t in self.tasks if t in firsts)])

    def _by_task(self) -> dict[str | None, tuple[_Said, ...]]:
        """Its outcomes."""
        found: dict[str | None, tuple[_Said, ...]] = {}
        for each in self.said:
            if each.is_superseding:
                continue
            found[each.task] = (*found.get(each.task, ()), each)
        return found


def _least_lacking(said: Iterable[_Said]) -> tuple[Finding, ...]:
    return min((each.lacks() for each in said), key=len, default=(Finding.NO_VERDICT,))


def _verdicts(said: Iterable[_Said]) -> int:
    return sum(each.verdicts for each in said)


class Account:
    """Takes what is read, record by record and in any order, and says at any time what it amounts
    to. An event with all three outcomes takes 800 bytes, and 1,300 while it is judged, whatever the
    size of its content (measured)."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._events: dict[str, _Event] = {}
        self._records: Counter[Partition] = Counter()
        self._meanings: dict[str, tuple[object, ...]] = {}
        self._different: dict[tuple[str, str], None] = {}
        self._kept: dict[tuple[object, ...], tuple[object, ...]] = {}
        for origin in origins:
            self.expect(origin)

    # What is read.

    def expect(self, origin: str, tasks: Iterable[str] = ()) -> None:
        """A record that must get its outcome: one of the whole record, or one for each of these
        tasks. Without tasks any outcome will do."""
        event = self._event(origin)
        event.came = True
        event.tasks = self._once(tuple(tasks))

    def record(
        self,
        place: Place,
        *,
        key: bytes | None,
        tasks: Iterable[str],
        origin: str | None = None,
        replay_of: str | None = None,
    ) -> None:
        """A record of an input topic; `origin`: of the event that it puts on this lane again;
        `replay_of`: the dead letter that a person sent again with it."""
        self._records[Partition(place.topic, place.partition)] += 1
        if origin is None:
            origin = str(place)
            self.expect(origin, tasks)
            event = self._event(origin)
        else:
            event = self._event(origin)
            event.tasks = self._once(tuple(tasks)) or event.tasks
            if replay_of is None:
                event.relays = (*event.relays, place)
            else:
                event.replays = (*event.replays, (replay_of, place))
        event.key = None if key is None else _kept(key)

    def verdict(self, origin: str, verdict: Verdict, at: tuple[int, int] | None = None) -> None:
        """A record of `moderation.verdicts`, at this partition and offset. Without it nothing is
        said of the order."""
        said = self._said(origin, verdict)
        said.verdicts += 1
        if at is not None:
            said.first = min(said.first or at, at)

    def escalation(self, origin: str, verdict: Verdict) -> None:
        """A record of `moderation.review`."""
        self._said(origin, verdict).escalations += 1

    def evidence(self, origin: str, verdict: Verdict) -> None:
        """A record of `moderation.evidence`."""
        self._said(origin, verdict).evidence += 1

    def dead_letter(self, origin: str) -> None:
        self._event(origin).letters += 1

    # What it amounts to, while a run goes on.

    @property
    def expected(self) -> int:
        return sum(event.came for event in self._events.values())

    def answered(self) -> int:
        """How many of the expected records have their dead letter or all their verdicts."""
        return self.expected - len(self.missing())

    def missing(self) -> set[str]:
        """Expected records that lack a verdict, wherever they stand."""
        return {
            origin
            for origin, event in self._events.items()
            if event.came and Finding.NO_VERDICT in event.lacks(1)
        }

    def contradicted(self) -> set[str]:
        """Records with two outcomes that differ: in id, in kind, or in value under one id."""
        revised = {origin for origin, event in self._events.items() if event.revisions()}
        return revised | {origin for origin, _ in self._different}

    def repeats(self) -> int:
        """Outcomes that were published again."""
        return sum(event.repeats() for event in self._events.values())

    # What it amounts to in the end.

    def judge(self, bounds: Bounds, examples: int = 5) -> Report:
        """Everything that is wrong below the bounds, with up to so many examples of each kind."""
        sheet = _Sheet(examples)
        for partition in {*bounds, *self._records}:
            sheet.add(partition)
        for origin, event in self._events.items():
            place = place_of(origin)
            if place is None or not (event.came or event.relays or event.replays):
                sheet.unmatched += 1
                continue
            partition = Partition(place.topic, place.partition)
            sheet.add(partition)
            due = event.due(place, bounds)
            if not due:
                sheet.ahead[partition] += event.has_outcome
                continue
            sheet.judged[partition] += 1
            counts = Counter(event.lacks(due))
            counts[Finding.DUPLICATED] = event.repeats()
            counts[Finding.REVISED] = event.revisions()
            counts[Finding.DIFFERENT] = sum(
                (origin, each.id) in self._different for each in event.said
            )
            for finding, count in counts.items():
                if count:
                    sheet.note(finding, partition, _example(finding, origin, event), count)
        for partition, early, late in self._overtaken(bounds):
            example = _example(Finding.DISORDERED, early, self._events[early], late)
            sheet.note(Finding.DISORDERED, partition, example, 1)
        return sheet.report(self._records, bounds)

    def _overtaken(self, bounds: Bounds) -> Iterator[tuple[Partition, str, str]]:
        """By lane's partition and key the first event that was published before an earlier one,
        and that one. Both are due."""
        arrivals = []
        for origin, event in self._events.items():
            own = place_of(origin)
            if event.key is None or own is None or not event.due(own, bounds):
                continue
            if event.letters or event.replays:
                continue  # Its first outcome may be the letter, on another topic.
            span = event.span()
            if span is not None:
                arrivals.append((min(event.relays, default=own), span, origin))
        arrivals.sort()
        last: dict[tuple[str, int, bytes], tuple[int, int, str] | None] = {}
        for place, (out, start, end), origin in arrivals:
            event = self._events[origin]
            assert event.key is not None
            lane_key = (place.topic, place.partition, event.key)
            before = last.get(lane_key, (out, -1, origin))
            if before is None:
                continue  # One finding a key.
            if before[0] != out:
                # Its topic has grown by partitions: no order between them.
                last[lane_key] = (out, end, origin)
            elif start < before[1]:
                if event.relays and (event.repeats() or event.revisions()):
                    continue  # Judged before it was relayed: it came by both lanes.
                last[lane_key] = None
                yield Partition(place.topic, place.partition), origin, before[2]
            else:
                last[lane_key] = (out, end, origin)

    def _event(self, origin: str) -> _Event:
        event = self._events.get(origin)
        if event is None:
            event = self._events[origin] = _Event()
        return event

    def _said(self, origin: str, verdict: Verdict) -> _Said:
        identity = verdict.verdict_id
        categories = None if verdict.categories is None else tuple(verdict.categories)
        meaning = self._once((verdict.safety, categories, verdict.action))
        if self._meanings.setdefault(identity, meaning) != meaning:
            self._different[origin, identity] = None
        event = self._event(origin)
        for said in event.said:
            if said.id == identity:
                return said
        said = _Said(verdict)
        event.said = (*event.said, said)
        return said

    def _once(self, value: tuple[T, ...]) -> tuple[T, ...]:
        """The same tuple for equal ones: there are few, and one of each is kept."""
        return self._kept.setdefault(value, value)  # type: ignore[return-value]


class _Sheet:
    """What is counted while an account is judged."""

    def __init__(self, examples: int) -> None:
        self._examples = examples
        self._kept: dict[Finding, list[Example]] = {finding: [] for finding in Finding}
        self._found: dict[Partition, Counter[Finding]] = {}
        self.judged: Counter[Partition] = Counter()
        self.ahead: Counter[Partition] = Counter()
        self.unmatched = 0

    def add(self, partition: Partition) -> None:
        """A line for this partition."""
        self._found.setdefault(partition, Counter())

    def note(self, finding: Finding, partition: Partition, example: Example, count: int) -> None:
        self._found[partition][finding] += count
        if len(self._kept[finding]) < self._examples:
            self._kept[finding].append(example)

    def report(self, records: Counter[Partition], bounds: Bounds) -> Report:
        total: Counter[Finding] = Counter()
        for found in self._found.values():
            total += found
        return Report(
            rows=tuple(
                Row(
                    topic=partition.topic,
                    partition=partition.partition,
                    records=records[partition],
                    below=bounds.get(partition),
                    judged=self.judged[partition],
                    ahead=self.ahead[partition],
                    found=_of_each(self._found[partition]),
                )
                for partition in sorted(self._found)
            ),
            found=_of_each(total),
            unmatched=self.unmatched,
            examples=tuple(example for kept in self._kept.values() for example in kept),
        )


def _of_each(found: Counter[Finding]) -> dict[Finding, int]:
    return {finding: found[finding] for finding in Finding}


def _example(finding: Finding, origin: str, event: _Event, beside: str | None = None) -> Example:
    key = None if event.key is None else repr(event.key)[2:-1]
    return Example(finding, origin, key, tuple(each.id for each in event.said), beside)


def _kept(key: bytes) -> bytes:
    if len(key) <= _LONGEST_KEY:
        return key
    digest = hashlib.blake2b(key, digest_size=_DIGEST_BYTES).hexdigest().encode()
    return key[: _LONGEST_KEY - len(digest)] + digest
