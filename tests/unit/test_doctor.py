"""What the doctor makes of figures that no part here gives: three brokers, two guards, a clock that
is wrong. The faults that can be made in a real part are in tests/broker/test_doctor.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from qwarden.contracts import topics
from qwarden.doctor import caches, certificates, clocks, groups, guards, stores
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


def judged_topic(facts: TopicFacts, **configs: str) -> Findings:
    found = Findings("topics")
    changed = replace(facts, configs={**(facts.configs or {}), **dashed(configs)})
    topic_rules.judge(found, changed, NEEDS)
    return found


def dashed(configs: Mapping[str, str]) -> dict[str, str]:
    """Kafka's names, which have dots in them."""
    return {name.replace("_", "."): value for name, value in configs.items()}


def of_ours(name: str) -> TopicFacts:
    """One of the fleet's own topics, as it is made on three brokers."""
    return replace(
        FLEET,
        name=name,
        partitions=topics.partitions_of(name, 12),
        configs=topics.configs_of(name, min_insync_replicas=2),
    )


DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("facts", "configs", "result", "sentence"),
    [
        (replace(FLEET, replicas=1, in_sync=1), {}, Result.WRONG, "can ever be published"),
        (
            replace(FLEET, replicas=1, in_sync=1),
            {"min_insync_replicas": "1"},
            Result.NOTE,
            "one broker alone",
        ),
        (
            replace(of_ours(topics.CONTROL), partitions=3),
            {},
            Result.WRONG,
            "it has 3 partitions and must have one",
        ),
        (
            of_ours(topics.CONTROL),
            {"cleanup_policy": "delete"},
            Result.WRONG,
            "cleanup.policy is delete and must be compact",
        ),
        (
            FLEET,
            {"cleanup_policy": "compact,delete"},
            Result.WRONG,
            "removes records that were not read yet",
        ),
        (
            of_ours(topics.REVIEW),
            {"max_message_bytes": "1031071"},
            Result.WRONG,
            "is 1,031,071 and must be at least 1,031,072",
        ),
        (
            of_ours(topics.CHUNKS),
            {"retention_ms": "3600000"},
            Result.WRONG,
            "for 60 min and a session may last 60 min",
        ),
        (
            of_ours(topics.CHUNKS),
            {"retention_ms": "3600001"},
            Result.NOTE,
            "loses what was not read (promised are 3 days)",
        ),
        (FLEET, {"retention_ms": str(3 * DAY_MS - 1)}, Result.NOTE, "loses what was not read"),
        (FLEET, {"retention_bytes": "0"}, Result.NOTE, "retention.bytes is 0: a flood"),
    ],
)
def test_a_topic_that_stops_or_forgets_what_was_not_read_is_called_good(
    facts: TopicFacts, configs: dict[str, str], result: Result, sentence: str
) -> None:
    finding = only(judged_topic(facts, **configs))
    assert finding.result is result and sentence in finding.sentence


@pytest.mark.parametrize(
    ("facts", "configs", "figures"),
    [
        (FLEET, {}, "12 partitions, 3 of 3 replicas in sync, kept 7 days"),
        (of_ours(topics.CONTROL), {}, "1 partition, 3 of 3 replicas in sync, compacted"),
        (FLEET, {"retention_ms": "-1", "retention_bytes": "-1"}, "kept for ever"),
        (FLEET, {"retention_ms": str(3 * DAY_MS)}, "kept 3 days"),
        # Who reads what a fleet says knows for how long it is needed.
        (of_ours(topics.VERDICTS), {"retention_ms": "1000"}, "kept 1 s"),
        (replace(FLEET, name="shop.comments"), {"max_message_bytes": "1000"}, "kept 7 days"),
    ],
)
def test_a_topic_that_works_is_blamed(
    facts: TopicFacts, configs: dict[str, str], figures: str
) -> None:
    finding = only(judged_topic(facts, **configs))
    assert finding.result is Result.GOOD and figures in finding.sentence


def test_brokers_that_are_down_are_told_twice() -> None:
    found = judged_topic(replace(FLEET, in_sync=0, leaderless=(3,)))
    assert only(found).sentence.startswith("no broker leads its partitions 3,")


def test_a_topic_that_others_make_is_to_be_made_by_our_command() -> None:
    found = Findings("topics")
    topic_rules.missing(found, [topics.CONTENT, "shop.comments"])
    ours, theirs = found.all
    assert ours.result is theirs.result is Result.WRONG
    assert "qwarden topics create" in ours.sentence
    assert "qwarden topics create" not in theirs.sentence
    assert "topics/shop.comments.yaml" in theirs.sentence


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


WEEK_S = 7 * 86_400.0


