"""Keeps one tritonserver alive, which it does not do itself.

`python -m qwarden_engine.supervisor [--restart] [--die-with-parent] [--http-port N] -- COMMAND`

Since 24.06 Triton never restarts a Python stub that died: its health stays 200 and every request
fails (seen with Triton 2.51). So this ends the server where a stub is gone, or where the engine
gives no sign of life; and starts it again with `--restart`. A sign of life is a finished slice, or
where none is running the answer to a tiny inference: a busy server is never ended for being busy.
Linux only; logs a JSON object a line.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden.guard.stream import Append, Part
from qwarden_engine.conviction import LEDGER, forgive
from qwarden_engine.pulse import PULSE, Beat, read_beat

MODEL = "qwen3guard_gen"
SHM = Path("/dev/shm")

_OWN = "qwarden_triton_"
_STUB = "triton_python_backend_stub"[:15]  # the kernel keeps 15 characters of a name
_PR_SET_PDEATHSIG = 1
_FROM_OUTSIDE = (0, -signal.SIGTERM, 128 + signal.SIGTERM)
"""How Triton ends where somebody has asked it to."""

_TIED = f"""
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, int(signal.SIGKILL), 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Becomes the command that it is given, tied to the life of its parent by the kernel."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the repository. `prefix`: of its engine's settings. `tensor`: its input. `hello`:
    what it answers where it is well."""

    name: str
    prefix: str
    tensor: str
    hello: bytes


_WHOLE = tuple(Part(role, "hello", end=True) for role in ("user", "assistant"))
"""A whole session, so that nothing of it is kept."""

_MODELS = (
    Model(
        MODEL,
        "QWARDEN_ENGINE__",
        "ROW",
        Conversation(Task.PROMPT, (Turn("user", "hello"),)).to_json(),
    ),
    Model(
        "qwen3guard_stream",
        "QWARDEN_STREAM__",
        "APPEND",
        Append("", "supervisor", 0, _WHOLE).to_json(),
    ),
)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long to wait for what, in seconds.

    `poll`: between looks at the processes and at the engine's beat; a dead stub is seen within it.
    `ask_after`: where nothing runs and nothing has finished for so long, it is asked. `patience`:
    the least that a slice or an inference may take: over the start of a model's kernels and a
    noisy machine; a slice may also take `slices` times the slowest so far. `grace`: for Triton to
    end by itself, under the 30 s that Kubernetes gives a pod by default. `backoff`, `backoff_cap`:
    before the first restart, and at most, with a doubling between. `healthy`: after so long of
    health the backoff starts anew.
    """

    poll: float = 0.2
    ask_after: float = 10.0
    patience: float = 20.0
    slices: float = 10.0
    grace: float = 8.0
    backoff: float = 0.5
    backoff_cap: float = 30.0
    healthy: float = 60.0


class Liveness:
    """Decides from the engine's beats whether it lives. Pure: the clock is given."""

    def __init__(self, timing: Timing, now: float) -> None:
        self._timing = timing
        self._count = -1
        self._since = now

    def look(self, beat: Beat | None, now: float) -> Literal["alive", "ask", "dead"]:
        """`ask`: only an inference can tell. Without a beat, as of another engine, it is so."""
        if beat is not None and beat.count != self._count:
            self._count = beat.count
            self._since = now
        silent = now - self._since
        slowest = beat.slice_s if beat is not None else 0.0
        patience = max(self._timing.patience, self._timing.slices * slowest)
        if beat is not None and beat.running:
            return "dead" if silent > patience else "alive"
        if silent > self._timing.ask_after + patience:
            return "dead"
        return "ask" if silent > self._timing.ask_after else "alive"

    def answered(self, now: float) -> None:
        """An inference came back."""
        self._since = now


def next_backoff(previous: float, healthy_for: float, timing: Timing) -> float:
    """The wait before the next start. `previous`: the last one, 0 for none."""
    if previous == 0 or healthy_for >= timing.healthy:
        return timing.backoff
    return min(previous * 2, timing.backoff_cap)


