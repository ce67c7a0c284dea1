"""From an event to a person's decision, on real parts: 1,000 events, three reviewers, and a review
service that is killed on the way.

What does this test do? It publishes 1,000 events, has them judged, and has three reviewers
(programs that call the REST interface with tokens) decide everything that comes to people, while
the review service is killed again and again.
How does it know? Each escalation on `moderation.review` names its verdict; each must have exactly
one decision, by id, on `moderation.decisions` as those see it who read committed records.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer

import fleet
import traffic
from commands import Shell
from fleet import Fleet
from qwarden.contracts import topics
from qwarden.contracts.decision import Decision, decode_decision
from qwarden.contracts.escalation import Escalation, Kind
from qwarden.contracts.verdict import Verdict
from qwarden.stack.postgres import Postgres
from qwarden.stack.service import Service

COUNT = 1000
LEASE_S = 5.0
REVIEWERS = ("one", "two", "three")

pytestmark = [pytest.mark.parts, pytest.mark.timeout(900)]

KILLS = [
    pytest.param(3, id="3 kills"),
    pytest.param(20, id="20 kills", marks=pytest.mark.storm),
]


class Desk:
    """The review service of a test, and the terminal of those who run it."""

    def __init__(self, path: Fleet, database: str, folder: Path) -> None:
        settings = path.settings(
            QWARDEN_REVIEW__DATABASE_URL=database,
            QWARDEN_REVIEW__GROUP_ID="e2e-review",
            QWARDEN_REVIEW__LEASE_S=str(LEASE_S),
            QWARDEN_REVIEW__TAKE_BACK_S="0.5",
            QWARDEN_REVIEW__REQUESTS_A_MINUTE="100000",
            QWARDEN_REVIEW__SECOND_SHARE="0",
            QWARDEN_REVIEW__SAMPLE_SHARE="0",
        )
        self.service = Service(path.home, "review-service", settings)
        self._shell = Shell(folder, settings)

    async def review(self, *words: str) -> str:
        """What `qwarden review WORDS` says."""
        said = await self._shell.run("review", *words)
        assert said.code == 0, said.err
        return said.out.strip()

    async def token(self, name: str, *options: str) -> str:
        """Of a new person."""
        await self.review("user", "add", name, *options)
        return await self.review("token", "add", name)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    from qwarden.stack.home import Home

    with Postgres(Home(tmp_path_factory.mktemp("review-database"))) as server:
        yield server


async def reviewing(desk: Desk, token: str, held: dict[str, int], done: asyncio.Event) -> int:
    """One reviewer's work until all is done: claims, and decides with an action that follows from
    the item's id. Returns how many decisions were acknowledged."""
    decided = 0
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=f"http://{desk.service.http}", headers=headers) as http:
        while not done.is_set():
            try:
                claimed = await http.post("/v1/claims", json={}, timeout=10)
                if claimed.status_code == 204 or claimed.status_code >= 500:
                    await asyncio.sleep(0.1)
                    continue
                assert claimed.status_code == 200, claimed.text
                item, lease = claimed.json()["item"], claimed.json()["lease"]
                held[item["item_id"]] = held.get(item["item_id"], 0) + 1
                said = {"action": "allow", "reason": "not_a_violation"}
                if int(item["item_id"][-1], 16) % 2:
                    said = {"action": "block", "reason": "violates", "ground": "terms"}
                    said["clause"] = "house rules"
                answer = await http.post(
                    f"/v1/items/{item['item_id']}/decide",
                    json={"lease": lease["token"], **said},
                    timeout=10,
                )
                # 409: it was decided before the kill, and nobody was told; or its lease is over.
                assert answer.status_code in (200, 409, 503), answer.text
                decided += answer.status_code == 200
            except httpx.TransportError:  # it was killed; a lease that we held expires
                await asyncio.sleep(0.1)
    return decided


