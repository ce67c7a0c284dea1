"""The supervisor, around a fake server; the real Triton has tests of its own."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from qwarden_engine.conviction import LEDGER, Record
from qwarden_engine.pulse import PULSE, Beat
from qwarden_engine.supervisor import (
    Liveness,
    Regions,
    Timing,
    exit_code,
    model_of,
    models_of,
    next_backoff,
)

FAKE = Path(__file__).with_name("fake_triton.py")
RUN = """
import signal, sys
from pathlib import Path
from qwarden_engine.supervisor import Probe, Regions, Supervisor, Timing
folder, port, restart = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "restart"
timing = Timing(poll=0.02, ask_after=0.2, patience=1.5, grace=0.5, backoff=0.05)
supervisor = Supervisor(
    [sys.executable, sys.argv[4], str(folder), port],
    Probe(f"http://127.0.0.1:{port}"),
    restart=restart,
    timing=timing,
    regions=Regions(folder / "shm"),
)
signal.signal(signal.SIGTERM, lambda *_: supervisor.stop())
sys.exit(supervisor.run())
"""


def _until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, f"no {what} within 30 s"
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class Running:
    """A supervisor in a process of its own, with a fake server below it."""

    def __init__(self, folder: Path, restart: bool, **environ: str) -> None:
        self.folder = folder
        self.shm = folder / "shm"
        self.shm.mkdir()
        self.mode("answers")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with (folder / "log").open("wb") as log:
            arguments = [str(folder), str(port), "restart" if restart else "once", str(FAKE)]
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUN, *arguments],
                env={**os.environ, "FAKE_SHM": str(self.shm), **environ},
                stderr=log,
            )

    def mode(self, mode: str) -> None:
        new = self.folder / "mode.new"
        new.write_text(mode)
        new.rename(self.folder / "mode")

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def starts(self) -> list[tuple[int, int]]:
        """Pid of each fake server so far, and of its stub."""
        try:
            lines = (self.folder / "starts").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines]

    def until_ready(self, times: int = 1) -> tuple[int, int]:
        _until(lambda: self.log.count('"ready"') >= times, f"ready for the {times}. time")
        return self.starts()[times - 1]

    def regions(self) -> set[str]:
        return {path.name for path in self.shm.iterdir() if "region" in path.name}


@pytest.fixture
def restarting(tmp_path: Path) -> Iterator[Running]:
    yield from _running(tmp_path, restart=True)


@pytest.fixture
def once(tmp_path: Path) -> Iterator[Running]:
    yield from _running(tmp_path, restart=False)


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Running]:
    """One with both models."""
    checkpoints = {f"QWARDEN_{engine}__CHECKPOINT": "x" for engine in ("ENGINE", "STREAM")}
    yield from _running(tmp_path, restart=True, **checkpoints)


def _running(folder: Path, restart: bool, **environ: str) -> Iterator[Running]:
    running = Running(folder, restart, **environ)
    yield running
    if running.process.poll() is None:
        running.process.kill()
    running.process.wait()
    pids = [pid for start in running.starts() for pid in start]
    _until(lambda: not any(map(_alive, pids)), "end of every server and stub")


def test_a_dead_stub_leaves_a_server_that_only_fails(restarting: Running) -> None:
    server, stub = restarting.until_ready()
    regions = restarting.regions()
    assert len(regions) == 1
    os.kill(stub, signal.SIGKILL)
    other, _ = restarting.until_ready(2)
    assert other != server
    assert not _alive(server)
    assert len(restarting.regions()) == 1  # the dead server's was removed, the prefix is the same
    assert '"stub_died"' in restarting.log


def test_a_server_that_ended_by_itself_is_not_started_again(restarting: Running) -> None:
    server, stub = restarting.until_ready()
    os.kill(server, signal.SIGKILL)
    restarting.until_ready(2)
    _until(lambda: not _alive(stub), "end of the orphaned stub")


def _run_rows(running: Running) -> Path:
    """Leaves what an engine leaves that has rows in a forward; returns the file."""
    [pulse] = running.shm.rglob(PULSE)
    ledger = pulse.with_name(LEDGER)
    body = msgspec.json.encode(Record(running=["a row"]))
    ledger.write_bytes(len(body).to_bytes(4, "little") + body)
    return ledger


def test_a_server_that_is_told_to_end_makes_its_rows_suspects(restarting: Running) -> None:
    """It ends its stub first, which is then seen dead below a server that is not."""
    server, _ = restarting.until_ready()
    ledger = _run_rows(restarting)
    restarting.mode("lingers")
    os.kill(server, signal.SIGTERM)
    restarting.until_ready(2)
    assert '"stub_died"' in restarting.log
    assert b"a row" not in ledger.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_stub_that_died_by_itself_is_taken_for_an_ordered_end(
    restarting: Running, number: signal.Signals
) -> None:
    _, stub = restarting.until_ready()
    ledger = _run_rows(restarting)
    os.kill(stub, number)
    restarting.until_ready(2)
    assert b"a row" in ledger.read_bytes()


def test_a_silent_server_lives_on(restarting: Running) -> None:
    server, _ = restarting.until_ready()
    restarting.mode("silent")
    _until(lambda: not _alive(server), "end of the silent server")
    assert '"silent"' in restarting.log
    restarting.mode("answers")
    restarting.until_ready(2)


def test_a_slice_that_never_ends_is_taken_for_work(restarting: Running) -> None:
    server, _ = restarting.until_ready()
    restarting.mode("stuck")
    _until(lambda: not _alive(server), "end of the stuck server")
    assert '"silent"' in restarting.log
    restarting.mode("answers")
    restarting.until_ready(2)


def test_a_busy_server_is_killed(restarting: Running) -> None:
    """An inference of its own would fail for longer than it has patience, while others' go on."""
    server, _ = restarting.until_ready()
    restarting.mode("busy")
    end = time.monotonic() + 4  # over twice its patience
    while time.monotonic() < end:
        assert _alive(server)
        time.sleep(0.05)
    assert restarting.starts() == [restarting.starts()[0]]
    assert '"silent"' not in restarting.log


