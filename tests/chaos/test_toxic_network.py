"""A bad network between a moderator and what it depends on: late, slow, still, half open, cut. It
is waited out: nothing is lost, and all goes on when it is well again."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import engines
import fleet
from chaos import faults
from fleet import Outcomes, Tap
from moderators import Fleetlet, holds
from proxy import Proxy
from qwarden.contracts import topics
from qwarden.moderator.service import ModeratorService
from qwarden.stack import triton as triton_part
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.ports import free_ports
from qwarden.stack.triton import Triton
from qwarden.stack.valkey import Valkey

EVENTS = 200
BAD_S = 3.0
"""Over the time-outs of a request to Kafka and Redis (below), under the group's session time-out
(6 s): whoever has lost no request has lost no partition."""
RECOVERY_S = 30.0
"""On a busy machine: 0.2 to 5 s measured, and a session time-out and a join where the group was
lost."""
TIMEOUTS = {
    "QWARDEN_KAFKA__REQUEST_TIMEOUT_MS": "2000",
    "QWARDEN_REDIS__TIMEOUT_S": "0.25",
    "QWARDEN_REDIS__PAUSE_S": "1",
    "QWARDEN_MODERATOR__MEMORY_ENTRIES": "0",
    "QWARDEN_MODERATOR__PUBLISHER_CLOSE_S": "2",
}
SOON = {
    "QWARDEN_TRITON__TIMEOUT_S": "3",
    "QWARDEN_TRITON__QUEUE_S": "1.5",
    "QWARDEN_TRITON__PROBE_S": "2",
    "QWARDEN_TRITON__ALONE_S": "4",
}
"""Of requests to the guard, where the network to it swallows them: a busy machine is as slow."""


class ProxiedKafka(Kafka):
    """A broker with a second listener, which it advertises under a proxy's port: whoever comes
    through the proxy stays behind it."""

    def __init__(self, home: Home) -> None:
        super().__init__(home)
        self.behind, self.proxy = free_ports(2)

    def _settings(self, logs: Path, more: Mapping[str, str]) -> str:
        own, internal = f"PROXIED://127.0.0.1:{self.behind}", f"PLAINTEXT://{self.bootstrap}"
        controller = f"CONTROLLER://127.0.0.1:{self._controller_port}"
        listeners = {  # of a key that comes twice the last one holds
            "listeners": f"{internal},{controller},{own}",
            "advertised.listeners": f"{internal},PROXIED://127.0.0.1:{self.proxy}",
            "listener.security.protocol.map": (
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT"
            ),
        }
        return super()._settings(logs, more) + "".join(f"{k}={v}\n" for k, v in listeners.items())


@dataclass
class Parts:
    """All three behind proxies, whose ports stay the same from test to test."""

    own: Fleetlet
    kafka: ProxiedKafka
    ports: dict[str, tuple[int, int]]
    """By dependency: the proxy's, and the server's own."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    reason = triton_part.available()
    if reason is not None:
        pytest.skip(reason)
    home = Home(tmp_path_factory.mktemp("toxic"))
    kafka = ProxiedKafka(home)
    with (
        faults.fleetlet(home, kafka) as own,
        Valkey(home) as valkey,
        Triton(home, engines.GEN) as triton,
    ):
        redis_port = int(re.findall(r":(\d+)/", valkey.url)[0])
        for_triton, for_redis = free_ports(2)
        yield Parts(
            own,
            kafka,
            {
                "kafka": (kafka.proxy, kafka.behind),
                "triton": (for_triton, int(triton.grpc.rpartition(":")[2])),
                "redis": (for_redis, redis_port),
            },
        )


@dataclass
class Network:
    """A moderator behind proxies, and one that reads what it publishes directly."""

    own: Fleetlet
    group: str
    service: ModeratorService
    tap: Tap
    proxies: dict[str, Proxy]
    sent: int = 0

    async def publish(self) -> list[str]:
        self.sent += 1
        return await self.own.publish(EVENTS, f"{self.group}-{self.sent}")

    async def judged(self, origins: list[str], within_s: float) -> Outcomes:
        """Fails where one is late, dead-lettered, or not by the guard."""
        found = await fleet.outcomes(self.tap, origins, within_s=within_s)
        assert not found.dead
        assert {each.basis.value for each in found.verdicts.values()} == {"guard"}
        assert found.contradictions == []
        return found

    async def recovered(self) -> None:
        async def ready() -> bool:
            return await faults.is_ready(self.service)

        await fleet.until(ready, "the moderator is ready", RECOVERY_S)
        assert await faults.is_alive(self.service)


