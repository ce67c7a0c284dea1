"""Three of the critical alerts, by their real faults: a page that never comes, or never ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import fleet
from alerts.conftest import Parts
from alerts.watching import Watch, qwarden
from chaos.test_guard_failures import published
from chaos.test_outages import moderating
from chart.boards import DASHBOARDS, filled_in, questions, read
from prometheuses import needs_prometheus
from qwarden.stack.home import Home
from review_api.desk import claimed, decided
from reviewing import escalations, reviewing

pytestmark = [needs_prometheus, pytest.mark.timeout(300)]

LOOKS = {"QWARDEN_TELEMETRY__GROUP_LOOK_S": "1"}


async def test_nobody_is_told_that_triton_is_down(parts: Parts, watch_home: Home) -> None:
    async with Watch(watch_home, {"q-triton-guard": [parts.triton.metrics]}) as watch:
        await watch.has('nv_inference_request_success{model="qwen3guard_gen"}')
        assert not await watch.firing()
        await asyncio.to_thread(parts.triton.kill)
        await watch.fires("QwardenTritonDown")
        await asyncio.to_thread(parts.triton.start)
        await watch.clears("QwardenTritonDown")


async def test_nobody_is_told_that_the_fleet_is_halted(parts: Parts, watch_home: Home) -> None:
    async with (
        fleet.Tap(parts.fleet.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        moderating(parts.fleet, "halted", **LOOKS) as service,
        Watch(watch_home, {"q-moderator": [service.http]}) as watch,
    ):
        await watch.has("qwarden_halts == 0")
        await published(parts.fleet, "cursed halt", count=6)
        await watch.fires("QwardenIntakeHalted")
        qwarden(parts.fleet.settings(QWARDEN_KAFKA__GROUP_ID="halted"), "dlq", "resume")
        await watch.clears("QwardenIntakeHalted")
        found = await fleet.outcomes(
            tap, await published(parts.fleet, "bicycle after it", count=20)
        )
        assert not found.dead
        # Two series that do not fit one another are an error of a question that is well written.
        for path in DASHBOARDS:
            for _, expression in questions(read(path)):
                await asyncio.to_thread(watch.prometheus.ask, filled_in(expression))
        assert not watch.prometheus.failing_rules()


async def test_nobody_is_told_that_people_are_late(
    parts: Parts, watch_home: Home, tmp_path: Path
) -> None:
    database = f"sqlite:///{tmp_path / 'review.db'}"
    group = {"QWARDEN_REVIEW__GROUP_ID": "late"}
    async with (
        reviewing(watch_home, parts.fleet.kafka, database, **group, **LOOKS) as desk,
        Watch(watch_home, {"q-review": [desk.service.http]}) as watch,
    ):
        ann = await desk.client("ann", tenants=["late"])
        await watch.has("qwarden_build_info")
        await desk.seed(escalations(2, tenant="late", name="late", sla_s=1))
        await watch.fires("QwardenReviewSlaBreached")
        for _ in range(2):
            await decided(ann, await claimed(ann))
        await watch.clears("QwardenReviewSlaBreached")
