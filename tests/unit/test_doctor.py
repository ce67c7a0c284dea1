"""What the doctor makes of figures that no part here gives: three brokers, two guards, a clock that
is wrong. The faults that can be made in a real part are in tests/broker/test_doctor.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest
from aiokafka.errors import KafkaConnectionError

from qwarden.contracts import topics
from qwarden.doctor import caches, clocks, groups, guards, stores
from qwarden.doctor import topics as topic_rules
from qwarden.doctor.durations import span
from qwarden.doctor.examination import Check, Patient, examine, patient_of
from qwarden.doctor.finding import Finding, Findings, Result, exit_code, summary
from qwarden.doctor.groups import GroupFacts, Standing
from qwarden.doctor.guards import ReplicaFacts
from qwarden.doctor.stores import StoreFacts
from qwarden.doctor.topics import Needs, TopicFacts
from qwarden.review.store.migrating import Fit, Schema
from qwarden.settings import load

NEEDS = Needs(max_event_bytes=topics.MAX_EVENT_BYTES, session_max_age_s=3600)
FLEET = TopicFacts(
    topics.CONTENT,
    partitions=12,
    replicas=3,
    in_sync=3,
    leaderless=(),
    configs=topics.configs_of(topics.CONTENT, min_insync_replicas=2),
)


def only(found: Findings) -> Finding:
    assert len(found.all) == 1, found.all
    return found.all[0]


# Topics.


@pytest.mark.parametrize("name", topics.ALL)
def test_the_topics_that_we_make_ourselves_are_good(name: str) -> None:
    found = Findings("topics")
    configs = topics.configs_of(name, min_insync_replicas=2)
    facts = replace(FLEET, name=name, partitions=topics.partitions_of(name, 12), configs=configs)
    topic_rules.judge(found, facts, NEEDS)
    assert only(found).result is Result.GOOD, found.all


@pytest.mark.parametrize(
    ("facts", "result", "sentence"),
    [
        (replace(FLEET, in_sync=1), Result.WRONG, "a partition has 1 replicas in sync"),
        (replace(FLEET, leaderless=(3, 7)), Result.WRONG, "no broker leads its partitions 3, 7"),
        (replace(FLEET, replicas=2, in_sync=2), Result.NOTE, "stops publishing; add a replica"),
        (replace(FLEET, configs=None), Result.NOTE, "allow DescribeConfigs"),
    ],
)
def test_a_broker_that_is_down_is_told_by_its_topics(
    facts: TopicFacts, result: Result, sentence: str
) -> None:
    found = Findings("topics")
    topic_rules.judge(found, facts, NEEDS)
    assert only(found).result is result and sentence in only(found).sentence


@pytest.mark.parametrize(
    ("configs", "sentence"),
    [
        ({"min.insync.replicas": "1"}, "can be lost with one broker; set it to 2"),
        ({"unclean.leader.election.enable": "true"}, "lose what was acknowledged"),
    ],
)
def test_what_loses_acknowledged_records_is_noted(
    configs: Mapping[str, str], sentence: str
) -> None:
    found = Findings("topics")
    topic_rules.judge(found, replace(FLEET, configs={**(FLEET.configs or {}), **configs}), NEEDS)
    assert sentence in only(found).sentence


def test_a_topic_of_others_is_not_blamed_for_its_owners_sizes() -> None:
    found = Findings("topics")
    facts = replace(FLEET, name="shop.comments", configs={"max.message.bytes": "1000"})
    topic_rules.judge(found, facts, NEEDS)
    assert not [each for each in found.all if "max.message.bytes" in each.sentence]


# Groups.


def test_a_group_that_reads_on_is_good_however_much_waits_for_a_moment() -> None:
    found = Findings("groups")
    standing = (Standing(0, 10, 0, 5000, waits_since=95.0), Standing(1, None, 5, 5))
    facts = GroupFacts("moderator", "g", topics.CONTENT, "Stable", 2, standing)
    groups.judge(found, facts, now=100.0, retention_s=7 * 86_400)
    assert only(found).result is Result.GOOD
    assert "4,990 records wait, the oldest for 5 s" in only(found).sentence


@pytest.mark.parametrize(
    ("topic", "result"), [(topics.CONTENT, Result.WRONG), (topics.BACKLOG, Result.GOOD)]
)
def test_fresh_records_that_wait_are_no_fault_or_the_backlog_s_are(
    topic: str, result: Result
) -> None:
    found = Findings("groups")
    facts = GroupFacts("moderator", "g", topic, "Stable", 1, (Standing(0, 0, 0, 1, 100.0),))
    groups.judge(found, facts, now=100.0 + groups.LATE_S + 1, retention_s=7 * 86_400)
    assert only(found).result is result


def test_a_lane_that_nobody_has_ever_used_is_no_fault() -> None:
    found = Findings("groups")
    facts = GroupFacts("streamer", "g", topics.CHUNKS, "Dead", 0, (Standing(0, None, 0, 0),))
    groups.judge(found, facts, now=0.0, retention_s=1.0)
    assert only(found).result is Result.LEFT_OUT


# Clocks.


@pytest.mark.parametrize(
    ("ahead_s", "took_s", "result"),
    [
        (0.2, 0.01, Result.GOOD),
        (3.0, 0.01, Result.NOTE),
        (-60.0, 0.01, Result.WRONG),
        (3.0, 8.0, Result.GOOD),
    ],
    ids=["agrees", "off", "wrong", "asked-too-slowly-to-know"],
)
def test_a_clock_is_blamed_only_for_what_is_sure(
    ahead_s: float, took_s: float, result: Result
) -> None:
    found = Findings("clocks")
    sent, came = 1000.0, 1000.0 + took_s
    said = (sent + came) / 2 + ahead_s
    clocks.judge(found, clocks.reading("Redis", sent=sent, said=said, came=came))
    assert only(found).result is result
    if result is Result.WRONG:
        assert "it is 60 s behind the clock here" in only(found).sentence


# Guards.


def test_replicas_of_different_revisions_are_named() -> None:
    found = Findings("triton")
    answers = [ReplicaFacts("10.0.0.1:8001", "aa", 0.1), ReplicaFacts("10.0.0.2:8001", "bb", 9.0)]
    guards.judge(found, answers, model="qwen3guard_gen")
    good, slow, wrong = found.all
    assert (good.result, slow.result, wrong.result) == (Result.GOOD, Result.NOTE, Result.WRONG)
    assert "aa: 10.0.0.1:8001; bb: 10.0.0.2:8001" in wrong.sentence


def test_a_guard_whose_one_replica_is_away_is_away() -> None:
    found = Findings("triton")
    answers = [ReplicaFacts("a", "aa", 0.1), ReplicaFacts("b", None, 0.0, "it does not answer")]
    guards.judge(found, answers, model="qwen3guard_gen")
    assert [each.result for each in found.all] == [Result.GOOD, Result.AWAY]


# The cache and the database.


def test_an_old_redis_is_refused() -> None:
    found = Findings("redis")
    info = {"redis_version": "5.0.7", "maxmemory": 1, "maxmemory_policy": "allkeys-lru"}
    caches.judge(found, "server", info, answer_s=0.001, timeout_s=0.25)
    assert "it is Redis 5.0.7" in only(found).sentence


def test_a_standby_and_an_earlier_schema_are_said() -> None:
    found = Findings("database")
    schema = Schema("1", "2", None, Fit.BEHIND)
    stores.judge(found, StoreFacts(schema, is_standby=True, encrypted=True), now=0.0)
    told = {each.about: each for each in found.all}
    assert told["schema"].result is Result.NOTE
    assert told["server"].result is Result.WRONG
    assert "target_session_attrs" in told["server"].sentence


def test_duties_that_nobody_does_are_named() -> None:
    found = Findings("database")
    schema = Schema("2", "2", 1, Fit.OWN)
    held = {"publish": 1000.0, "seal": 100.0}
    stores.judge(found, StoreFacts(schema, encrypted=True, duties=held), now=1000.0)
    assert "nobody does seal now" in next(e.sentence for e in found.all if e.about == "duties")


# The whole.


def _finding(result: Result) -> Finding:
    return Finding("a", "b", result, "c")


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([], 0),
        ([Result.GOOD, Result.NOTE, Result.LEFT_OUT], 0),
        ([Result.GOOD, Result.WRONG], 1),
        ([Result.WRONG, Result.AWAY], 3),
    ],
)
def test_the_exit_code_is_that_of_the_worst(results: list[Result], code: int) -> None:
    found = [_finding(each) for each in results]
    assert exit_code(found) == code
    assert ("nothing is wrong" in summary(found)) is (code == 0)


@pytest.fixture
def patient() -> Patient:
    return patient_of(load({"QWARDEN_CONTENT_KEY": "00" * 32}), has_key=True)


async def test_a_check_that_hangs_ends_at_its_time_and_the_others_are_told(
    patient: Patient,
) -> None:
    async def hangs(found: Findings, patient: Patient) -> None:
        await asyncio.Event().wait()

    async def well(found: Findings, patient: Patient) -> None:
        found.good("it", "is well")

    checks = {
        "hangs": Check(hangs, within_s=lambda settings: 0.05),
        "after": Check(well, needs="hangs"),
        "well": Check(well),
    }
    told = [some async for some in examine(patient, ["after", "well"], checks)]
    assert [(each.check, each.result) for some in told for each in some] == [
        ("hangs", Result.AWAY),
        ("after", Result.LEFT_OUT),
        ("well", Result.GOOD),
    ]


async def test_a_broker_that_goes_away_in_the_middle_is_a_sentence(patient: Patient) -> None:
    async def loses(found: Findings, patient: Patient) -> None:
        raise KafkaConnectionError("it was there")

    told = [some async for some in examine(patient, ["it"], {"it": Check(loses)})]
    assert [each.result for some in told for each in some] == [Result.AWAY]


async def test_a_fault_of_our_own_is_not_hidden(patient: Patient) -> None:
    async def breaks(found: Findings, patient: Patient) -> None:
        raise KeyError("a bug of ours")

    async def waits(found: Findings, patient: Patient) -> None:
        await asyncio.Event().wait()

    began = time.monotonic()
    with pytest.raises(KeyError):
        async for _ in examine(patient, ["a", "b"], {"a": Check(breaks), "b": Check(waits)}):
            pass
    assert time.monotonic() - began < 10


def test_times_are_written_as_people_say_them() -> None:
    assert [span(each) for each in (0.35, 12, 240, 7200, 43_200, 7 * 86_400, float("inf"))] == [
        "350 ms", "12 s", "4 min", "2 h", "12 h", "7 days", "for ever"
    ]  # fmt: skip