def judged_group(
    *standing: Standing, topic: str = topics.CONTENT, members: int = 1, now: float = 1e6
) -> Findings:
    found = Findings("groups")
    facts = GroupFacts("moderator", "g", topic, "Stable", members, standing)
    groups.judge(found, facts, now=now, retention_s=WEEK_S)
    return found


def test_a_loss_is_called_good() -> None:
    finding = only(judged_group(Standing(0, 3, 10, 20), Standing(1, 10, 10, 10)))
    assert finding.result is Result.WRONG
    assert "content.events/0 is stopped" in finding.sentence


def test_records_that_retention_takes_soon_are_told_when_they_are_gone() -> None:
    old = Standing(0, 0, 0, 5, waits_since=1e6 - WEEK_S / 2 - 1)
    finding = only(judged_group(old, Standing(1, 0, 0, 5, waits_since=1e6), topic=topics.BACKLOG))
    assert finding.result is Result.WRONG
    assert "10 records wait, the oldest for 3.5 days" in finding.sentence
    assert "in 3.5 days the first are lost" in finding.sentence
    just = replace(old, waits_since=1e6 - WEEK_S / 2)
    assert only(judged_group(just, topic=topics.BACKLOG)).result is Result.GOOD


@pytest.mark.parametrize(
    ("topic", "committed", "end", "result", "sentence"),
    [
        (topics.CONTENT, 0, 0, Result.NOTE, "no moderator is in the group; start one"),
        (topics.CONTENT, None, 0, Result.LEFT_OUT, "no moderator was ever here"),
        (topics.CONTENT, None, 1, Result.WRONG, "the group has no member"),
        (topics.REVIEW, None, 1, Result.NOTE, "nobody decides what is escalated"),
        (topics.EVIDENCE, None, 1, Result.NOTE, "nobody decides what is escalated"),
        (topics.REVIEW, 0, 1, Result.WRONG, "the group has no member"),
    ],
)
def test_a_service_that_nobody_started_is_a_fault_or_one_that_died_is_none(
    topic: str, committed: int | None, end: int, result: Result, sentence: str
) -> None:
    finding = only(judged_group(Standing(0, committed, 0, end), topic=topic, members=0))
    assert finding.result is result and sentence in finding.sentence


def test_records_below_the_topics_beginning_wait() -> None:
    assert [each.waiting for each in (Standing(0, 3, 10, 20), Standing(0, 30, 10, 20))] == [10, 0]
    assert [each.waiting for each in (Standing(0, None, 4, 9), Standing(0, 7, 4, 9))] == [5, 2]


def test_a_group_that_may_not_be_seen_is_not_told_what_to_allow() -> None:
    found = Findings("groups")
    groups.forbidden(found, "g", "describe")
    assert only(found).result is Result.WRONG
    assert "allow Describe and Read on the group g" in only(found).sentence


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


@pytest.mark.parametrize(
    ("newest", "result", "sentence"),
    [
        (None, Result.LEFT_OUT, "no record whose timestamp"),
        (1010.1, Result.WRONG, "is 10 s in the future: the clock of its producer"),
        (1010.0, Result.NOTE, "is 10 s in the future"),
        (1001.0, Result.GOOD, "is 0 ms old"),
        (940.0, Result.GOOD, "is 60 s old"),
    ],
)
def test_a_producer_whose_clock_is_ahead_is_not_found(
    newest: float | None, result: Result, sentence: str
) -> None:
    found = Findings("clocks")
    clocks.judge_records(found, topics.CONTENT, newest, now=1000.0)
    assert only(found).result is result and sentence in only(found).sentence


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


# Certificates.


@pytest.mark.parametrize(
    ("left_days", "result", "sentence"),
    [
        (0, Result.WRONG, "it ended 0 ms ago"),
        (-5, Result.WRONG, "it ended 5 days ago"),
        (2.9, Result.WRONG, "in 2.9 days; renew it now"),
        (3, Result.NOTE, "in 3 days; renew it, and"),
        (29, Result.NOTE, "in 29 days; renew it, and"),
        (30, Result.GOOD, "it ends in 30 days"),
    ],
)
def test_a_certificate_ends_before_anybody_was_told(
    left_days: float, result: Result, sentence: str
) -> None:
    found = Findings("certificates")
    certificates.judge(found, "kafka", 1e9 + left_days * 86_400, now=1e9)
    assert only(found).result is result and sentence in only(found).sentence


# The cache and the database.


