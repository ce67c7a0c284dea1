"""The account against a fleet that loses nothing, and against one planted fault at a time.

The fleet of these tests keeps what design.md promises: each lane publishes a key in the order of
arrival, commits only below what is done, and starts again at the committed offset, from wherever
it was torn. Everything else is left to chance.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from examples import examples
from qwarden.contracts.escalation import escalation_of, must_be_kept
from qwarden.contracts.verdict import Verdict
from qwarden.delivery.window import Partition
from qwarden.verify.account import Account, Place
from qwarden.verify.report import FAULTS, Finding
from unit.builders import verdict, withdrawal

CONTENT, BACKLOG = "content.events", "content.backlog"
KEYS = (None, b"a", b"b")
TASKS = (("prompt",), ("response", "thinking"), ("thinking",))
SAID: tuple[dict[str, object], ...] = (
    {},
    {"action": "block", "safety": "Unsafe"},
    {"action": "review", "safety": "Controversial"},
    {"edit": 2},
    {"basis": "degraded", "action": "review"},
)


@dataclass(frozen=True)
class Record:
    """A record of an input topic, and what becomes of it."""

    place: Place
    origin: str
    key: bytes | None
    tasks: tuple[str, ...]
    kind: str
    """`judged`, `broken`, `deleted`, or `fickle`: at times the guard crashes of it."""
    said: int
    replay_of: str | None = None


@dataclass(frozen=True)
class Publication:
    """A record of an output topic."""

    topic: str
    origin: str
    verdict: Verdict | None = None
    at: tuple[int, int] | None = None

    @property
    def identity(self) -> tuple[str, str]:
        return self.origin, self.verdict.verdict_id if self.verdict else ""


@dataclass(frozen=True)
class Chances:
    """What this fleet comes through."""

    crashes: bool = True
    relays: bool = True
    revisions: bool = True
    unfinished: bool = True


@dataclass
class Fleet:
    """One run of a fleet. `log`: all that it published, in time."""

    rng: random.Random
    chances: Chances
    lanes: dict[Partition, list[Record]] = field(default_factory=dict)
    committed: dict[Partition, int] = field(default_factory=dict)
    log: list[Publication] = field(default_factory=list)
    verdicts: list[int] = field(default_factory=lambda: [0, 0])
    letters: int = 0

    def produce(self, count: int) -> None:
        for topic in (CONTENT, BACKLOG):
            self.lanes |= {Partition(topic, number): [] for number in (0, 1)}
        for _ in range(count):
            partition = self.rng.randrange(2)
            lane = self.lanes[Partition(CONTENT, partition)]
            place = Place(CONTENT, partition, 2 * len(lane))  # Offsets have holes.
            kind = self.rng.choice(("judged", "judged", "judged", "broken", "deleted", "fickle"))
            tasks = self.rng.choice(TASKS) if kind in ("judged", "fickle") else ()
            said = self.rng.randrange(len(SAID))
            key = self.rng.choice(KEYS)
            lane.append(Record(place, str(place), key, tasks, kind, said))

    def run(self) -> None:
        """All lanes at once; the backlog's once more when nothing is relayed any more."""
        active = [self.consume(partition) for partition in self.lanes]
        while active:
            lane = self.rng.choice(active)
            if next(lane, None) is None:
                active.remove(lane)
        for partition in self.lanes:
            if partition.topic == BACKLOG:
                for _ in self.consume(partition):
                    pass

    def consume(self, partition: Partition) -> Iterator[bool]:
        """One partition's owners, one after the other."""
        records = self.lanes[partition]
        owners = self.rng.randint(1, 3) if self.chances.crashes else 1
        for owner in range(owners):
            done = sum(r.place.offset < self.committed.get(partition, 0) for r in records)
            batch = records[done:]
            left = dict.fromkeys(batch, 0)
            messages = []
            for record in self.judged_in_some_order(batch):
                owed = list(self.owed(record))
                left[record] = len(owed)
                messages += [(record, message) for message in owed]
            ends_well = owner == owners - 1 and not (
                self.chances.unfinished and self.rng.random() < 0.3
            )
            cut = len(messages) if ends_well else self.rng.randint(0, len(messages))
            for record, message in messages[:cut]:
                self.publish(record, message)
                left[record] -= 1
                yield True
            watermark = done
            for record in batch:
                if left[record]:
                    break
                watermark += 1
            if not ends_well:
                watermark = self.rng.randint(done, watermark)
            self.committed[partition] = records[watermark - 1].place.offset + 1 if watermark else 0

    def judged_in_some_order(self, batch: list[Record]) -> list[Record]:
        """The batch in any order that keeps each key's."""
        shuffled = batch.copy()
        self.rng.shuffle(shuffled)
        queues = {key: [r for r in batch if r.key == key] for key in KEYS if key is not None}
        return [r if r.key is None else queues[r.key].pop(0) for r in shuffled]

    def owed(self, record: Record) -> Iterator[Publication]:
        relayed = self.chances.relays and record.kind != "deleted" and self.rng.random() < 0.3
        if record.place.topic == CONTENT and relayed:
            yield Publication(BACKLOG, record.origin)
            return
        crashes = record.kind == "fickle" and self.rng.random() < 0.5
        if record.kind == "broken" or (crashes and self.chances.revisions):
            yield Publication("dead letter", record.origin)
        elif record.kind == "deleted":
            yield from self.all_of(record.origin, withdrawal(f"{record.origin}-gone"))
        else:
            version = self.rng.randrange(2) if self.chances.revisions else 0
            said = SAID[(record.said + version) % len(SAID)]
            for task in record.tasks:
                identity = f"{record.origin}-{task}-{version}"
                yield from self.all_of(record.origin, verdict(identity, task=task, **said))

    def all_of(self, origin: str, said: Verdict) -> Iterator[Publication]:
        yield Publication("verdict", origin, said)
        if escalation_of(said):
            yield Publication("escalation", origin, said)
        if must_be_kept(said) or (said.action == "allow" and self.rng.random() < 0.1):
            yield Publication("evidence", origin, said)

    def publish(self, record: Record, message: Publication) -> None:
        if message.topic == BACKLOG:
            self.relay(record)
            return
        if message.topic == "verdict":
            partition = 0 if record.key == b"a" else 1
            message = replace(message, at=(partition, self.verdicts[partition]))
            self.verdicts[partition] += 1
        self.log.append(message)
        if message.topic == "dead letter":
            self.letters += 1
            if self.chances.relays and not record.replay_of and self.rng.random() < 0.3:
                # A person sends it again, and after a crash of the command once more.
                for _ in range(self.rng.randint(1, 2)):
                    self.relay(record, f"moderation.dead-letters/0/{self.letters}")

    def relay(self, record: Record, replay_of: str | None = None) -> None:
        lane = self.lanes[Partition(BACKLOG, record.place.partition)]
        place = Place(BACKLOG, record.place.partition, len(lane))
        lane.append(replace(record, place=place, replay_of=replay_of))


