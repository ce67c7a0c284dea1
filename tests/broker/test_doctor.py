"""Each fault that `qwarden doctor` is to name, made in the real part; and a sound one, of which it
says nothing bad."""

from __future__ import annotations

import asyncio
import datetime
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis_client
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import insert, text

import fleet
from commands import Shell
from databases import Databases
from moderators import Fleetlet, Guard, policies_in
from qwarden import settings as settings_module
from qwarden.contracts import topics
from qwarden.contracts.control import Freeze, Halt, InForce
from qwarden.control.kafka import commanding
from qwarden.doctor.examination import CHECKS, examine, patient_of
from qwarden.doctor.finding import Finding, Result, exit_code
from qwarden.review.store import audit
from qwarden.review.store.database import Database
from qwarden.review.store.schema import outbox
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.ports import free_ports
from qwarden.stack.triton import Triton
from qwarden.stack.valkey import Valkey
from registries import registry_server

_spoilt: set[str] = set()
"""Topics that the running test has written to or altered."""
NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def own(own_kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Fleetlet:
    home = Home(tmp_path_factory.mktemp("doctor"))
    made = Fleetlet(own_kafka, home, policies_in(home.root))
    asyncio.run(make(made, *topics.ALL))
    return made


@pytest.fixture
async def whole(own: Fleetlet) -> AsyncIterator[Fleetlet]:
    """The same, with its topics made anew behind a test that has spoilt them."""
    _spoilt.clear()
    yield own
    await anew(own, *_spoilt)


async def examined(settings: settings_module.Settings, *names: str) -> list[Finding]:
    patient = patient_of(settings, has_key=True)
    return [each async for some in examine(patient, names or CHECKS) for each in some]


async def said(settings: settings_module.Settings, *names: str) -> dict[Result, str]:
    """All sentences of a result, one below the other, each behind what it is about."""
    told: dict[Result, str] = dict.fromkeys(Result, "")
    for each in await examined(settings, *names):
        told[each.result] += f"{each.about}: {each.sentence}\n"
    return told


@asynccontextmanager
async def admin(own: Fleetlet) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=own.kafka.bootstrap)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def anew(own: Fleetlet, *names: str) -> None:
    """Makes these topics again, empty and as they should be."""
    async with admin(own) as client:
        there = set(await client.list_topics())
        await client.delete_topics([name for name in names if name in there])

        async def gone() -> bool:
            return not set(await client.list_topics()) & set(names)

        await fleet.until(gone, "the topics are deleted")
    await make(own, *names)


async def make(own: Fleetlet, *names: str) -> None:
    """Makes the topics that are missing, and returns when the broker shows these and leads them."""
    await own.make_topics()

    async def led() -> bool:
        async with admin(own) as client:
            found = await client.describe_topics()
        there = {each["topic"]: each["partitions"] for each in found}
        return all(
            name in there and all(part["leader"] >= 0 for part in there[name]) for name in names
        )

    await fleet.until(led, "the topics have leaders")


async def alter(own: Fleetlet, topic: str, **configs: str) -> None:
    """Returns when the broker says so itself, a moment after it has acknowledged it."""
    _spoilt.add(topic)
    named = {key.replace("_", "."): value for key, value in configs.items()}
    async with admin(own) as client:
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, named)])

        async def seen() -> bool:
            asked = ConfigResource(ConfigResourceType.TOPIC, topic)
            [response] = await client.describe_configs([asked])
            says = {entry[0]: entry[1] for entry in response.resources[0][4]}
            return named.items() <= says.items()

        await fleet.until(seen, "the topic is altered")


async def commit(own: Fleetlet, group: str, topic: str, offset: int) -> None:
    """Commits an offset of partition 0 and leaves the group."""
    consumer = AIOKafkaConsumer(bootstrap_servers=own.kafka.bootstrap, group_id=group)
    consumer.assign([TopicPartition(topic, 0)])
    await consumer.start()
    await consumer.commit({TopicPartition(topic, 0): offset})
    await consumer.stop()


async def put(own: Fleetlet, topic: str, count: int, *, age_s: float = 0.0) -> None:
    """Records in partition 0, so old."""
    _spoilt.add(topic)
    producer = AIOKafkaProducer(bootstrap_servers=own.kafka.bootstrap)
    await producer.start()
    for _ in range(count):
        await producer.send_and_wait(
            topic, b"{}", partition=0, timestamp_ms=int((time.time() - age_s) * 1000)
        )
    await producer.stop()


