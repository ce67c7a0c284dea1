"""Topics: what is kept, for how long, and how much a record of one may hold."""

from __future__ import annotations

import pytest

from qwarden.contracts import topics


@pytest.mark.parametrize("name", topics.ALL)
def test_a_topic_does_not_hold_what_its_origin_takes(name: str) -> None:
    most = int(topics.configs_of(name, min_insync_replicas=2)["max.message.bytes"])
    own = int(topics.configs_of(topics.CONTENT, min_insync_replicas=2)["max.message.bytes"])
    assert most == own + (topics.CONTENT_OVERHEAD_BYTES if name in topics.CARRY_CONTENT else 0)
    assert own == topics.MAX_EVENT_BYTES + topics.CONTENT_OVERHEAD_BYTES


@pytest.mark.parametrize(
    ("name", "hours"),
    [(topics.VERDICTS, 3), (topics.DECISIONS, 5), (topics.DEAD_LETTERS, 5), (topics.CONTROL, None)],
)
def test_what_people_go_back_to_is_gone_with_what_passes_through(
    name: str, hours: int | None
) -> None:
    configs = topics.configs_of(name, min_insync_replicas=1, retention_hours=3, kept_hours=5)
    assert configs["min.insync.replicas"] == "1"
    assert configs["cleanup.policy"] == ("compact" if hours is None else "delete")
    assert configs.get("retention.ms") == (None if hours is None else str(hours * 3_600_000))


def test_what_is_in_force_is_read_in_another_order_by_everybody() -> None:
    assert topics.partitions_of(topics.CONTROL, 12) == 1
    assert topics.partitions_of(topics.VERDICTS, 12) == 12
