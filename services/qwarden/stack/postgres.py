"""PostgreSQL, where the machine has it: what it has committed outlives it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from qwarden.stack.child import Child, Progress, quiet
from qwarden.stack.errors import StackError
from qwarden.stack.home import Home
from qwarden.stack.part import Part
from qwarden.stack.ports import free_ports
from qwarden.stack.process import descendants

_ACCOUNT = "postgres"
"""Who runs the server where we are root, which it refuses; Debian's package makes this account."""
_PLACES = "/usr/lib/postgresql/*/bin"
_FIX = "Install it (Debian: apt install postgresql), or put its bin folder on the PATH."


def available() -> str | None:
    """Return why PostgreSQL cannot run here, in a sentence, or None where it can."""
    try:
        _binaries()
        _becoming()
    except StackError as error:
        return error.message
    return None


class Postgres(Part):
    """A server that keeps what it has committed in the home, killed or not.

    `settings`: more of the server's own.
    """

    READY_TIMEOUT_S = 60.0  # 0.2 measured, and more where it recovers from a crash
    STOP_GRACE_S = 10.0  # 0.1 measured, and a checkpoint of what it has in memory
    END = signal.SIGINT  # SIGTERM would wait for clients to leave
    FIX = "If another version of PostgreSQL made its data, start that one."

    def __init__(
        self,
        home: Home,
        *,
        settings: Mapping[str, str] | None = None,
        progress: Progress = quiet,
    ) -> None:
        super().__init__(progress)
        self._home = home
        self._more = settings or {}
        (self._port,) = free_ports(1)

    @property
    def url(self) -> str:
        """The address of the database that a new server has."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Return the address of a database of this server. Its user may do anything, without a
        password; nobody reaches it but from this machine."""
        return f"postgresql://qwarden@127.0.0.1:{self._port}/{database}"

    @property
    def _data(self) -> Path:
        return self._home.data("postgres") / "data"

    def _prepare(self) -> Child:
        binaries, becoming = _binaries(), _becoming()
        if not (self._data / "PG_VERSION").exists():
            self._initialise([*becoming, str(binaries / "initdb")])
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            "max_connections": "200",
            **self._more,
        }
        flags = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return Child(
            self._home,
            "postgres",
            [*becoming, str(binaries / "postgres"), "-D", str(self._data), *flags],
            on_orphaned=signal.SIGQUIT,  # it takes its processes with it, and recovers from this
        )

    def _initialise(self, command: list[str]) -> None:
        """Make the data folder, in half a second. It is moved to its place when it is whole."""
        new = self._data.with_name("new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(new, _ACCOUNT)
        options = ["--username=qwarden", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        ran = subprocess.run(
            [*command, "-D", str(new), *options], capture_output=True, text=True, check=False
        )
        if ran.returncode != 0:
            raise StackError(
                f"PostgreSQL's data folder could not be made: {ran.stderr.strip()[-800:]} "
                f"Free some disk, or remove {new.parent}."
            )
        new.rename(self._data)

    def _answers(self) -> bool:
        """Whether our own server takes connections: it says so in a file beside its data, which
        may be left from an earlier one."""
        try:
            lines = (self._data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        if len(lines) < 8 or lines[0] != str(self.child.pid):
            return False
        if lines[7].strip() != "ready":
            return False
        with socket.create_connection(("127.0.0.1", self._port), 1.0):
            return True

    def _crash(self, child: Child) -> None:
        # Each of its processes has a group of its own, and the data is taken while one lives.
        workers = descendants(child.pid)
        child.hurry()
        for worker in workers:
            worker.signal(signal.SIGKILL)


def _binaries() -> Path:
    """Return the folder with the server: the PATH's, or Debian's newest."""
    found = shutil.which("postgres")
    if found is not None:
        return Path(found).resolve().parent
    places = Path("/").glob(_PLACES.lstrip("/") + "/postgres")
    newest = max(places, key=lambda path: _version(path.parts[-3]), default=None)
    if newest is None:
        raise StackError(f"PostgreSQL is not installed. {_FIX}")
    return newest.parent


def _version(name: str) -> int:
    return int(name) if re.fullmatch(r"\d+", name) else 0


def _becoming() -> list[str]:
    """Return the words before a command that the server's account is to run; none but for root.

    It keeps root's way through folders, for a home often lies in one that is root's alone.
    """
    if os.geteuid() != 0:
        return []
    try:
        pwd.getpwnam(_ACCOUNT)
    except KeyError:
        raise StackError(
            f"PostgreSQL does not run as root, and there is no account {_ACCOUNT} to run it. {_FIX}"
        ) from None
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise StackError(
            "PostgreSQL does not run as root, and `setpriv` is missing, which hands it to the "
            f"account {_ACCOUNT}. Install it (Debian: apt install util-linux), or use another "
            "account than root."
        )
    return [
        setpriv,
        f"--reuid={_ACCOUNT}",
        f"--regid={_ACCOUNT}",
        "--clear-groups",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
        "--pdeathsig=SIGQUIT",  # a change of account takes away what was asked for before
    ]
