"""What holds a policy's hand, on a real broker: quotas over a fleet whose partitions move, and
scores beside a threshold, which are asked for alone."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

import fleet
from fleet import Tap
from moderators import PARTITIONS, Fleetlet, Guard, holds, policies_in
from qwarden.contracts import topics
from qwarden.contracts.verdict import Action, Basis
from qwarden.guard.answer import Answer
from qwarden.guard.row import Row
from qwarden.moderator.service import ModeratorService
from qwarden.policy.quotas import Share
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from unit.builders import UNSAFE, assessment

FILES = {
    "policies/braked.yaml": (
        "name: braked\nextends: strict\nquotas: {blocks_an_hour: 40}\n"
        "rules: [{name: bad, when: {safety: Unsafe}, then: block, ground: law, clause: c}]\n"
    ),
    "tenants/braked.yaml": "name: braked\npolicies: [braked]\n",
    "policies/numbers.yaml": (
        "name: numbers\nextends: default\n"
        "rules: [{name: sure, when: {score: {unsafe: {at_least: 0.5}}}, then: block, "
        "ground: law, clause: c}]\n"
    ),
    "tenants/numbers.yaml": "name: numbers\npolicies: [numbers]\n",
}


class Unsafe(Guard):
    """Finds everything unsafe."""

    def _say(self, row: bytes) -> Answer:
        return assessment(UNSAFE, ("Violent", 0.9))


class Wavering(Guard):
    """Says beside others 0.505, and alone 0.495. `alone`: the texts that it was asked alone."""

    def __init__(self) -> None:
        super().__init__()
        self.alone: Counter[str] = Counter()

    def _say(self, row: bytes) -> Answer:
        asked = Row.from_json(row)
        if asked.exact:
            self.alone[asked.conversation.turns[-1].content] += 1
        return assessment((0.0, -50.0, -0.02 if asked.exact else 0.02))


@pytest.fixture(scope="module")
def own(own_kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Fleetlet:
    home = Home(tmp_path_factory.mktemp("quotas"))
    made = Fleetlet(own_kafka, home, policies_in(home.root, FILES))
    asyncio.run(made.make_topics())
    return made


async def owns(service: ModeratorService, partitions: int) -> None:
    """Waits until of each lane a moderator has so many partitions."""
    await holds(
        lambda: all(
            service._share(topic) == Share(partitions, PARTITIONS)
            for topic in (topics.CONTENT, topics.BACKLOG)
        ),
        f"a moderator has {partitions} partitions of each lane",
    )


async def blocks_and_reviews(own: Fleetlet, tap: Tap, name: str) -> tuple[int, int]:
    origins = await own.publish(300, name, tenant="braked")
    found = await fleet.outcomes(tap, origins)
    assert not found.contradictions
    assert found.review == {
        origin for origin, each in found.verdicts.items() if each.action == "review"
    }
    said = Counter((each.action, each.basis) for each in found.verdicts.values())
    blocked, reviewed = said[Action.BLOCK, Basis.GUARD], said[Action.REVIEW, Basis.QUOTA]
    assert blocked + reviewed == len(origins)
    return blocked, reviewed


async def test_a_fleet_blocks_its_quota_with_each_of_its_moderators(
    own: Fleetlet, group: str
) -> None:
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, Unsafe()) as one,
    ):
        async with own.moderating(group, Unsafe()) as other:
            await owns(one, 2)
            await owns(other, 2)
            assert await blocks_and_reviews(own, tap, "both") == (40, 260)
        await owns(one, 4)
        assert await blocks_and_reviews(own, tap, "one") == (20, 280), (
            "who takes over has the whole share, and what it has done counts"
        )


async def test_two_moderators_decide_otherwise_beside_a_threshold(
    own: Fleetlet, group: str
) -> None:
    guards = Wavering(), Wavering()
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, guards[0]),
        own.moderating(group, guards[1]),
    ):
        found = await fleet.outcomes(tap, await own.publish(200, "near", tenant="numbers"))
        assert {each.action for each in found.verdicts.values()} == {"allow"}
        assert {each.scores.unsafe for each in found.verdicts.values() if each.scores} == {0.495}
        alone = guards[0].alone + guards[1].alone
        assert set(alone.values()) == {1}
        assert len(alone) == 200
