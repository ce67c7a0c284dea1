"""Policies that come into force, and freezes, on a real broker: what a fleet under load may judge
otherwise than by one policy, or block all the same; and what a person's commands do."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord

import fleet
from commands import Said, Shell
from fleet import Tap
from moderators import PARTITIONS, Fleetlet, Guard, holds, policies_in
from qwarden.contracts import topics
from qwarden.contracts.control import ALL_TENANTS
from qwarden.contracts.verdict import Verdict, decode_verdict
from qwarden.control.kafka import KafkaControl
from qwarden.enforcement import commanding
from qwarden.guard.answer import Answer
from qwarden.policy.policy import Policy, version_of
from qwarden.policy.sources import read_source
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from unit.builders import UNSAFE, assessment

FREEZE_S = 10.0
"""Within this everybody obeys."""
RATE_A_SECOND = 200


def text_of(number: int) -> str:
    """A version of the policy `forum`: its rule and its action are its own."""
    then = ("block", "review", "disclaim")[number % 3]
    asks = "queue: general, harm: 3, sla: 1d, meanwhile: hide, on_breach: block, "
    return (
        "name: forum\nrules:\n"
        f"  - {{name: unsafe-{number}, when: {{safety: Unsafe}}, then: {then}, "
        f"{asks if then == 'review' else ''}ground: terms, clause: '{number}', "
        "text: {en: Careful.}}\n"
        f"  - {{name: doubt-{number}, when: {{safety: Controversial}}, then: allow}}\n"
        f"  - {{name: rest-{number}, then: allow}}\n"
    )


def policy_of(number: int) -> Policy:
    return Policy(read_source({"forum": text_of(number)}, "forum").file)


POLICIES = {number: policy_of(number) for number in range(4)}


class Unsafe(Guard):
    """Finds everything unsafe."""

    def _say(self, row: bytes) -> Answer:
        return assessment(UNSAFE, ("Violent", 0.9))


@pytest.fixture(scope="module")
def own(own_kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Fleetlet:
    home = Home(tmp_path_factory.mktemp("policies"))
    files = {
        "policies/forum.yaml": text_of(0),
        "tenants/forum.yaml": "name: forum\npolicies: [forum, only-here]\nrelay: false\n",
        "tenants/other.yaml": "name: other\npolicies: [strict]\nrelay: false\n",
    }
    made = Fleetlet(own_kafka, home, policies_in(home.root, files))
    asyncio.run(made.make_topics())
    return made


@dataclass
class Load:
    """Events of several tenants, at a steady rate over all partitions, until the test has seen
    enough."""

    own: Fleetlet
    tenants: tuple[str, ...]
    origins: list[str] = field(default_factory=list)

    async def run(self) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.own.kafka.bootstrap, linger_ms=2)
        await producer.start()
        try:
            for number in range(10**6):
                tenant = self.tenants[number % len(self.tenants)]
                event = {
                    "event_id": f"{id(self)}-{number}", "tenant": tenant, "text": f"text {number}",
                }  # fmt: skip
                # Each tenant's over all partitions.
                partition = number // len(self.tenants) % PARTITIONS
                sent = await producer.send(
                    topics.CONTENT, json.dumps(event).encode(), partition=partition
                )
                done = await sent
                self.origins.append(f"{topics.CONTENT}/{done.partition}/{done.offset}")
                await asyncio.sleep(1 / RATE_A_SECOND)
        finally:
            await producer.stop()


@asynccontextmanager
async def under_load(own: Fleetlet, *tenants: str) -> AsyncIterator[Load]:
    load = Load(own, tenants)
    sending = asyncio.create_task(load.run())
    try:
        yield load
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


def verdicts_of(records: list[ConsumerRecord]) -> list[tuple[Verdict, ConsumerRecord]]:
    return [(decode_verdict(record.value), record) for record in records]


async def activate(own: Fleetlet, number: int, group: str) -> str:
    file = POLICIES[number].file
    await commanding.activate(own.settings(group).kafka, file, at=datetime.now(UTC), by="test")
    return version_of(file)


async def seen(tap: Tap, versions: set[str], what: str) -> None:
    """Waits until all partitions have verdicts of the tenant `forum`, the newest of which are of
    these versions."""

    async def all_are() -> bool:
        await tap.read()
        newest: dict[str, str] = {}
        for verdict, record in verdicts_of(tap.records[topics.VERDICTS]):
            if verdict.tenant == "forum" and verdict.policy is not None:
                partition = fleet.origin_of(record).split("/")[1]
                newest[partition] = verdict.policy.version
        return len(newest) == PARTITIONS and set(newest.values()) <= versions

    await fleet.until(all_are, what, 60)


async def test_an_activation_under_load_judges_an_event_by_half_a_policy(
    own: Fleetlet, group: str
) -> None:
    """Two moderators, and versions that come and go: each verdict's rule and action are those of
    the version that it names; and each moderator comes to the last one."""
    kafka = own.settings(group).kafka
    await activate_only_here(own, group)
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, Unsafe()) as one,
        own.moderating(group, Unsafe()) as other,
        under_load(own, "forum") as load,
    ):
        await holds(
            lambda: all(len(each._interactive._window.partitions) == 2 for each in (one, other)),
            "each has two partitions",
        )
        await seen(tap, {POLICIES[0].version}, "the file acts")
        for number in (1, 2, 3):
            version = await activate(own, number, group)
            await seen(tap, {version}, f"version {number} acts")
        await commanding.rollback(kafka, "forum", at=datetime.now(UTC), by="test")
        await seen(tap, {POLICIES[2].version}, "the one before acts")
        await commanding.rollback(kafka, "forum", at=datetime.now(UTC), by="test")
        await seen(tap, {POLICIES[0].version}, "the file acts again")
        records = list(tap.records[topics.VERDICTS])
        found = await fleet.outcomes(tap, load.origins)
        assert not found.contradictions
        assert not found.dead
    expected = {
        policy.version: (f"unsafe-{number}", ("block", "review", "disclaim")[number % 3])
        for number, policy in POLICIES.items()
    }
    serials: dict[str, Counter[int]] = {}
    for verdict, _ in verdicts_of(records):
        assert verdict.policy is not None
        assert (verdict.policy.rule, verdict.action) == expected[verdict.policy.version]
        serials.setdefault(verdict.policy.version, Counter())[verdict.policy.serial] += 1
    # Versions 0 and 2 have acted twice, the others once, each under a serial of its own.
    assert {version: len(each) for version, each in serials.items()} == {
        POLICIES[0].version: 2, POLICIES[1].version: 1, POLICIES[2].version: 2,
        POLICIES[3].version: 1,
    }  # fmt: skip


async def activate_only_here(own: Fleetlet, group: str) -> None:
    text = text_of(0).replace("name: forum", "name: only-here")
    file = read_source({"only-here": text}, "only-here").file
    await commanding.activate(own.settings(group).kafka, file, at=datetime.now(UTC), by="test")


@pytest.mark.parametrize("tenant", ["forum", ALL_TENANTS])
async def test_a_frozen_fleet_blocks(own: Fleetlet, group: str, tenant: str) -> None:
    """Four moderators under load: none blocks any more within seconds, also one that is restarted
    meanwhile; and all do again when the freeze is lifted. A tenant without a file too."""
    kafka = own.settings(group).kafka
    await activate_only_here(own, group)
    await activate(own, 0, group)
    frozen_for = {"forum"} if tenant == "forum" else {"forum", "other", "unknown"}
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        AsyncExitStack() as stack,
        under_load(own, "forum", "other", "unknown") as load,
    ):
        for _ in range(3):
            await stack.enter_async_context(own.moderating(group, Unsafe()))
        async with own.moderating(group, Unsafe()) as fourth:
            await holds(lambda: len(fourth._interactive._window.partitions) == 1, "each has one")
            await blocked_everywhere(tap, time.time())
            begun = time.time()
            await freeze(own, group, tenant, frozen=True)
            latency = await last_block(tap, frozen_for, begun)
            print(f"a freeze of {tenant} reached 4 moderators in {latency:.3f} s")
            assert latency < FREEZE_S
        # The fourth is gone; another one starts under load and under the freeze.
        restarted = time.time()
        async with own.moderating(group, Unsafe()) as again:
            await holds(lambda: len(again._interactive._window.partitions) == 1, "it has one")
            await reviewed_everywhere(tap, frozen_for, time.time())
            await tap.read_to_the_end()
            late = [
                verdict
                for verdict, record in verdicts_of(tap.records[topics.VERDICTS])
                if verdict.tenant in frozen_for
                and verdict.action == "block"
                and record.timestamp / 1000 > restarted
            ]
            assert not late
            reviews = json.loads(tap.records[topics.REVIEW][-1].value)
            assert reviews["on_breach"] != "block"
            lifted = time.time()
            await freeze(own, group, tenant, frozen=False)
            await blocked_everywhere(tap, lifted + 0.001)
            found = await fleet.outcomes(tap, load.origins)
            assert not found.contradictions
            assert not found.dead
    assert not commanding.frozen_tenants(await commanding.standing(kafka))


async def freeze(own: Fleetlet, group: str, tenant: str, *, frozen: bool) -> None:
    record = await commanding.freeze(
        own.settings(group).kafka,
        tenant,
        frozen=frozen,
        reason="it blocks recipes",
        at=datetime.now(UTC),
        by="test",
    )
    assert record is not None


async def blocked_everywhere(tap: Tap, since: float) -> None:
    await acted_everywhere(tap, "block", {"forum", "other"}, since)


async def reviewed_everywhere(tap: Tap, tenants: set[str], since: float) -> None:
    await acted_everywhere(tap, "review", tenants, since)


async def acted_everywhere(tap: Tap, action: str, tenants: set[str], since: float) -> None:
    """Waits until of each partition and tenant a verdict with this action was written since."""

    async def all_have() -> bool:
        await tap.read()
        found = {
            (verdict.tenant, fleet.origin_of(record).split("/")[1])
            for verdict, record in verdicts_of(tap.records[topics.VERDICTS])
            if verdict.action == action and record.timestamp / 1000 >= since
        }
        return len({each for each in found if each[0] in tenants}) == PARTITIONS * len(tenants)

    await fleet.until(all_have, f"everywhere {action}", 60)


async def last_block(tap: Tap, tenants: set[str], since: float) -> float:
    """How long after `since` the last block was written of these tenants, once all partitions have
    reviews of each."""
    await reviewed_everywhere(tap, tenants, since)
    # Whoever has come to the freeze may not block again: all had a second more to do it.
    await reviewed_everywhere(tap, tenants, time.time() + 1)
    blocks = [
        record.timestamp / 1000
        for verdict, record in verdicts_of(tap.records[topics.VERDICTS])
        if verdict.tenant in tenants and verdict.action == "block"
    ]
    return max([0.0, *(float(at - since) for at in blocks)])


async def test_a_policy_that_is_nowhere_lets_events_through(own: Fleetlet, tmp_path: Path) -> None:
    """The tenant's file names one that was not activated yet: nothing is judged, and the service
    says what to do; when it comes into force all goes on."""
    group = "nowhere"
    folder = tmp_path / "policies"
    (folder / "tenants").mkdir(parents=True)
    (folder / "tenants" / "forum.yaml").write_text("name: forum\npolicies: [late]\n")
    await own.at_the_end(group)
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, Unsafe(), QWARDEN_POLICY__PATH=str(folder)) as service,
    ):
        origins = await own.publish(20, "late", tenant="forum")
        await holds(lambda: service._interactive.joined, "it has joined")
        assert "qwarden policy activate" in str(service._interactive.held)
        await tap.read_to_the_end()
        assert not tap.records[topics.VERDICTS]
        text = text_of(0).replace("name: forum", "name: late")
        file = read_source({"late": text}, "late").file
        kafka = own.settings(group).kafka
        await commanding.activate(kafka, file, at=datetime.now(UTC), by="test")
        found = await fleet.outcomes(tap, origins)
        assert {each.policy.version for each in found.verdicts.values() if each.policy} == {
            version_of(file)
        }


async def test_an_activation_that_is_repeated_gives_every_event_another_verdict(
    own: Fleetlet, group: str
) -> None:
    """Nothing is written: a serial that grows would make every redelivered verdict another one."""
    kafka = own.settings(group).kafka
    await activate(own, 1, group)
    control = KafkaControl(kafka)
    await control.start()
    try:
        stood = dict(control.policies().in_force)
        again = await commanding.activate(
            kafka, POLICIES[1].file, at=datetime.now(UTC), by="another"
        )
        assert again.record is None
        await activate(own, 2, group)
        await holds(lambda: dict(control.policies().in_force) != stood, "the next one is read")
        (record,) = (
            each.record
            for key, each in control.policies().in_force.items()
            if key.subject == "forum"
        )
        assert record is not None
        assert (record.version, record.previous) == (POLICIES[2].version, POLICIES[1].version)
    finally:
        await control.close()


# The commands.


Policies = Callable[..., Said]


@pytest.fixture
def shell(own: Fleetlet, tmp_path: Path) -> Shell:
    return Shell(tmp_path, {"QWARDEN_KAFKA__BOOTSTRAP_SERVERS": own.kafka.bootstrap})


@pytest.fixture
def policy(shell: Shell) -> Policies:
    """Runs `qwarden policy …`."""
    return partial(shell, "policy")


def shown(policy: Policies, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        each for each in policy("show", "--json").lines if each.get("policy") == name
    )
    return found


def test_a_command_leaves_another_version_in_force_than_it_says(
    shell: Shell, tmp_path: Path
) -> None:
    """Activated, changed, taken back, and taken back to the file."""
    file = tmp_path / "policies" / "club.yaml"
    file.parent.mkdir()
    (file.parent / "parent.yaml").write_text(text_of(0).replace("name: forum", "name: parent"))
    file.write_text("name: club\nextends: parent\n")
    policy = partial(shell.under(QWARDEN_POLICY__PATH=str(tmp_path)), "policy")
    of_file = shown(policy, "club")
    assert (of_file["origin"], of_file["file_differs"]) == ("file", False)

    (first,) = policy("activate", file, "--json").lines
    assert (first["version"], first["previous"]) == (of_file["version"], None)
    again = policy("activate", file)
    assert (again.code, again.out) == (0, "")
    assert "in force already" in again.err

    file.write_text("name: club\nextends: parent\nrules:\n- {name: rest-0, then: allow}\n")
    assert not policy("activate", file).out, "the same policy in other words is the same version"
    file.write_text("name: club\nextends: parent\nfinal_look: always\n")
    second = policy("activate", file)
    assert second.code == 0
    assert "final_look: says something else" in second.out
    now = shown(policy, "club")
    assert (now["origin"], now["previous"]) == ("activated", first["version"])

    file.write_text("name: club\nextends: parent\n")
    assert shown(policy, "club")["file_differs"]
    assert policy("rollback", "club").code == 0
    now = shown(policy, "club")
    assert (now["version"], now["file_differs"]) == (first["version"], False)
    assert policy("rollback", "club").code == 0
    now = shown(policy, "club")
    assert (now["origin"], now["previous"]) == ("file", None)
    said = policy("rollback", "club")
    assert said.code == 1
    assert "each service's own file acts" in said.err


def test_a_policy_that_fails_comes_into_force(policy: Policies, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("name: bad\nrules: [{name: all, when: {safety: Safe}, then: allow}]\n")
    said = policy("activate", file)
    assert said.code == 1
    assert f"{file}:2:9: rules.0" in said.err
    assert "nothing has changed" in said.err
    assert policy("show", "bad").code == 1


def test_a_built_in_policy_is_activated_over(policy: Policies, tmp_path: Path) -> None:
    file = tmp_path / "strict.yaml"
    file.write_text(text_of(0).replace("name: forum", "name: strict"))
    said = policy("activate", file)
    assert said.code == 1
    assert "'strict' is built in; choose another name" in said.err


def test_a_freeze_is_lifted_by_another(policy: Policies) -> None:
    """Each tenant's own stands until it is lifted, whatever becomes of everybody's."""
    (own,) = policy("freeze", "club", "--reason", "it blocks recipes", "--json").lines
    assert (own["tenant"], own["frozen"], own["reason"]) == ("club", True, "it blocks recipes")
    assert "frozen already" in policy("freeze", "club", "--reason", "again").err
    assert policy("freeze", "--all", "--reason", "all of it").code == 0
    frozen = [each for each in policy("show", "--json").lines if "frozen" in each]
    assert [(each["tenant"], each["reason"]) for each in frozen] == [
        ("*", "all of it"), ("club", "it blocks recipes"),
    ]  # fmt: skip
    said = policy("unfreeze", "--all")
    assert said.code == 0
    assert "'club' is frozen still" in said.err
    assert policy("unfreeze", "club").code == 0
    assert "not frozen" in policy("unfreeze", "club").err
    assert not [each for each in policy("show", "--json").lines if "frozen" in each]


@pytest.mark.parametrize(
    "words",
    [
        ("freeze", "--reason", "?"),
        ("freeze", "club", "--all", "--reason", "?"),
        ("freeze", "*", "--reason", "?"),
        ("freeze", "club"),
        ("activate", "nowhere.yaml"),
    ],
)
def test_a_command_that_is_meant_otherwise_does_something(
    policy: Policies, words: tuple[str, ...]
) -> None:
    before = policy("show", "--json").lines
    assert policy(*words).code == 2
    assert policy("show", "--json").lines == before


def test_a_person_waits_for_a_broker_that_is_away(shell: Shell) -> None:
    away = shell.under(QWARDEN_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1")
    said = away("policy", "freeze", "--all", "--reason", "?")
    assert said.code == 3
    assert "Kafka does not answer" in said.err
