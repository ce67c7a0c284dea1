"""Whether a topic is as the fleet needs it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qwarden.contracts import topics
from qwarden.delivery.group_lag import retention_of
from qwarden.doctor.durations import span
from qwarden.doctor.finding import Findings

OUTAGE_S = 3 * 86_400.0
"""The longest outage that is promised to lose nothing: a weekend and the day after it."""

_CONSUMED = frozenset(
    {topics.CONTENT, topics.BACKLOG, topics.CHUNKS, topics.REVIEW, topics.EVIDENCE}
)
"""What somebody of the fleet reads on from a committed offset."""


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """What the broker says of a topic. `replicas`, `in_sync`: of the partition that has the fewest;
    `leaderless`: partitions without a leader; `configs`: by Kafka's names, None where this client
    may not read them."""

    name: str
    partitions: int
    replicas: int
    in_sync: int
    leaderless: tuple[int, ...]
    configs: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class Needs:
    """What the settings ask of the topics."""

    max_event_bytes: int
    session_max_age_s: float


def judge(found: Findings, facts: TopicFacts, needs: Needs) -> None:
    """One topic of the fleet's own, or one that has a file in QWARDEN_POLICY__PATH."""
    before = len(found.all)
    _partitions(found, facts)
    if facts.configs is None:
        found.note(
            facts.name,
            "its configuration may not be read by this user, so retention and sizes are not "
            "checked; allow DescribeConfigs on it",
        )
    else:
        _durability(found, facts, facts.configs)
        _sizes(found, facts, facts.configs, needs)
        _keeping(found, facts, facts.configs, needs)
    if len(found.all) == before:
        found.good(facts.name, _figures(facts))


def missing(found: Findings, names: list[str]) -> None:
    """Topics that the broker does not show."""
    for name in names:
        if name in topics.ALL:
            fix = "make it with: qwarden topics create; or let this user describe it"
        else:
            fix = (
                f"topics/{name}.yaml in QWARDEN_POLICY__PATH names it: have its owner make it, or "
                "remove the file"
            )
        found.wrong(name, f"the broker shows no such topic; {fix}")


def _partitions(found: Findings, facts: TopicFacts) -> None:
    if facts.leaderless:
        listed = ", ".join(map(str, facts.leaderless))
        found.wrong(
            facts.name,
            f"no broker leads its partitions {listed}, so they can be neither read nor written; "
            "bring back the brokers that hold them",
        )
    if facts.name in topics.COMPACTED and facts.partitions != 1:
        found.wrong(
            facts.name,
            f"it has {facts.partitions} partitions and must have one, so that everybody reads one "
            "order; delete it, and make it with: qwarden topics create",
        )


def _durability(found: Findings, facts: TopicFacts, configs: Mapping[str, str]) -> None:
    least = int(configs.get("min.insync.replicas", 1))
    if facts.in_sync < least:
        if facts.replicas < least:
            found.wrong(
                facts.name,
                f"min.insync.replicas is {least} and a partition has {facts.replicas} of them, so "
                "that nothing can ever be published to it; set it lower, or add replicas",
            )
        elif not facts.leaderless:
            found.wrong(
                facts.name,
                f"a partition has {facts.in_sync} replicas in sync and min.insync.replicas is "
                f"{least}, so that nothing can be published to it now; bring back the brokers that "
                "lag or are down",
            )
    elif facts.replicas == 1:
        found.note(
            facts.name,
            "each partition stands on one broker alone; where that is lost, so are its records "
            "(three replicas and min.insync.replicas 2 outlive one)",
        )
    elif least == 1:
        found.note(
            facts.name,
            f"min.insync.replicas is 1 with {facts.replicas} replicas: what was acknowledged can "
            "be lost with one broker; set it to 2",
        )
    elif facts.replicas == least:
        found.note(
            facts.name,
            f"min.insync.replicas is {least} of {facts.replicas} replicas: the restart of any "
            "broker stops publishing; add a replica",
        )
    if configs.get("unclean.leader.election.enable") == "true":
        found.note(
            facts.name,
            "unclean.leader.election.enable is true: a replica that lags may become the leader and "
            "lose what was acknowledged; set it to false",
        )


def _sizes(found: Findings, facts: TopicFacts, configs: Mapping[str, str], needs: Needs) -> None:
    if facts.name not in topics.ALL or "max.message.bytes" not in configs:
        return  # its owner bounds what they publish
    wanted = topics.configs_of(
        facts.name, min_insync_replicas=1, max_event_bytes=needs.max_event_bytes
    )
    least, there = int(wanted["max.message.bytes"]), int(configs["max.message.bytes"])
    if there < least:
        found.wrong(
            facts.name,
            f"max.message.bytes is {there:,} and must be at least {least:,}, or what is made of "
            f"events of up to {needs.max_event_bytes:,} bytes finds no room there; set it with "
            f"kafka-configs.sh --alter --topic {facts.name} --add-config max.message.bytes={least}",
        )


def _keeping(found: Findings, facts: TopicFacts, configs: Mapping[str, str], needs: Needs) -> None:
    policy = configs.get("cleanup.policy", "delete")
    if facts.name in topics.COMPACTED:
        if policy != "compact":
            found.wrong(
                facts.name,
                f"cleanup.policy is {policy} and must be compact, or what is in force is forgotten "
                "when it gets old; set it with kafka-configs.sh --alter "
                f"--topic {facts.name} --add-config cleanup.policy=compact",
            )
        return
    if "compact" in policy:
        found.wrong(
            facts.name,
            f"cleanup.policy is {policy}, which removes records that were not read yet, or that "
            f"are kept on purpose; set it with kafka-configs.sh --alter --topic {facts.name} "
            "--add-config cleanup.policy=delete",
        )
    if facts.name in topics.ALL and facts.name not in _CONSUMED | set(topics.KEPT):
        return  # a fleet goes on without what it has said; who reads it knows for how long
    retention_s = retention_of(configs)
    if facts.name == topics.CHUNKS and retention_s <= needs.session_max_age_s:
        found.wrong(
            facts.name,
            f"it keeps records for {span(retention_s)} and a session may last "
            f"{span(needs.session_max_age_s)} (QWARDEN_STREAMER__MAX_AGE_S), so that its beginning "
            "is gone when it is read again after a rebalance; keep them longer: retention.ms",
        )
    elif retention_s < OUTAGE_S:
        found.note(
            facts.name,
            f"it keeps records for {span(retention_s)}: an outage that lasts longer loses what was "
            f"not read (promised are {span(OUTAGE_S)}); keep them longer: retention.ms",
        )
    if int(configs.get("retention.bytes", -1)) >= 0:
        found.note(
            facts.name,
            f"retention.bytes is {int(configs['retention.bytes']):,}: a flood removes records that "
            "were not read yet, however young; set it to -1",
        )


def _figures(facts: TopicFacts) -> str:
    configs = facts.configs or {}
    kept = (
        "compacted"
        if configs.get("cleanup.policy") == "compact"
        else f"kept {span(retention_of(configs))}"
    )
    return (
        f"{facts.partitions} partition{'s' if facts.partitions > 1 else ''}, {facts.in_sync} of "
        f"{facts.replicas} replicas in sync, {kept}"
    )