def found(fleet: Fleet, log: list[Publication]) -> dict[Finding, int]:
    """What an account says of a log, whatever the order in which its topics are read."""
    account = Account()
    calls: list[Record | Publication] = [
        *(each for lane in fleet.lanes.values() for each in lane),
        *log,
    ]
    fleet.rng.shuffle(calls)
    for each in calls:
        if isinstance(each, Record):
            account.record(
                each.place,
                key=each.key,
                tasks=each.tasks,
                origin=None if each.place.topic == CONTENT else each.origin,
                replay_of=each.replay_of,
            )
        elif each.topic == "verdict":
            assert each.verdict is not None
            account.verdict(each.origin, each.verdict, each.at)
        elif each.topic == "dead letter":
            account.dead_letter(each.origin)
        else:
            assert each.verdict is not None
            take = account.escalation if each.topic == "escalation" else account.evidence
            take(each.origin, each.verdict)
    report = account.judge(fleet.committed)
    assert sum(row.records for row in report.rows) == sum(map(len, fleet.lanes.values()))
    return report.found


@st.composite
def fleets(draw: st.DrawFn, chances: Chances) -> Fleet:
    fleet = Fleet(draw(st.randoms(use_true_random=False)), chances)
    fleet.produce(draw(st.integers(0, 12)))
    fleet.run()
    return fleet


CALM = Chances(crashes=False, revisions=False, unfinished=False)
NO_REVISIONS = Chances(revisions=False, unfinished=False)


@pytest.mark.long
@settings(max_examples=examples(400))
@given(fleets(Chances()))
def test_a_fleet_that_loses_nothing_is_accused(fleet: Fleet) -> None:
    faults = {each: count for each, count in found(fleet, fleet.log).items() if each in FAULTS}
    assert not any(faults.values()), faults


@pytest.mark.long
@settings(max_examples=examples(100))
@given(fleets(CALM))
def test_a_fleet_that_nothing_happened_to_repeats_something(fleet: Fleet) -> None:
    repeats = len({r.origin for lane in fleet.lanes.values() for r in lane if r.replay_of})
    assert set(found(fleet, fleet.log).values()) == {0} or repeats


