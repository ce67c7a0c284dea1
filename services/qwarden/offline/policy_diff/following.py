"""The shadow: what another policy would have said of verdicts as they come. It never acts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka import ConsumerRecord
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client import Counter as Metric

from qwarden.contracts import topics
from qwarden.kafka import reading
from qwarden.offline.policy_diff.topic import feed
from qwarden.policy.diff import Comparison
from qwarden.policy.diff_report import Report
from qwarden.policy.policy import Policy
from qwarden.policy.told import UNDECIDED
from qwarden.settings import Kafka


@dataclass(frozen=True, slots=True)
class Since:
    """What the shadow has seen since it began."""

    records: int
    changed: int
    undecided: int

    def sentence(self) -> str:
        share = self.changed / self.records if self.records else 0.0
        return (
            f"since the shadow began: {self.records:,} verdicts, {self.changed:,} of them "
            f"({share:.2%}) would change, {self.undecided:,} are undecided"
        )


class Shadow:
    """Compares what comes, an interval at a time, so that it can follow for weeks.

    `VERDICTS` by old and new action goes to a registry of its own: a service of this process, if
    there were one, would not show it.
    """

    def __init__(self, old: Policy, new: Policy, *, examples: int) -> None:
        self._old = old
        self._new = new
        self._examples = examples
        self._flows: Counter[tuple[str, str]] = Counter()
        self._began = time.monotonic()
        self._comparison = self._fresh()
        self.registry = CollectorRegistry()
        self._metric = Metric(
            "qwarden_policy_shadow_verdicts_total",
            "Verdicts that came, by what was done and what the shadow's policy would have done.",
            ["policy", "version", "old", "new"],
            registry=self.registry,
        )

    def serve(self, host: str, port: int) -> int:
        """Serves /metrics from a thread, and gives the port: 0 asks for any that is free. Raises
        `OSError` where the port is taken."""
        server, _ = start_http_server(port, host, self.registry)
        return int(server.server_port)

    def take(self, record: ConsumerRecord) -> None:
        flow = feed(self._comparison, record)
        if flow is not None:
            self._flows[flow] += 1
            self._metric.labels(self._new.name, self._new.version, *flow).inc()

    @property
    def since(self) -> Since:
        undecided = sum(count for flow, count in self._flows.items() if UNDECIDED in flow)
        same = sum(count for (old, new), count in self._flows.items() if old == new != UNDECIDED)
        records = self._flows.total()
        return Since(records, records - same - undecided, undecided)

    def turn(self, *, seconds_a_decision: float, show: bool) -> Report:
        """The report of the interval that ends here; the next one begins."""
        now = time.monotonic()
        report = self._comparison.report(
            hours=(now - self._began) / 3600, seconds_a_decision=seconds_a_decision, show=show
        )
        self._began, self._comparison = now, self._fresh()
        return report

    def _fresh(self) -> Comparison:
        return Comparison(self._old, self._new, examples=self._examples)


async def follow(
    kafka: Kafka, shadow: Shadow, *, every_s: float, turn: Callable[[], object]
) -> None:
    """Follows the verdict topic from its present end until it is cancelled. `turn` is called at the
    end of each interval. Raises `KafkaError`."""
    async with (
        reading(kafka, topics.VERDICTS, from_beginning=False, follow=True) as records,
        _beside(_taking(shadow, records)) as taking,
    ):
        while True:
            done, _ = await asyncio.wait((taking,), timeout=every_s)
            if done:
                taking.result()
                return
            turn()


async def _taking(shadow: Shadow, records: AsyncIterator[ConsumerRecord]) -> None:
    async for record in records:
        shadow.take(record)


@asynccontextmanager
async def _beside(
    work: Coroutine[None, None, None],
) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
