"""`qwarden rejudge` on a real broker: what an undo may lose, do twice, or do against a person's
will; also one that is killed in the middle."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

import fleet
from commands import Shell
from fleet import Tap
from moderators import Fleetlet, Guard, policies_in
from qwarden import bootstrap
from qwarden.contracts import topics
from qwarden.contracts.escalation import Escalation, Kind
from qwarden.contracts.standing import standing
from qwarden.contracts.verdict import Verdict, decode_verdict
from qwarden.enforcement import commanding
from qwarden.guard.answer import Answer
from qwarden.outcomes.lookup import Lookup
from qwarden.policy.in_force import acting
from qwarden.policy.policy import version_of
from qwarden.policy.sources import BUILT_IN, read_source
from qwarden.rejudge import acting as doing
from qwarden.rejudge.acting import _MOST_AT_ONCE
from qwarden.rejudge.contents import GONE, Door
from qwarden.rejudge.planning import DECIDED, EDITED, WITHDRAWN, Selection
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from unit.builders import CONTROVERSIAL, SAFE, assessment, decision

WRONG_BLOCKS = 1200
RATE = 400
"""A second: an undo takes three, and is killed after one."""
PEOPLES = 300
EVERYBODY = ("forum", "people", "frozen", "edited", "asked", "gone")
ALL_TO_REVIEW = (
    "then: review, queue: general, harm: 3, sla: 1d, meanwhile: show, on_breach: allow, "
    "ground: terms, clause: '5'"
)


def text_of(name: str, then: str, rule: str = "doubt") -> str:
    """A policy that does this with what is Controversial."""
    more = ""
    if then == "review":
        more = "queue: general, harm: 3, sla: 1d, meanwhile: hide, on_breach: block, "
    if then != "allow":
        more += "ground: terms, clause: '1', "
    return (
        f"name: {name}\nrules:\n"
        f"- {{name: {rule}, when: {{safety: Controversial}}, {more}then: {then}}}\n"
        "- {name: unsafe, when: {safety: Unsafe}, then: block, ground: terms, clause: '2'}\n"
        "- {name: rest, then: allow}\n"
    )


def open_in_outages(name: str) -> str:
    return text_of(name, "block", "wrong") + "on_outage: allow\n"


class Doubtful(Guard):
    """Finds everything Controversial."""

    def _say(self, row: bytes) -> Answer:
        return assessment(CONTROVERSIAL, ("Violent", 0.9))


class Sure(Guard):
    """Finds everything Safe."""

    def _say(self, row: bytes) -> Answer:
        return assessment(SAFE)


@pytest.fixture(scope="module")
def own(own_kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Fleetlet:
    home = Home(tmp_path_factory.mktemp("rejudge"))
    files = {f"policies/{name}.yaml": text_of(name, "block", "wrong") for name in EVERYBODY}
    files |= {f"policies/{name}.yaml": open_in_outages(name) for name in ("asked", "gone")}
    files |= {f"tenants/{n}.yaml": f"name: {n}\npolicies: [{n}]\nrelay: false\n" for n in EVERYBODY}
    made = Fleetlet(own_kafka, home, policies_in(home.root, files))
    asyncio.run(made.make_topics())
    return made


def version_of_text(name: str, text: str) -> str:
    return version_of(read_source({name: text}, name).file)


async def activate(own: Fleetlet, name: str, text: str) -> None:
    file = read_source({name: text}, name).file
    kafka = own.settings("none").kafka
    await commanding.activate(kafka, file, at=datetime.now(UTC), by="test")


def event(tenant: str, name: str, **more: object) -> dict[str, Any]:
    text = {} if more.get("deleted") else {"text": f"text of {name}"}
    return {"event_id": name, "tenant": tenant, **text, **more}


def many(count: int) -> list[dict[str, Any]]:
    return [{"event_id": f"e{n}", "text": f"text {n}"} for n in range(count)]


def just_now() -> str:
    return (datetime.now(UTC) - timedelta(seconds=1)).isoformat()


async def send(own: Fleetlet, topic: str, *records: dict[str, Any]) -> list[str]:
    named = [(each["event_id"].encode(), json.dumps(each).encode()) for each in records]
    return await fleet.publish(own.kafka.bootstrap, topic, named)


async def moderated(
    own: Fleetlet, group: str, guard: Guard, *batches: list[dict[str, Any]]
) -> None:
    """Has a moderator judge events, each batch after the one before it."""
    await own.at_the_end(group)
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, guard, QWARDEN_MODERATOR__EVIDENCE_SAMPLE="0"),
    ):
        for batch in batches:
            found = await fleet.outcomes(tap, await send(own, topics.CONTENT, *batch))
            assert not found.dead


async def whole(own: Fleetlet, topic: str) -> list[tuple[int, bytes]]:
    """All of a topic: each record's offset and value."""
    async with Tap(own.kafka.bootstrap, topic) as tap:
        await tap._consumer.seek_to_beginning()
        await tap.read_to_the_end()
        return [(record.offset, record.value) for record in tap.records[topic]]


