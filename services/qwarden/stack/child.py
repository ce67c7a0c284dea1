"""Child processes that end with this process, even when it is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from qwarden.stack.errors import StackError
from qwarden.stack.home import Home
from qwarden.stack.process import Process

Progress = Callable[[str, float | None], None]
"""Told what a part does now, and the share that is done (0 to 1) where it is known."""

_POLL_S = 0.05
"""How late it is seen that a program is ready or has ended: less than people notice."""

_FULL_BYTES = 16 * 1024 * 1024
"""Free bytes below which a disk is why a program ended: Kafka takes 10 MiB for an index."""


def quiet(message: str, fraction: float | None) -> None:
    """Progress that nobody wants."""


class Child:
    """One program with its log file `.qwarden/logs/NAME.log`, in a process group of its own.

    `env`: added to this process's environment; TMPDIR is the home's, and so is the hub's cache,
    where the environment names no other. `on_orphaned`: the signal that its group gets when this
    process ends without stopping it.
    """

    def __init__(
        self,
        home: Home,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        on_orphaned: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.log = home.logs / f"{name}.log"
        self._command = list(command)
        hub = {"HF_HOME": str(home.cache("hub"))}
        self._env = {**hub, **os.environ, "TMPDIR": str(home.tmp), **(env or {})}
        self._on_orphaned = on_orphaned
        self._process: subprocess.Popen[bytes] | None = None
        self._log_from = 0

    @property
    def pid(self) -> int | None:
        """The process id, or None before `start`."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the program runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code, minus the signal's number where one ended it; None while it runs."""
        return None if self._process is None else self._process.poll()

    @property
    def process(self) -> Process | None:
        """The process with the time of its start, or None where it does not run."""
        return None if self._process is None else Process.of(self._process.pid)

    def start(self) -> None:
        """Start the program; its log is emptied at the first start and goes on at later ones.

        Raises RuntimeError if it runs already.
        """
        if self.alive:
            raise RuntimeError(f"{self.name} runs already; stop it first.")
        if self._process is None:
            self.log.write_bytes(b"")
        self._log_from = self.log.stat().st_size
        self._process = _spawner.run(
            lambda: _popen(self._command, self._env, self.log, self._on_orphaned)
        )
        _watchdog.add(self._process.pid, self._on_orphaned)

    def hurry(self) -> None:
        """Send SIGKILL to the group and return at once; a `stop` under way then ends soon."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send the program a signal; nothing happens where it has ended."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit code once the program has ended, or None after `timeout_s` seconds."""
        if self._process is None:
            return None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self, grace_s: float = 10.0) -> None:
        """Ask the program to end (SIGTERM), and kill its group when `grace_s` seconds are over.

        Does nothing where it has ended or never started, but to end what it left behind.
        """
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self.wait(grace_s)
        self.kill()

    def kill(self) -> None:
        """End the program and its children at once (SIGKILL to the group), and wait for it."""
        if self._process is None:
            return
        self.hurry()
        self._process.wait()
        _watchdog.drop(self._process.pid)

    def tail(self, lines: int = 12) -> str:
        """Return the last lines of its log since it was started last."""
        try:
            with self.log.open("rb") as file:
                file.seek(self._log_from)
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def wait_ready(
        self,
        check: Callable[[], bool],
        timeout_s: float,
        *,
        fix: str,
        progress: Progress = quiet,
    ) -> None:
        """Wait until `check` is true, which asks the program itself; an OSError in it means no.

        `fix`: the sentence that follows the failure. `progress` is told the seconds that passed.
        Raises StackError with the log's last lines if the program ends or `timeout_s` passes.
        """
        began = time.monotonic()
        told = 0
        while True:
            try:
                ready = check()
            except OSError:
                ready = False
            if ready and self.alive:
                return
            waited = time.monotonic() - began
            if not self.alive:
                raise self.failure(f"{self.name} ended with code {self.exit_code}", fix)
            if waited > timeout_s:
                raise self.failure(f"{self.name} was not ready after {timeout_s:.0f} s", fix)
            if waited > told + 1:
                told = int(waited)
                progress(f"{told} s", None)
            time.sleep(_POLL_S)

    def failure(self, what: str, fix: str) -> StackError:
        """Return the error that says `what` went wrong, the fix, and the log's last lines."""
        if shutil.disk_usage(self.log.parent).free < _FULL_BYTES:
            fix = f"The disk under {self.log.parent} is full: free some. {fix}"
        tail = self.tail()
        said = f" It said last:\n{tail}\n" if tail else " "
        return StackError(f"{what}. {fix}{said}".rstrip(" "), log=self.log)


def _popen(
    command: Sequence[str], env: Mapping[str, str], log: Path, on_orphaned: signal.Signals
) -> subprocess.Popen[bytes]:
    launcher = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py"))]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*launcher, str(os.getpid()), str(int(on_orphaned)), *command],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


class _Spawner:
    """One thread, as old as the process, that starts every child.

    The kernel sends the parent death signal when the thread that started the child ends, not the
    process: parts are started in threads of a pool, which end while the parts go on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def run(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="stack-spawner")
        return self._pool.submit(start).result()


class _Watchdog:
    """The one process that ends the groups of this process's children after it (watchdog.py)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._groups: dict[int, signal.Signals] = {}

    def add(self, group: int, on_orphaned: signal.Signals) -> None:
        with self._lock:
            self._groups[group] = on_orphaned
            self._tell(f"+{group} {int(on_orphaned)}\n")

    def drop(self, group: int) -> None:
        with self._lock:
            if self._groups.pop(group, None) is not None:
                self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        if self._process is None or self._process.poll() is not None:
            script = str(Path(__file__).with_name("watchdog.py"))
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            line = "".join(f"+{group} {int(sent)}\n" for group, sent in self._groups.items())
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()


_spawner = _Spawner()
_watchdog = _Watchdog()
