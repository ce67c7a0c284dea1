"""Somebody else's topics on a real broker, with Avro from a registry: what of them is lost, judged
as something else, or stops the others."""

from __future__ import annotations

import asyncio
import io
import json
import time
from dataclasses import dataclass
from typing import Any

import fastavro
import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic

import fleet
from fleet import Tap
from moderators import Fleetlet, Guard, holds, policies_in
from qwarden.contracts import topics
from qwarden.contracts.dead_letter import DeadLetter, original_of
from qwarden.contracts.verdict import Basis
from qwarden.kafka import admin
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from registries import RegistryServer, registry_server

COMMENTS, CHAT = "shop.comments", "chat"
SCHEMA = {
    "type": "record", "name": "shop.Comment",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "body", "type": "string"},
        {"name": "shop", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}  # fmt: skip
FILES = {
    COMMENTS: (
        "name: shop.comments\ntenant: demo\ndecoder: confluent\nkey_is_event_id: true\n"
        "mapping:\n  text: body\n  created_at: at\n  tenant: shop\n"
    ),
    CHAT: (
        "name: chat\nmapping:\n  event_id: id\n  tenant: room.owner\n"
        '  messages: "turns[].{role: who, content: said}"\n'
    ),
}


@dataclass
class World:
    fleetlet: Fleetlet
    registry: RegistryServer

    def settings(self) -> dict[str, str]:
        return {
            "QWARDEN_REGISTRY__URL": self.registry.url,
            "QWARDEN_REGISTRY__BACKOFF_S": "0.05",
            "QWARDEN_REGISTRY__MAX_BACKOFF_S": "0.2",
        }

    async def publish(
        self, topic: str, *records: tuple[bytes | None, bytes | None], age_s: float = 0
    ) -> list[str]:
        producer = AIOKafkaProducer(bootstrap_servers=self.fleetlet.kafka.bootstrap)
        await producer.start()
        at = int((time.time() - age_s) * 1000)
        try:
            done = [
                await producer.send_and_wait(topic, value, key, timestamp_ms=at)
                for key, value in records
            ]
        finally:
            await producer.stop()
        return [f"{topic}/{each.partition}/{each.offset}" for each in done]


@pytest.fixture(scope="module")
def own(own_kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Fleetlet:
    home = Home(tmp_path_factory.mktemp("mapping"))
    policies = policies_in(home.root)
    (policies / "topics").mkdir()
    for name, text in FILES.items():
        (policies / "topics" / f"{name}.yaml").write_text(text)
    made = Fleetlet(own_kafka, home, policies)
    asyncio.run(made.make_topics())
    asyncio.run(make_theirs(made))
    return made


async def make_theirs(made: Fleetlet) -> None:
    async with admin(made.settings("none").kafka) as client:
        await client.create_topics([NewTopic(name, 2, 1) for name in FILES])


@pytest.fixture
async def world(own: Fleetlet, group: str) -> Any:
    kafka = own.settings(group).kafka
    for name in FILES:
        await own.at(kafka.group_of(name), await fleet.ends_of(own.kafka.bootstrap, name))
    with registry_server() as registry:
        registry.schemas = {7: {"schema": json.dumps(SCHEMA)}}
        yield World(own, registry)


def comment(identity: int, *, schema: int = 7, shop: str = "demo") -> bytes:
    out = io.BytesIO()
    record = {"id": identity, "body": f"comment {identity}", "shop": shop, "at": 1_740_830_400_000}
    fastavro.schemaless_writer(out, fastavro.parse_schema(SCHEMA), record)
    return b"\0" + schema.to_bytes(4, "big") + out.getvalue()


def chat(identity: int) -> bytes:
    turns = [{"who": "user", "said": f"line {identity}"}]
    return json.dumps({"id": identity, "room": {"owner": "demo"}, "turns": turns}).encode()


async def test_somebody_else_s_records_have_no_verdicts(world: World, group: str) -> None:
    own = world.fleetlet
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, Guard(), **world.settings()),
    ):
        avro = await world.publish(
            COMMENTS, *((b"c%d" % n, comment(n, shop="rival")) for n in range(20))
        )
        plain = await world.publish(CHAT, *((None, chat(n)) for n in range(20)))
        fresh = await own.publish(20, "own")
        found = await fleet.outcomes(tap, avro + plain + fresh)
        assert not found.dead
        first = found.verdicts[avro[0]]
        assert (first.event_id, first.tenant, first.basis) == ("c0", "demo", Basis.GUARD)
        assert found.verdicts[plain[3]].event_id == "3"
        assert sum("/schemas/" in each for each in world.registry.asked) == 1


