"""One contract for every registry: in memory, and over HTTP; and what a process knows of its
schemas."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol

import certifi
import pytest

from qwarden.backoff import Backoff
from qwarden.registry.http import HttpRegistry
from qwarden.registry.memory import MemoryRegistry
from qwarden.registry.port import Registry, RegistryAway, Schema
from qwarden.registry.schemas import Schemas
from qwarden.settings import SettingsError
from registries import RegistryServer, registry_server

ITEM = '{"type":"record","name":"shop.Item","fields":[]}'
LINE = '{"type":"record","name":"shop.Line","fields":[{"name":"of","type":"shop.Item"}]}'
BOX = '["shop.Item","shop.Line"]'
PROTO = base64.b64encode(b"\x0a\x01a").decode()
HELD = {
    1: Schema("AVRO", '"string"'),
    2: Schema("JSON", '{"type":"object"}'),
    3: Schema("PROTOBUF", PROTO, (("b.proto", PROTO),)),
    4: Schema("AVRO", BOX, (("item", ITEM), ("line", LINE))),
}


class World(Protocol):
    """A registry that holds `HELD`, and what befalls it."""

    @property
    def registry(self) -> Registry: ...

    def leaves(self) -> None: ...
    def returns(self) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self.registry = MemoryRegistry(HELD)

    def leaves(self) -> None:
        self.registry.is_away = True

    def returns(self) -> None:
        self.registry.is_away = False


class OverHttp:
    def __init__(self, server: RegistryServer) -> None:
        self.server = server
        self.registry = HttpRegistry(server.url + "/", timeout_s=5)
        server.subjects = {("shop items", 1): 11, ("shop/lines", 2): 12, ("b", 1): 13}
        item = {"name": "item", "subject": "shop items", "version": 1}
        line = {"name": "line", "subject": "shop/lines", "version": 2}
        b = {"name": "b.proto", "subject": "b", "version": 1}
        server.schemas = {
            1: {"schema": '"string"'},
            2: {"schema": '{"type":"object"}', "schemaType": "JSON"},
            3: {
                "schema": "message A {}", "schemaType": "PROTOBUF", "serialized": PROTO,
                "references": [b],
            },
            4: {"schema": BOX, "references": [line, item]},
            11: {"schema": ITEM},
            12: {"schema": LINE, "references": [item]},
            13: {"schema": "message B {}", "schemaType": "PROTOBUF", "serialized": PROTO},
        }  # fmt: skip

    def leaves(self) -> None:
        self.server.fault = (503, b"")

    def returns(self) -> None:
        self.server.fault = None


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with registry_server() as server:
        yield server


@pytest.fixture(params=["memory", "http"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    made: World = (
        InMemory() if request.param == "memory" else OverHttp(request.getfixturevalue("server"))
    )
    yield made
    await made.registry.close()


@pytest.mark.parametrize("identity", HELD)
async def test_a_schema_is_not_what_was_registered(world: World, identity: int) -> None:
    assert await world.registry.schema(identity) == HELD[identity]


@pytest.mark.parametrize("identity", [5, 0, 2**32 - 1])
async def test_a_schema_that_nobody_registered_is_an_outage(world: World, identity: int) -> None:
    assert await world.registry.schema(identity) is None


async def test_a_registry_that_is_away_holds_no_schemas(world: World) -> None:
    world.leaves()
    with pytest.raises(RegistryAway):
        await world.registry.schema(1)
    world.returns()
    assert await world.registry.schema(1) == HELD[1]


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (500, b'{"error_code":50001}', "answers 500"),
        (429, b"", "answers 429"),
        (302, b"", "answers 302"),
        (401, b"{}", "QWARDEN_REGISTRY__USERNAME"),
        (403, b"{}", "QWARDEN_REGISTRY__USERNAME"),
        (404, b"<html>no such page</html>", "404 without the code of a registry"),
        (404, b'{"error_code":404}', "404 without the code of a registry"),
        (200, b"<html>welcome</html>", "set QWARDEN_REGISTRY__URL"),
        (200, b"[]", "set QWARDEN_REGISTRY__URL"),
        (200, b"{}", "no schema in its answer"),
        (200, b'{"schema":"1","references":[{"name":"a"}]}', "a reference without"),
        (200, b'{"schema":"message A {}","schemaType":"PROTOBUF"}', "knows ?format=serialized"),
    ],
)
async def test_what_is_no_answer_of_a_registry_makes_dead_letters(
    server: RegistryServer, status: int, body: bytes, says: str
) -> None:
    server.fault = (status, body)
    registry = HttpRegistry(server.url, timeout_s=5)
    with pytest.raises(RegistryAway, match=says.replace("?", r"\?")):
        await registry.schema(1)
    await registry.close()


async def test_a_deep_answer_or_a_strange_version_ends_the_process(
    server: RegistryServer,
) -> None:
    registry = HttpRegistry(server.url, timeout_s=5)
    server.fault = (200, b'{"schema":' + b"[" * 100_000)
    with pytest.raises(RegistryAway, match="no JSON object"):
        await registry.schema(1)
    server.fault = None
    reference = {"name": "a", "subject": "a", "version": "1\n"}
    server.schemas = {1: {"schema": '"a"', "references": [reference]}}
    assert await registry.schema(1) is None
    await registry.close()


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_without_certificates_ends_the_process_without_its_name(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=r"QWARDEN_REGISTRY__CA_FILE: .*ca\.pem"):
        HttpRegistry("https://registry", timeout_s=5, ca_file=file)


async def test_another_list_than_the_system_s_says_whom_to_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certifi, "where", lambda: str(tmp_path / "the web's.pem"))
    await HttpRegistry("https://registry", timeout_s=5).close()


async def test_nobody_at_the_registry_s_address_is_no_outage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        silent = HttpRegistry(url, timeout_s=0.2)
        with pytest.raises(RegistryAway, match="ReadTimeout"):
            await silent.schema(1)
        await silent.close()
    gone = HttpRegistry(url, timeout_s=5)
    with pytest.raises(RegistryAway, match="is away"):
        await gone.schema(1)
    await gone.close()


async def test_a_reference_that_is_gone_stops_its_topic_for_ever(server: RegistryServer) -> None:
    made = OverHttp(server)
    del server.subjects["shop/lines", 2]
    assert await made.registry.schema(4) is None
    await made.registry.close()


async def test_a_registry_with_a_password_is_asked_without(server: RegistryServer) -> None:
    server.login = "key:secret"
    server.schemas = {1: {"schema": '"string"'}}
    registry = HttpRegistry(server.url, timeout_s=5, username="key", password="secret")
    assert await registry.schema(1) == HELD[1]
    await registry.close()


class Counting(MemoryRegistry):
    def __init__(self) -> None:
        super().__init__(HELD)
        self.asked: list[int] = []
        self.asked_often = asyncio.Event()

    async def schema(self, identity: int) -> Schema | None:
        self.asked.append(identity)
        if len(self.asked) > 5:
            self.asked_often.set()
        await asyncio.sleep(0)
        return await super().schema(identity)


def learning(registry: Registry) -> Schemas:
    return Schemas(registry, Backoff(0.01, 0.02))


async def test_a_schema_is_asked_for_again_and_again() -> None:
    registry = Counting()
    schemas = learning(registry)
    assert await asyncio.gather(*(schemas.learn({1, 2}) for _ in range(4))) == [frozenset()] * 4
    assert registry.asked == [1, 2]
    assert schemas.readers[2](b"\0\0\0\0\x02" + json.dumps({"a": 1}).encode()) == {"a": 1}


async def test_a_schema_that_came_late_stays_unknown() -> None:
    registry = Counting()
    schemas = learning(registry)
    assert await schemas.learn({1, 99}) == {99}
    assert 99 not in schemas.readers
    registry.schemas[99] = HELD[1]
    assert await schemas.learn({99}) == frozenset()
    assert 99 in schemas.readers


async def test_a_registry_that_is_away_is_given_up() -> None:
    registry = Counting()
    registry.is_away = True
    schemas = learning(registry)
    learned = asyncio.create_task(schemas.learn({1, 99}))
    await registry.asked_often.wait()
    assert not learned.done()
    assert schemas.outage == "the registry is away"
    registry.is_away = False
    assert await learned == {99}
    assert schemas.outage is None


async def test_a_schema_that_is_known_waits_for_a_registry_that_is_away() -> None:
    registry = Counting()
    schemas = learning(registry)
    await schemas.learn({1})
    registry.is_away = True
    assert await schemas.learn({1}) == frozenset()
