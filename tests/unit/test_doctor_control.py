"""What the doctor reads of the control topic and of evidence: what is in force, and by which
content key things were hashed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from qwarden.contracts.control import (
    ALL_TENANTS,
    Freeze,
    Halt,
    InForce,
    Key,
    LossAccepted,
    Policies,
    PolicyBody,
    Stands,
    freeze_key,
    in_force_key,
)
from qwarden.contracts.escalation import Content, Evidence
from qwarden.contracts.event import Event, Message
from qwarden.contracts.judged import conversations_of
from qwarden.contracts.keys import ContentKey
from qwarden.contracts.verdict import encode
from qwarden.doctor import in_force, keys
from qwarden.doctor.finding import Finding, Findings, Result
from qwarden.policy.policy import body_of, version_of
from qwarden.policy.sources import read_source
from qwarden.policy.tenants import Tenants, read_tenants
from unit.builders import KEY, verdict

AT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
OTHER_KEY = ContentKey(b"f" * 32)


def tenants(*lists: str) -> Tenants:
    """`demo`, which may use these policies beside `forum`, which has a file."""
    return read_tenants(
        {"forum": "name: forum\nextends: default\n"},
        {"demo": f"name: demo\npolicies: [{', '.join(('forum', *lists))}]\n"},
        strict=False,
        activated=True,
    )


def frozen(tenant: str, *, is_frozen: bool = True) -> Stands[Freeze]:
    freeze = Freeze(tenant=tenant, frozen=is_frozen, reason="too many blocks", at=AT, by="ann")
    return Stands(freeze, 3)


def judged(
    *lists: str,
    bodies: Sequence[PolicyBody] = (),
    in_force_now: dict[Key, Stands[InForce]] | None = None,
    freezes: dict[Key, Stands[Freeze]] | None = None,
    halts: Sequence[Halt] = (),
    losses: Sequence[LossAccepted] = (),
) -> list[Finding]:
    found = Findings("in force")
    stands = Policies({each.key(): each for each in bodies}, in_force_now or {}, freezes or {})
    in_force.judge(
        found,
        tenants(*lists),
        stands,
        {each.key(): each for each in halts},
        {each.key(): each for each in losses},
    )
    return found.all


def test_a_fleet_in_which_nothing_is_out_of_the_ordinary_is_told_otherwise() -> None:
    (good,) = judged()
    assert good == Finding("in force", "in force", Result.GOOD, "no halt; 2 policies act")


def test_a_halted_fleet_is_called_good() -> None:
    halt = Halt(reason="five contents crashed the guard.", at=AT, by="group@host")
    (wrong,) = judged(halts=[halt])
    assert (wrong.about, wrong.result) == ("halt", Result.WRONG)
    assert wrong.sentence == (
        "nothing is judged since 2026-03-01 12:30 UTC, by group@host: five contents crashed the "
        "guard. When that is mended: qwarden dlq resume"
    )


@pytest.mark.parametrize(
    ("tenant", "whose"), [(ALL_TENANTS, "every tenant"), ("demo", "the tenant demo")]
)
def test_a_freeze_that_was_left_on_is_not_told(tenant: str, whose: str) -> None:
    note, good = judged(freezes={freeze_key(tenant): frozen(tenant)})
    assert (note.result, good.result) == (Result.NOTE, Result.GOOD)
    assert note.sentence.startswith(f"nothing automatic blocks for {whose} since 2026-03-01 12:30")
    assert "(too many blocks), by ann" in note.sentence
    wrong, _ = judged(freezes={freeze_key(tenant): Stands(None, 3)})
    assert wrong.result is Result.WRONG
    assert wrong.sentence.startswith(f"the freeze of {whose} cannot be read, so it holds")


def test_a_freeze_that_was_lifted_is_told() -> None:
    assert len(judged(freezes={freeze_key("demo"): frozen("demo", is_frozen=False)})) == 1


def test_a_policy_that_cannot_act_or_that_nobody_gave_is_overlooked() -> None:
    pointer = InForce(policy="forum", version="0" * 12, previous=None, at=AT, by="ann")
    fault, lacks, good = judged("club", in_force_now={in_force_key("forum"): Stands(pointer, 7)})
    assert (fault.about, fault.result) == ("policy forum", Result.WRONG)
    assert "its version in force cannot act: the version 000000000000" in fault.sentence
    assert (lacks.about, lacks.result) == ("policy club", Result.WRONG)
    assert lacks.sentence.endswith("or activate it: qwarden policy activate club")
    assert good.sentence == "no halt; 3 policies act"


def test_a_file_that_is_not_what_acts_is_taken_for_what_acts() -> None:
    other = "name: forum\nextends: default\non_unjudged: block\n"
    file = read_source({"forum": other}, "forum").file
    body = PolicyBody(
        policy="forum",
        version=version_of(file),
        body=json.loads(body_of(file)),
        at=AT,
        by="ann",
    )
    pointer = InForce(policy="forum", version=body.version, previous=None, at=AT, by="ann")
    note, _ = judged(bodies=[body], in_force_now={in_force_key("forum"): Stands(pointer, 7)})
    assert (note.about, note.result) == ("policy forum", Result.NOTE)
    assert note.sentence == (
        f"version {body.version} is in force and the file here is another one; compare them with: "
        "qwarden policy show forum"
    )


def test_losses_that_people_accepted_are_forgotten() -> None:
    lost = LossAccepted(
        topic="content.events", partition=0, group="g", committed=3, resume_at=9, at=AT, by="ann"
    )
    (good,) = judged(losses=[lost])
    assert good.sentence.endswith("; 1 losses of records were accepted by people")


# The content key.


def evidence(by: ContentKey = KEY, **fields: Any) -> bytes:
    """A record of `moderation.evidence` whose content was hashed with this key."""
    messages = [Message(role="user", content="How do I bake bread?")]
    event = Event(event_id="e1", tenant="demo", messages=messages)
    (conversation,), _ = conversations_of(event)
    own = by.content_hash(conversation.to_json()).hex()
    said = verdict("1", **{"content_hash": own} | fields)
    return encode(Evidence(verdict=said, content=Content(messages=messages)))


@pytest.mark.parametrize(
    ("value", "alike"),
    [
        (evidence(), True),
        (evidence(OTHER_KEY), False),
        (evidence(content_hash=None), None),
        (evidence(task="response"), None),
        (None, None),
        (b"{}", None),
        (b"\xff", None),
        (encode(Evidence(verdict=verdict("1"), content=Content(messages=[]))), None),
    ],
)
def test_evidence_that_tells_nothing_of_the_key_accuses_it(
    value: bytes | None, alike: bool | None
) -> None:
    assert keys.hashes_alike(value, KEY) is alike


@pytest.mark.parametrize(
    ("alike", "result", "sentence"),
    [
        ([], Result.LEFT_OUT, f"its id is {KEY.id}"),
        ([None, None], Result.LEFT_OUT, "no evidence is there to compare it with"),
        ([True, None, True], Result.GOOD, "the last 2 records of evidence"),
        ([True, None, False, False], Result.WRONG, "2 of the last 3 records of evidence"),
    ],
)
def test_a_service_with_another_content_key_is_not_found(
    alike: list[bool | None], result: Result, sentence: str
) -> None:
    found = Findings("content key")
    keys.judge(found, alike, KEY)
    (finding,) = found.all
    assert finding.result is result and sentence in finding.sentence