async def test_a_record_that_waits_on_the_backlog_is_read_as_an_event(
    world: World, group: str
) -> None:
    own = world.fleetlet
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        Tap(own.kafka.bootstrap, topics.BACKLOG) as lane,
        own.moderating(group, Guard(), **world.settings()),
    ):
        (old,) = await world.publish(COMMENTS, (b"old", comment(1)), age_s=3600)
        found = await fleet.outcomes(tap, [old])
        await lane.read_to_the_end()
        (relayed,) = (each for each in lane.records[topics.BACKLOG] if fleet.origin_of(each) == old)
        assert relayed.value == comment(1), "the record itself, not what it was mapped to"
        assert not found.dead
        (new,) = await world.publish(COMMENTS, (b"old", comment(1)))
        again = await fleet.outcomes(tap, [new])
        assert again.verdicts[new].verdict_id == found.verdicts[old].verdict_id


async def test_a_record_without_a_value_does_not_withdraw(world: World, group: str) -> None:
    own = world.fleetlet
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, Guard(), **world.settings()),
    ):
        gone, refused = (
            *await world.publish(COMMENTS, (b"c1", None)),
            *await world.publish(CHAT, (b"1", None)),
        )
        found = await fleet.outcomes(tap, [gone, refused])
        withdrawn = found.verdicts[gone]
        assert (withdrawn.event_id, withdrawn.tenant) == ("c1", "demo")
        assert withdrawn.basis is Basis.WITHDRAWN
        assert found.dead.keys() == {refused}


async def test_what_nobody_can_read_is_lost_or_stops_its_topic(world: World, group: str) -> None:
    own = world.fleetlet
    values = [comment(1, schema=99), comment(2)[:-3], b'{"id": 3}', b""]
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        Tap(own.kafka.bootstrap, topics.DEAD_LETTERS) as dead,
        own.moderating(group, Guard(), **world.settings()),
    ):
        broken = await world.publish(COMMENTS, *((b"b", value) for value in values))
        (good,) = await world.publish(COMMENTS, (b"g", comment(4)))
        found = await fleet.outcomes(tap, [*broken, good])
        assert found.dead.keys() == set(broken)
        await dead.read_to_the_end()
        letters = {
            fleet.origin_of(record): msgspec.json.decode(record.value, type=DeadLetter)
            for record in dead.records[topics.DEAD_LETTERS]
        }
        originals = [original_of(letters[each]) for each in broken]
        assert [each and each.value for each in originals] == values
        assert "no schema 99" in letters[broken[0]].reason


async def test_a_registry_that_is_away_makes_dead_letters_or_stops_the_others(
    world: World, group: str
) -> None:
    own = world.fleetlet
    world.registry.fault = (503, b"")
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, Guard(), **world.settings()) as one,
    ):
        waiting = await world.publish(COMMENTS, *((b"w", comment(n)) for n in range(30)))
        gone = await world.publish(COMMENTS, (b"c1", None))
        plain = await world.publish(CHAT, *((None, chat(n)) for n in range(30)))
        fresh = await own.publish(30, "beside")
        old = await world.publish(CHAT, (None, chat(99)), age_s=3600)
        found = await fleet.outcomes(tap, plain + fresh + gone + old)
        await holds(lambda: any("503" in each for each in one.unready()), "it says why")
        await tap.read_to_the_end()
        found.take(tap)
        assert not found.dead
        assert not found.verdicts.keys() & set(waiting)
        world.registry.fault = None
        found = await fleet.outcomes(tap, waiting)
        assert not found.dead
        assert not one.unready()
