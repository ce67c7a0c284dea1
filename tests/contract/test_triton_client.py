"""The client of Triton before a real gRPC server that answers what no guard should."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest as Request
from tritonclient.grpc.service_pb2 import ModelInferResponse as Response

from proxy import Proxy
from qwarden.guard.answer import Assessment, Failure, Unanswered, encode_answer
from qwarden.inference.dispatch import Dispatcher, Limits
from qwarden.inference.port import GuardUnavailable, Trouble
from qwarden.inference.triton import TritonGuard
from qwarden.stack.ports import free_ports

Respond = Callable[[Request, grpc.aio.ServicerContext], Awaitable[Response]]

SAFE = encode_answer(Assessment((1.0, 0.0, 0.0), (), None, 1, 0, "g@1"))


def rows_of(request: Request) -> list[bytes]:
    data, at, rows = request.raw_input_contents[0], 0, []
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        rows.append(data[at + 4 : end])
        at = end
    return rows


def tensor(*answers: bytes) -> bytes:
    return b"".join(len(answer).to_bytes(4, "little") + answer for answer in answers)


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """What Triton's service answers is the test's own."""

    def __init__(self) -> None:
        self.respond: Respond
        self.requests: list[Request] = []

    async def ModelInfer(  # noqa: N802  # the service's name for it
        self, request: Request, context: grpc.aio.ServicerContext
    ) -> Response:
        self.requests.append(request)
        return await self.respond(request, context)


@pytest.fixture
async def served() -> AsyncIterator[tuple[Servicer, str]]:
    server, servicer = grpc.aio.server(), Servicer()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"127.0.0.1:{port}"
    await server.stop(None)


@asynccontextmanager
async def guarding(url: str, timeout_s: float = 10) -> AsyncIterator[TritonGuard]:
    guard = TritonGuard(url, timeout_s=timeout_s, queue_s=3)
    try:
        yield guard
    finally:
        await guard.close()


def aborts(code: grpc.StatusCode, details: str) -> Respond:
    async def respond(request: Request, context: grpc.aio.ServicerContext) -> Response:
        await context.abort(code, details)
        raise AssertionError

    return respond


def answers(*data: bytes) -> Respond:
    async def respond(request: Request, context: grpc.aio.ServicerContext) -> Response:
        return Response(raw_output_contents=data)

    return respond


CODES = grpc.StatusCode
STATUSES = [
    # What Triton says of its queue.
    (CODES.UNAVAILABLE, "Request timeout expired", Trouble.BUSY),
    (CODES.UNAVAILABLE, "[request id: <id_unknown>] Exceeds maximum queue size", Trouble.BUSY),
    (CODES.RESOURCE_EXHAUSTED, "no room", Trouble.BUSY),
    # What it, or what stands before it, says where nobody judges.
    (CODES.UNAVAILABLE, "Server not ready", Trouble.AWAY),
    (CODES.UNAVAILABLE, "", Trouble.AWAY),
    (CODES.CANCELLED, "the server is stopping", Trouble.AWAY),
    (
        CODES.INTERNAL,
        "Failed to process the request(s) for model instance 'qwen3guard_gen_0_0', message: Stub "
        "process 'qwen3guard_gen_0_0' is not healthy.",
        Trouble.AWAY,
    ),
    # What may be a row's doing.
    (CODES.DEADLINE_EXCEEDED, "Deadline Exceeded", Trouble.FAILED),
    (CODES.INTERNAL, "the engine cannot judge; restart it", Trouble.FAILED),
    (CODES.INVALID_ARGUMENT, "unexpected shape", Trouble.FAILED),
    (CODES.NOT_FOUND, "Request for unknown model", Trouble.FAILED),
    (CODES.UNKNOWN, "Stream removed", Trouble.FAILED),
    (CODES.UNIMPLEMENTED, "", Trouble.FAILED),
]


@pytest.mark.parametrize(
    ("code", "details", "trouble"), STATUSES, ids=lambda each: getattr(each, "name", None)
)
async def test_a_status_is_held_against_rows_that_it_says_nothing_of(
    served: tuple[Servicer, str], code: grpc.StatusCode, details: str, trouble: Trouble
) -> None:
    servicer, url = served
    servicer.respond = aborts(code, details)
    async with guarding(url) as guard:
        with pytest.raises(GuardUnavailable, match=code.name) as raised:
            await guard.judge([b"a"])
    assert raised.value.trouble is trouble
    assert url in str(raised.value)


GARBAGE = {
    "no tensor": (),
    "two tensors": (tensor(SAFE, SAFE), b""),
    "an empty tensor": (b"",),
    "an answer too few": (tensor(SAFE),),
    "an answer too many": (tensor(SAFE, SAFE, SAFE),),
    "an empty answer": (tensor(SAFE, b""),),
    "a tensor that is cut": (tensor(SAFE, SAFE)[:-1],),
    "a length that is cut": (tensor(SAFE, SAFE)[:-1] + b"\x01\x00",),
    "a length beyond all": (tensor(SAFE) + b"\xff\xff\xff\xff" + SAFE,),
    "no JSON": (tensor(SAFE, b"\x00\xff\xfe"),),
    "JSON without end": (tensor(SAFE, b"[" * 100_000),),
    "another's JSON": (tensor(SAFE, b'{"choices":[{"text":"Safety: Safe"}]}'),),
    "an unknown failure": (tensor(SAFE, b'{"revision":"g@1","failure":"tired"}'),),
    "neither entries nor failure": (tensor(SAFE, b'{"revision":"g@1"}'),),
    "logits that are words": (tensor(SAFE, SAFE.replace(b"1.0", b'"Safe"')),),
    "infinite logits": (tensor(SAFE, SAFE.replace(b"1.0", b"1e999")),),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_is_taken_for_an_answer(
    served: tuple[Servicer, str], data: tuple[bytes, ...]
) -> None:
    servicer, url = served
    servicer.respond = answers(*data)
    async with guarding(url) as guard:
        with pytest.raises(GuardUnavailable, match="the contract of qwen3guard_gen") as raised:
            await guard.judge([b"a", b"b"])
    assert raised.value.trouble is Trouble.FAILED


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  # the server's own loop has no event for it
            await asyncio.sleep(0.01)


async def hangs(request: Request, context: grpc.aio.ServicerContext) -> Response:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_server_that_hangs_is_waited_for_without_end(served: tuple[Servicer, str]) -> None:
    servicer, url = served
    servicer.respond = hangs
    async with guarding(url) as guard:
        started = time.monotonic()
        with pytest.raises(GuardUnavailable, match="DEADLINE_EXCEEDED") as raised:
            await guard.judge([b"a"], timeout_s=0.3)
        assert time.monotonic() - started < 5
    assert raised.value.trouble is Trouble.FAILED


async def test_a_queue_takes_all_the_time_that_a_row_has(served: tuple[Servicer, str]) -> None:
    servicer, url = served
    servicer.respond = answers(tensor(SAFE))
    async with guarding(url) as guard:
        await guard.judge([b"a"])
        await guard.judge([b"a"], timeout_s=2)
    queued = [request.parameters["timeout"].int64_param for request in servicer.requests]
    assert queued == [3_000_000, 1_000_000]


async def test_a_channel_that_closes_under_a_call_ends_the_caller(
    served: tuple[Servicer, str],
) -> None:
    servicer, url = served
    servicer.respond = hangs
    guard = TritonGuard(url, timeout_s=60)
    on_the_old = asyncio.create_task(guard.judge([b"a"]))
    with pytest.raises(GuardUnavailable, match="DEADLINE_EXCEEDED"):
        await guard.judge([b"b"], timeout_s=0.3)
    on_the_new = asyncio.create_task(guard.judge([b"c"]))
    await until(lambda: len(servicer.requests) == 3)
    await guard.close()
    for asking in (on_the_old, on_the_new):
        with pytest.raises(GuardUnavailable, match="closed") as raised:
            await asyncio.wait_for(asking, 10)
        assert raised.value.trouble is Trouble.AWAY


async def answers_all(request: Request, context: grpc.aio.ServicerContext) -> Response:
    return Response(raw_output_contents=[tensor(*[SAFE] * len(rows_of(request)))])


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    [port] = free_ports(1)
    async with Proxy(port, int(url.rpartition(":")[2])) as proxy:
        yield proxy, f"127.0.0.1:{port}"


@pytest.mark.long
async def test_a_half_open_connection_is_never_left_for_a_new_one(
    served: tuple[Servicer, str],
) -> None:
    servicer, url = served
    servicer.respond = answers_all
    async with proxied(url) as (proxy, behind), guarding(behind) as guard:
        await guard.revision()
        async with proxy.half_open():
            with pytest.raises(GuardUnavailable, match="DEADLINE_EXCEEDED"):
                await guard.judge([b"a"], timeout_s=0.3)
            await until(lambda: len(proxy._connections) == 2)
        # What was connected meanwhile is no better.
        with pytest.raises(GuardUnavailable, match="DEADLINE_EXCEEDED"):
            await guard.judge([b"a"], timeout_s=0.3)
        await guard.judge([b"b"], timeout_s=5)
        # It may lead to another guard.
        await guard.revision()
    assert [rows_of(request) for request in servicer.requests] == [[b"{}"], [b"b"], [b"{}"]]


@pytest.mark.storm
async def test_a_half_open_connection_is_waited_for_until_the_deadline(
    served: tuple[Servicer, str],
) -> None:
    servicer, url = served
    servicer.respond = answers_all
    async with proxied(url) as (proxy, behind), guarding(behind, timeout_s=120) as guard:
        await guard.judge([b"a"])
        async with proxy.half_open():
            pass
        started = time.monotonic()
        with pytest.raises(GuardUnavailable, match="UNAVAILABLE") as raised:
            await guard.judge([b"a"])
        assert time.monotonic() - started < 45
        assert raised.value.trouble is Trouble.AWAY


async def test_a_late_row_ends_those_beside_it_or_costs_a_connection_each(
    served: tuple[Servicer, str],
) -> None:
    servicer, url = served
    done = asyncio.Event()
    peers: dict[bytes, str] = {}

    async def respond(request: Request, context: grpc.aio.ServicerContext) -> Response:
        [row] = rows_of(request)
        peers[row] = context.peer()
        if row.startswith(b"late"):
            return await hangs(request, context)
        if row == b"slow":
            await done.wait()
        return await answers_all(request, context)

    servicer.respond = respond
    async with proxied(url) as (proxy, behind), guarding(behind) as guard:
        slow = asyncio.create_task(guard.judge([b"slow"], timeout_s=60))
        late = [guard.judge([b"late %d" % n], timeout_s=0.3) for n in range(5)]
        failed = await asyncio.gather(*late, return_exceptions=True)
        assert all(isinstance(each, GuardUnavailable) for each in failed)
        del failed  # an error keeps its call, and that its connection
        await guard.judge([b"next"])
        assert peers[b"slow"] == peers[b"late 4"] != peers[b"next"]
        assert len(proxy._connections) == 2
        done.set()
        assert isinstance((await slow)[0], Assessment)
        await until(lambda: len(proxy._connections) == 1)
        await guard.judge([b"again"])
        assert peers[b"again"] == peers[b"next"]


async def test_a_caller_that_leaves_is_told_of_an_outage(served: tuple[Servicer, str]) -> None:
    servicer, url = served
    is_asked = asyncio.Event()

    async def hangs_too(request: Request, context: grpc.aio.ServicerContext) -> Response:
        is_asked.set()
        return await hangs(request, context)

    servicer.respond = hangs_too
    async with guarding(url) as guard:
        asking = asyncio.create_task(guard.judge([b"a"]))
        await is_asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


LIMITS = Limits(
    rows_a_request=8,
    bytes_a_request=10_000,
    requests_in_flight=2,
    backoff_s=0.005,
    max_backoff_s=0.02,
    probe_s=0.5,
    alone_s=0.5,
)


@pytest.mark.long
async def test_one_row_that_brings_garbage_ends_the_others_or_is_asked_for_ever(
    served: tuple[Servicer, str],
) -> None:
    servicer, url = served

    async def respond(request: Request, context: grpc.aio.ServicerContext) -> Response:
        rows = rows_of(request)
        if b"cursed" in rows:
            return Response(raw_output_contents=[b"\x07garbage"])
        if b"endless" in rows:
            return await hangs(request, context)
        return await answers_all(request, context)

    servicer.respond = respond
    rows = [b"%d" % n for n in range(40)]
    rows[7], rows[22] = b"cursed", b"endless"
    async with guarding(url, timeout_s=0.5) as guard:
        dispatcher = Dispatcher(guard, LIMITS)
        done = await asyncio.wait_for(asyncio.gather(*dispatcher.submit(rows)), 30)
        assert dispatcher.outage is None
        await dispatcher.close()
    for row, judged in zip(rows, done, strict=True):
        answer = judged.answer
        if row in (b"cursed", b"endless"):
            assert isinstance(answer, Unanswered)
            assert answer.failure is Failure.NO_ANSWER
            assert answer.revision == "g@1"
        else:
            assert isinstance(answer, Assessment)


@pytest.mark.long
@pytest.mark.parametrize(
    "broken",
    [
        answers(b"garbage"),
        hangs,
        *(aborts(code, details) for code, details, _ in STATUSES),
    ],
    ids=["garbage", "hangs", *(f"{code.name}: {details[:20]}" for code, details, _ in STATUSES)],
)
async def test_a_server_that_breaks_for_a_while_costs_a_row_its_verdict(
    served: tuple[Servicer, str], broken: Respond
) -> None:
    servicer, url = served
    servicer.respond = broken
    async with guarding(url, timeout_s=0.2) as guard:
        dispatcher = Dispatcher(guard, LIMITS)
        futures = dispatcher.submit([b"%d" % n for n in range(40)])
        await until(lambda: len(servicer.requests) >= 5)
        assert not any(future.done() for future in futures)
        servicer.respond = answers_all
        done = await asyncio.wait_for(asyncio.gather(*futures), 20)
        assert dispatcher.outage is None
        await dispatcher.close()
    assert all(isinstance(judged.answer, Assessment) for judged in done)
