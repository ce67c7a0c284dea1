"""The client of Triton's stream model before a real gRPC server, and the client of sessions over
several of those."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest as Request
from tritonclient.grpc.service_pb2 import ModelInferResponse as Response

from qwarden.guard.stream import Append, Appended, Part, Status
from qwarden.inference.memory_stream import MemoryStream
from qwarden.inference.port import GuardUnavailable, Trouble
from qwarden.inference.replica import StreamLimits
from qwarden.inference.replicas import Addresses
from qwarden.inference.session import Session
from qwarden.inference.stream_client import StreamClient
from qwarden.inference.triton_stream import MODEL, TritonStream

Respond = Callable[[Request], Awaitable[Response]]

LIMITS = StreamLimits(
    appends_a_request=16,
    requests_in_flight=4,
    replay_tokens_a_second=1e6,
    leave_s=60.0,
    backoff_s=0.02,
    max_backoff_s=0.1,
)


def texts_of(request: Request) -> list[bytes]:
    data, at, texts = request.raw_input_contents[0], 0, []
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        texts.append(data[at + 4 : end])
        at = end
    return texts


def tensor(*texts: bytes) -> bytes:
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A gRPC server with a guard in memory behind it, as Triton has the engine."""

    def __init__(self) -> None:
        self.guard = MemoryStream()
        self.requests: list[Request] = []
        self.respond: Respond = self._guard_answers
        self.url = ""
        self._server: grpc.aio.Server | None = None

    async def ModelInfer(  # noqa: N802  # the service's name for it
        self, request: Request, context: grpc.aio.ServicerContext
    ) -> Response:
        self.requests.append(request)
        return await self.respond(request)

    async def _guard_answers(self, request: Request) -> Response:
        answers = []
        for text in texts_of(request):
            try:
                [answer] = await self.guard.append([Append.from_json(text)])
            except ValueError as error:
                revision = await self.guard.revision()
                answer = Appended(revision, Status.REFUSED, str(error))
            answers.append(answer.to_json())
        return Response(raw_output_contents=[tensor(*answers)])

    async def start(self, port: int = 0) -> None:
        self._server = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.url = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{port}')}"
        await self._server.start()

    async def stop(self) -> None:
        """As a process does that is killed: its sessions go with it."""
        assert self._server is not None
        await self._server.stop(None)
        self.guard.forget()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    await made.start()
    yield made
    await made.stop()


@asynccontextmanager
async def guarding(url: str) -> AsyncIterator[TritonStream]:
    guard = TritonStream(url, timeout_s=10, queue_s=3)
    try:
        yield guard
    finally:
        await guard.close()


def append(session: str, text: str = "hello") -> Append:
    return Append("t", session, 0, (Part("user", text, end=True),))


async def test_a_request_is_not_what_the_model_takes(server: Server) -> None:
    async with guarding(server.url) as guard:
        answers = await guard.append([append("a", "one two"), append("b")], timeout_s=8)
    [request] = server.requests
    assert (request.model_name, MODEL) == (MODEL, "qwen3guard_stream")
    [tensor_in] = request.inputs
    assert (tensor_in.name, tensor_in.datatype, list(tensor_in.shape)) == (
        "APPEND",
        "BYTES",
        [2, 1],
    )
    assert [each.name for each in request.outputs] == ["APPENDED"]
    assert request.parameters["timeout"].int64_param == 3_000_000
    assert [answer.scored[0].end for answer in answers] == [7, 5]


async def test_half_a_surrogate_pair_fails_the_sessions_beside_it(server: Server) -> None:
    bad = append("bad", "\ud83d")
    async with guarding(server.url) as guard:
        first, refused, last = await guard.append([append("a"), bad, append("b")])
        assert (first.status, last.status) == (Status.DONE, Status.DONE)
        assert refused.status is Status.REFUSED
        assert refused.revision == first.revision
        [alone] = await guard.append([bad])
        assert alone.status is Status.REFUSED


@pytest.mark.long
async def test_a_new_model_behind_the_address_keeps_the_old_revision(server: Server) -> None:
    async with guarding(server.url) as guard:
        assert await guard.revision() == "memory@0"
        assert await guard.revision() == "memory@0"
        assert len(server.requests) == 1
        await server.stop()
        server.guard.start_anew("memory@1")
        await server.start(int(server.url.rpartition(":")[2]))
        async with asyncio.timeout(20):
            while (await revision_or_none(guard)) != "memory@1":  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def revision_or_none(guard: TritonStream) -> str | None:
    try:
        return await guard.revision()
    except GuardUnavailable:
        return None


GOOD = Appended("m@0").to_json()
GARBAGE = {
    "no tensor": (),
    "an answer too few": (tensor(GOOD),),
    "an answer too many": (tensor(GOOD, GOOD, GOOD),),
    "a tensor that is cut": (tensor(GOOD, GOOD)[:-1],),
    "no JSON": (tensor(GOOD, b"\x00\xff"),),
    "an unknown status": (tensor(GOOD, b'{"revision":"m@0","status":"tired"}'),),
    "a token of no task": (tensor(GOOD, b'{"revision":"m@0","scored":[["x",0,1,[0,0,0]]]}'),),
    "logits that are no numbers": (
        tensor(GOOD, b'{"revision":"m@0","scored":[["response",0,1,[null,0,0]]]}'),
    ),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_is_taken_for_an_answer(server: Server, data: tuple[bytes, ...]) -> None:
    async def respond(request: Request) -> Response:
        return Response(raw_output_contents=data)

    server.respond = respond
    async with guarding(server.url) as guard:
        with pytest.raises(GuardUnavailable, match=MODEL) as raised:
            await guard.append([append("a"), append("b")])
    assert raised.value.trouble is Trouble.FAILED


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  # what is waited for has no event
        await asyncio.sleep(0.005)


@pytest.mark.long
async def test_a_third_server_under_load_or_the_end_of_one_changes_what_is_heard() -> None:
    servers = [Server() for _ in range(3)]
    for each in servers[:2]:
        await each.start()
    names = [each.url for each in servers[:2]]

    client = StreamClient(
        lambda url: TritonStream(url, timeout_s=10),
        Addresses(names),
        LIMITS,
        look_s=0.05,
    )
    words = [f"word{n} " for n in range(40)]

    async def speak(number: int) -> int:
        session = Session("t", f"s{number}")
        heard = list((await client.append(session, [Part("user", "hello", end=True)])).scored)
        for word in words:
            heard += (await client.append(session, [Part("assistant", word)])).scored
            spoken[number] += 1
        heard += (await client.append(session, [Part("assistant", "", end=True)])).scored
        assert [(each.start, each.end) for each in heard[1:]] == [
            (each.start, each.end) for each in expected.scored[1:]
        ]
        return len(heard)

    spoken = [0] * 60
    whole = (Part("user", "hello", end=True), Part("assistant", "".join(words), end=True))
    [expected] = await MemoryStream().append([Append("t", "s", 0, whole)])
    speaking = asyncio.gather(*[speak(number) for number in range(len(spoken))])
    try:
        async with asyncio.timeout(60):
            await until(lambda: min(spoken) >= 5)
            await servers[2].start()
            names.append(servers[2].url)
            # A third of the sessions is the third server's, whose servers they were before.
            await until(lambda: 5 <= len(servers[2].guard.sessions) <= 40)
            await servers[0].stop()
            await asyncio.sleep(0.1)
            await servers[0].start(int(servers[0].url.rpartition(":")[2]))
            assert set(await speaking) == {len(expected.scored)}
    finally:
        speaking.cancel()
        await client.close()
        for each in servers:
            await each.stop()