# The broker.


async def test_a_sound_broker_is_not_blamed(own: Fleetlet) -> None:
    found = await examined(own.settings("sound"), "kafka", "topics", "groups", "control")
    assert not [each for each in found if each.result in (Result.WRONG, Result.AWAY)], found
    assert exit_code(found) == 0
    assert {each.check for each in found} == {"kafka", "topics", "groups", "control"}
    # A broker alone is nothing for a fleet that is to lose nothing.
    alone = [each for each in found if "stands on one broker alone" in each.sentence]
    assert [set(each.about.split(", ")) for each in alone] == [set(topics.ALL)]


async def test_a_broker_that_is_away_is_said_once_and_not_by_each_check(own: Fleetlet) -> None:
    (port,) = free_ports(1)
    settings = own.settings("away", QWARDEN_KAFKA__BOOTSTRAP_SERVERS=f"127.0.0.1:{port}")
    found = await examined(settings, "kafka", "topics", "groups", "control", "key")
    away = [each for each in found if each.result is Result.AWAY]
    assert [each.about for each in away] == [f"127.0.0.1:{port}"]
    assert f"nothing takes connections at 127.0.0.1:{port}" in away[0].sentence
    assert [each.check for each in found if each.result is Result.LEFT_OUT] == [
        "topics", "groups", "control", "key"
    ]  # fmt: skip
    assert exit_code(found) == 3


async def test_a_name_that_does_not_resolve_is_told_from_a_server_that_is_down(
    own: Fleetlet,
) -> None:
    settings = own.settings("name", QWARDEN_KAFKA__BOOTSTRAP_SERVERS="no-such-host.invalid:9092")
    assert (
        "the name no-such-host.invalid does not resolve here"
        in (await said(settings, "kafka"))[Result.AWAY]
    )


async def test_a_listener_that_does_not_encrypt_is_told_from_a_broker_that_is_away(
    own: Fleetlet,
) -> None:
    settings = own.settings("plain", QWARDEN_KAFKA__SECURITY_PROTOCOL="SSL")
    assert "does not speak TLS with us" in (await said(settings, "kafka"))[Result.AWAY]


async def test_a_listener_without_sasl_is_not_called_away(own: Fleetlet) -> None:
    settings = own.settings(
        "sasl",
        QWARDEN_KAFKA__SECURITY_PROTOCOL="SASL_PLAINTEXT",
        QWARDEN_KAFKA__SASL_USERNAME="moderator",
        QWARDEN_KAFKA__SASL_PASSWORD="secret",
    )
    told = (await said(settings, "kafka"))[Result.AWAY]
    assert "QWARDEN_KAFKA__SECURITY_PROTOCOL" in told or "does not let moderator in" in told
    assert "secret" not in told


# Topics.


async def test_a_missing_topic_is_named_with_the_command_that_makes_it(whole: Fleetlet) -> None:
    _spoilt.add(topics.SIGNALS)
    async with admin(whole) as client:
        await client.delete_topics([topics.SIGNALS])

    async def missed() -> bool:
        told = (await said(whole.settings("missing"), "topics"))[Result.WRONG]
        return f"{topics.SIGNALS}: the broker shows no such topic; make it with: " in told

    await fleet.until(missed, "the topic is missed")


@pytest.mark.parametrize(
    ("topic", "configs", "sentence"),
    [
        (topics.EVIDENCE, {"max_message_bytes": "1000000"}, "must be at least 1,031,072"),
        (topics.CONTROL, {"cleanup_policy": "delete"}, "cleanup.policy is delete and must be"),
        (topics.VERDICTS, {"cleanup_policy": "compact"}, "removes records that were not read"),
        (topics.CHUNKS, {"retention_ms": "1800000"}, "a session may last 60 min"),
        (topics.DECISIONS, {"min_insync_replicas": "2"}, "nothing can ever be published to it"),
    ],
)
async def test_a_topic_that_loses_records_or_refuses_them_is_found(
    whole: Fleetlet, topic: str, configs: Mapping[str, str], sentence: str
) -> None:
    await alter(whole, topic, **configs)
    told = (await said(whole.settings("wrong"), "topics"))[Result.WRONG]
    assert told.startswith(f"{topic}: ") and sentence in told
    assert told.count("\n") == 1, told


