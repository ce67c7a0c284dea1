"""Free loopback ports."""

from __future__ import annotations

import random
import socket
import threading
from pathlib import Path

_LOW = 15_000
"""Above what people's own servers listen on by default."""
_given: set[int] = set()
_lock = threading.Lock()


def free_ports(count: int) -> list[int]:
    """Return `count` TCP ports of 127.0.0.1 that differ and that nobody listens on now.

    One process never gets a port twice. They lie below the range from which the kernel takes the
    source ports of outgoing connections: a port inside it can be lost while its server restarts,
    even to a client that retries and, by chance, connects to itself.

    Raises OSError if the machine has no such ports left.
    """
    high = _first_source_port()
    found: list[int] = []
    with _lock:
        for _ in range(200 * count):
            if len(found) == count:
                break
            port = random.randrange(_LOW, high) if high > _LOW + 1_000 else 0
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                port = probe.getsockname()[1]
            if port not in _given:
                _given.add(port)
                found.append(port)
    if len(found) < count:
        raise OSError("No free loopback port was found: end some of the servers on this machine.")
    return found


def _first_source_port() -> int:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    except OSError:
        return 32_768
    return min(int(text.split()[0]), 32_768)
