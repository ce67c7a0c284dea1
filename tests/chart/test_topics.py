"""The topics that a release makes: by its Job, and by Strimzi's operator, one list for both."""

from __future__ import annotations

from typing import Any

import pytest

from chart import command_line
from chart.releases import (
    BASE,
    REQUIRED,
    SHARED_GPU,
    Release,
    Render,
    Values,
    at,
    env,
    merged,
)
from qwarden.contracts import topics

STRIMZI = merged(BASE, {"topics": {"create": "strimzi", "strimzi": {"clusterLabel": "main"}}})
NUMBERS: list[Values] = [
    {},
    {
        "topics": {
            "partitions": 48,
            "replicationFactor": 5,
            "minInsyncReplicas": 4,
            "retentionHours": 720,
            "keptHours": 9000,
        },
        "moderator": {"env": [{"name": "QWARDEN_MODERATOR__MAX_EVENT_BYTES", "value": "50000"}]},
    },
]
"""The chart's own, and others for each."""
OWN: dict[str, Any] = {
    "partitions": 12,
    "replicationFactor": 3,
    "minInsyncReplicas": 2,
    "retentionHours": topics.RETENTION_HOURS,
    "keptHours": topics.KEPT_HOURS,
}


def numbers_of(values: Values) -> tuple[dict[str, Any], int]:
    """Of the topics, and the largest event."""
    further = values.get("moderator", {}).get("env", [])
    largest = int(further[0]["value"]) if further else topics.MAX_EVENT_BYTES
    return {**OWN, **values.get("topics", {})}, largest


@pytest.mark.parametrize("values", NUMBERS, ids=["own", "others"])
def test_a_topic_that_strimzi_makes_otherwise_than_the_job(render: Render, values: Values) -> None:
    numbers, largest = numbers_of(values)
    release = render(merged(STRIMZI, values))
    made = {each["metadata"]["name"]: each for each in release.kind("KafkaTopic")}
    assert set(made) == set(topics.ALL)
    for name, each in made.items():
        assert each["metadata"]["labels"]["strimzi.io/cluster"] == "main"
        spec = each["spec"]
        assert spec["partitions"] == topics.partitions_of(name, numbers["partitions"])
        assert spec["replicas"] == numbers["replicationFactor"]
        assert {key: str(value) for key, value in spec["config"].items()} == topics.configs_of(
            name,
            min_insync_replicas=numbers["minInsyncReplicas"],
            max_event_bytes=largest,
            retention_hours=numbers["retentionHours"],
            kept_hours=numbers["keptHours"],
        )


@pytest.mark.parametrize("values", NUMBERS, ids=["own", "others"])
def test_topics_made_with_other_numbers_than_the_values_say(render: Render, values: Values) -> None:
    numbers, largest = numbers_of(values)
    container = render(merged(BASE, values)).container("topics")
    assert container["args"] == [
        *("topics", "create"),
        *("--partitions", str(numbers["partitions"])),
        *("--replication-factor", str(numbers["replicationFactor"])),
        *("--min-insync-replicas", str(numbers["minInsyncReplicas"])),
        *("--retention-hours", str(numbers["retentionHours"])),
        *("--kept-hours", str(numbers["keptHours"])),
    ]
    assert command_line.parse(tuple(container["args"])) == "topics create"
    assert env(container)["QWARDEN_MODERATOR__MAX_EVENT_BYTES"] == str(largest)


def test_a_number_that_yaml_writes_as_a_float(render: Render) -> None:
    """Helm reads numbers as floats; seven digits and more it writes as 1e+06 where it may."""
    values = {"topics": {"partitions": 1_200_000, "keptHours": 87_600_000}}
    arguments = render(merged(BASE, values)).container("topics")["args"]
    assert not any("e+" in each for each in arguments)
    (decisions,) = (
        each
        for each in render(merged(STRIMZI, values)).kind("KafkaTopic")
        if each["metadata"]["name"] == topics.DECISIONS
    )
    assert decisions["spec"]["config"]["retention.ms"] == 87_600_000 * 3_600_000


def test_a_chunk_that_its_topic_does_not_take(render: Render) -> None:
    """The topics take what the service takes that takes most."""

    def largest(moderator: str, streamer: str, *, enabled: bool) -> str:
        given = {"moderator": moderator, "streamer": streamer}
        values: Values = {
            service: {
                "env": [{"name": f"QWARDEN_{service.upper()}__MAX_EVENT_BYTES", "value": size}]
            }
            for service, size in given.items()
        }
        values["streamer"]["enabled"] = enabled
        container = render(merged(REQUIRED, SHARED_GPU, values)).container("topics")
        found: str = env(container)["QWARDEN_MODERATOR__MAX_EVENT_BYTES"]
        return found

    assert largest("50000", "2000000", enabled=True) == "2000000"
    assert largest("60000", "50000", enabled=True) == "60000"
    assert largest("50000", "2000000", enabled=False) == "50000"


def test_an_uninstalled_release_that_takes_every_record_with_it(render: Render) -> None:
    for each in render(STRIMZI).kind("KafkaTopic"):
        assert each["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_a_topic_that_strimzi_s_operator_never_sees(render: Render) -> None:
    elsewhere = merged(STRIMZI, at("topics.strimzi.namespace", "kafka"))
    for values, namespace in ((STRIMZI, "moderation"), (elsewhere, "kafka")):
        for each in render(values).kind("KafkaTopic"):
            assert each["metadata"]["namespace"] == namespace


def test_topics_that_two_make_or_that_somebody_makes_against_the_values(render: Render) -> None:
    def makers(release: Release) -> tuple[bool, bool]:
        jobs = [each["metadata"]["name"] for each in release.kind("Job")]
        return any("topics" in name for name in jobs), bool(release.kind("KafkaTopic"))

    assert makers(render(BASE)) == (True, False)
    assert makers(render(STRIMZI)) == (False, True)
    assert makers(render(merged(BASE, at("topics.create", "none")))) == (False, False)


def test_a_topic_for_a_strimzi_that_is_not_named(helm: Any, render: Render) -> None:
    with pytest.raises(helm.HelmRenderError, match=r"topics.strimzi.clusterLabel is empty: .*\.$"):
        render(merged(BASE, at("topics.create", "strimzi")))


def test_a_retention_under_the_longest_outage_that_is_promised() -> None:
    """A weekend and the day after it; and what people go back to as long as the ledger is kept."""
    from qwarden.settings import Review

    assert topics.RETENTION_HOURS >= 2 * 3 * 24
    assert Review().keep_days * 24 <= topics.KEPT_HOURS
    decisions = topics.configs_of(topics.DECISIONS, min_insync_replicas=2)
    verdicts = topics.configs_of(topics.VERDICTS, min_insync_replicas=2)
    assert int(decisions["retention.ms"]) >= int(verdicts["retention.ms"])


def test_a_record_that_its_next_topic_does_not_take() -> None:
    """What carries a topic's content on takes 64 KiB more than that topic."""
    limit = {
        name: int(topics.configs_of(name, min_insync_replicas=2)["max.message.bytes"])
        for name in topics.ALL
    }
    for name in (topics.BACKLOG, topics.REVIEW, topics.EVIDENCE, topics.DEAD_LETTERS):
        for origin in (topics.CONTENT, topics.CHUNKS):
            assert limit[name] == limit[origin] + 64 * 1024
