"""A Triton that hangs, refuses, or fails on everything or on one row: nothing is lost, and only the
row to blame goes without an answer."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

import engines
import fleet
from chaos.test_outages import moderating
from fleet import Fleet
from qwarden.contracts import topics
from qwarden.guard.answer import Answer, Assessment, Failure, Unanswered
from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden.inference.dispatch import Dispatcher, Judged, Limits
from qwarden.inference.port import GuardUnavailable, Trouble
from qwarden.inference.triton import TritonGuard
from qwarden.stack import triton as triton_part
from qwarden.stack.home import Home, checkout
from qwarden.stack.kafka import Kafka
from qwarden.stack.process import descendants
from qwarden.stack.triton import Triton
from qwarden.stack.valkey import Valkey

MISCHIEF = """

import time
from pathlib import Path

_folder = Path({folder!r})
_execute = TritonPythonModel.execute
_kept = []

def execute(self, requests):
    while (_folder / "busy").exists():
        time.sleep(0.02)
    well = []
    for request in requests:
        rows = pb_utils.get_input_tensor_by_name(request, "ROW").as_numpy().reshape(-1)
        if (_folder / "broken").exists() or any(b"cursed" in row for row in rows):
            sender = request.get_response_sender()
            error = pb_utils.InferenceResponse(error=pb_utils.TritonError("mischief"))
            sender.send(error, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        elif any(b"endless" in row for row in rows):
            _kept.append(request.get_response_sender())
        else:
            well.append(request)
    _execute(self, well)

TritonPythonModel.execute = execute
"""


class Mischief:
    """A Triton with a queue of two, whose model a test makes busy or broken by name."""

    def __init__(self, folder: Path, triton: Triton) -> None:
        self.triton = triton
        self._folder = folder

    @contextmanager
    def is_(self, what: str) -> Iterator[None]:
        (self._folder / what).touch()
        try:
            yield
        finally:
            (self._folder / what).unlink()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Server and model are there, take connections, and do nothing."""
        stopped = descendants(self.triton.child.pid)
        for process in stopped:
            process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in stopped:
                process.signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def mischief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mischief]:
    reason = triton_part.available()
    if reason is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("mischief")
    models = folder / "models"
    shutil.copytree(checkout() / "triton_models" / "repository", models)
    source = models / "qwen3guard_gen" / "1" / "model.py"
    source.write_text(source.read_text() + MISCHIEF.format(folder=str(folder)))
    config = models / "qwen3guard_gen" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_queue_size: 1024", "max_queue_size: 2"))
    with Triton(Home(folder / "home"), engines.GEN, repository=models) as triton:
        yield Mischief(folder, triton)


def row(text: str) -> bytes:
    return Conversation(Task.PROMPT, (Turn("user", text),)).to_json()


ALLOWED = "qwarden_guard_requests_allowed"
ROWS = [row(f"How many legs have {n} cats?") for n in range(60)]

LIMITS = Limits(
    rows_a_request=8,
    bytes_a_request=100_000,
    requests_in_flight=6,
    backoff_s=0.05,
    max_backoff_s=0.5,
    probe_s=1.0,
    alone_s=4.0,
)


@asynccontextmanager
async def dispatching(triton: Triton, timeout_s: float = 2.0) -> AsyncIterator[Dispatcher]:
    guard = TritonGuard(triton.grpc, timeout_s=timeout_s)
    dispatcher = Dispatcher(guard, LIMITS)
    try:
        yield dispatcher
    finally:
        await dispatcher.close()
        await guard.close()


async def all_of(futures: list[asyncio.Future[Judged]]) -> list[Answer]:
    done = await asyncio.wait_for(asyncio.gather(*futures), 60)
    return [judged.answer for judged in done]


async def test_triton_says_otherwise_that_its_queue_is_full(mischief: Mischief) -> None:
    guard = TritonGuard(mischief.triton.grpc, timeout_s=4)
    try:
        with mischief.is_("busy"):
            asking: list[asyncio.Task[list[Answer]]] = []

            async def full() -> bool:
                asking.append(asyncio.create_task(guard.judge([row(f"busy {len(asking)}")])))
                await asyncio.sleep(0.05)
                return any(task.done() for task in asking)

            await fleet.until(full, "the queue is full", within_s=2)
            said = await asyncio.gather(*asking, return_exceptions=True)
    finally:
        await guard.close()
    reasons = [str(each) for each in said]
    for what, trouble in (
        ("Exceeds maximum queue size", Trouble.BUSY),
        ("Request timeout expired", Trouble.BUSY),
        ("DEADLINE_EXCEEDED", Trouble.FAILED),
    ):
        of_it = [each for each in said if what in str(each)]
        assert of_it, f"Triton never said {what!r}: {reasons}"
        assert {each.trouble for each in of_it if isinstance(each, GuardUnavailable)} == {trouble}


async def test_a_full_queue_is_an_outage_or_loses_rows(mischief: Mischief) -> None:
    async with dispatching(mischief.triton, timeout_s=30) as dispatcher:
        with mischief.is_("busy"):
            futures = dispatcher.submit(ROWS)

            async def slower() -> bool:
                return REGISTRY.get_sample_value(ALLOWED) != LIMITS.requests_in_flight

            await fleet.until(slower, "it sends less at a time")
            assert dispatcher.outage is None
        answers = await all_of(futures)
        assert dispatcher.outage is None
    assert all(isinstance(answer, Assessment) for answer in answers)


