"""Sessions over several Tritons, of which one comes and one dies while they run: each token's score
is heard once, and is that of an uninterrupted session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from prometheus_client import REGISTRY

from qwarden.guard.stream import Append, Part, Scored, Segment
from qwarden.inference.replica import StreamLimits
from qwarden.inference.replicas import Addresses
from qwarden.inference.session import Session
from qwarden.inference.stream_client import StreamClient
from qwarden.inference.triton_stream import TritonStream
from qwarden.stack import triton as triton_part
from qwarden.stack.home import Home
from qwarden.stack.triton import Triton
from unit.engine.stream_checkpoint import random_stream_checkpoint

pytestmark = pytest.mark.parts

LIMITS = StreamLimits(
    appends_a_request=64,
    requests_in_flight=4,
    replay_tokens_a_second=5000.0,
    leave_s=1.0,
    backoff_s=0.1,
    max_backoff_s=0.5,
)
SESSIONS = 60


@pytest.fixture(scope="module")
def tritons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Triton]]:
    """Three, of which two run."""
    reason = triton_part.available()
    if reason is not None:
        pytest.skip(reason)
    guard = random_stream_checkpoint(tmp_path_factory.mktemp("guard"), max_position_embeddings=4096)
    environ = {
        "QWARDEN_STREAM__CHECKPOINT": str(guard),
        "QWARDEN_STREAM__DTYPE": "float32",
        "QWARDEN_STREAM__THREADS": "1",
        "QWARDEN_STREAM__KV_MIB": "64",
    }
    made = [Triton(Home(tmp_path_factory.mktemp(f"triton{n}")), environ) for n in range(3)]
    with ExitStack() as stack:
        for triton in made[:2]:
            stack.enter_context(triton)
        stack.callback(made[2].stop)
        yield made


def replays() -> float:
    return REGISTRY.get_sample_value("qwarden_stream_replays_total") or 0.0


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not holds():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.02)


class Speaker:
    """A session that goes on until it is told to end."""

    def __init__(self, number: int) -> None:
        self.session = Session("tenant", f"session {number}")
        self.heard: list[Scored] = []
        self.said = 0
        self._number = number

    async def speak(self, client: StreamClient, ending: asyncio.Event) -> None:
        await self._say(client, Part("user", f"Is number {self._number} unsafe?", end=True))
        await self._say(client, Part("assistant", "One asks.", Segment.THINKING, end=True))
        while not ending.is_set():
            self.said += 1
            await self._say(client, Part("assistant", f" It is {self.said * self._number}, safe"))
            await asyncio.sleep(0.1)
        await self._say(client, Part("assistant", "", end=True))

    async def _say(self, client: StreamClient, part: Part) -> None:
        self.heard += (await client.append(self.session, [part])).scored


async def test_a_triton_that_comes_or_dies_changes_what_sessions_hear(
    tritons: list[Triton],
) -> None:
    first, second, third = tritons
    names = [first.grpc, second.grpc]
    client = StreamClient(
        lambda url: TritonStream(url, timeout_s=30), Addresses(names), LIMITS, look_s=0.2
    )
    speakers = [Speaker(number) for number in range(SESSIONS)]
    before = replays()
    ending = asyncio.Event()
    speaking = asyncio.gather(*[speaker.speak(client, ending) for speaker in speakers])
    try:
        await until(lambda: min(speaker.said for speaker in speakers) >= 3)
        assert replays() == before
        await asyncio.to_thread(third.start)
        names.append(third.grpc)
        # A third of them, more or less, moves there.
        await until(lambda: replays() - before >= SESSIONS / 10)
        said = [speaker.said for speaker in speakers]
        await until(lambda: all(s.said > n + 3 for s, n in zip(speakers, said, strict=True)))
        moved = replays()
        assert moved - before <= SESSIONS * 2 / 3
        await asyncio.to_thread(first.kill)
        said = [speaker.said for speaker in speakers]
        await until(lambda: all(s.said > n + 3 for s, n in zip(speakers, said, strict=True)))
        assert moved < replays() < moved + SESSIONS * 2 / 3
        assert client.outage is None
        ending.set()
        await speaking
    finally:
        speaking.cancel()
        await client.close()
    guard = TritonStream(second.grpc, timeout_s=60)
    try:
        for speaker in speakers:
            session = speaker.session
            whole = Append("whole", session.session, 0, session.parts)
            [expected] = await guard.append([whole])
            assert [(each.task, each.start, each.end) for each in speaker.heard] == [
                (each.task, each.start, each.end) for each in expected.scored
            ]
            for heard, alone in zip(speaker.heard, expected.scored, strict=True):
                assert heard.logits == pytest.approx(alone.logits, abs=1e-3)
    finally:
        await guard.close()
