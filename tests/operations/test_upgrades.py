"""What docs/upgrades.md says of another model: the cache follows by itself, and is still there for
the way back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio as redis_client

import engines
import fleet
from commands import Shell
from proxy import Proxy
from qwarden import kafka as kafka_tools
from qwarden.contracts import headers, topics
from qwarden.contracts.verdict import Verdict, decode_verdict
from qwarden.settings import load
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.ports import free_ports
from qwarden.stack.service import Service
from qwarden.stack.triton import Triton
from qwarden.stack.valkey import Valkey

TEXT = "A text that comes again and again."


class Line:
    """One event after another, with the same text, through a moderator that runs all the time."""

    def __init__(self, settings: dict[str, str], valkey: Valkey) -> None:
        self._settings = settings
        self._kafka = load(settings).kafka
        self._valkey = redis_client.Redis.from_url(valkey.url)
        self._count = 0

    async def judged(self) -> tuple[str, str]:
        """Which revision judged the next one, and where its answer was found."""
        self._count += 1
        own = f"event-{self._count}"
        value = f'{{"event_id": "{own}", "tenant": "acme", "text": "{TEXT}"}}'
        await fleet.publish(self._kafka.bootstrap_servers, topics.CONTENT, [(b"k", value.encode())])
        async with asyncio.timeout(120):
            async for verdict, cache in self._verdicts():
                if verdict.event_id == own:
                    assert verdict.guard is not None
                    return verdict.guard.revision, cache
        raise AssertionError("the topic does not end")

    async def kept(self, count: int) -> None:
        """Waits until the shared cache holds so many assessments."""

        async def there() -> bool:
            return int(await self._valkey.dbsize()) >= count

        await fleet.until(there, f"the cache has {count}")

    async def close(self) -> None:
        await self._valkey.aclose()

    async def _verdicts(self) -> AsyncIterator[tuple[Verdict, str]]:
        async with kafka_tools.reading(
            self._kafka, topics.VERDICTS, from_beginning=True, follow=True
        ) as records:
            async for record in records:
                said = headers.header(record.headers, headers.CACHE) or ""
                yield decode_verdict(record.value or b""), said


@pytest.mark.timeout(900)
async def test_another_model_finds_no_answer_of_the_old_one_and_the_old_one_finds_its_own_again(
    own_kafka: Kafka, triton: Triton, tmp_path: Path
) -> None:
    """`triton` is the old one."""
    home = Home(tmp_path / "parts")
    (port,) = free_ports(1)
    other = engines.GEN | {"QWARDEN_ENGINE__FLOOR": "0.8"}
    with Valkey(home) as valkey, Triton(home, other) as new:
        settings = {
            "QWARDEN_CONTENT_KEY": home.content_key(),
            "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": own_kafka.bootstrap,
            "QWARDEN_REDIS__URL": valkey.url,
            "QWARDEN_REDIS__TIMEOUT_S": "5",
            "QWARDEN_TRITON__URL": f"127.0.0.1:{port}",
            # What one process remembers is not what the fleet shares.
            "QWARDEN_MODERATOR__MEMORY_ENTRIES": "0",
        }
        assert (await Shell(tmp_path, settings).run("topics", "create")).code == 0
        line = Line(settings, valkey)
        ports = {name: int(part.grpc.rpartition(":")[2]) for name, part in
                 (("old", triton), ("new", new))}  # fmt: skip
        async with Proxy(port, ports["old"]) as service_name:
            moderator = Service(home, "moderator", settings)
            await asyncio.to_thread(moderator.start)
            try:
                before, cache = await line.judged()
                assert cache == "miss"
                await line.kept(1)
                assert await line.judged() == (before, "redis")
                service_name.lead_to(ports["new"])
                after, cache = await line.judged()
                assert after != before and cache == "miss"
                await line.kept(2)
                assert await line.judged() == (after, "redis")
                service_name.lead_to(ports["old"])
                assert await line.judged() == (before, "redis")
            finally:
                await asyncio.to_thread(moderator.stop)
                await line.close()
