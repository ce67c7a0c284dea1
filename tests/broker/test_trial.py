"""`qwarden trial`, on a real broker: an installation that is called working though nothing is
judged there, or the other way round."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from commands import Said, Shell
from moderators import Fleetlet, Guard, policies_in
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.triton import Triton


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleetlet]:
    home = Home(tmp_path_factory.mktemp("trial"))
    with Kafka(home) as kafka:
        made = Fleetlet(kafka, home, policies_in(home.root))
        asyncio.run(made.make_topics())
        yield made


Trial = Callable[..., Awaitable[Said]]


@pytest.fixture
def trial(own: Fleetlet, tmp_path: Path) -> Trial:
    """Runs `qwarden trial …`, as `helm test` does."""
    settings = {"QWARDEN_KAFKA__BOOTSTRAP_SERVERS": own.kafka.bootstrap}
    return partial(Shell(tmp_path, settings).run, "trial")


async def test_a_path_that_works_and_is_called_broken(
    own: Fleetlet, trial: Trial, group: str, triton: Triton
) -> None:
    address = {"QWARDEN_TRITON__URL": triton.grpc}
    async with own.moderating(group, None, **address):
        said = await trial("--tenant", "demo", "--json")
        verdict = said.line
        assert (said.code, verdict["tenant"], verdict["basis"]) == (0, "demo", "guard"), said.err
        assert "published content.events/" in said.err
        # Each trial has a text of its own: what an earlier one was told answers for no guard.
        said = await trial("--tenant", "demo", "--json")
        again = said.line
        assert (said.code, again["event_id"] == verdict["event_id"]) == (0, False), said.err
        assert again["content_hash"] != verdict["content_hash"]


async def test_an_event_that_is_refused_and_waited_for(
    own: Fleetlet, trial: Trial, group: str
) -> None:
    async with own.moderating(group, Guard(), QWARDEN_POLICY__STRICT_TENANTS="true"):
        said = await trial("--tenant", "nobody")
    assert said.code == 1
    assert "the event was refused" in said.err
    assert "nobody" in said.err


async def test_an_outage_that_the_policy_covers_called_a_working_path(
    own: Fleetlet, trial: Trial, group: str
) -> None:
    guard = Guard()
    guard.away = True
    async with own.moderating(group, guard):
        said = await trial("--tenant", "answers")
    assert said.code == 1
    assert "the policy acted without the guard: basis degraded, cause outage" in said.err


async def test_a_fleet_without_moderators_that_is_waited_for_without_end(trial: Trial) -> None:
    said = await trial("--timeout-s", "1")
    assert (said.code, said.out) == (3, "")
    assert "no verdict within 1 s" in said.err