def items_of(own: Fleetlet, tenant: str) -> list[Escalation]:
    read = asyncio.run(whole(own, topics.REVIEW))
    items = [msgspec.json.decode(value, type=Escalation) for _, value in read]
    return [each for each in items if each.verdict.tenant == tenant]


async def verdicts_of(own: Fleetlet, tenant: str) -> list[tuple[int, Verdict]]:
    read = [(at, decode_verdict(value)) for at, value in await whole(own, topics.VERDICTS)]
    return [each for each in read if each[1].tenant == tenant]


# The command.


@pytest.fixture
def shell(own: Fleetlet, tmp_path: Path) -> Shell:
    settings = {
        "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": own.kafka.bootstrap,
        "QWARDEN_POLICY__PATH": str(own.policies),
        "QWARDEN_MODERATOR__EVIDENCE_SAMPLE": "0",
    }
    return Shell(tmp_path, settings)


def test_a_wrong_block_stands_or_is_undone_twice_after_a_kill(own: Fleetlet, shell: Shell) -> None:
    """Blocks of a rule that was wrong, and some that are not to be touched. The command is killed
    in the middle and called again."""
    events = [each | {"tenant": "forum"} for each in many(WRONG_BLOCKS)]
    spared = [event("forum", each) for each in ("decided", "withdrawn", "edited")]
    later = [event("forum", "withdrawn", deleted=True), event("forum", "edited", edit=1)]
    began = just_now()
    asyncio.run(moderated(own, "killed", Doubtful(), [*events, *spared], later))
    before = {each.verdict_id: each for _, each in asyncio.run(verdicts_of(own, "forum"))}
    of = {"tenant": "forum", "action": "block", "ground": "terms", "clause": "tone"}
    said_by = [
        decision("d" * 32, event_id="decided", **of),
        decision("b" * 32, event_id="e0", by="breach", reviewer=None, **of),
    ]
    asyncio.run(send(own, topics.DECISIONS, *map(msgspec.to_builtins, said_by)))

    asyncio.run(activate(own, "forum", text_of("forum", "allow")))
    wrong = version_of_text("forum", text_of("forum", "block", "wrong"))
    dry = shell(
        "rejudge", "--policy", f"forum@{wrong}", "--rule", "wrong", "--from", began, "--json"
    ).line
    flow = {"tenant": "forum", "old": "block", "new": "allow", "policy": "forum", "rule": "doubt"}
    assert dry["flows"] == [flow | {"verdicts": WRONG_BLOCKS + 1}]  # and the edit itself
    assert dry["left"] == {DECIDED: 1, WITHDRAWN: 1, EDITED: 1}
    assert (dry["undecided"], dry["impossible"]) == ({}, {})
    assert {each.verdict_id for _, each in asyncio.run(verdicts_of(own, "forum"))} == before.keys()

    apply = ("rejudge", "--apply", dry["plan"], "--rate", RATE)
    done = asyncio.run(killed_in_the_middle(own, shell.begun(*apply)))
    again = shell(*apply)
    assert again.code == 0, again.err
    assert f"{done:,} of them are superseded already" in again.err

    after = asyncio.run(verdicts_of(own, "forum"))
    check_undone(before, after, WRONG_BLOCKS + 1)
    stands = {key.event_id: each.action for key, each in standing(after).items()}
    left = {name: action for name, action in stands.items() if action != "allow"}
    assert left == {"decided": "block", "withdrawn": None}
    closed = {each.verdict.supersedes for each in items_of(own, "forum") if each.kind is Kind.CLOSE}
    assert closed >= {each.supersedes for _, each in after}

    # Nothing is left to do, and whoever compares the topics finds no fault.
    assert "0 verdicts are superseded" in shell(*apply).err
    assert len(asyncio.run(verdicts_of(own, "forum"))) == len(after)
    report = shell("verify", "--to-end", "--json").line
    assert report["ok"], report
    assert report["found"]["revised"] == 0
    # What was killed between the closing or the evidence of its last rows and their verdicts writes
    # those two again, with equal values.
    assert report["found"]["duplicated"] <= 2 * _MOST_AT_ONCE


