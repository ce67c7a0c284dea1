"""Policies that come into force at any moment: what may not act, and what may not act by half."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwarden import telemetry
from qwarden.cache.memory import MemoryCache
from qwarden.contracts import topics
from qwarden.contracts.control import (
    ALL_TENANTS,
    Freeze,
    InForce,
    Policies,
    PolicyBody,
    Record,
    Stands,
    body_key,
    freeze_key,
    in_force_key,
    written,
)
from qwarden.contracts.keys import ContentKey
from qwarden.contracts.verdict import Action, Verdict, decode_verdict
from qwarden.control.table import Table
from qwarden.delivery.owed import Decide, Owed, decided
from qwarden.guard.answer import Answer, Assessment, Safety
from qwarden.inference.dispatch import Dispatcher, Limits
from qwarden.language.eld import EldDetector
from qwarden.moderator.case import Admission
from qwarden.moderator.halting import Halting
from qwarden.moderator.moderator import Moderator
from qwarden.outcomes.lookup import Lookup
from qwarden.outcomes.publication import Publication
from qwarden.outcomes.source import Source
from qwarden.policy.file import PolicyFile
from qwarden.policy.in_force import (
    Acting,
    Unusable,
    acting,
    freezes_of,
    read_body,
    version_in_force,
)
from qwarden.policy.policy import Policy, body_of, version_of
from qwarden.policy.reading import Circumstances, Reading
from qwarden.policy.tenants import Freezes, Tenants, read_tenants
from qwarden.tracing import Trace

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = ContentKey(b"0123456789abcdef0123456789abcdef")
TERMS = {"ground": "terms", "clause": "3"}
ASKS = {"queue": "general", "harm": 3, "sla": "1d", "meanwhile": "hide", "on_breach": "block"}


def policy_file(number: int, name: str = "forum") -> PolicyFile:
    """Each version has rules of its own names, and another action for what is Unsafe."""
    then: dict[str, Any] = {"then": "block", **TERMS}
    if number % 3 == 1:
        then = {"then": "review", **TERMS, **ASKS}
    if number % 3 == 2:
        then = {"then": "disclaim", **TERMS, "text": {"en": "Careful."}}
    return PolicyFile.model_validate(
        {
            "name": name,
            "on_unjudged": "block" if number % 2 else "review",
            "rules": [
                {"name": f"bad-{number}", "when": {"safety": ["Unsafe", "Controversial"]}, **then},
                {"name": f"rest-{number}", "then": "allow"},
            ],
        }
    )


VERSIONS = {number: version_of(policy_file(number)) for number in range(5)}
"""0 is the file's, 1 and 2 are activated, 3 has a body that fails its checks, 4 has none."""
TENANTS = ("demo", "other", "unknown")
NAMES = ("forum", "nowhere", "default")


@cache
def files() -> Tenants:
    """`demo` and `other` list a policy with a file, and one that has none."""
    return read_tenants(
        {"forum": json.dumps(policy_file(0).model_dump(mode="json", exclude_defaults=True))},
        {
            "demo": "name: demo\npolicies: [forum, nowhere]\n",
            "other": "name: other\npolicies: [default, forum]\n",
        },
        strict=False,
        activated=True,
    )


def body(number: int, name: str) -> PolicyBody:
    file = policy_file(number, name)
    if number == 3:
        file = file.model_copy(update={"rules": file.rules[:1]})
    return PolicyBody(
        policy=name,
        version=version_of(file),
        body=json.loads(body_of(file)),
        at=AT,
        by="ann",
    )


def version(number: int, name: str) -> str:
    if number == 3:
        return body(3, name).version
    return version_of(policy_file(number, name))


def in_force(number: int | None, name: str, previous: int | None = None) -> InForce:
    return InForce(
        policy=name,
        version=None if number is None else version(number, name),
        previous=None if previous is None else version(previous, name),
        at=AT,
        by="ann",
    )


def freeze(tenant: str, frozen: bool) -> Freeze:
    return Freeze(tenant=tenant, frozen=frozen, reason="it is wrong", at=AT, by="ann")


Change = tuple[bytes, bytes]
"""Key and value of a record."""


def change(record: Record) -> Change:
    message = written(record)
    assert message.value is not None
    return message.key, message.value


