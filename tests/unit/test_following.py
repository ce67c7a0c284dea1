"""A service that follows policies: what its log and its metrics may not leave out."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from prometheus_client import REGISTRY

from qwarden.contracts.control import ALL_TENANTS, Freeze, InForce, PolicyBody, Record
from qwarden.control.memory import MemoryControl, MemoryTopic
from qwarden.enforcement.following import Following
from qwarden.policy.document import DocumentError
from qwarden.policy.file import PolicyFile
from qwarden.policy.policy import body_of, version_of
from qwarden.policy.sources import read_source
from qwarden.policy.tenants import Tenants, read_tenants

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
TERMS = "ground: terms, clause: '1'"


def text_of(name: str, then: str) -> str:
    return (
        f"name: {name}\nrules:\n"
        f"  - {{name: bad, when: {{safety: [Unsafe, Controversial]}}, then: {then}, {TERMS}, "
        "text: {en: No.}}\n"
        "  - {name: rest, then: allow}\n"
    )


FILE = text_of("followed", "block")
FILES = read_tenants(
    {"followed": FILE},
    {"demo": "name: demo\npolicies: [followed, elsewhere]\n"},
    strict=False,
    activated=True,
)
OWN = FILES.policies()["followed"].version


def body(name: str, then: str) -> PolicyBody:
    file = read_source({name: text_of(name, then)}, name).file
    content = json.loads(body_of(file))
    return PolicyBody(policy=name, version=version_of(file), body=content, at=AT, by="ann")


def in_force(name: str, version: str | None) -> InForce:
    return InForce(policy=name, version=version, previous=None, at=AT, by="ann")


def metric(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


class Service:
    """What a service is to `Following`."""

    def __init__(self, topic: MemoryTopic) -> None:
        self.control = MemoryControl(topic)
        self.enforced: list[Tenants] = []
        self.following = Following(FILES, self.control, self.enforced.append)
        self.control.on_change(self.following.changed)

    @property
    def acts(self) -> str:
        return self.enforced[-1].of("demo", event_id="e").policies["followed"].version


async def service(*records: Record) -> Service:
    made = Service(MemoryTopic())
    await made.control.start()
    for record in records:
        await made.control.write(record)
    return made


async def test_a_file_that_does_not_count_is_told_to_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    softer = body("followed", "disclaim")
    caplog.set_level("WARNING")
    made = await service(softer, in_force("followed", softer.version))
    assert made.acts == softer.version
    assert metric("qwarden_policy_file_differs", policy="followed") == 1
    assert metric("qwarden_policy_info", policy="followed", version=softer.version) == 1
    assert metric("qwarden_policy_info", policy="followed", version=OWN) is None
    said = [r.getMessage() for r in caplog.records if "does not count" in r.getMessage()]
    assert said == [
        f"the file of the policy followed says {OWN}, and {softer.version} is in force: the file "
        "does not count"
    ]
    await made.control.write(in_force("followed", None))
    assert made.acts == OWN
    assert metric("qwarden_policy_file_differs", policy="followed") == 0


async def test_a_version_that_is_not_there_replaces_the_one_before_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    softer = body("followed", "disclaim")
    made = await service(softer, in_force("followed", softer.version))
    for _ in range(2):
        await made.control.write(in_force("followed", "0123456789ab"))
    assert made.acts == softer.version
    assert metric("qwarden_policy_unusable", policy="followed") == 1
    said = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert len(said) == 1, "it is told once"
    assert "0123456789ab of the policy 'followed' is not on the control topic" in said[0]
    await made.control.write(in_force("followed", None))
    assert metric("qwarden_policy_unusable", policy="followed") == 0


async def test_a_body_that_comes_after_what_names_it_never_acts() -> None:
    softer = body("followed", "disclaim")
    made = await service(in_force("followed", softer.version))
    assert made.acts == OWN
    await made.control.write(softer)
    assert made.acts == softer.version


async def test_a_policy_that_is_nowhere_is_judged_by() -> None:
    made = await service()
    assert "'elsewhere'" in made.following.reasons()[0]
    given = body("elsewhere", "block")
    await made.control.write(given)
    assert made.following.reasons()
    await made.control.write(in_force("elsewhere", given.version))
    assert not made.following.reasons()
    await made.control.write(in_force("elsewhere", None))
    assert not made.following.reasons(), "what it had, it keeps"
    policies = made.enforced[-1].of("demo", event_id="e").policies
    assert policies["elsewhere"].version == given.version


async def test_freezes_are_counted_by_nobody() -> None:
    def freeze(tenant: str, frozen: bool) -> Freeze:
        return Freeze(tenant=tenant, frozen=frozen, reason="it is wrong", at=AT, by="ann")

    made = await service(freeze("demo", True), freeze(ALL_TENANTS, True))
    assert metric("qwarden_freezes") == 2
    await made.control.write(freeze("demo", False))
    assert metric("qwarden_freezes") == 1
    assert made.enforced[-1].of("stranger", event_id="e").default.frozen
    await made.control.write(freeze(ALL_TENANTS, False))
    assert metric("qwarden_freezes") == 0
    assert not made.enforced[-1].of("stranger", event_id="e").default.frozen


async def test_a_built_in_policy_is_replaced() -> None:
    content = json.loads(body_of(FILES.policies()["followed"].file)) | {"name": "default"}
    version = version_of(PolicyFile.model_validate(content))
    forged = PolicyBody(policy="default", version=version, body=content, at=AT, by="ann")
    made = await service(forged, in_force("default", version))
    assert made.enforced[-1].default.version == FILES.default.version
    assert metric("qwarden_policy_unusable", policy="default") == 1


def test_a_tenant_s_file_names_what_no_policy_can_be_called() -> None:
    """Where a policy may be on the control topic, any name that one can have is taken."""
    with pytest.raises(DocumentError, match=r"tenants/demo.yaml:2:\d+: policies.0: no policy can"):
        read_tenants({}, {"demo": "name: demo\npolicies: [No One]\n"}, strict=False, activated=True)
    with pytest.raises(DocumentError, match=r"tenants/demo.yaml:2:\d+: policies.0: no policy is"):
        read_tenants({}, {"demo": "name: demo\npolicies: [late]\n"}, strict=False)