async def killing(desk: Desk, kills: int, rng: random.Random) -> None:
    for _ in range(kills):
        await asyncio.sleep(rng.uniform(0.3, 1.5))
        desk.service.kill()
        await asyncio.to_thread(desk.service.start)


async def read_all(bootstrap: str, topic: str) -> list[bytes]:
    """The values of a topic, as those read them who read committed records."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=None,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=50,
    )
    await consumer.start()
    values: list[bytes] = []
    try:
        ends = await consumer.end_offsets(list(consumer.assignment()))
        while True:
            polled = await consumer.getmany(timeout_ms=200)
            values += [record.value for records in polled.values() for record in records]
            at = {each: await consumer.position(each) for each in ends}
            if all(at[each] >= end for each, end in ends.items()):
                return values
    finally:
        await consumer.stop()


async def judged(path: Fleet, group: str, events: list[traffic.Made]) -> list[Verdict]:
    """Publishes the events, and returns their verdicts."""
    async with fleet.Tap(path.kafka.bootstrap, *fleet.OUTPUTS) as tap:
        origins = await fleet.publish_events(path.kafka.bootstrap, events)
        service = path.moderator(group)
        await asyncio.to_thread(service.start)
        try:
            found = await fleet.outcomes(tap, origins)
        finally:
            await asyncio.to_thread(service.stop)
        return list(found.verdicts.values())


@pytest.mark.parametrize("kills", KILLS)
async def test_an_escalation_is_lost_or_decided_twice_where_the_review_service_is_killed(
    path: Fleet, postgres: Postgres, tmp_path: Path, kills: int
) -> None:
    bootstrap = path.kafka.bootstrap
    events = traffic.events(31 + kills, COUNT, distinct=900, tenants=("paper", "club"))
    verdicts = await judged(path, f"review-{kills}", events)
    safeties = Counter(verdict.safety for verdict in verdicts)
    assert all(safeties[each] >= 100 for each in ("Safe", "Controversial", "Unsafe")), safeties

    desk = Desk(path, postgres.url, tmp_path)
    await asyncio.to_thread(desk.service.start)
    tokens = [await desk.token(f"{name}-{kills}") for name in REVIEWERS]
    lead = await desk.token(f"lead-{kills}", "--role", "lead")
    escalations = [
        msgspec.json.decode(value, type=Escalation)
        for value in await read_all(bootstrap, topics.REVIEW)
    ]
    wanted = {each.verdict.verdict_id for each in escalations if each.kind is Kind.REVIEW}
    assert len(wanted) >= 100, "there is too little for people to decide"

    held: dict[str, int] = {}
    done = asyncio.Event()
    work = [asyncio.create_task(reviewing(desk, token, held, done)) for token in tokens]
    await killing(desk, kills, random.Random(kills))

    decisions: list[Decision] = []

    async def all_decided() -> bool:
        for each in work:
            if each.done():
                each.result()
        decisions[:] = map(decode_decision, await read_all(bootstrap, topics.DECISIONS))
        return wanted <= {each.verdict_id for each in decisions}

    try:
        await fleet.until(all_decided, "every escalation has its decision", 240)
    finally:
        done.set()
    acknowledged = sum(await asyncio.gather(*work))

    by_id = {each.decision_id: each for each in decisions}
    assert all(by_id[each.decision_id] == each for each in decisions), "two under one id differ"
    of_verdicts = Counter(each.verdict_id for each in by_id.values())
    assert set(of_verdicts) >= wanted
    twice = {verdict: count for verdict, count in of_verdicts.items() if count > 1}
    assert not twice, "a verdict was decided twice"
    assert acknowledged <= len(held)

    async with httpx.AsyncClient(
        base_url=f"http://{desk.service.http}", headers={"Authorization": f"Bearer {lead}"}
    ) as http:
        left = (await http.get("/v1/items")).json()["items"]
        assert left == [], "something still waits, or a lease is stuck"
    await asyncio.to_thread(desk.service.stop)
    await desk.review("audit", "verify")  # fails where the chain of the log does not hold