async def test_a_triton_that_hangs_costs_rows_their_verdicts(mischief: Mischief) -> None:
    async with dispatching(mischief.triton, timeout_s=1.0) as dispatcher:
        await all_of(dispatcher.submit(ROWS[:1]))
        with mischief.hung():
            futures = dispatcher.submit(ROWS)
            # Over the deadlines of the requests, of the probes, and of rows alone.
            await asyncio.sleep(6)
            assert dispatcher.outage is not None
            assert not any(future.done() for future in futures)
        answers = await all_of(futures)
        assert dispatcher.outage is None
    assert all(isinstance(answer, Assessment) for answer in answers)


async def test_two_rows_to_blame_take_the_others_with_them(mischief: Mischief) -> None:
    rows = list(ROWS)
    rows[11], rows[42] = row("a cursed row"), row("an endless row")
    async with dispatching(mischief.triton) as dispatcher:
        answers = await all_of(dispatcher.submit(rows))
        assert dispatcher.outage is None
    for n, answer in enumerate(answers):
        if n in (11, 42):
            assert isinstance(answer, Unanswered)
            assert answer.failure is Failure.NO_ANSWER
        else:
            assert isinstance(answer, Assessment)


async def test_a_stub_that_dies_makes_suspects(mischief: Mischief) -> None:
    async with dispatching(mischief.triton, timeout_s=30) as dispatcher:
        with mischief.is_("busy"):
            futures = dispatcher.submit(ROWS)
            await asyncio.sleep(0.2)
            for process in descendants(mischief.triton.child.pid):
                if b"backend_stub" in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                    process.signal(signal.SIGKILL)

            async def away() -> bool:
                return dispatcher.outage is not None

            await fleet.until(away, "it sees that the guard is away")
        answers = await all_of(futures)
    assert all(isinstance(answer, Assessment) for answer in answers)


@pytest.fixture(scope="module")
def failing(
    tmp_path_factory: pytest.TempPathFactory, mischief: Mischief
) -> Iterator[tuple[Fleet, Mischief]]:
    home = Home(tmp_path_factory.mktemp("failing"))
    with Kafka(home) as kafka, Valkey(home) as valkey:
        made = Fleet(home, kafka, valkey, mischief.triton)
        asyncio.run(made.make_topics(4))
        yield made, mischief


SETTINGS = {
    "QWARDEN_TRITON__TIMEOUT_S": "2",
    "QWARDEN_TRITON__PROBE_S": "2",
    "QWARDEN_TRITON__ALONE_S": "10",
    "QWARDEN_TRITON__MAX_BACKOFF_S": "0.5",
}


async def published(own: Fleet, about: str, count: int = 120) -> list[str]:
    """Events whose texts no cache knows."""
    records: list[tuple[bytes | None, bytes | None]] = []
    for n in range(count):
        text = f"Who has seen the {about} number {n}?"
        event = {"event_id": f"{about}-{n}", "tenant": "paper", "text": text}
        records.append((f"{about}-{n}".encode(), json.dumps(event).encode()))
    return await fleet.publish(own.kafka.bootstrap, topics.CONTENT, records)


@pytest.mark.parametrize("failure", ["errors", "hang"])
async def test_a_triton_that_fails_for_long_fills_the_dead_letters(
    failing: tuple[Fleet, Mischief], failure: str
) -> None:
    own, mischief = failing
    async with (
        fleet.Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        moderating(own, f"long-{failure}", **SETTINGS) as service,
    ):
        with mischief.is_("broken") if failure == "errors" else mischief.hung():
            origins = await published(own, failure)

            async def waits() -> bool:
                failed = fleet.metric(service.http, "qwarden_guard_probes_total", result="failed")
                return failed > 0 and not await asyncio.to_thread(fleet.answers, service, "/readyz")

            await fleet.until(waits, "the moderator asks in vain, and is not ready")
            await asyncio.sleep(4)
            await tap.read()
            assert fleet.answers(service, "/healthz"), "waiting out an outage is alive"
            said = {fleet.origin_of(each) for some in tap.records.values() for each in some}
            assert not said & set(origins), "it did not wait"
        found = await fleet.outcomes(tap, origins)
        assert not found.dead
        assert {verdict.basis.value for verdict in found.verdicts.values()} == {"guard"}
        assert fleet.metric(service.http, "qwarden_guard_up") == 1
        assert fleet.metric(service.http, "qwarden_guard_rows_given_up_total") == 0


async def test_a_row_without_an_answer_is_a_dead_letter_or_safe(
    failing: tuple[Fleet, Mischief],
) -> None:
    own, _ = failing
    async with (
        fleet.Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        moderating(own, "cursed", **SETTINGS) as service,
    ):
        [cursed] = await published(own, "cursed text", count=1)
        origins = await published(own, "bicycle")
        found = await fleet.outcomes(tap, [cursed, *origins])
        assert not found.dead
        verdict = found.verdicts.pop(cursed)
        assert (verdict.basis.value, verdict.cause) == ("degraded", "no_answer")
        assert verdict.safety is None
        assert verdict.action is not None
        assert verdict.action.value == "review"
        assert {each.basis.value for each in found.verdicts.values()} == {"guard"}
        assert fleet.metric(service.http, "qwarden_guard_rows_given_up_total") == 1
