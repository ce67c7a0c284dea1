"""The broker of the stack: real, and its records outlive it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from qwarden.stack.child import quiet
from qwarden.stack.errors import StackError
from qwarden.stack.home import Home
from qwarden.stack.java import find_java, kafka_jars
from qwarden.stack.kafka import Kafka

TOPIC = "kept"


async def _make_topic(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(TOPIC, 1, 1)])
    finally:
        await admin.close()


async def _write(bootstrap: str, value: bytes) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, enable_idempotence=True, max_request_size=2 * 1024 * 1024
    )
    await producer.start()
    try:
        await producer.send_and_wait(TOPIC, value)
    finally:
        await producer.stop()


async def _read(bootstrap: str) -> list[bytes]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partition = TopicPartition(TOPIC, 0)
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        values: list[bytes] = []
        while len(values) < end:
            values.append((await asyncio.wait_for(consumer.getone(), 20)).value or b"")
        return values
    finally:
        await consumer.stop()


def test_acknowledged_records_outlive_a_killed_broker_and_a_new_one(home: Home) -> None:
    large = b"x" * (2 * 1024 * 1024 - 1024)
    with Kafka(home) as kafka:
        address = kafka.bootstrap
        asyncio.run(_make_topic(address))
        asyncio.run(_write(address, large))
        kafka.kill()
        assert not kafka.alive
        kafka.start()
        assert kafka.bootstrap == address
        asyncio.run(_write(address, b"after the kill"))
    with Kafka(home) as kafka:
        assert kafka.bootstrap != address
        assert asyncio.run(_read(kafka.bootstrap)) == [large, b"after the kill"]


def test_a_java_that_is_too_old_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "bin" / "java"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_402\"' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(old.parent))
    found = find_java()
    assert found != old
    assert found.exists()


def test_a_second_start_does_not_need_the_network(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    jars = kafka_jars(home, quiet)
    monkeypatch.setitem(sys.modules, "jgo.maven", None)  # what would download them
    assert kafka_jars(home, quiet) == jars


def test_a_start_that_fails_names_the_log(home: Home) -> None:
    records = home.data("kafka") / "records"
    records.mkdir()
    (records / "meta.properties").write_text("version=1\nnode.id=99\n")
    with pytest.raises(StackError) as failure:
        Kafka(home).start()
    assert str(home.logs / "kafka.log") in str(failure.value)


BOTH = """
import sys
from pathlib import Path
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.valkey import Valkey
home = Home(Path(sys.argv[1]))
with Kafka(home) as kafka, Valkey(home):
    print(kafka.child.pid)
"""


def test_nothing_is_written_outside_the_home(home: Home, tmp_path: Path) -> None:
    user, tmp, work = tmp_path / "user", tmp_path / "tmp", tmp_path / "work"
    for folder in (user, tmp, work):
        folder.mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", BOTH, str(home.root)],
        env={**os.environ, "HOME": str(user), "TMPDIR": str(tmp)},
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert [path for folder in (user, tmp, work) for path in folder.rglob("*")] == []
    assert not list(Path("/tmp").glob(f"hsperfdata_*/{ran.stdout.strip()}"))


def test_each_start_reads_every_class_anew(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Home.cache
    monkeypatch.setattr(
        Home, "cache", lambda own, name: tmp_path if name == "classes" else cache(own, name)
    )
    with Kafka(home):
        assert not list(tmp_path.glob("*.jsa")), "they are written at its end"
    (kept,) = tmp_path.glob("*.jsa")
    with Kafka(home) as next_one:
        assert str(kept) in Path(f"/proc/{next_one.child.pid}/maps").read_text()