freezes = st.builds(freeze, st.sampled_from((*TENANTS, ALL_TENANTS)), st.booleans())
pointers = st.builds(
    in_force,
    st.none() | st.integers(0, 4),
    st.sampled_from(NAMES),
    st.none() | st.integers(0, 4),
)
bodies = st.builds(body, st.sampled_from((0, 1, 2, 3)), st.sampled_from(NAMES))
garbage = st.tuples(
    st.sampled_from(
        [
            freeze_key("demo").encode(),
            freeze_key(ALL_TENANTS).encode(),
            in_force_key("forum").encode(),
            body_key("forum", VERSIONS[1]).encode(),
        ]
    ),
    st.sampled_from([b"", b"{}", b"\xff"]),
)
changes = st.lists(
    st.one_of(freezes.map(change), pointers.map(change), bodies.map(change)) | garbage, max_size=12
)

UNSAFE = Reading(Circumstances("demo", "prompt"), Safety.UNSAFE, (0.02, 0.03, 0.95), ("Violent",))


def acting_policies(tenants: Tenants) -> dict[tuple[str, str], Policy]:
    return {
        (name, policy.name): policy
        for name in TENANTS
        for policy in tenants.of(name, event_id="e").policies.values()
    }


def through(given_changes: Sequence[Change]) -> list[tuple[Table, Acting]]:
    """What acts after each of them, in a service that runs."""
    table, before = Table(), None
    after = []
    for offset, (key, value) in enumerate(given_changes, start=100):
        table.apply(key, value, offset)
        before = acting(files(), table.policies, before)
        after.append((table, before))
    return after


@pytest.mark.long
@given(changes)
def test_a_policy_blocks_under_a_freeze(given_changes: list[Change]) -> None:
    table, before = Table(), None
    for offset, (key, value) in enumerate(given_changes):
        table.apply(key, value, offset)
        before = acting(files(), table.policies, before)
        stand = table.policies.freezes
        frozen = {key.tenant for key, each in stand.items() if each.record and each.record.frozen}
        for (tenant, _), policy in acting_policies(before.tenants).items():
            assert policy.frozen == bool({tenant, ALL_TENANTS} & frozen)
            if policy.frozen:
                about = UNSAFE.about
                ends = [policy.decide(UNSAFE), policy.unjudged(about), policy.expired(about)]
                assert Action.BLOCK not in [each.action for each in ends]
                assert "block" not in [each.handling.on_breach for each in ends if each.handling]


@given(changes)
def test_a_serial_is_not_that_of_the_last_record_that_bears_on_the_policy(
    given_changes: list[Change],
) -> None:
    for at, (_, now) in enumerate(through(given_changes)):
        last = {key: offset for offset, (key, _) in enumerate(given_changes[: at + 1], start=100)}
        for (tenant, name), policy in acting_policies(now.tenants).items():
            bearing = (in_force_key(name), freeze_key(tenant), freeze_key(ALL_TENANTS))
            assert policy.serial == max(last.get(key.encode(), 0) for key in bearing)


@pytest.mark.long
@given(changes)
def test_what_cannot_be_used_acts(given_changes: list[Change]) -> None:
    """A running service has the version that is in force, or the one that acted before."""
    acted = {name: policy.version for name, policy in files().policies().items()}
    there: dict[bytes, bytes] = {}
    after = through(given_changes)
    for (key, value), (_, now) in zip(given_changes, after, strict=True):
        there[key] = value
        for name, policy in now.policies.items():
            wanted = _named(there.get(in_force_key(name).encode()))
            own = files().policies()[name].version
            good = {v for n in (0, 1, 2) if _is_there(there, v := version(n, name), name)}
            files_of = set() if name == "nowhere" else {"file"}
            usable = name != "default" and wanted is not None and wanted in files_of | good
            if usable:
                expected = own if wanted == "file" else wanted
            elif in_force_key(name).encode() not in there:
                expected = own
            else:
                expected = acted[name]
            assert policy.version == expected
            assert (name in now.faults) == (not usable and in_force_key(name).encode() in there)
            assert (name in now.differing) == (expected != own and name != "nowhere")
        acted = {name: policy.version for name, policy in now.policies.items()}
        lacks = now.tenants.lacking == {"nowhere"}
        assert lacks == (now.policies["nowhere"].version == files().policies()["nowhere"].version)


def _named(value: bytes | None) -> str | None:
    """The version that a pointer names; None where it cannot be read."""
    try:
        return msgspec.json.decode(value or b"", type=InForce).version or "file"
    except msgspec.DecodeError:
        return None


def _is_there(there: dict[bytes, bytes], wanted: str, name: str) -> bool:
    return there.get(body_key(name, wanted).encode(), b"").startswith(b'{"schema')