def check_undone(before: dict[str, Verdict], after: list[tuple[int, Verdict]], count: int) -> None:
    """Each once; none that a person has decided on, that was withdrawn, or of an earlier edit."""
    superseded = Counter(each.supersedes for _, each in after if each.supersedes is not None)
    assert superseded == dict.fromkeys(superseded, 1)
    assert len(superseded) == count
    assert {before[each].action for each in superseded} == {"block"}
    events = {(before[each].event_id, before[each].edit) for each in superseded}
    assert not events & {("decided", 0), ("withdrawn", 0), ("edited", 0)}


def test_people_see_nothing_of_what_was_allowed_wrongly(own: Fleetlet, shell: Shell) -> None:
    """Evidence has nothing of it: its contents are where it came from."""
    began = just_now()
    events = [each | {"tenant": "people"} for each in many(PEOPLES)]
    asyncio.run(moderated(own, "people", Sure(), events))
    stricter = text_of("people", "block").replace("then: allow", ALL_TO_REVIEW)
    asyncio.run(activate(own, "people", stricter))
    wrong = version_of_text("people", text_of("people", "block", "wrong"))
    dry = shell("rejudge", "--policy", wrong, "--rule", "rest", "--from", began, "--json").line
    assert [(flow["new"], flow["verdicts"]) for flow in dry["flows"]] == [("review", PEOPLES)]
    said = shell("rejudge", "--apply", dry["plan"], "--rate", 100_000)
    assert said.code == 0, said.err
    stands = standing(asyncio.run(verdicts_of(own, "people")))
    assert Counter(each.action for each in stands.values()) == {"review": PEOPLES}
    items = items_of(own, "people")
    assert {each.kind for each in items} == {Kind.REVIEW}
    texts = {each.content.messages[0].content for each in items if each.content}
    assert texts == {f"text {n}" for n in range(PEOPLES)}
    assert shell("verify", "--to-end", "--json").line["ok"]


async def killed_in_the_middle(own: Fleetlet, running: subprocess.Popen[str]) -> int:
    """Kills the command when about a third is done; how much is."""
    async with Tap(own.kafka.bootstrap, topics.VERDICTS) as tap:

        async def is_in_the_middle() -> bool:
            await tap.read()
            assert running.poll() is None, "it has ended by itself"
            return len(tap.records[topics.VERDICTS]) > WRONG_BLOCKS // 3

        await fleet.until(is_in_the_middle, "a third is undone", 120)
        running.send_signal(signal.SIGKILL)
        running.communicate()
        await tap.read_to_the_end()
    verdicts = await verdicts_of(own, "forum")
    done = sum(each.supersedes is not None for _, each in verdicts)
    assert WRONG_BLOCKS // 3 < done < WRONG_BLOCKS
    return done


