"""Valkey as platforms have it: a cluster of three, and a server with a replica under a Sentinel."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import redis

from qwarden.stack.home import Home
from qwarden.stack.ports import free_ports
from qwarden.stack.valkey import Valkey

DEADLINE_S = 30.0
SLOTS = 16384
SERVICE = "fleet"
"""What the Sentinel calls the server that it watches."""


class Cluster:
    """Nodes that own a third of the slots each; a slot whose owner is away leaves the others
    usable. `password`: of all of them."""

    def __init__(self, folder: Path, password: str = "") -> None:
        self._login = f":{quote(password)}@" if password else ""
        self._password = password
        self.nodes = [Valkey(_home(folder / f"node-{n}"), settings=self._own()) for n in range(3)]
        self._running = ExitStack()

    def _own(self) -> dict[str, str]:
        (bus,) = free_ports(1)
        own = {
            "cluster-enabled": "yes",
            "cluster-port": str(bus),
            "cluster-node-timeout": "1000",
            "cluster-require-full-coverage": "no",
        }
        return {**own, "requirepass": self._password} if self._password else own

    @property
    def url(self) -> str:
        """Names one node; the others are learned from it."""
        return f"redis+cluster://{self._login}127.0.0.1:{self.nodes[0].port}"

    def client(self, node: int) -> Any:
        return redis.Redis(port=self.nodes[node].port, password=self._password or None)

    def __enter__(self) -> Self:
        for node in self.nodes:
            self._running.enter_context(node)
        third = SLOTS // 3
        ranges = [(0, third - 1), (third, 2 * third - 1), (2 * third, SLOTS - 1)]
        for n, (begin, end) in enumerate(ranges):
            self.client(n).execute_command("CLUSTER", "ADDSLOTSRANGE", begin, end)
        for n, node in enumerate(self.nodes):
            bus = self.client(n).config_get("cluster-port")["cluster-port"]
            for other in range(3):
                meet = ("CLUSTER", "MEET", "127.0.0.1", str(node.port), bus)
                self.client(other).execute_command(*meet)
        until(self._is_whole, "three nodes that know one another")
        return self

    def __exit__(self, *why: object) -> None:
        self._running.close()

    def _is_whole(self) -> bool:
        said: list[bytes] = [self.client(n).execute_command("CLUSTER", "INFO") for n in range(3)]
        return all(
            b"cluster_state:ok" in each
            and b"cluster_known_nodes:3" in each
            and b"cluster_slots_assigned:16384" in each
            for each in said
        )

    def join(self, replica: Valkey, of: int) -> None:
        """Makes a new node the replica of one of the three, and waits until it has its data."""
        client: Any = redis.Redis(port=replica.port)
        bus = self.client(of).config_get("cluster-port")["cluster-port"]
        meet = ("CLUSTER", "MEET", "127.0.0.1", str(self.nodes[of].port), bus)
        client.execute_command(*meet)
        identity = self.identity(of)
        known = ("CLUSTER", "NODES")
        until(lambda: identity in str(client.execute_command(*known)), "a node that has met others")
        client.execute_command("CLUSTER", "REPLICATE", identity)
        until(
            lambda: (
                client.info("replication").get("master_link_status") == "up"
                and all(self._knows_replica(n, replica) for n in range(3))
            ),
            "a replica that follows",
        )

    def _knows_replica(self, node: int, replica: Valkey) -> bool:
        lines: bytes = self.client(node).execute_command("CLUSTER", "NODES")
        return any(
            f":{replica.port}@" in line and "slave" in line for line in lines.decode().splitlines()
        )

    def identity(self, node: int) -> str:
        said: bytes = self.client(node).execute_command("CLUSTER", "MYID")
        return said.decode()


class Sentinel(Valkey):
    """One that watches a server and puts its replica in its place. `password`: of those two."""

    def __init__(self, home: Home, watched: Valkey, password: str = "") -> None:
        super().__init__(home)
        self._watched = watched
        self._password = password

    def _command(self) -> list[str]:
        binary = super()._command()[0]
        file = self._home.root / "sentinel.conf"
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self._home.data('valkey')}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {self._watched.port} 1",
            f"sentinel down-after-milliseconds {SERVICE} 500",
            f"sentinel failover-timeout {SERVICE} 3000",
            *([f'sentinel auth-pass {SERVICE} "{self._password}"'] if self._password else []),
        ]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [binary, str(file), "--sentinel"]


class Watched:
    """A server, its replica, and the Sentinel of both."""

    def __init__(self, folder: Path, password: str = "") -> None:
        own = {"requirepass": password, "masterauth": password} if password else {}
        self._login = f":{quote(password)}@" if password else ""
        self._password = password
        self.first = Valkey(_home(folder / "first"), settings=own)
        self.second = Valkey(
            _home(folder / "second"),
            settings={**own, "replicaof": f"127.0.0.1 {self.first.port}"},
        )
        self.sentinel = Sentinel(_home(folder / "sentinel"), self.first, password)
        self._running = ExitStack()

    @property
    def url(self) -> str:
        return f"redis+sentinel://{self._login}127.0.0.1:{self.sentinel.port}/{SERVICE}"

    def __enter__(self) -> Self:
        for part in (self.first, self.second, self.sentinel):
            self._running.enter_context(part)
        until(self._is_watched, "a Sentinel that knows the server and its replica")
        return self

    def __exit__(self, *why: object) -> None:
        self._running.close()

    def _is_watched(self) -> bool:
        replica = redis.Redis(port=self.second.port, password=self._password or None)
        sentinel: Any = redis.Redis(port=self.sentinel.port)
        watched = sentinel.sentinel_master(SERVICE)
        follows: Any = replica.info("replication")
        return bool(watched["num-slaves"] == 1 and follows["master_link_status"] == "up")


def until(check: Callable[[], bool], what: str, within_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.05)


def _home(folder: Path) -> Home:
    folder.mkdir(parents=True, exist_ok=True)
    return Home(folder)