async def test_a_topic_that_outlives_no_weekend_is_noted(whole: Fleetlet) -> None:
    await alter(whole, topics.CONTENT, retention_ms="86400000")
    await alter(whole, topics.BACKLOG, retention_bytes="1000000000")
    told = (await said(whole.settings("short"), "topics"))[Result.NOTE]
    assert f"{topics.CONTENT}: it keeps records for 24 h: an outage that lasts longer" in told
    assert f"{topics.BACKLOG}: retention.bytes is 1,000,000,000" in told


async def test_a_control_topic_that_is_read_in_several_orders_is_found(whole: Fleetlet) -> None:
    async with admin(whole) as client:
        await client.delete_topics([topics.CONTROL])
    _spoilt.add(topics.CONTROL)

    async def gone() -> bool:
        async with admin(whole) as client:
            return topics.CONTROL not in await client.list_topics()

    await fleet.until(gone, "the topic is deleted")
    await fleet.make_topic(
        whole.kafka.bootstrap,
        topics.CONTROL,
        3,
        cleanup_policy="compact",
        max_message_bytes="1000000",
    )
    told = (await said(whole.settings("orders"), "topics", "control"))[Result.WRONG]
    assert "it has 3 partitions and must have one" in told


# Groups.


async def test_records_that_nobody_reads_are_counted_with_their_age(whole: Fleetlet) -> None:
    await put(whole, topics.CONTENT, 3, age_s=3600)
    told = (await said(whole.settings("nobody"), "groups"))[Result.WRONG]
    assert f"{topics.CONTENT} (nobody): 3 records wait, the oldest for 60 min" in told
    assert "start a moderator" in told


async def test_a_review_service_that_was_never_there_is_no_fault(whole: Fleetlet) -> None:
    await put(whole, topics.REVIEW, 2)
    told = await said(whole.settings("none", QWARDEN_REVIEW__GROUP_ID="nobody"), "groups")
    assert "no review service was ever here" in told[Result.NOTE]
    assert topics.REVIEW not in told[Result.WRONG]


async def test_a_committed_offset_out_of_range_names_the_lost_records(whole: Fleetlet) -> None:
    await put(whole, topics.CONTENT, 5)
    await commit(whole, "lost", topics.CONTENT, 1)
    async with admin(whole) as client:
        await client.delete_records({TopicPartition(topics.CONTENT, 0): RecordsToDelete(4)})
    told = (await said(whole.settings("lost"), "groups"))[Result.WRONG]
    assert "so the records 1 to 3 are lost" in told
    assert f"qwarden dlq accept-loss {topics.CONTENT}/0 --from 1" in told


