"""A row that ends the engine's process: it alone is given up, and only where it is to blame."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

import engines
import fleet
from moderators import Fleetlet, policies_in
from qwarden.guard.answer import Answer, Assessment, Failure, Unanswered
from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden.inference.port import GuardUnavailable
from qwarden.inference.triton import TritonGuard
from qwarden.stack import triton as triton_part
from qwarden.stack.home import Home, checkout
from qwarden.stack.kafka import Kafka
from qwarden.stack.process import Process, descendants
from qwarden.stack.triton import Triton

DIES = """

import os
import threading
from pathlib import Path
from qwarden_engine.intake import Intake
from qwarden_engine.judge import Judge

_names = set()
_rows, _together = Intake.rows, Judge.together
_folder = Path({folder!r})

def rows_of(self, rows, request):
    made = _rows(self, rows, request)
    _names.update(row.name for row in made if b"deadly" in bytes(rows[row.at]))
    return made

def together(self, jobs, *budget):
    of_the_thread = threading.current_thread().name == "engine"
    deadly = any(job.row.name in _names for job in jobs) or (_folder / "all").exists()
    if of_the_thread and deadly:
        with (_folder / "deaths").open("a") as deaths:
            deaths.write(f"{{len(jobs)}}\\n")
        os._exit(1)
    return _together(self, jobs, *budget)

Intake.rows, Judge.together = rows_of, together
"""


@contextmanager
def dying(folder: Path) -> Iterator[Triton]:
    """A Triton whose engine ends its process at a row with the word, or at all of them."""
    reason = triton_part.available()
    if reason is not None:
        pytest.skip(reason)
    models = folder / "models"
    shutil.copytree(checkout() / "triton_models" / "repository", models)
    source = models / "qwen3guard_gen" / "1" / "model.py"
    source.write_text(source.read_text() + DIES.format(folder=str(folder)))
    with Triton(Home(folder / "home"), engines.GEN, repository=models) as triton:
        yield triton


def row(text: str) -> bytes:
    return Conversation(Task.PROMPT, (Turn("user", text),)).to_json()


async def answered(guard: TritonGuard, rows: list[bytes]) -> list[Answer]:
    """As a client does: it asks again until it is answered."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return await guard.judge(rows)
        except GuardUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def test_a_deadly_row_is_tried_for_ever_or_takes_others_with_it(tmp_path: Path) -> None:
    rows = [row(f"How many legs have {n} cats?") for n in range(20)]
    rows.insert(7, row("a deadly row"))
    with dying(tmp_path) as triton:
        guard = TritonGuard(triton.grpc, timeout_s=30)
        try:
            answers = await answered(guard, rows)
            again = await answered(guard, rows[7:8])
        finally:
            await guard.close()
    for answer in (answers[7], *again):
        assert isinstance(answer, Unanswered)
        assert answer.failure is Failure.CRASHED
    assert all(isinstance(answer, Assessment) for n, answer in enumerate(answers) if n != 7)
    # Once with the others, then twice alone, with the known good conversation between.
    deaths = (tmp_path / "deaths").read_text().split()
    assert deaths[-2:] == ["1", "1"]
    assert len(deaths) == 3


async def test_four_moderators_make_four_culprits_of_one(tmp_path: Path, kafka: Kafka) -> None:
    own = Fleetlet(kafka, Home(tmp_path / "fleet"), policies_in(tmp_path))
    await own.make_topics()
    with dying(tmp_path) as triton:
        address = {"QWARDEN_TRITON__URL": triton.grpc}
        async with AsyncExitStack() as fleet_:
            tap = await fleet_.enter_async_context(fleet.Tap(kafka.bootstrap, *fleet.OUTPUTS))
            for _ in range(4):
                await fleet_.enter_async_context(own.moderating("culprit", None, **address))
            good = await own.publish(200, "harmless")
            bad = await own.publish(1, "deadly")
            more = await own.publish(200, "decent")
            found = await fleet.outcomes(tap, good + bad + more)
    assert found.dead == {bad[0]: "crashed"}
    assert {verdict.basis.value for verdict in found.verdicts.values()} == {"guard"}
    assert found.account.repeats() == 0


async def test_a_deploy_that_dies_of_everything_convicts_a_row(tmp_path: Path) -> None:
    with dying(tmp_path) as triton:
        guard = TritonGuard(triton.grpc, timeout_s=30)
        try:
            assert isinstance((await answered(guard, [row("hello")]))[0], Assessment)
            (tmp_path / "all").touch()
            asking = asyncio.create_task(answered(guard, [row("How are you?")]))
            deaths = tmp_path / "deaths"
            while not deaths.exists() or len(deaths.read_text().split()) < 4:
                assert not asking.done()
                await asyncio.sleep(0.05)
            (tmp_path / "all").unlink()
            [answer] = await asking
        finally:
            await guard.close()
    assert isinstance(answer, Assessment)


async def test_an_end_from_outside_makes_the_rows_suspects(tmp_path: Path) -> None:
    with dying(tmp_path) as triton:
        guard = TritonGuard(triton.grpc, timeout_s=30)
        try:
            await answered(guard, [row("hello")])
            [state] = Path("/dev/shm").glob(f"{_prefix(triton)}state")
            [ledger] = state.rglob("running.json")
            body = json.dumps({"running": ["a row", "another"], "suspects": {}, "convicted": []})
            started = time.monotonic()
            ledger.write_bytes(len(body).to_bytes(4, "little") + body.encode())
            # It ends its stub, which dies as of a fault, and lives on for a while.
            server = descendants(triton.child.pid)[0]
            server.signal(signal.SIGTERM)
            await asyncio.to_thread(_until_ended, server)
            await answered(guard, [row("hello again")])
            print(f"first verdict {time.monotonic() - started:.1f} s after the end")
            record = ledger.read_bytes()
        finally:
            await guard.close()
    assert b"a row" not in record


def _until_ended(process: Process) -> None:
    while process.alive:
        time.sleep(0.05)


def _prefix(triton: Triton) -> str:
    command = Path(f"/proc/{descendants(triton.child.pid)[0].pid}/cmdline").read_text()
    return command.partition("shm-region-prefix-name=")[2].partition("\0")[0]