def test_one_models_work_hides_that_the_other_hangs(both: Running) -> None:
    server, _ = both.until_ready()
    both.mode("half")
    _until(lambda: not _alive(server), "end of the half stuck server")
    assert '"silent", "model": "qwen3guard_stream"' in both.log
    both.mode("answers")
    both.until_ready(2)


def test_a_busy_server_of_two_models_is_killed(both: Running) -> None:
    server, _ = both.until_ready()
    both.mode("busy")
    end = time.monotonic() + 4  # over twice its patience
    while time.monotonic() < end:
        assert _alive(server)
        time.sleep(0.05)


def test_a_model_without_a_checkpoint_is_loaded() -> None:
    gen, stream = "QWARDEN_ENGINE__CHECKPOINT", "QWARDEN_STREAM__CHECKPOINT"

    def loaded(**environ: str) -> list[str]:
        return [model.name for model in models_of(environ)]

    assert loaded() == ["qwen3guard_gen"], "which then says what it lacks"
    assert loaded(**{gen: "x"}) == ["qwen3guard_gen"]
    assert loaded(**{gen: "", stream: "x"}) == ["qwen3guard_stream"]
    assert loaded(**{gen: "x", stream: "y"}) == ["qwen3guard_gen", "qwen3guard_stream"]


def test_a_stubs_death_is_laid_at_another_models_door(tmp_path: Path) -> None:
    """Triton starts its stub with the path of the model's file first."""
    file = tmp_path / "repository" / "qwen3guard_stream" / "1" / "model.py"
    file.parent.mkdir(parents=True)
    file.write_text("import sys; print(flush=True); sys.stdin.read()")
    stub = subprocess.Popen(
        [sys.executable, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert stub.stdout is not None
    stub.stdout.readline()
    assert model_of(stub.pid) == "qwen3guard_stream"
    stub.communicate()
    assert model_of(stub.pid) == ""


def test_a_server_that_died_is_reported_as_well(once: Running) -> None:
    _, stub = once.until_ready()
    os.kill(stub, signal.SIGKILL)
    assert once.process.wait(30) == 128 + signal.SIGKILL
    assert len(once.starts()) == 1
    assert list(once.shm.iterdir()) == []


def test_an_ordered_end_leaves_processes_or_memory_behind(restarting: Running) -> None:
    server, stub = restarting.until_ready()
    restarting.process.terminate()
    assert restarting.process.wait(30) == 0
    assert not _alive(server)
    _until(lambda: not _alive(stub), "end of the stub")
    assert list(restarting.shm.iterdir()) == []
    assert '"grace_over"' not in restarting.log


def test_a_server_that_ignores_sigterm_stays(restarting: Running) -> None:
    server, _ = restarting.until_ready()
    restarting.mode("stubborn")
    restarting.process.terminate()
    assert restarting.process.wait(30) == 0
    assert not _alive(server)
    assert '"grace_over"' in restarting.log


def test_a_killed_supervisor_leaves_its_server(once: Running) -> None:
    server, stub = once.until_ready()
    once.process.kill()
    once.process.wait()
    _until(lambda: not _alive(server) and not _alive(stub), "end of server and stub")
    assert once.regions()  # nobody was left to remove it
    Regions(once.shm).close()  # so the next supervisor does
    assert list(once.shm.iterdir()) == []


def test_memory_of_a_living_supervisor_is_removed(tmp_path: Path) -> None:
    living = Regions(tmp_path)
    (tmp_path / f"{living.prefix}region").touch()
    (tmp_path / "of_somebody_else").touch()
    other = Regions(tmp_path)
    assert other.prefix != living.prefix
    assert (tmp_path / f"{living.prefix}region").exists()
    other.close()
    living.clear()
    with (tmp_path / f"{living.prefix}lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    living.close()
    assert [path.name for path in tmp_path.iterdir()] == ["of_somebody_else"]


def _beats(*looks: tuple[float, Beat | None]) -> list[str]:
    liveness = Liveness(Timing(ask_after=10, patience=20, slices=10), 0.0)
    return [liveness.look(beat, now) for now, beat in looks]


def test_a_slow_machines_slice_is_taken_for_a_hang() -> None:
    """What is running may take ten times as long as the slowest so far."""
    assert _beats(
        (0, Beat(5, 30.0, True)),
        (299, Beat(5, 30.0, True)),
        (301, Beat(5, 30.0, True)),
        (302, Beat(6, 30.0, True)),
    ) == ["alive", "alive", "dead", "alive"]


def test_an_idle_engine_is_asked_again_and_again_or_never() -> None:
    liveness = Liveness(Timing(ask_after=10, patience=20), 0.0)
    idle = Beat(1, 0.1, False)
    assert [liveness.look(idle, now) for now in (1.0, 10.0, 12.0, 30.0)] == [
        "alive",
        "alive",
        "ask",
        "ask",
    ]
    liveness.answered(30.5)
    assert [liveness.look(idle, now) for now in (40.0, 41.0, 61.0)] == ["alive", "ask", "dead"]


def test_an_engine_without_a_pulse_is_never_asked() -> None:
    assert _beats((1, None), (11, None), (31, None)) == ["alive", "ask", "dead"]


def test_a_new_life_with_the_same_count_is_taken_for_a_hang() -> None:
    """A count that fell has moved."""
    assert _beats((0, Beat(9, 0, False)), (25, Beat(0, 0, False))) == ["alive", "alive"]


def test_restarts_come_ever_faster_or_never_again() -> None:
    timing = Timing(backoff=0.5, backoff_cap=30, healthy=60)
    waits = [0.0]
    for _ in range(9):
        waits.append(next_backoff(waits[-1], 1, timing))
    assert waits[1:] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert next_backoff(30, 61, timing) == 0.5


def test_an_end_that_nobody_asked_for_is_a_success() -> None:
    assert [exit_code(code) for code in (0, 1, 3, -9, -15)] == [1, 1, 3, 137, 143]


def test_a_command_that_is_not_there_is_tried_for_ever() -> None:
    command = [sys.executable, "-m", "qwarden_engine.supervisor", "--restart", "--", "no-triton"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no-triton cannot be run" in done.stderr


def test_a_supervisor_outlives_the_parent_that_it_should_die_with(tmp_path: Path) -> None:
    (tmp_path / "mode").write_text("answers")
    (tmp_path / "shm").mkdir()
    code = (
        "import subprocess, sys;"
        "c = subprocess.Popen([sys.executable, '-m', 'qwarden_engine.supervisor',"
        f"'--die-with-parent', '--http-port', '1', '--', sys.executable, {str(FAKE)!r},"
        f"{str(tmp_path)!r}, '0']);"
        "print(c.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "FAKE_SHM": str(tmp_path / "shm")},
    )
    assert parent.stdout is not None
    supervisor = int(parent.stdout.readline())
    _until((tmp_path / "starts").exists, "start of the server")
    server, _ = map(int, (tmp_path / "starts").read_text().split())
    parent.kill()
    parent.communicate()
    _until(lambda: not _alive(supervisor) and not _alive(server), "end of both")
