"""`qwarden trial`, on a real broker: an installation that is called working though nothing is
judged there, or the other way round."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator

import pytest

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


async def trial(own: Fleetlet, *words: str) -> tuple[int | None, bytes, str]:
    """Exit code, standard output and standard error of the command, as `helm test` runs it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QWARDEN_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qwarden.cli", "trial", *words),
        env={
            **kept,
            "QWARDEN_STACK__HOME": str(own.home.root),
            "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": own.kafka.bootstrap,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out, err.decode()


async def test_a_path_that_works_and_is_called_broken(
    own: Fleetlet, group: str, triton: Triton
) -> None:
    address = {"QWARDEN_TRITON__URL": triton.grpc}
    async with own.moderating(group, None, **address):
        code, out, err = await trial(own, "--tenant", "demo", "--json")
        verdict = json.loads(out)
        assert (code, verdict["tenant"], verdict["basis"]) == (0, "demo", "guard"), err
        assert "published content.events/" in err
        # Each trial has a text of its own: what an earlier one was told answers for no guard.
        code, out, err = await trial(own, "--tenant", "demo", "--json")
        again = json.loads(out)
        assert (code, again["event_id"] == verdict["event_id"]) == (0, False), err
        assert again["content_hash"] != verdict["content_hash"]


async def test_an_event_that_is_refused_and_waited_for(own: Fleetlet, group: str) -> None:
    async with own.moderating(group, Guard(), QWARDEN_POLICY__STRICT_TENANTS="true"):
        code, _, err = await trial(own, "--tenant", "nobody")
    assert code == 1
    assert "the event was refused" in err
    assert "nobody" in err


async def test_an_outage_that_the_policy_covers_called_a_working_path(
    own: Fleetlet, group: str
) -> None:
    guard = Guard()
    guard.away = True
    async with own.moderating(group, guard):
        code, _, err = await trial(own, "--tenant", "answers")
    assert code == 1
    assert "the policy acted without the guard: basis degraded, cause outage" in err


async def test_a_fleet_without_moderators_that_is_waited_for_without_end(own: Fleetlet) -> None:
    code, out, err = await trial(own, "--timeout-s", "1")
    assert (code, out) == (3, b"")
    assert "no verdict within 1 s" in err