@pytest.mark.parametrize(
    ("info", "answer_s", "result", "sentence"),
    [
        ({}, 0.001, Result.GOOD, "it answers in 1 ms; 1 MiB of 64 MiB used, allkeys-lru"),
        ({"role": "slave"}, 0.001, Result.WRONG, "name the primary"),
        ({"role": "master"}, 0.001, Result.GOOD, "1 MiB of 64 MiB"),
        ({"maxmemory": 0}, 0.001, Result.NOTE, "it uses 1 MiB and grows"),
        ({"maxmemory_policy": "noeviction"}, 0.001, Result.WRONG, "at 64 MiB (it uses 1 MiB)"),
        ({}, 0.126, Result.WRONG, "it answers in 126 ms, and the services wait 250 ms"),
        ({}, 0.125, Result.GOOD, "it answers in 125 ms"),
        ({"redis_version": "6.0.0"}, 0.001, Result.GOOD, "allkeys-lru"),
    ],
)
def test_a_cache_that_refuses_or_stalls_is_called_good(
    info: dict[str, object], answer_s: float, result: Result, sentence: str
) -> None:
    found = Findings("redis")
    well = {
        "redis_version": "7.2.4",
        "maxmemory": 64 * 2**20,
        "used_memory": 2**20,
        "maxmemory_policy": "allkeys-lru",
    }
    caches.judge(found, "server", well | info, answer_s=answer_s, timeout_s=0.25)
    assert only(found).result is result and sentence in only(found).sentence


OWN = Schema("2", "2", 1, Fit.OWN)


def judged_store(schema: Schema = OWN, **facts: Any) -> dict[str, Finding]:
    found = Findings("database")
    stores.judge(found, StoreFacts(schema, **facts), now=1000.0)
    return {each.about: each for each in found.all}


def test_a_database_of_another_version_is_read_on() -> None:
    empty = judged_store(Schema(None, "2", None, Fit.EMPTY), encrypted=True)
    assert empty.keys() == {"schema", "server"}, "nothing of its tables is judged"
    assert empty["schema"].result is Result.NOTE
    later = judged_store(Schema("3", "2", 2, Fit.LATER), encrypted=True)
    assert later["schema"].result is Result.NOTE and "later schema 3" in later["schema"].sentence
    too_new = judged_store(Schema("9", "2", 8, Fit.TOO_NEW), encrypted=True)
    assert too_new.keys() == {"schema", "server"}
    assert too_new["schema"].result is Result.WRONG
    assert "the version of schema 8" in too_new["schema"].sentence


@pytest.mark.parametrize(
    ("encrypted", "result", "sentence"),
    [
        (None, Result.NOTE, "it is a SQLite file"),
        (True, Result.GOOD, "it takes writes, with TLS"),
        (False, Result.GOOD, "it takes writes, in plain"),
    ],
)
def test_who_reads_along_is_not_told(encrypted: bool | None, result: Result, sentence: str) -> None:
    server = judged_store(encrypted=encrypted)["server"]
    assert server.result is result and sentence in server.sentence


@pytest.mark.parametrize(
    ("facts", "about", "result", "sentence"),
    [
        ({"tail_rows": 1234}, "audit log", Result.GOOD, "its last 1,234 sealed rows"),
        ({"tail_broken_at": 0}, "audit log", Result.WRONG, "the row at position 0 is not"),
        ({"unsealed_since": 939.0}, "audit log", Result.WRONG, "no place in its chain for 61 s"),
        ({"unsealed_since": 940.0}, "audit log", Result.GOOD, "as they were sealed"),
        ({"due_since": 939.0}, "outbox", Result.WRONG, "decisions are due for 61 s"),
        ({"due_since": 940.0}, "outbox", Result.GOOD, "no decision is late"),
    ],
)
def test_a_log_or_an_outbox_that_stands_still_is_called_good(
    facts: dict[str, Any], about: str, result: Result, sentence: str
) -> None:
    finding = judged_store(encrypted=True, **facts)[about]
    assert finding.result is result and sentence in finding.sentence


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


def test_the_summary_counts_what_was_left_out_or_hides_a_note() -> None:
    every = [_finding(each) for each in (*Result, Result.WRONG)]
    assert summary(every) == "Of 5 things looked at: 2 wrong, 1 away; 1 to know of."
    assert summary([_finding(Result.AWAY)]) == "Of 1 things looked at: 1 away."
    assert summary([_finding(Result.LEFT_OUT)]) == "Of 0 things looked at: nothing is wrong."


def test_what_is_so_of_many_things_is_said_of_each() -> None:
    found = Findings("topics")
    found.good("a", "it is well")
    found.note("b", "it is well")
    found.good("c", "it is well")
    found.good("d", "it is better")
    found.join()
    assert found.all == [
        Finding("topics", "a, c", Result.GOOD, "it is well"),
        Finding("topics", "b", Result.NOTE, "it is well"),
        Finding("topics", "d", Result.GOOD, "it is better"),
    ]


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
    seconds = (0.35, 1, 12, 119, 120, 240, 7199, 7200, 43_200, 172_799, 172_800, float("inf"))
    assert [span(each) for each in seconds] == [
        "350 ms", "1 s", "12 s", "119 s", "2 min", "4 min", "120 min", "2 h", "12 h", "48 h",
        "2 days", "for ever",
    ]  # fmt: skip