def exit_code(returncode: int) -> int:
    """What the supervisor exits with where Triton ended unasked: never 0."""
    return 128 - returncode if returncode < 0 else (returncode or 1)


def log(event: str, **fields: object) -> None:
    """One JSON object on standard error."""
    line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
    print(json.dumps(line), file=sys.stderr, flush=True)


class Regions:
    """The shared memory of one supervisor's Triton: a name prefix, held by a lock.

    Who can take the lock of a prefix knows that its supervisor is dead, also across containers
    that share /dev/shm, and removes what lies under it.
    """

    def __init__(self, folder: Path = SHM) -> None:
        self._folder = folder
        self._sweep()
        while True:
            self.prefix = f"{_OWN}{secrets.token_hex(4)}_"
            path = folder / f"{self.prefix}lock"
            self._lock = path.open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if path.exists():  # else another one swept it before it was locked
                break
            self._lock.close()
        self.state = folder / f"{self.prefix}state"
        """Where the engine leaves what its supervisor and its next life must know."""
        self.state.mkdir(mode=0o700)

    def clear(self) -> None:
        """Removes the regions; the prefix stays held, and the state."""
        self._remove(self.prefix, all_of_it=False)

    def close(self) -> None:
        """Removes the regions and gives the prefix up."""
        self._remove(self.prefix, all_of_it=True)
        self._lock.close()

    def _sweep(self) -> None:
        for path in self._folder.glob(f"{_OWN}*_lock"):
            try:
                with path.open("w") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._remove(path.name.removesuffix("lock"), all_of_it=True)
            except OSError:  # held by a living supervisor, or swept by another one
                continue

    def _remove(self, prefix: str, *, all_of_it: bool) -> None:
        for path in self._folder.glob(f"{prefix}*"):
            if not all_of_it and path.name.endswith(("lock", "state")):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


class Probe:
    """Asks a Triton over HTTP whether it answers. `url`: such as `http://127.0.0.1:8000`."""

    def __init__(self, url: str) -> None:
        self._url = url
        # No proxy of the environment: this never leaves the machine.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def ready(self) -> bool:
        """Whether the server and its models have loaded."""
        return self._get("/v2/health/ready", None, 2.0) is not None

    def infer(self, model: Model, timeout: float) -> bool:
        """Whether a model answers one short conversation within `timeout` seconds."""
        tensor = {"name": model.tensor, "datatype": "BYTES", "shape": [1, 1]}
        body = json.dumps({"inputs": [{**tensor, "data": [model.hello.decode()]}]}).encode()
        return self._get(f"/v2/models/{model.name}/infer", body, timeout) is not None

    def _get(self, path: str, body: bytes | None, timeout: float) -> bytes | None:
        request = urllib.request.Request(self._url + path, data=body)
        try:
            with self._open(request, timeout=timeout) as response:
                content: bytes = response.read()
                return content
        except (OSError, ValueError, urllib.error.URLError):
            return None


