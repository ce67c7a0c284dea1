"""As much of Kafka's protocol as it takes to ask a broker whether it is ready."""

from __future__ import annotations

import socket
import struct

_METADATA = 3
_FIND_COORDINATOR = 10


def broker_ready(port: int, timeout_s: float = 2.0) -> bool:
    """Ask the broker at 127.0.0.1:`port` whether it takes records and knows its coordinator.

    Asking for a coordinator also makes the topic of the committed offsets, so that the first
    group of a new cluster joins at once (without it aiokafka retried for a second).
    Raises OSError where nobody answers in `timeout_s`.
    """
    with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
        # Version 4: an empty list of topics, none made by asking. Answer: throttle, brokers.
        metadata = _ask(connection, _METADATA, 4, struct.pack(">i?", 0, False))
        (brokers,) = struct.unpack_from(">i", metadata, 4)
        if brokers < 1:
            return False
        # Version 2: key, key type 0 (group). Answer: throttle, error code.
        group = b"ready"
        body = struct.pack(">h", len(group)) + group + b"\0"
        (error,) = struct.unpack_from(">h", _ask(connection, _FIND_COORDINATOR, 2, body), 4)
        return bool(error == 0)


def _ask(connection: socket.socket, key: int, version: int, body: bytes) -> bytes:
    client = b"qwarden-stack"
    request = struct.pack(">hhih", key, version, 1, len(client)) + client + body
    connection.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _read(connection, 4))
    return _read(connection, size)[4:]  # without the correlation id


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError("The broker closed the connection.")
        data += more
    return data
