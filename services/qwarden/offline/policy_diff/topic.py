"""Records of a topic, fed to a comparison."""

from __future__ import annotations

from collections.abc import Callable

from aiokafka import ConsumerRecord

from qwarden.contracts import headers, topics
from qwarden.policy.diff import Comparison, RateMissing
from qwarden.settings import Kafka
from qwarden.stretch import Stretch, records_of

READABLE = (topics.VERDICTS, topics.EVIDENCE)
"""The topics whose records carry what rules read."""

_MS_AN_HOUR = 3_600_000


async def compare(
    kafka: Kafka, stretch: Stretch, comparison: Comparison, *, step: Callable[[int], object]
) -> float | None:
    """Feeds a stretch, and gives the hours over which its records were written; None where they
    have no such time. `step` is told of records as they are read. Raises `KafkaError`."""
    first, last = None, 0
    async for record in records_of(kafka, stretch, step):
        feed(comparison, record)
        first = record.timestamp if first is None else min(first, record.timestamp)
        last = max(last, record.timestamp)
    return (last - first) / _MS_AN_HOUR if first is not None and last > first else None


def feed(comparison: Comparison, record: ConsumerRecord) -> tuple[str, str] | None:
    """Feeds a record of a topic, evidence with the rate that stands in its header."""
    try:
        return comparison.read(record.value or b"", rate_of(record))
    except RateMissing:
        comparison.leave("without their sample's rate")
        return None


def rate_of(record: ConsumerRecord) -> float | None:
    """The rate of the sample that a record of evidence belongs to."""
    try:
        return float(headers.header(record.headers, headers.SAMPLE_RATE) or "")
    except ValueError:
        return None