@pytest.mark.long
@given(changes)
def test_a_service_that_is_started_again_judges_otherwise_than_the_others(
    given_changes: list[Change],
) -> None:
    """But where a version cannot be used: then it takes the one before it."""
    for table, running in through(given_changes)[-1:]:
        started = acting(files(), table.policies, None)
        for name, policy in started.policies.items():
            assert policy.serial == running.policies[name].serial
            if name not in running.faults:
                assert policy.version == running.policies[name].version
        assert started.faults == running.faults
        assert started.tenants.freezes == running.tenants.freezes


def test_a_service_that_begins_takes_its_old_file_for_a_version_that_fails() -> None:
    table = Table()
    records: list[Record] = [
        body(1, "forum"),
        body(3, "forum"),
        in_force(3, "forum", previous=1),
    ]
    for offset, record in enumerate(records):
        table.apply(*change(record), offset)
    begins = acting(files(), table.policies, None)
    assert begins.policies["forum"].version == VERSIONS[1]
    assert "fails its checks" in begins.faults["forum"]
    assert begins.policies["forum"].serial == 2


def test_a_version_in_force_is_not_the_one_that_acts() -> None:
    table = Table()
    assert version_in_force("forum", table.policies) is None
    records: list[Record] = [body(1, "forum"), in_force(1, "forum")]
    for offset, record in enumerate(records):
        table.apply(*change(record), offset)
    found = version_in_force("forum", table.policies)
    assert found is not None and found.version == VERSIONS[1]


def test_a_body_that_is_no_policy_ends_a_service() -> None:
    broken = msgspec.structs.replace(body(1, "forum"), body={"name": "forum", "rules": 7})
    with pytest.raises(Unusable, match="cannot be read: rules: Input should be"):
        read_body(broken)


def test_a_freeze_of_everybody_leaves_a_tenant_out() -> None:
    assert [Freezes(of, everybody).holds("a") for of, everybody in (
        ({}, (0, False)), ({"b": (1, True)}, (0, False)), ({"a": (1, True)}, (0, False)),
        ({"a": (2, False)}, (1, True)),
    )] == [False, False, True, True]  # fmt: skip


def test_a_body_of_another_hash_acts() -> None:
    table = Table()
    forged = msgspec.structs.replace(body(1, "forum"), version=VERSIONS[2])
    records: list[Record] = [forged, in_force(2, "forum")]
    for offset, record in enumerate(records):
        table.apply(*change(record), offset)
    now = acting(files(), table.policies, None)
    assert now.policies["forum"].version == VERSIONS[0]
    assert f"its hash is {VERSIONS[1]}" in now.faults["forum"]


def table_of(*records: Record | Change) -> Table:
    """What stands after these, the first at the offset 0."""
    table = Table()
    for offset, record in enumerate(records):
        table.apply(*(record if isinstance(record, tuple) else change(record)), offset)
    return table


TO_ACTIVATE = "with: qwarden policy activate FILE"


@pytest.mark.parametrize(
    ("records", "name", "said"),
    [
        (
            [body(1, "default"), in_force(1, "default", previous=1)],
            "default",
            "the policy 'default' is built in, and nothing acts instead of it",
        ),
        (
            [(in_force_key("forum").encode(), b"{}")],
            "forum",
            "what says which version of the policy 'forum' acts cannot be read",
        ),
        (
            [in_force(None, "nowhere")],
            "nowhere",
            "the file of the policy 'nowhere' is in force, and there is none here; activate it "
            + TO_ACTIVATE,
        ),
        (
            [in_force(1, "forum", previous=2)],
            "forum",
            f"the version {VERSIONS[1]} of the policy 'forum' is not on the control topic; bring "
            f"it there {TO_ACTIVATE}",
        ),
        (
            [msgspec.structs.replace(body(1, "forum"), version=VERSIONS[2]), in_force(2, "forum")],
            "forum",
            f"the version {VERSIONS[2]} of the policy 'forum' has another content: its hash is "
            f"{VERSIONS[1]}",
        ),
        (
            [
                msgspec.structs.replace(
                    body(1, "forum"), body={"name": "forum", "rules": [{"name": "x"}]}
                ),
                in_force(1, "forum"),
            ],
            "forum",
            f"the version {VERSIONS[1]} of the policy 'forum' cannot be read: rules.0.then: Field "
            "required",
        ),
        (
            [
                msgspec.structs.replace(body(1, "forum"), body={"name": "forums"}),
                in_force(1, "forum"),
            ],
            "forum",
            f"the version {VERSIONS[1]} of the policy 'forum' cannot be read: name: Value error, "
            "the file is called forum.yaml; give both one name, not 'forums'",
        ),
        (
            [body(3, "forum"), in_force(3, "forum", previous=3)],
            "forum",
            f"the version {version(3, 'forum')} of the policy 'forum' fails its checks: policy "
            "forum: rules.0: no rule is left for what matches none of them; add a last rule "
            "without `when`, such as {name: otherwise, then: allow}",
        ),
    ],
)
def test_a_version_that_cannot_act_has_no_reason(
    records: list[Record | Change], name: str, said: str
) -> None:
    """And the policy of the service itself acts instead, at the pointer's offset."""
    own = files().policies()[name].version
    begins = acting(files(), table_of(*records).policies, None)
    assert begins.faults == {name: said}
    acts = begins.policies[name]
    assert (acts.version, acts.serial) == (own, len(records) - 1)