async def test_what_is_about_to_be_deleted_unread_is_said_before_it_is(whole: Fleetlet) -> None:
    """Over half of the retention, with a member there that does not get on."""
    await alter(whole, topics.CONTENT, retention_ms="7200000")
    await put(whole, topics.CONTENT, 1, age_s=5400)
    consumer = AIOKafkaConsumer(
        topics.CONTENT,
        bootstrap_servers=whole.kafka.bootstrap,
        group_id="slow",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        told = (await said(whole.settings("slow"), "groups"))[Result.WRONG]
    finally:
        await consumer.stop()
    assert "1 records wait, the oldest for 90 min, over half of the 2 h" in told.replace(
        "120 min", "2 h"
    )
    assert "in 30 min the first are lost" in told


# What is in force.


async def test_a_halt_a_freeze_and_a_version_that_cannot_act_are_said(whole: Fleetlet) -> None:
    at = NOW
    _spoilt.add(topics.CONTROL)
    async with commanding(whole.settings("control").kafka) as control:
        await control.write(Halt(reason="5 of 100 rows crashed the guard.", at=at, by="m@1"))
        await control.write(Freeze(tenant="demo", frozen=True, reason="a test", at=at, by="me"))
        await control.write(
            InForce(policy="answers", version="0123456789ab", previous=None, at=at, by="me")
        )
    found = await examined(whole.settings("control"), "control")
    told = {each.about: each for each in found}
    assert told["halt"].result is Result.WRONG
    assert "5 of 100 rows crashed the guard. When that is mended: qwarden dlq resume" in (
        told["halt"].sentence
    )
    assert told["freeze"].result is Result.NOTE
    assert "for the tenant demo since" in told["freeze"].sentence
    assert told["policy answers"].result is Result.WRONG
    assert "0123456789ab" in told["policy answers"].sentence
    assert exit_code(found) == 1


async def test_a_policy_that_nobody_has_given_is_said(own: Fleetlet, tmp_path: Path) -> None:
    policies = policies_in(tmp_path)
    (policies / "tenants" / "shop.yaml").write_text("name: shop\npolicies: [nowhere]\n")
    settings = own.settings("lacking", QWARDEN_POLICY__PATH=str(policies))
    told = (await said(settings, "control"))[Result.WRONG]
    assert "policy nowhere: tenants may use it, and nobody has given it" in told


async def test_a_service_with_another_content_key_is_found_by_what_was_written(
    whole: Fleetlet,
) -> None:
    settings = whole.settings("key")
    _spoilt.update(topics.ALL)
    assert "no evidence is there" in (await said(settings, "key"))[Result.LEFT_OUT]
    sampled = {"QWARDEN_MODERATOR__EVIDENCE_SAMPLE": "1"}
    async with whole.moderating("key", Guard(), **sampled):
        await whole.publish(4, "keyed")

        async def kept() -> bool:
            ends = await fleet.ends_of(whole.kafka.bootstrap, topics.EVIDENCE)
            return sum(ends.values()) >= 4

        await fleet.until(kept, "the evidence is there")
    told = await said(settings, "key")
    assert "that the last 4 records of evidence were hashed with" in told[Result.GOOD], told
    other = whole.settings("key", QWARDEN_CONTENT_KEY="ab" * 32)
    assert (
        "4 of the last 4 records of evidence were hashed with another key"
        in (await said(other, "key"))[Result.WRONG]
    )


async def test_records_from_the_future_tell_of_a_clock(whole: Fleetlet) -> None:
    await put(whole, topics.CONTENT, 1, age_s=-1800)
    told = (await said(whole.settings("clock"), "clocks"))[Result.WRONG]
    assert f"{topics.CONTENT}: its newest record is 30 min in the future" in told


# Redis.


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(Home(tmp_path)) as part:
        yield part


async def _told(part: Valkey, *commands: str) -> None:
    client = redis_client.Redis.from_url(part.url)
    for command in commands:
        await client.execute_command(*command.split())  # type: ignore[no-untyped-call]
    await client.aclose()


async def test_a_sound_cache_is_not_blamed(own: Fleetlet, cache: Valkey) -> None:
    await _told(cache, "CONFIG SET maxmemory 64mb", "CONFIG SET maxmemory-policy allkeys-lru")
    found = await examined(own.settings("redis", QWARDEN_REDIS__URL=cache.url), "redis", "clocks")
    bad = [each for each in found if each.result in (Result.WRONG, Result.AWAY, Result.NOTE)]
    assert not bad
    assert {"server", "round trip", "Redis"} <= {
        each.about for each in found if each.result is Result.GOOD
    }


@pytest.mark.parametrize(
    ("commands", "result", "sentence"),
    [
        ([], Result.NOTE, "maxmemory is not set"),
        (["CONFIG SET maxmemory 64mb"], Result.WRONG, "maxmemory-policy is noeviction"),
        (["CONFIG SET maxmemory 1mb"], Result.WRONG, "round trip: an assessment cannot be written"),
        (["REPLICAOF 127.0.0.1 1"], Result.WRONG, "it is a replica, and takes no writes"),
        (["CONFIG SET requirepass other"], Result.WRONG, "does not let this user do"),
        (["ACL SETUSER default -evalsha -eval -set"], Result.WRONG, "round trip: "),
    ],
    ids=["unbounded", "no-eviction", "full", "replica", "password", "no-right"],
)
async def test_a_cache_that_will_not_keep_is_found(
    own: Fleetlet, cache: Valkey, commands: list[str], result: Result, sentence: str
) -> None:
    await _told(cache, *commands)
    told = await said(own.settings("redis", QWARDEN_REDIS__URL=cache.url), "redis")
    assert sentence in told[result], told


async def test_a_cache_that_is_slower_than_the_services_wait_is_found(
    own: Fleetlet, cache: Valkey
) -> None:
    settings = own.settings(
        "redis", QWARDEN_REDIS__URL=cache.url, QWARDEN_REDIS__TIMEOUT_S="0.000001"
    )
    assert (
        "it will be left alone as often as it is asked"
        in (await said(settings, "redis"))[Result.WRONG]
    )


async def test_a_cache_that_is_away_is_away(own: Fleetlet) -> None:
    (port,) = free_ports(1)
    settings = own.settings("redis", QWARDEN_REDIS__URL=f"redis://:secret@127.0.0.1:{port}/0")
    told = (await said(settings, "redis", "clocks"))[Result.AWAY]
    assert "the fleet judges on without it" in told
    assert "secret" not in told


# The guards.


async def test_a_guard_that_answers_is_told_with_its_revision(
    own: Fleetlet, triton: Triton
) -> None:
    settings = own.settings("triton", QWARDEN_TRITON__URL=triton.grpc)
    found = await examined(settings, "triton", "stream")
    gen, stream = found
    assert gen.result is Result.GOOD and "revision " in gen.sentence
    # These tests' Triton has the one model.
    assert stream.result is Result.LEFT_OUT and "has not loaded it" in stream.sentence
    named = own.settings(
        "triton", QWARDEN_TRITON__URL=triton.grpc, QWARDEN_STREAM_GUARD__URLS=triton.grpc
    )
    assert "has not loaded it; see its log" in (await said(named, "stream"))[Result.WRONG]


async def test_a_guard_that_is_away_is_away_in_a_moment(own: Fleetlet) -> None:
    (port,) = free_ports(1)
    settings = own.settings("triton", QWARDEN_TRITON__URL=f"127.0.0.1:{port}")
    began = time.monotonic()
    found = await examined(settings, "triton")
    assert [each.result for each in found] == [Result.AWAY]
    assert f"qwen3guard_gen at 127.0.0.1:{port}" == found[0].about
    assert time.monotonic() - began < settings.triton.probe_s
    unknown = own.settings("triton", QWARDEN_TRITON__URL="no-such-host.invalid:8001")
    assert (
        "no address is known for no-such-host.invalid:8001"
        in (await said(unknown, "triton"))[Result.AWAY]
    )


# The database.


@asynccontextmanager
async def _database(databases: Databases, *, is_empty: bool = False) -> AsyncIterator[str]:
    url = await (databases.empty() if is_empty else databases.fresh())
    yield url
    await databases.drop(url)


async def _log(url: str, rows: int, *, sealed: bool, at: float) -> None:
    database = Database.open(url, 2)
    async with database.writing() as tx:
        for _ in range(rows):
            await audit.write(tx, audit.Act.SAW, actor=audit.SERVICE, at=at)
        if sealed:
            await audit.seal(tx, rows)
    await database.close()


async def _run(url: str, *statements: Any) -> None:
    database = Database.open(url, 2)
    async with database.writing() as tx:
        for each in statements:
            await tx.execute(text(each) if isinstance(each, str) else each)
    await database.close()


async def test_a_sound_database_is_not_blamed(own: Fleetlet, databases: Databases) -> None:
    async with _database(databases) as url:
        await _log(url, 5, sealed=True, at=time.time())
        found = await examined(
            own.settings("database", QWARDEN_REVIEW__DATABASE_URL=url), "database", "clocks"
        )
        assert not [each for each in found if each.result in (Result.WRONG, Result.NOTE)]
        good = {each.about: each.sentence for each in found if each.result is Result.GOOD}
        assert good["audit log"] == "its last 5 sealed rows are as they were sealed"
        assert "in plain" in good["server"]
        assert good["PostgreSQL"].startswith("it agrees with the clock here")


async def test_a_database_without_tables_and_a_later_one_are_told_apart(
    own: Fleetlet, databases: Databases
) -> None:
    async with _database(databases, is_empty=True) as url:
        settings = own.settings("database", QWARDEN_REVIEW__DATABASE_URL=url)
        assert "it has no tables yet" in (await said(settings, "database"))[Result.NOTE]
        database = Database.open(url, 1)
        async with database.reading() as tx:  # nothing was made by the look
            tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
            assert (await tx.execute(text(tables))).scalar_one() == 0
        await database.migrate()
        await database.close()
        await _run(url, "UPDATE alembic_version SET version_num = '900'")
        assert (
            "it has the later schema 900, on which this version"
            in (await said(settings, "database"))[Result.NOTE]
        )
        await _run(url, "UPDATE compatibility SET oldest = 900")
        assert (
            "which this version does not know" in (await said(settings, "database"))[Result.WRONG]
        )


@pytest.mark.parametrize(
    ("statement", "position"),
    [
        ("UPDATE audit SET actor = 'nobody' WHERE position = 3", 3),
        ("DELETE FROM audit WHERE position = 2", 3),
    ],
)
async def test_a_row_of_the_log_that_was_changed_or_taken_out_is_found(
    own: Fleetlet, databases: Databases, statement: str, position: int
) -> None:
    async with _database(databases) as url:
        await _log(url, 5, sealed=True, at=time.time())
        await _run(url, statement)
        settings = own.settings("database", QWARDEN_REVIEW__DATABASE_URL=url)
        assert (
            f"the row at position {position} is not as it was sealed"
            in (await said(settings, "database"))[Result.WRONG]
        )


async def test_a_log_that_nobody_seals_and_decisions_that_nobody_publishes_are_found(
    own: Fleetlet, databases: Databases
) -> None:
    async with _database(databases) as url:
        await _log(url, 1, sealed=False, at=time.time() - 300)
        late = {"publish_at": time.time() - 300, "is_taken": False, "headers": b"[]"}
        await _run(url, insert(outbox).values(topic="t", key=b"k", value=b"v", **late))
        told = (await said(own.settings("database", QWARDEN_REVIEW__DATABASE_URL=url), "database"))[
            Result.WRONG
        ]
        assert "no review service seals" in told
        assert "decisions are due for 5 min and not published" in told


async def test_a_database_that_is_away_or_not_there_is_away(
    own: Fleetlet, databases: Databases
) -> None:
    (port,) = free_ports(1)
    for url in (
        f"postgresql://me:secret@127.0.0.1:{port}/review",
        databases.server.url_of("nothing"),
    ):
        settings = own.settings("database", QWARDEN_REVIEW__DATABASE_URL=url)
        found = await examined(settings, "database", "clocks")
        away = [each for each in found if each.result is Result.AWAY]
        assert [(each.check, each.about) for each in away] == [("database", "server")]
        assert "it does not answer" in away[0].sentence and "secret" not in away[0].sentence


# The web's services.


@contextmanager
def web(answers: Callable[[str], tuple[int, bytes]]) -> Iterator[str]:
    """A server on this machine: path in, status and body out."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers(self.path)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_a_registry_is_told_from_what_only_answers_at_its_address(own: Fleetlet) -> None:
    with registry_server() as server:
        settings = own.settings("registry", QWARDEN_REGISTRY__URL=server.url)
        assert "it answers as a schema registry" in (await said(settings, "registry"))[Result.GOOD]
    with web(lambda path: (404, b"not here")) as url:
        settings = own.settings("registry", QWARDEN_REGISTRY__URL=url)
        assert (
            "answers with 404 without the code of a registry"
            in (await said(settings, "registry"))[Result.AWAY]
        )


def _issuer(own: Fleetlet, url: str) -> settings_module.Settings:
    return own.settings(
        "oidc",
        QWARDEN_OIDC__ISSUER=url,
        QWARDEN_OIDC__CLIENT_ID="qwarden",
        QWARDEN_OIDC__CLIENT_SECRET="secret",
    )


async def test_an_issuer_that_nobody_could_sign_in_with_is_found(own: Fleetlet) -> None:
    says: dict[str, Any] = {}
    keys: list[dict[str, str]] = [{"kty": "RSA"}]

    def answers(path: str) -> tuple[int, bytes]:
        body = {"keys": keys} if path == "/keys" else says
        return 200, json.dumps(body).encode()

    with web(answers) as url:
        says |= {"issuer": "https://another.example"}
        assert (
            "it calls itself 'https://another.example'"
            in (await said(_issuer(own, url), "oidc"))[Result.WRONG]
        )
        says |= {"issuer": url, "authorization_endpoint": url, "jwks_uri": f"{url}/keys"}
        assert (
            "it publishes no token_endpoint"
            in (await said(_issuer(own, url), "oidc"))[Result.WRONG]
        )
        says |= {"token_endpoint": url}
        assert "it publishes 1 keys" in (await said(_issuer(own, url), "oidc"))[Result.GOOD]
        keys.clear()
        assert (
            "it publishes no RSA or EC key" in (await said(_issuer(own, url), "oidc"))[Result.WRONG]
        )
    assert "cannot be had" in (await said(_issuer(own, url), "oidc"))[Result.AWAY]


# Certificates.


def _certificate(folder: Path, name: str, days: float) -> Path:
    """A self-signed one with its key beside it, that ends in so many days."""
    key = ec.generate_private_key(ec.SECP256R1())
    called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)  # a whole run may be long past the import
    made = (
        x509.CertificateBuilder()
        .subject_name(called)
        .issuer_name(called)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=400))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    file.with_suffix(".key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return file


@pytest.mark.parametrize(
    ("days", "result", "sentence"),
    [
        (90, Result.GOOD, "it ends in 90 days"),
        (20, Result.NOTE, "it ends in 20 days; renew it"),
        (1, Result.WRONG, "it ends in 24 h; renew it now"),
        (-10, Result.WRONG, "it ended 10 days ago"),
    ],
)
async def test_a_certificate_is_renewed_before_it_ends(
    own: Fleetlet, tmp_path: Path, days: float, result: Result, sentence: str
) -> None:
    file = _certificate(tmp_path, "authority", days + 0.001)
    settings = own.settings(
        "certificates",
        QWARDEN_KAFKA__SECURITY_PROTOCOL="SSL",
        QWARDEN_KAFKA__CA_FILE=str(file),
    )
    told = (await said(settings, "certificates"))[result]
    assert f"QWARDEN_KAFKA__CA_FILE {file}: {sentence}" in told


async def test_a_certificate_with_anothers_key_is_found_before_the_broker_refuses_it(
    own: Fleetlet, tmp_path: Path
) -> None:
    one, other = (_certificate(tmp_path, name, 90) for name in ("one", "other"))
    settings = own.settings(
        "certificates",
        QWARDEN_KAFKA__SECURITY_PROTOCOL="SSL",
        QWARDEN_KAFKA__CERTIFICATE_FILE=str(one),
        QWARDEN_KAFKA__KEY_FILE=str(other.with_suffix(".key")),
    )
    told = (await said(settings, "certificates"))[Result.WRONG]
    assert told.startswith("QWARDEN_KAFKA__CERTIFICATE_FILE: ")


# The command.


async def test_a_pod_that_asks_no_guard_is_not_told_that_one_is_away(own: Fleetlet) -> None:
    assert [each.result for each in await examined(own.settings("none"), "triton", "stream")] == [
        Result.LEFT_OUT, Result.LEFT_OUT
    ]  # fmt: skip


def test_the_command_tells_scripts_by_its_exit_code_and_people_by_sentences(
    own: Fleetlet, tmp_path: Path
) -> None:
    (nobody,) = free_ports(1)
    settings = {
        "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": own.kafka.bootstrap,
        "QWARDEN_TRITON__URL": f"127.0.0.1:{nobody}",
    }
    doctor = partial(Shell(tmp_path, settings), "doctor")
    well = doctor("--only", "topics", "--json")
    assert well.code == 0, well.err
    assert {each["check"] for each in well.lines} == {"kafka", "topics"}
    assert set(well.lines[0]) == {"check", "about", "result", "sentence"}
    unknown = doctor("--only", "weather")
    assert unknown.code == 2
    assert "there is no check 'weather'; there are kafka, topics" in unknown.err
    everything = doctor()
    assert everything.code == 3, everything.out
    assert "away      triton" in everything.out
    assert everything.out.splitlines()[-1].startswith("Of ")
    for line in everything.out.splitlines()[:-1]:
        assert line.split("  ")[0] in {each.value for each in Result}


def test_every_check_has_a_test_of_its_fault() -> None:
    source = Path(__file__).read_text()
    assert all(f'"{name}"' in source for name in CHECKS if name != "machine")
