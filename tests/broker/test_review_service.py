"""The review service as a process on a real broker: what it takes, what it holds, what it tells."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from sqlalchemy import select

import fleet
from commands import Shell
from databases import Databases
from qwarden import settings
from qwarden.contracts import headers, topics
from qwarden.contracts.control import Freeze
from qwarden.contracts.decision import decode_decision
from qwarden.contracts.escalation import Content
from qwarden.contracts.event import Message, Report
from qwarden.control.kafka import KafkaControl
from qwarden.kafka import admin, committed_in
from qwarden.review.person import Role
from qwarden.review.store.schema import duties, outbox
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.postgres import Postgres
from qwarden.stack.service import Service
from qwarden.stretch import stretch_of
from review_api.desk import claimed, decided
from reviewing import (
    REVIEW_SERVICE,
    Reviewing,
    escalations,
    make_topics,
    publish,
    reviewing,
    settings_of,
    working_at,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("review"))


@pytest.fixture(scope="module")
def broker(home: Home) -> Iterator[Kafka]:
    """Of this file alone: one fleet has one review service's outbox."""
    with Kafka(home) as kafka:
        yield kafka


@pytest.fixture
async def running(
    home: Home, broker: Kafka, group: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Reviewing]:
    """On SQLite, with nothing in it; it reads again what other tests have published."""
    url = f"sqlite:///{tmp_path_factory.mktemp('database') / 'review.db'}"
    async with reviewing(
        home, broker, url, QWARDEN_REVIEW__GROUP_ID=group, QWARDEN_REVIEW__TAKE_BACK_S="1.5",
        **fleet.SHORT_SESSION,
    ) as service:  # fmt: skip
        yield service


@pytest.fixture(scope="module")
def one(
    broker: Kafka, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, dict[str, str]]]:
    """A service for all tests that let it run: a start is two seconds of CPU."""
    asyncio.run(make_topics(broker.bootstrap))
    own = Home(tmp_path_factory.mktemp("shared"))
    told = settings_of(
        broker.bootstrap,
        f"sqlite:///{own.root / 'review.db'}",
        QWARDEN_REVIEW__GROUP_ID="shared",
        QWARDEN_REVIEW__TAKE_BACK_S="1.5",
    )
    with Service(own, REVIEW_SERVICE, told) as service:
        yield service, told


@pytest.fixture
async def shared(one: tuple[Service, dict[str, str]], group: str) -> AsyncIterator[Reviewing]:
    """It, for people of the test's own."""
    async with working_at(*one, crowd=f"-{group}") as service:
        yield service


@pytest.fixture
def group(request: pytest.FixtureRequest) -> str:
    return str(request.node.originalname).replace("_", "-")[-60:]