@asynccontextmanager
async def opened(parts: Parts, group: str, **more: str) -> AsyncIterator[Network]:
    async with AsyncExitStack() as stack:
        proxies = {
            name: await stack.enter_async_context(Proxy(port, to))
            for name, (port, to) in parts.ports.items()
        }
        addresses = {
            "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{proxies['kafka'].port}",
            "QWARDEN_TRITON__URL": f"127.0.0.1:{proxies['triton'].port}",
            "QWARDEN_REDIS__URL": f"redis://127.0.0.1:{proxies['redis'].port}/0",
        }
        await parts.own.at_the_end(group)
        tap = await stack.enter_async_context(Tap(parts.kafka.bootstrap, *fleet.OUTPUTS))
        service = await stack.enter_async_context(
            parts.own.moderating(group, None, **TIMEOUTS, **addresses, **more)
        )
        network = Network(parts.own, group, service, tap, proxies)
        await holds(lambda: bool(service._interactive._window.partitions), "it has joined")
        await network.judged(await network.publish(), within_s=30)
        yield network


@pytest.fixture
async def network(parts: Parts, request: pytest.FixtureRequest) -> AsyncIterator[Network]:
    group = re.sub(r"\W", "-", request.node.name)[-60:]
    async with opened(parts, group) as made:
        yield made


async def test_a_proxy_that_is_better_than_it_says_proves_nothing() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    port, to = free_ports(2)
    async with await asyncio.start_server(echo, "127.0.0.1", to), Proxy(port, to) as proxy:

        async def asked(size: int = 1) -> float:
            began = time.monotonic()
            writer.write(b"x" * size)
            await asyncio.wait_for(reader.readexactly(size), 5)
            return time.monotonic() - began

        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asked() < 0.1
        proxy.latency_s = 0.1
        assert await asked() > 0.2
        proxy.latency_s = 0
        proxy.bytes_a_second = 100_000
        await asked(20_000)
        assert await asked(20_000) > 0.2
        proxy.bytes_a_second = None
        async with proxy.still():
            answer = asyncio.create_task(asked())
            assert not (await asyncio.wait({answer}, timeout=0.5))[0]
        assert await answer > 0.4
        async with proxy.half_open():
            _, between = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"x")
            between.write(b"x")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.3)
        writer.write(b"x")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.3)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asked() < 0.1
        proxy.cut()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asked()


async def test_a_late_network_loses_records_or_is_taken_for_an_outage(network: Network) -> None:
    for to, proxy in network.proxies.items():
        proxy.latency_s = 0.2
        began = time.monotonic()
        found = await network.judged(await network.publish(), within_s=20)
        print(f"\n{EVENTS} events with 200 ms to {to} and back: {time.monotonic() - began:.1f} s")
        assert found.account.repeats() == 0, to
        assert await faults.is_ready(network.service), to
        proxy.latency_s = 0


async def test_a_slow_network_loses_records_or_repeats_them(network: Network) -> None:
    for to, proxy in network.proxies.items():
        proxy.bytes_a_second = 200_000
        began = time.monotonic()
        found = await network.judged(await network.publish(), within_s=40)
        print(f"\n{EVENTS} events with 200 kB/s to {to}: {time.monotonic() - began:.1f} s")
        assert found.account.repeats() == 0, to
        proxy.bytes_a_second = None
        await network.recovered()


async def goes_away_and_comes_back(
    network: Network, to: str, how: str, bad_s: float = BAD_S
) -> None:
    proxy = network.proxies[to]
    before = await faults.committed(network.own, network.group)
    if how == "cut":
        origins = await network.publish()
        proxy.cut()
    else:
        async with proxy.still() if how == "still" else proxy.half_open():
            origins = await network.publish()
            end = time.monotonic() + bad_s
            while time.monotonic() < end:
                assert await faults.is_alive(network.service), to
                await asyncio.sleep(0.2)
    began = time.monotonic()
    origins += await network.publish()
    found = await network.judged(origins, within_s=RECOVERY_S)
    repeats = found.account.repeats()
    print(
        f"\n{to} {how}: {2 * EVENTS} events are judged {time.monotonic() - began:.1f} s after it "
        f"is well again, {repeats} repeats"
    )
    await network.recovered()
    verdicts = (await faults.written(network.own, topics.VERDICTS)).by_origin()
    assert not faults.repeated_below(verdicts, before), f"{to}: what was committed has come again"
    assert max(verdicts[origin] for origin in origins) <= 2, to
    assert to == "kafka" or not repeats, to


async def test_a_network_that_stands_still_loses_records_or_is_never_used_again(
    network: Network,
) -> None:
    for to in network.proxies:
        await goes_away_and_comes_back(network, to, "still")


async def test_a_cut_network_loses_records_or_is_never_used_again(network: Network) -> None:
    for to in network.proxies:
        await goes_away_and_comes_back(network, to, "cut")


@pytest.mark.storm
async def test_a_network_that_is_away_for_longer_than_the_session_loses_records(
    network: Network,
) -> None:
    for how in ("still", "half_open"):
        await goes_away_and_comes_back(network, "kafka", how, bad_s=20)


@pytest.mark.parametrize("to", ["kafka", "redis", "triton"])
async def test_a_half_open_connection_is_never_left_for_a_new_one(parts: Parts, to: str) -> None:
    more = SOON if to == "triton" else {}
    async with opened(parts, f"half-open-{to}", **more) as network:
        await goes_away_and_comes_back(network, to, "half_open")
