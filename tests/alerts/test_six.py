"""Each critical alert fired by its real fault, and cleared by what its runbook says; one after the
other on one fleet, with the times that it took. `pytest tests/alerts -m storm -s`"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

import fleet
from alerts.conftest import Parts
from alerts.watching import FACTOR, Watch, qwarden
from chaos.test_guard_failures import published
from chart.boards import DASHBOARDS, filled_in, questions, read
from chart.test_alerts import CRITICAL
from prometheuses import needs_prometheus
from proxy import Proxy
from qwarden import kafka as kafka_tools
from qwarden import settings as settings_module
from qwarden.contracts import topics
from qwarden.stack.home import Home
from qwarden.stack.ports import free_ports
from qwarden.stack.service import Service
from review_api.desk import claimed, decided
from reviewing import Reviewing, escalations, reviewing

pytestmark = [pytest.mark.storm, needs_prometheus, pytest.mark.timeout(1200)]

GROUP = "six"
LOOKS = {"QWARDEN_TELEMETRY__GROUP_LOOK_S": "1"}


@dataclass
class Timed:
    """What was seen: alert, what was done, seconds until it fired and cleared, what fired beside
    it."""

    watch: Watch
    rows: list[tuple[str, str, float, float, set[str]]] = field(default_factory=list)

    async def see(
        self,
        alert: str,
        fault: str,
        breaks: Callable[[], Awaitable[object]],
        mends: Callable[[], Awaitable[object]],
    ) -> None:
        """Has it fire and clear. Before it none of the six fires; SLOs remember longer."""

        async def calm() -> bool:
            return not CRITICAL & await self.watch.firing()

        await fleet.until(calm, f"none of the six fires before {alert}", 120)
        began = time.monotonic()
        await breaks()
        await self.watch.fires(alert, 120)
        fired = time.monotonic() - began
        beside = await self.watch.firing() - {alert}
        began = time.monotonic()
        await mends()
        await self.watch.clears(alert, 120)
        self.rows.append((alert, fault, fired, time.monotonic() - began, beside))

    def table(self) -> str:
        """The figures for a person, in a hurry and as they would be."""
        lines = [f"every time in the rules is divided by {FACTOR:g}"]
        lines += [
            f"{alert:<26} {fault:<40} fired after {fired:5.1f} s, cleared {cleared:5.1f} s after "
            f"it was mended; beside it: {', '.join(sorted(beside)) or 'nothing'}"
            for alert, fault, fired, cleared, beside in self.rows
        ]
        return "\n".join(lines)


class Faults:
    """What goes wrong, and how it is mended."""

    def __init__(
        self, parts: Parts, proxy: Proxy, moderator: Service, desk: Reviewing, told: dict[str, str]
    ) -> None:
        self._parts = parts
        self._proxy = proxy
        self._moderator = moderator
        self._desk = desk
        self._told = told
        self._busy = parts.mischief.is_("busy")

    async def triton_dies(self) -> None:
        await asyncio.to_thread(self._parts.triton.kill)

    async def triton_returns(self) -> None:
        await asyncio.to_thread(self._parts.triton.start)

    async def network_goes(self) -> None:
        """Between the moderator and Triton, which is well and scraped."""
        await self._proxy.__aexit__()
        await published(self._parts.fleet, "network", count=50)

    async def network_returns(self) -> None:
        await self._proxy.__aenter__()

    async def guard_is_busy(self) -> None:
        """It is there, and answers nothing within the patience of its clients."""
        self._busy.__enter__()
        await published(self._parts.fleet, "queue", count=400)

    async def guard_goes_on(self) -> None:
        self._busy.__exit__(None, None, None)

    async def contents_crash(self) -> None:
        await published(self._parts.fleet, "cursed six", count=6)

    async def is_resumed(self) -> None:
        await asyncio.to_thread(qwarden, self._told, "dlq", "resume")

    async def records_are_lost(self) -> None:
        """They are deleted while no moderator is there, as by a retention that is too short."""
        await asyncio.to_thread(self._moderator.stop)
        lost = TopicPartition(topics.CONTENT, 1)
        bootstrap = self._parts.fleet.kafka.bootstrap
        end = (await fleet.ends_of(bootstrap, topics.CONTENT))[lost]
        await published(self._parts.fleet, "loss", count=100)
        assert (await fleet.ends_of(bootstrap, topics.CONTENT))[lost] > end + 3
        settings = settings_module.load(self._told)
        async with kafka_tools.admin(settings.kafka) as admin:
            await admin.delete_records({lost: RecordsToDelete(before_offset=end + 3)})
        self._moderator.begin()  # it is not ready for as long as the partition is stopped

    async def loss_is_accepted(self) -> None:
        await asyncio.to_thread(qwarden, self._told, "dlq", "accept-loss", f"{topics.CONTENT}/1")

    async def people_are_late(self) -> None:
        await self._desk.seed(escalations(2, tenant="late", name="late", sla_s=1))

    async def people_decide(self) -> None:
        ann = await self._desk.client("ann", tenants=["late"])
        for _ in range(2):
            await decided(ann, await claimed(ann))


async def test_a_critical_alert_is_never_fired_by_its_fault(
    parts: Parts, watch_home: Home, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    proxy = Proxy(port, int(parts.triton.grpc.rpartition(":")[2]))
    told = parts.fleet.settings(
        **LOOKS,
        QWARDEN_KAFKA__GROUP_ID=GROUP,
        QWARDEN_TRITON__URL=f"127.0.0.1:{port}",
        QWARDEN_TRITON__MAX_BACKOFF_S="0.5",
    )
    moderator = Service(parts.fleet.home, "moderator", told)
    database = f"sqlite:///{tmp_path / 'review.db'}"
    async with (
        proxy,
        reviewing(
            watch_home, parts.fleet.kafka, database, QWARDEN_REVIEW__GROUP_ID="six-review", **LOOKS
        ) as desk,
    ):
        targets = {
            "q-moderator": [moderator.http],
            "q-review": [desk.service.http],
            "q-triton-guard": [parts.triton.metrics],
        }
        async with Watch(watch_home, targets) as watch:
            await asyncio.to_thread(moderator.start)
            try:
                await watch.has(f'qwarden_group_lag_seconds{{group="{GROUP}"}}')
                await watch.has('nv_inference_request_success{model="qwen3guard_gen"}')
                timed = Timed(watch)
                faults = Faults(parts, proxy, moderator, desk, told)
                for alert, fault, breaks, mends in (
                    (
                        "QwardenTritonDown",
                        "Triton is killed",
                        faults.triton_dies,
                        faults.triton_returns,
                    ),
                    (
                        "QwardenBreakerOpen",
                        "no network from moderator to Triton",
                        faults.network_goes,
                        faults.network_returns,
                    ),
                    (
                        "QwardenLagAge",
                        "the guard answers nothing in time",
                        faults.guard_is_busy,
                        faults.guard_goes_on,
                    ),
                    (
                        "QwardenIntakeHalted",
                        "six contents that the model fails on",
                        faults.contents_crash,
                        faults.is_resumed,
                    ),
                    (
                        "QwardenWatermarkStuck",
                        "records deleted before they are done",
                        faults.records_are_lost,
                        faults.loss_is_accepted,
                    ),
                    (
                        "QwardenReviewSlaBreached",
                        "two items that nobody decides",
                        faults.people_are_late,
                        faults.people_decide,
                    ),
                ):
                    await timed.see(alert, fault, breaks, mends)
                    print(timed.table().splitlines()[-1], flush=True)
                assert {alert for alert, *_ in timed.rows} == CRITICAL
                assert not watch.prometheus.failing_rules()
                silent = [
                    f"{path.stem}: {title}"
                    for path in DASHBOARDS
                    for title, expression in questions(read(path))
                    if not watch.prometheus.ask(filled_in(expression))
                ]
            finally:
                await asyncio.to_thread(moderator.stop)
    print(timed.table())
    print("panels without data here:", "; ".join(silent))