class Asking:
    """Asks a model whether it answers, on a thread of its own, one inference at a time."""

    def __init__(self, probe: Probe, model: Model, timeout: float) -> None:
        self._probe = probe
        self._model = model
        self._timeout = timeout
        self._thread: threading.Thread | None = None
        self._answered = threading.Event()

    def ask(self) -> None:
        """Sends an inference, where none is on its way."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def take(self) -> bool:
        """Whether one was answered since this was last called."""
        answered = self._answered.is_set()
        self._answered.clear()
        return answered

    def _run(self) -> None:
        if self._probe.infer(self._model, self._timeout):
            self._answered.set()


class Watch:
    """One model of a life of Triton. `state`: the folder of its engine."""

    def __init__(self, model: Model, state: Path, probe: Probe, timing: Timing) -> None:
        self._model = model
        self._state = state
        self._liveness = Liveness(timing, time.monotonic())
        self._asking = Asking(probe, model, timing.patience)

    def silent(self) -> bool:
        """Whether it gives no sign of life any more; asks it where it has to be asked."""
        beat = read_beat(self._state / PULSE)
        now = time.monotonic()
        if self._asking.take():
            self._liveness.answered(now)
        sign = self._liveness.look(beat, now)
        if sign == "ask":
            self._asking.ask()
        elif sign == "dead":
            log("silent", model=self._model.name, running=beat is not None and beat.running)
        return sign == "dead"


def stubs_of(parent: int, among: Iterable[int] | None = None) -> dict[int, int | None]:
    """The Python stubs among a process's children: pid, and None while it lives, else the status
    that it ended with, as `wait` gives it. Triton leaves a dead stub as a zombie.

    `among`: the only processes that are looked at. To look at all of a machine's 180 at each poll
    cost 5 % of a core (measured).
    """
    found: dict[int, int | None] = {}
    for pid in _every_process() if among is None else among:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        name = stat[stat.index("(") + 1 : stat.rindex(")")]
        # proc_pid_stat(5): the state is field 3, the parent 4, the exit status 52.
        fields = stat[stat.rindex(")") + 2 :].split()
        if int(fields[1]) == parent and name == _STUB:
            found[pid] = int(fields[49]) if fields[0] in "ZX" else None
    return found


def _every_process() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def model_of(stub: int) -> str:
    """The model that a stub runs, by the path of its `model.py`: REPOSITORY/MODEL/1/model.py."""
    try:
        command = Path(f"/proc/{stub}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return Path(os.fsdecode(command[1])).parent.parent.name if len(command) > 1 else ""


class Supervisor:
    """Runs one tritonserver command until it is told to stop.

    `command`: the whole command; which models it loads is added, and the prefix of its shared
    memory.
    """

    def __init__(
        self,
        command: Sequence[str],
        probe: Probe,
        *,
        restart: bool,
        timing: Timing | None = None,
        regions: Regions | None = None,
    ) -> None:
        self._probe = probe
        self._restart = restart
        self._timing = timing or Timing()
        self._regions = regions or Regions()
        self._states = {model: self._regions.state / model.name for model in models_of(os.environ)}
        for state in self._states.values():
            state.mkdir()
        self._command = [
            *(sys.executable, "-c", _TIED, str(os.getpid())),
            *command,
            "--model-control-mode=explicit",
            *(f"--load-model={model.name}" for model in self._states),
            f"--backend-config=python,shm-region-prefix-name={self._regions.prefix}",
        ]
        self._stop = threading.Event()

    def stop(self) -> None:
        """Asks `run` to end Triton and return. Safe in a signal handler."""
        self._stop.set()

    def run(self) -> int:
        """Runs until told to stop (0), or without `restart` until Triton ended (not 0).

        Call it from the main thread: Triton is tied to the life of the thread that starts it.
        """
        backoff = 0.0
        try:
            while True:
                returncode, healthy_for = self._once()
                self._regions.clear()
                if self._stop.is_set():
                    return 0
                if not self._restart:
                    return exit_code(returncode)
                backoff = next_backoff(backoff, healthy_for, self._timing)
                log("restart", after_s=backoff, code=returncode)
                if self._stop.wait(backoff):
                    return 0
        finally:
            self._regions.close()

    def _once(self) -> tuple[int, float]:
        """One life of Triton: its return code, and for how many seconds it was healthy."""
        triton = subprocess.Popen(
            self._command,
            start_new_session=True,
            env={
                **os.environ,
                **{f"{model.prefix}STATE": str(state) for model, state in self._states.items()},
            },
        )
        log("started", pid=triton.pid)
        ready_at: float | None = None
        blamed: Collection[str] = ()
        try:
            if self._until_ready(triton):
                ready_at = time.monotonic()
                log("ready", pid=triton.pid)
                blamed = self._watch(triton)
        finally:
            healthy_for = time.monotonic() - ready_at if ready_at is not None else 0.0
            self._end(triton, gently=self._stop.is_set())
            for model, state in self._states.items():
                if model.name not in blamed:
                    forgive(state / LEDGER)
        log("ended", pid=triton.pid, code=triton.returncode)
        return triton.returncode, healthy_for

    def _until_ready(self, triton: subprocess.Popen[bytes]) -> bool:
        """Waits for the models, however long they load: a hub download takes its time."""
        while not self._stop.wait(self._timing.poll):
            if triton.poll() is not None:
                return False
            if self._probe.ready():
                return True
        return False

    def _watch(self, triton: subprocess.Popen[bytes]) -> Collection[str]:
        """Returns when Triton has ended, must be ended, or stop was asked for; and the models of
        which what was running may be the cause, since they died by themselves."""
        every = {model.name for model in self._states}
        stubs = {pid: model_of(pid) for pid in stubs_of(triton.pid)}
        watches = [
            Watch(model, state, self._probe, self._timing) for model, state in self._states.items()
        ]
        while not self._stop.wait(self._timing.poll):
            now = stubs_of(triton.pid, stubs)
            dead = {pid: now.get(pid) for pid in stubs if now.get(pid, 0) is not None}
            if triton.poll() is not None:
                return () if triton.returncode in _FROM_OUTSIDE else every
            if dead:
                log("stub_died", pids=sorted(dead), statuses=list(dead.values()))
                # One that is gone without a trace was ended and reaped by Triton, in order.
                ordered = any(status in (None, signal.SIGTERM) for status in dead.values())
                if ordered or self._was_told_to_end(triton):
                    return ()
                died = {stubs[pid] for pid in dead}
                return died if died <= every else every
            if any(watch.silent() for watch in watches):
                return ()
        return ()

    def _was_told_to_end(self, triton: subprocess.Popen[bytes]) -> bool:
        """Whether Triton, whose stub is dead, is ending because somebody has asked it to.

        Its stub then dies as of a fault: of SIGSEGV while Python is finalised, or of Triton's
        SIGKILL where that takes long. But it serves nobody any more, and ends 1.4 to 1.8 s after
        its stub (measured); Triton whose stub died by itself says that it is ready.
        """
        if self._probe.ready():
            return False
        deadline = time.monotonic() + self._timing.grace
        while triton.poll() is None and time.monotonic() < deadline:
            if self._stop.wait(self._timing.poll):
                break
        return triton.returncode in _FROM_OUTSIDE

    def _end(self, triton: subprocess.Popen[bytes], gently: bool) -> None:
        """Ends Triton and all of its process group.

        Gently is Triton's own process alone: a group-wide SIGTERM would take the stub first, and
        Triton then waits 30 s for it.
        """
        if gently and triton.poll() is None:
            triton.terminate()
            try:
                triton.wait(self._timing.grace)
            except subprocess.TimeoutExpired:
                log("grace_over", pid=triton.pid, grace_s=self._timing.grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(triton.pid, signal.SIGKILL)
        triton.wait()
        _reap_orphans()


def _reap_orphans() -> None:
    """Takes stubs that fell to this process, as they do where it is a container's first."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