@pytest.mark.long
@settings(max_examples=examples(100))
@given(fleets(NO_REVISIONS), st.sampled_from(["verdict", "escalation", "evidence"]))
def test_an_outcome_that_is_missing_is_not_missed(fleet: Fleet, topic: str) -> None:
    finding = {
        "verdict": Finding.NO_VERDICT,
        "escalation": Finding.NO_ESCALATION,
        "evidence": Finding.NO_EVIDENCE,
    }[topic]
    candidates = sorted(
        {
            each.identity
            for each in fleet.log
            if each.verdict
            and (topic != "evidence" or must_be_kept(each.verdict))
            and each.topic == topic
        }
    )
    assume(candidates)
    lost = fleet.rng.choice(candidates)
    log = [each for each in fleet.log if (each.topic, each.identity) != (topic, lost)]
    before, after = found(fleet, fleet.log), found(fleet, log)
    assert without_repeats(after) == without_repeats(before) | {finding: 1}


@pytest.mark.long
@settings(max_examples=examples(100))
@given(fleets(NO_REVISIONS))
def test_a_record_whose_only_trace_is_lost_is_not_missed(fleet: Fleet) -> None:
    origins = sorted({each.origin for each in fleet.log})
    assume(origins)
    lost = fleet.rng.choice(origins)
    (record,) = [r for p in (0, 1) for r in fleet.lanes[Partition(CONTENT, p)] if r.origin == lost]
    log = [each for each in fleet.log if each.origin != lost]
    after = found(fleet, log)
    assert without_repeats(after) == no_findings() | {Finding.NO_VERDICT: len(record.tasks) or 1}


@pytest.mark.long
@settings(max_examples=examples(100))
@given(fleets(Chances(unfinished=False)))
def test_a_second_value_under_one_id_passes_for_a_repeat(fleet: Fleet) -> None:
    carriers = [each for each in fleet.log if each.verdict]
    assume(carriers)
    chosen = fleet.rng.choice(carriers)
    assert chosen.verdict is not None
    altered = msgspec.structs.replace(chosen.verdict, categories=["PII"])
    log = [*fleet.log, replace(chosen, verdict=altered)]
    before, after = found(fleet, fleet.log), found(fleet, log)
    assert without_repeats(after) == without_repeats(before) | {Finding.DIFFERENT: 1}


@pytest.mark.long
@settings(max_examples=examples(100))
@given(fleets(Chances(unfinished=False)))
def test_a_repeat_or_a_second_id_is_a_fault_or_goes_unseen(fleet: Fleet) -> None:
    verdicts = [each for each in fleet.log if each.topic == "verdict" and each.verdict]
    assume(verdicts)
    chosen = fleet.rng.choice(verdicts)
    assert chosen.verdict is not None
    before = found(fleet, fleet.log)
    most = max(
        sum(each.identity == chosen.identity and each.topic == topic for each in fleet.log)
        for topic in ("escalation", "evidence")
    )
    said = sum(each.identity == chosen.identity for each in verdicts)
    repeats = [replace(chosen, at=(5, n)) for n in range(9)]
    log = fleet.log + repeats
    more = max(most, said + 9) - max(most, said)
    assert found(fleet, log) == before | {Finding.DUPLICATED: before[Finding.DUPLICATED] + more}

    other = msgspec.structs.replace(
        chosen.verdict, verdict_id="other", action="allow", basis="guard", edit=0
    )
    if chosen.verdict.task is not None:
        log = [*fleet.log, replace(chosen, verdict=other, at=None)]
        assert found(fleet, log) == before | {Finding.REVISED: before[Finding.REVISED] + 1}


@pytest.mark.long
@settings(max_examples=examples(100))
@given(fleets(CALM))
def test_two_records_of_one_key_that_changed_places_are_overlooked(fleet: Fleet) -> None:
    replayed = {r.origin for lane in fleet.lanes.values() for r in lane if r.replay_of}
    relayed = {r.origin for lane in fleet.lanes.values() for r in lane if r.place.topic == BACKLOG}
    firsts: dict[tuple[object, ...], list[list[int]]] = {}
    for partition, lane in fleet.lanes.items():
        for record in lane:
            if record.key is None or record.origin in replayed:
                continue
            if partition.topic == CONTENT and record.origin in relayed:
                continue
            own = [
                number
                for number, each in enumerate(fleet.log)
                if each.topic == "verdict" and each.origin == record.origin
            ]
            if own:
                firsts.setdefault((partition, record.key), []).append(own)
    pairs = [
        pair
        for group in firsts.values()
        for pair in pairwise(group)
        if len(pair[0]) == len(pair[1]) == 1
    ]
    assume(pairs)
    ((early,), (late,)) = fleet.rng.choice(pairs)
    log = fleet.log.copy()
    log[early] = replace(log[early], at=fleet.log[late].at)
    log[late] = replace(log[late], at=fleet.log[early].at)
    assert without_repeats(found(fleet, log)) == no_findings() | {Finding.DISORDERED: 1}


def no_findings() -> dict[Finding, int]:
    return dict.fromkeys(FAULTS, 0)


def without_repeats(findings: dict[Finding, int]) -> dict[Finding, int]:
    return {finding: findings[finding] for finding in FAULTS}