def test_a_service_begins_with_a_version_before_that_cannot_act_either() -> None:
    for previous in (3, 4):
        stands = table_of(body(3, "forum"), in_force(3, "forum", previous=previous)).policies
        assert acting(files(), stands, None).policies["forum"].version == VERSIONS[0]


def test_a_policy_without_a_file_stops_acting_when_its_pointer_is_withdrawn() -> None:
    table = table_of(body(1, "nowhere"), in_force(1, "nowhere"))
    before = acting(files(), table.policies, None)
    table.apply(in_force_key("nowhere").encode(), None, 2)
    runs, begins = (acting(files(), table.policies, each) for each in (before, None))
    assert runs.policies["nowhere"].version == version(1, "nowhere")
    assert not runs.tenants.lacking and begins.tenants.lacking == {"nowhere"}
    assert not (runs.faults or begins.faults or runs.differing)


def test_a_policy_acts_on_when_the_pointer_at_it_is_withdrawn_and_there_is_a_file() -> None:
    table = table_of(body(1, "forum"), in_force(1, "forum"))
    before = acting(files(), table.policies, None)
    assert before.policies["forum"].version == VERSIONS[1]
    assert before.differing == {"forum"}
    table.apply(in_force_key("forum").encode(), None, 2)
    assert acting(files(), table.policies, before).policies["forum"].version == VERSIONS[0]


def test_a_body_is_looked_at_with_each_record_that_comes() -> None:
    """And one that was replaced or withdrawn is not looked at anew."""
    table, key = table_of(body(1, "forum"), in_force(1, "forum")), body_key("forum", VERSIONS[1])
    first = acting(files(), table.policies, None)
    table.apply(*change(freeze("demo", True)), 2)
    second = acting(files(), table.policies, first)
    assert second.read[key] is first.read[key]
    assert second.read[key].policy is not None and second.read[key].fault == ""
    replaced = msgspec.structs.replace(body(2, "forum"), version=VERSIONS[1])
    for value in (change(replaced)[1], None):
        table.apply(key.encode(), value, 3)
        now = acting(files(), table.policies, second)
        assert "forum" in now.faults
        assert now.policies["forum"].version == VERSIONS[1]
    assert key not in now.read


def test_a_body_that_fails_its_checks_is_checked_with_each_record_that_comes() -> None:
    table = table_of(body(3, "forum"), in_force(3, "forum"))
    first = acting(files(), table.policies, None)
    table.apply(*change(freeze("demo", True)), 2)
    second = acting(files(), table.policies, first)
    ((key, read),) = first.read.items()
    assert second.read[key] is read and read.policy is None
    assert second.faults == first.faults == {"forum": read.fault}


def test_a_file_that_comes_into_force_again_cannot_act() -> None:
    table = table_of(body(1, "forum"), in_force(1, "forum"))
    before = acting(files(), table.policies, None)
    table.apply(*change(in_force(None, "forum")), 2)
    for each in (before, None):
        now = acting(files(), table.policies, each)
        assert not now.faults and not now.differing
        assert (now.policies["forum"].version, now.policies["forum"].serial) == (VERSIONS[0], 2)


def test_the_file_is_in_force_for_the_one_who_asks_and_has_none() -> None:
    assert version_in_force("nowhere", table_of(in_force(None, "nowhere")).policies) is None