def models_of(environ: Mapping[str, str]) -> list[Model]:
    """The models whose engines have a checkpoint; where none has, Gen, which says what it lacks."""
    named = [model for model in _MODELS if environ.get(f"{model.prefix}CHECKPOINT")]
    return named or [_MODELS[0]]


def _argument(command: Sequence[str], name: str) -> str | None:
    """The value of `--name=value` or `--name value` among a command's arguments."""
    for at, argument in enumerate(command):
        if argument.startswith(f"--{name}="):
            return argument.partition("=")[2]
        if argument == f"--{name}" and at + 1 < len(command):
            return command[at + 1]
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="qwarden_engine.supervisor", description=__doc__)
    parser.add_argument("--restart", action="store_true", help="start Triton again when it ended")
    parser.add_argument(
        "--die-with-parent", action="store_true", help="stop when the parent process is gone"
    )
    parser.add_argument(
        "--http-port", type=int, help="Triton's; by default as its own arguments say, else 8000"
    )
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="tritonserver and arguments")
    options = parser.parse_args(arguments)
    if shutil.which(options.command[0]) is None:
        parser.error(f"{options.command[0]} cannot be run; give the path of tritonserver")
    if options.die_with_parent:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    host = _argument(options.command, "http-address") or "127.0.0.1"
    port = options.http_port or _argument(options.command, "http-port") or 8000
    probe = Probe(f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}")
    supervisor = Supervisor(options.command, probe, restart=options.restart)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop())
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