async def read(
    bootstrap: str, topic: str, until: int = 0, within_s: float = 30.0, **how: Any
) -> list[ConsumerRecord]:
    """Reads a topic from its beginning to its present end, and on until there are so many."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="earliest", **how
    )
    await consumer.start()
    records: list[ConsumerRecord] = []
    try:
        ends = await consumer.end_offsets(list(consumer.assignment()))

        async def are_there() -> bool:
            for polled in (await consumer.getmany(timeout_ms=200)).values():
                records.extend(polled)
            at = [await consumer.position(each) >= end for each, end in ends.items()]
            return all(at) and len(records) >= until

        await fleet.until(are_there, f"{until} records of {topic}", within_s)
    finally:
        await consumer.stop()
    return records


async def test_what_cannot_be_read_stops_the_queue(shared: Reviewing, group: str) -> None:
    bootstrap = shared.bootstrap
    ann = await shared.client("ann", tenants=[group])
    await fleet.publish(
        bootstrap,
        topics.REVIEW,
        [(b"k", b"{"), (b"k", b'{"kind": "review"}'), (b"k", None), (b"k", b"\xff")],
    )
    await fleet.publish(bootstrap, topics.EVIDENCE, [(b"k", b'{"verdict": 3}')])
    await shared.seed(escalations(2, tenant=group, name=group))
    await claimed(ann)
    letters = await read(bootstrap, topics.DEAD_LETTERS, 5)
    assert len(letters) == 5
    for record in letters:
        about = headers.event_attributes(record.headers)
        assert about["ce_source"] == "/qwarden/review-service"
        letter = json.loads(record.value)
        assert letter["error_class"] in ("not_json", "not_an_event")
        assert letter["consumer"].startswith("shared")
    assert {json.loads(each.value)["origin"]["topic"] for each in letters} == {
        topics.REVIEW,
        topics.EVIDENCE,
    }


async def test_a_decision_goes_out_too_early_or_never(shared: Reviewing, group: str) -> None:
    http = shared.service.http
    decided_before = fleet.metric(http, "qwarden_review_decisions_total")
    published_before = fleet.metric(http, "qwarden_review_published_total")
    ann = await shared.client("ann", tenants=[group])
    arrived = escalations(3, tenant=group, name=group)
    await shared.seed(arrived)
    first, second, third = [await claimed(ann) for _ in range(3)]
    await decided(ann, first, "block", override=True)
    taken_back = await decided(ann, second)
    back = await ann.post(f"/v1/rulings/{taken_back['ruling_id']}/take-back")
    assert back.status_code == 200
    said = await decided(ann, third)
    records = await read(shared.bootstrap, topics.DECISIONS, 2, isolation_level="read_committed")
    made = [decode_decision(each.value) for each in records]
    assert [each.action for each in made if each.tenant == group] == ["block", "allow"]
    late = await ann.post(f"/v1/rulings/{said['ruling_id']}/take-back")
    assert late.status_code == 409
    control = await read(shared.bootstrap, topics.CONTROL, 1)
    assert json.loads(control[0].value)["action"] == "block"
    assert fleet.metric(http, "qwarden_review_decisions_total") == decided_before + 3
    assert fleet.metric(http, "qwarden_review_published_total") >= published_before + 3


async def test_a_killed_service_loses_or_doubles_an_item(running: Reviewing, group: str) -> None:
    """Killed while it takes records and while somebody holds an item."""
    lead = await running.client("lena", Role.LEAD, tenants=[group])
    arrived = escalations(250, tenant=group, name=group)
    await running.seed(arrived[:50])
    claim = await claimed(lead)
    for part in range(2):
        await publish(running.bootstrap, arrived[50 + part * 100 : 150 + part * 100])
        running.service.kill()
        await asyncio.to_thread(running.service.start)
    await publish(running.bootstrap, arrived)
    await running.until_kept({each.said.verdict.verdict_id for each in arrived})
    seen: list[str] = []
    after = ""
    while after is not None:
        page = (await lead.get("/v1/items", params={"after": after, "limit": 200} if after else
                {"limit": 200})).json()  # fmt: skip
        seen += [each["item_id"] for each in page["items"]]
        after = page["next"]
    assert len(seen) == len(set(seen)) == 250
    assert (await decided(lead, claim))["decisions"] == 1


async def test_the_next_process_waits_for_one_that_was_stopped(
    running: Reviewing, group: str
) -> None:
    """Nothing is published, and no breach acted on, until one that holds the duties is late."""
    ann = await running.client("ann", tenants=[group])
    await running.seed(escalations(1, tenant=group, name=group))
    await decided(ann, await claimed(ann))

    async def on_duty() -> set[str]:
        async with running.database.reading() as tx:
            return set((await tx.execute(select(duties.c.name))).scalars())

    async def has_all() -> bool:
        return await on_duty() == {"publish", "seal", "sweep"}

    await fleet.until(has_all, "the process is on duty")
    await asyncio.to_thread(running.service.stop)
    assert await on_duty() == set()


async def events(stream: httpx.Response, seen: list[tuple[str, dict[str, Any]]]) -> None:
    name = ""
    async for line in stream.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            seen.append((name, json.loads(line.removeprefix("data: "))))


@asynccontextmanager
async def following(
    client: httpx.AsyncClient,
) -> AsyncIterator[list[tuple[str, dict[str, Any]]]]:
    """The events of a live view, as they come."""
    seen: list[tuple[str, dict[str, Any]]] = []
    async with client.stream("GET", "/v1/live", timeout=30) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        reading = asyncio.create_task(events(stream, seen))
        try:
            yield seen
        finally:
            reading.cancel()


async def comes(check: Any, what: str) -> None:
    async def asked() -> bool:
        return bool(check())

    await fleet.until(asked, what, 20)


async def test_an_open_page_shows_what_was(shared: Reviewing, group: str) -> None:
    ann = await shared.client("ann", tenants=[group])
    ben_is = await shared.add("ben", tenants=[group])
    ben = await shared.client_of(ben_is)
    other = await shared.client("otto", tenants=["elsewhere"])
    await shared.seed(escalations(2, tenant=group, name=group))
    async with following(ben) as seen, following(other) as elsewhere:
        await comes(lambda: any(name == "queues" for name, _ in seen), "the queues")
        claim = await claimed(ann)
        item_id = claim["item"]["item_id"]
        await comes(
            lambda: ("item", {"item_id": item_id, "state": "open",
                              "holder": claim["item"]["holder"]}) in seen,
            "the claim",
        )  # fmt: skip
        assert not any(name == "lease" for name, _ in seen), "a lease is told to others"
        await ann.post(
            f"/v1/items/{item_id}/handover",
            json={"lease": claim["lease"]["token"], "to": ben_is.user_id},
        )
        await comes(lambda: any(name == "lease" for name, _ in seen), "the lease")
        lease = next(said for name, said in seen if name == "lease")
        assert (await ben.get("/v1/leases")).json()["leases"] == [lease]
        await publish(shared.bootstrap, escalations(1, tenant=group, name=f"{group}-more"))

        def is_counted() -> bool:
            told = [said["queues"] for name, said in seen if name == "queues"]
            return bool(told[-1]) and told[-1][0]["open"] == 3

        await comes(is_counted, "a new item in the queue")
        assert not any(name != "queues" for name, _ in elsewhere), "another tenant's item is told"
        assert all(said["queues"] == [] for _, said in elsewhere)


async def test_a_breach_blocks_under_a_freeze(shared: Reviewing, group: str) -> None:
    control = KafkaControl(shared.settings.kafka)
    await control.start()
    try:
        freeze = Freeze(tenant=group, frozen=True, reason="A test.", at=datetime.now(UTC), by="t")
        await control.write(freeze)
        ann = await shared.client("ann", tenants=[group])

        async def is_frozen() -> bool:
            return "qwarden_freezes 1.0" in (await ann.get("/metrics")).text

        await fleet.until(is_frozen, "the service knows of the freeze")
        await shared.seed(
            escalations(1, tenant=group, name=group, sla_s=1, on_breach="block", age_s=5)
        )
        claim: dict[str, Any] = {}

        async def is_urgent() -> bool:
            answer = await ann.post("/v1/claims", json={"queue": "urgent"})
            if answer.status_code == 200:
                claim.update(answer.json())
            return answer.status_code == 200

        await fleet.until(is_urgent, "the item in front of people", 20)
        assert claim["item"]["breached"]
        async with shared.database.reading() as tx:  # a decision would be written with the breach
            waiting = (await tx.execute(select(outbox.c.topic))).scalars().all()
        assert topics.DECISIONS not in waiting
        records = await read(shared.bootstrap, topics.DECISIONS)
        assert not any(decode_decision(each.value).tenant == group for each in records)
    finally:
        await control.close()


async def test_an_outage_of_the_database_loses_records(
    home: Home,
    broker: Kafka,
    group: str,
    postgres: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """PostgreSQL goes away and comes back; the process lives on, and says why it waits."""
    own = Home(tmp_path_factory.mktemp("postgres"))
    with Postgres(own) as part:
        url = await Databases(part).fresh()
        async with reviewing(home, broker, url, QWARDEN_REVIEW__GROUP_ID=group) as running:
            ann = await running.client("ann", tenants=[group])
            await running.seed(escalations(5, tenant=group, name=group))
            claim = await claimed(ann)
            await asyncio.to_thread(part.kill)
            refused = await ann.get("/v1/queues")
            assert refused.status_code == 503, refused.text
            assert refused.json()["code"] == "database_away"
            assert int(refused.headers["retry-after"]) > 0
            later = escalations(20, tenant=group, name=f"{group}-later")
            await publish(running.bootstrap, later)

            async def is_held() -> bool:
                ready = await ann.get("/readyz")
                return ready.status_code == 503 and "the database is away" in ready.text

            await fleet.until(is_held, "readyz names the database", 30)
            assert (await ann.get("/healthz")).status_code == 200
            assert (await ann.get("/")).status_code == 200, "the page is gone too"
            await asyncio.to_thread(part.start)
            await running.until_kept({each.said.verdict.verdict_id for each in later})

            async def is_ready() -> bool:
                return (await ann.get("/readyz")).status_code == 200

            await fleet.until(is_ready, "readiness", 30)
            assert (await decided(ann, claim))["decisions"] == 1
            letters = await read(running.bootstrap, topics.DEAD_LETTERS)
            assert not any((each.key or b"").startswith(group.encode()) for each in letters)


CANARY = "canary-7c1e"


async def test_content_is_in_what_the_service_writes(  # noqa: PLR0915
    shared: Reviewing, group: str
) -> None:
    """A day of work on content that can be recognised; then everything is looked through that the
    service has written, but for the ledger itself."""
    content = Content(
        messages=[
            Message(role="user", content=f"{CANARY} a"),
            Message(role="assistant", content=f"{CANARY} b", reasoning=f"{CANARY} c"),
        ],
        context=f"{CANARY} d",
        link=f"https://forum.example/{CANARY}",
        reports=[Report(reason=f"{CANARY} e")],
        metadata={"room": f"{CANARY} f"},
    )
    ann = await shared.client("ann", tenants=[group])
    ben = await shared.client("ben", tenants=[group])
    lead = await shared.client("lena", Role.LEAD, tenants=[group])
    auditor = await shared.client("aud", Role.AUDITOR)
    admin = await shared.client("ada", Role.ADMIN)
    arrived = escalations(6, tenant=group, name=group, content=content)
    await shared.seed(arrived)
    await fleet.publish(
        shared.bootstrap,
        topics.REVIEW,
        [(b"k", json.dumps({"kind": "review", "content": {"messages": CANARY}}).encode())],
    )
    event = {"tenant": group, "event_id": arrived[0].said.verdict.event_id}
    async with following(lead) as seen:
        first = await claimed(ann)
        item = f"/v1/items/{first['item']['item_id']}"
        lease = {"lease": first["lease"]["token"]}
        shown = (await ann.post(f"{item}/reveal")).text
        assert shown.count(CANARY) == 7, "the test would find nothing"
        assert CANARY not in (await ann.get(item)).text
        await ann.post(f"{item}/notes", json={"text": f"{CANARY} is what it says"})
        await ann.post(f"{item}/decide", json={**lease, "action": CANARY, "reason": CANARY})
        await ann.post(f"{item}/decide", json={**lease, CANARY: "?", "action": "allow"})
        await ann.post("/v1/claims", json={"queue": CANARY.lower()})
        await decided(ann, first, "block", reason=f"{CANARY} in own words", override=True)
        second = await claimed(ben)
        for reason in (f"{CANARY} upsets me", "distressing"):
            await ben.post(
                f"/v1/items/{second['item']['item_id']}/skip",
                json={"lease": second["lease"]["token"], "reason": reason},
            )
        third = await claimed(ben)
        await ben.post(
            f"/v1/items/{third['item']['item_id']}/urgent",
            json={"lease": third["lease"]["token"], "why": "other", "note": f"{CANARY}!"},
        )
        preview = (await lead.post("/v1/bulk/preview", json={"tenant": group})).json()
        done = await lead.post(
            "/v1/bulk",
            json={"preview": preview["preview"], "of": {"tenant": group}, "action": "allow",
                  "reason": f"{CANARY} again"},
        )  # fmt: skip
        assert done.status_code == 200, done.text

        async def is_published() -> bool:
            async with shared.database.reading() as tx:
                return (await tx.execute(select(outbox.c.number).limit(1))).first() is None

        await fleet.until(is_published, "what was decided goes out")
        await lead.post("/v1/appeals", json={**event, "statement": f"{CANARY} was meant well"})
        await lead.get("/v1/statements", params=event)
        await lead.get("/v1/ledger", params=event)
        verdict_id = arrived[0].said.verdict.verdict_id
        await lead.post(f"/v1/ledger/{verdict_id}/reveal")
        await lead.post("/v1/goldens", content=json.dumps({"tenant": group, "text": CANARY}))
        await admin.delete("/v1/contents", params=event)
        metrics = (await auditor.get("/metrics")).text
        log = (await auditor.get("/v1/audit?limit=500")).text
        export = (await auditor.get("/v1/audit/export")).text
    assert "revealed" in log and "decided_in_bulk" in log
    assert len(export.splitlines()) > 10
    written = shared.service.child.log.read_text(encoding="utf-8")
    assert len(written) > 100
    decisions = await read(shared.bootstrap, topics.DECISIONS)
    ours = [decode_decision(each.value) for each in decisions]
    ours = [each for each in ours if each.tenant == group]
    assert len(ours) >= 5
    own_words = [each for each in ours if CANARY in each.reason]
    told = {
        "the log": written,
        "metrics": metrics,
        "the audit log": log,
        "its export": export,
        "live events": json.dumps(seen),
        "keys and headers": repr([(each.key, each.headers) for each in decisions]),
        "decisions, but for people's own words": repr(
            [msgspec.structs.replace(each, reason="") for each in ours]
        ),
    }
    assert own_words, "people's own words are theirs"
    assert [name for name, text in told.items() if CANARY in text] == []


async def test_a_replay_leaves_out_what_nobody_has_read(
    broker: Kafka, group: str, tmp_path: Path
) -> None:
    await make_topics(broker.bootstrap)
    (day,) = {each.at for each in escalations(1, name=group, age_s=86_400)}
    await publish(broker.bootstrap, escalations(40, name=group, age_s=3600))
    kafka = settings.Kafka(bootstrap_servers=broker.bootstrap)
    ends = {
        TopicPartition(topics.REVIEW, partition): end
        for partition, (_, end) in (await stretch_of(kafka, topics.REVIEW)).offsets.items()
    }
    read, unread, *_ = ends
    assert min(ends[read], ends[unread]) >= 3, "enough is on both"
    committing = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=group)
    committing.assign([read, unread])
    await committing.start()
    await committing.commit({read: ends[read], unread: 2})
    await committing.stop()

    async def committed() -> dict[TopicPartition, int]:
        async with admin(kafka) as client:
            return await committed_in(client, group, list(ends))

    before = await committed()
    own = {
        "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
        "QWARDEN_REVIEW__GROUP_ID": group,
    }
    replay = partial(Shell(tmp_path, own).run, "review", "replay", "--since")
    said = await replay(datetime.now(UTC).isoformat())
    assert "moderation.review: 0 records since" in said.out, said.err
    assert await committed() == before, "what nobody has read is passed over"
    assert (await replay("2999-01-01T00:00Z")).code == 2
    since = datetime.fromtimestamp(day, UTC).isoformat()
    expected = ends[read] + 2
    said = await replay(since, "--dry-run")
    assert f"moderation.review: {expected} records since" in said.out, said.err
    assert "would be" in said.out
    assert await committed() == before
    first, _ = (await replay(since, "--dry-run", "--json")).lines
    assert (first["topic"], first["records"], first["dry_run"]) == (topics.REVIEW, expected, True)
    said = await replay(since)
    assert f"moderation.review: {expected} records since" in said.out, said.err
    assert await committed() == {read: 0, unread: 0}, "a place of its own for nobody else's"