def test_an_undo_blocks_under_a_freeze(own: Fleetlet, shell: Shell) -> None:
    """Also where the freeze begins after the dry run."""
    began = just_now()
    events = [each | {"tenant": "frozen"} for each in many(20)]
    asyncio.run(moderated(own, "frozen", Doubtful(), events))
    wrong = version_of_text("frozen", text_of("frozen", "block", "wrong"))
    words = ("rejudge", "--policy", wrong, "--rule", "wrong", "--from", began, "--json")
    asyncio.run(activate(own, "frozen", text_of("frozen", "block", "another")))
    same = shell(*words).line
    assert (same["same"], same["flows"]) == (20, [])
    another_clause = text_of("frozen", "block", "another").replace("'1'", "'3'")
    asyncio.run(activate(own, "frozen", another_clause))
    free = shell(*words).line
    assert [flow["new"] for flow in free["flows"]] == ["block"], "the user is told otherwise"

    assert shell("policy", "freeze", "frozen", "--reason", "it blocks recipes").code == 0
    refused = shell("rejudge", "--apply", free["plan"])
    assert refused.code == 1
    assert "'frozen' is frozen, and was not when the plan was made" in refused.err
    assert len(asyncio.run(verdicts_of(own, "frozen"))) == 20

    cold = shell(*words).line
    assert [flow["new"] for flow in cold["flows"]] == ["review"]
    assert shell("rejudge", "--apply", cold["plan"]).code == 0
    assert shell("policy", "unfreeze", "frozen").code == 0
    after = [each for _, each in asyncio.run(verdicts_of(own, "frozen"))]
    assert Counter(each.action for each in after) == {"block": 20, "review": 20}
    assert {each.on_breach for each in items_of(own, "frozen")} == {"raise"}


def test_a_plan_that_was_edited_or_is_not_one_is_applied(own: Fleetlet, shell: Shell) -> None:
    began = just_now()
    asyncio.run(moderated(own, "edited-plan", Doubtful(), [event("edited", "p1")]))
    wrong = version_of_text("edited", text_of("edited", "block", "wrong"))
    said = shell(
        "rejudge", "--policy", wrong, "--rule", "wrong", "--from", began, "--with", "loose",
        "--json",
    ).line  # fmt: skip
    assert [flow["policy"] for flow in said["flows"]] == ["loose"]
    plan = shell.folder / said["plan"]
    whole_plan = plan.read_text()
    plan.write_text(whole_plan.replace('"serial": ', '"serial": 1'))
    edited = shell("rejudge", "--apply", plan)
    assert edited.code == 1
    assert "make another one" in edited.err
    plan.write_text("{}")
    assert shell("rejudge", "--apply", plan).code == 2
    assert shell("rejudge", "--apply", plan, "--rule", "x").code == 2
    assert shell("rejudge", "--rule", "x").code == 2
    assert len(asyncio.run(verdicts_of(own, "edited"))) == 1
    plan.write_text(whole_plan)
    assert shell("rejudge", "--apply", plan).code == 0
    assert len(asyncio.run(verdicts_of(own, "edited"))) == 2


def test_a_person_who_says_no_is_not_heard(own: Fleetlet, shell: Shell) -> None:
    began = just_now()
    tenant = "unknown"  # which the built-in policy acts on
    asyncio.run(moderated(own, "no-or-yes", Doubtful(), [event(tenant, "n1")]))
    for answer, verdicts in ((b"n\n", 1), (b"y\n", 2)):
        said = shell(
            "rejudge", "--policy", BUILT_IN["default"].version, "--rule", "controversial",
            "--from", began, "--tenant", tenant, "--with", "strict", "--now", stdin=answer,
        )  # fmt: skip
        assert said.code == 0
        assert f"{tenant}: review -> block, by the rule controversial of strict" in said.out
        assert len(asyncio.run(verdicts_of(own, tenant))) == verdicts