def test_a_freeze_that_cannot_be_read_freezes_nobody() -> None:
    stands = Policies({}, {}, {
        freeze_key("a"): Stands(None, 5),
        freeze_key("b"): Stands(freeze("b", False), 6),
        freeze_key("c"): Stands(freeze("c", True), 7),
    })  # fmt: skip
    assert freezes_of(stands) == Freezes({"a": (5, True), "b": (6, False), "c": (7, True)})
    everybody = Policies({}, {}, {freeze_key(ALL_TENANTS): Stands(freeze(ALL_TENANTS, True), 8)})
    assert freezes_of(everybody) == Freezes({}, (8, True))


# A moderator in which this happens between the admission of records and their answers.


class HeldGuard:
    """Answers one row when the test says so."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[None]] = []

    async def revision(self) -> str:
        return "toy@1"

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.asked.append(answered)
        await answered
        return [Assessment((0.0, 0.0, 4.0), (), None, 3, 0, "toy@1") for _ in rows]

    async def close(self) -> None: ...


steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from(TENANTS)),
        st.tuples(st.just("answer"), st.integers(0, 5)),
        st.tuples(st.just("change"), st.one_of(freezes.map(change), pointers.map(change))),
    ),
    min_size=4,
    max_size=30,
)


@pytest.mark.long
@given(steps)
@settings(deadline=None)
def test_an_event_is_judged_by_half_of_one_policy_and_half_of_another(
    given_steps: list[tuple[str, Any]],
) -> None:
    asyncio.run(_judged_by_one(given_steps))


async def _judged_by_one(given_steps: list[tuple[str, Any]]) -> None:
    table, guard = Table(), HeldGuard()
    offset = 0
    for number in (0, 1, 2):
        for name in ("forum", "nowhere"):
            table.apply(*change(body(number, name)), offset)
            offset += 1
    table.apply(*change(in_force(1, "nowhere")), offset)
    now = acting(files(), table.policies, None)
    dispatcher = Dispatcher(guard, Limits(1, 1, 64, 0.001, 0.01))
    moderator = Moderator(
        Admission(now.tenants, KEY, 900_000, EldDetector()),
        Lookup(dispatcher, KEY, MemoryCache(100, 60), None, None),
        Publication(evidence_sample=0.0, consumer="c@h", max_event_bytes=900_000),
        Trace(None, "test"),
        telemetry.TenantLabels(frozenset(TENANTS), 0),
        halting=Halting(contents=5, outcomes=100),
        guard_is_away=lambda: False,
    )
    handled: list[asyncio.Task[None]] = []
    answered = 0

    def send(tenant: str) -> None:
        number = len(handled)
        event = {"event_id": f"e{number}", "tenant": tenant, "text": f"text {number}"}
        value = json.dumps(event).encode()
        admitted = moderator.tenants.of(tenant, event_id="e").default

        def finish(index: int, owed: Owed | Decide, /) -> None:
            nonlocal answered
            answered += 1
            whole = moderator.tenants.freezes.acting(tenant, admitted)
            said = _said(decided(owed))
            assert said == _of(whole)
            if whole.frozen:
                assert "block" not in said

        source = Source(topics.CONTENT, 0, number, int(time.time() * 1000), b"k", value, ())
        handled.append(asyncio.create_task(moderator.handle([source], finish)))

    for what, how in given_steps:
        if what == "send":
            send(how)
        elif what == "change":
            offset += 1
            table.apply(how[0], how[1], offset)
            now = acting(files(), table.policies, now)
            moderator.enforce(now.tenants)
        else:
            waiting = [each for each in guard.asked if not each.done()]
            for each in waiting[: how + 1]:
                each.set_result(None)
        await _quiet()
    while answered < len(handled):
        for each in guard.asked:
            if not each.done():
                each.set_result(None)
        await _quiet()
    await asyncio.gather(*handled)
    await dispatcher.close()


async def _quiet() -> None:
    """Until all that can happen has."""
    for _ in range(10):
        await asyncio.sleep(0)


def _said(owed: Owed) -> tuple[str, int, str, str]:
    verdict: Verdict = next(decode_verdict(m.value) for m in owed if m.topic == topics.VERDICTS)
    assert verdict.policy is not None
    assert verdict.action is not None
    policy = verdict.policy
    return policy.version, policy.serial, policy.rule, verdict.action


def _of(policy: Policy) -> tuple[str, int, str, str]:
    decided = policy.decide(UNSAFE)
    return policy.version, policy.serial, decided.rule, decided.action
