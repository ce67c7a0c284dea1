"""A small storm; `make storm` makes the large one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from storm.storm import SESSION_S, Storm, kills, make_topics, restarts
from storm.weather import plan

MEMBERS = 4


@pytest.fixture
def storm(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Storm]:
    home = Home(tmp_path)
    with Kafka(home) as kafka:
        yield Storm(kafka, home, 10, MEMBERS, "storm")


async def test_a_moderator_that_dies_loses_events_or_repeats_what_was_done(storm: Storm) -> None:
    await make_topics(storm, 16)
    strikes = plan(storm.seed, members=MEMBERS, hits_a_member=1, apart_s=7, session_s=SESSION_S)[:3]
    over_s = strikes[-1].at_s + 15
    found = await kills(storm, strikes, events=5000, over_s=over_s, say=print)
    assert not found.faults


async def test_a_deploy_repeats_events(storm: Storm) -> None:
    await make_topics(storm, 16)
    found = await restarts(storm, events=3000, over_s=30, rounds=1, say=print)
    assert not found.faults