# Where the guard is asked, and where nothing can be done.


async def rejudged(
    own: Fleetlet, tenant: str, guard: Guard, since: datetime
) -> tuple[doing.Outlook, list[doing.Done]]:
    settings = own.settings("none", QWARDEN_MODERATOR__EVIDENCE_SAMPLE="0")
    tenants = bootstrap.tenants_of(settings, activated=True)
    stands = await commanding.standing(settings.kafka)
    door = Door(bootstrap.admission_of(settings, tenants), None)

    @asynccontextmanager
    async def judging() -> AsyncIterator[Lookup]:
        async with bootstrap.judging(settings, guard, 100) as (lookup, _):
            yield lookup

    plan, seen = await doing.plan_for(
        settings.kafka,
        Selection(
            version=version_of_text(tenant, open_in_outages(tenant)),
            rule="on_outage",
            tenant=tenant,
            since=since,
            until=datetime.now(UTC),
        ),
        acting(tenants, stands, None),
        stands,
        chosen=None,
        at=datetime.now(UTC),
        by="test",
    )
    outlook = await doing.outlook(settings.kafka, plan, seen, door)
    work = doing.apply(
        settings.kafka,
        plan,
        seen,
        door=door,
        judging=judging,
        stands=lambda: stands,
        rate=1000,
        sample_rate=0.0,
    )
    async with aclosing(work) as each:
        return outlook, [done async for done in each]


async def test_content_that_nobody_judged_is_allowed_for_good(own: Fleetlet) -> None:
    """The guard was away, and the policy let all of it through. The mended one waits for the guard:
    so it is asked."""
    began = datetime.now(UTC) - timedelta(seconds=1)
    guard = Doubtful()
    guard.away = True
    events = [each | {"tenant": "asked"} for each in many(30)]
    await moderated(own, "asked", guard, events)
    await activate(own, "asked", text_of("asked", "block"))
    guard.away = False
    outlook, done = await rejudged(own, "asked", guard, began)
    assert outlook.total == 0
    assert list(outlook.undecided.values()) == [30]
    assert Counter(each.action for each in done) == {"block": 30}
    after = [each for _, each in await verdicts_of(own, "asked")]
    assert Counter((each.action, each.basis) for each in after) == {
        ("allow", "degraded"): 30, ("block", "guard"): 30,
    }  # fmt: skip
    judged = [each for each in after if each.supersedes is not None]
    assert {(each.safety, each.cause) for each in judged} == {("Controversial", None)}
    assert all(each.guard and each.scores and each.category_scores for each in judged)


async def test_what_nobody_has_any_more_is_made_up(own: Fleetlet) -> None:
    """Neither evidence nor origin: the verdict stays, and is counted."""
    began = datetime.now(UTC) - timedelta(seconds=1)
    guard = Doubtful()
    guard.away = True
    events = [each | {"tenant": "gone"} for each in many(20)]
    await moderated(own, "gone", guard, events)
    await activate(own, "gone", text_of("gone", "block"))
    admin = AIOKafkaAdminClient(bootstrap_servers=own.kafka.bootstrap)
    await admin.start()
    try:
        for topic in (topics.CONTENT, topics.EVIDENCE):
            ends = await fleet.ends_of(own.kafka.bootstrap, topic)
            await admin.delete_records({each: RecordsToDelete(end) for each, end in ends.items()})
    finally:
        await admin.close()
    outlook, done = await rejudged(own, "gone", guard, began)
    assert outlook.impossible == {GONE: 20}
    assert {each.left for each in done} == {GONE}
    assert len(await verdicts_of(own, "gone")) == 20
