"""The client of the Triton model `qwen3guard_gen`: one gRPC request carries many rows.

Written on the raw messages of tritonclient: `InferInput` and `InferResult` cost 20 µs more a
request and copy every tensor twice.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from qwarden.guard.answer import Answer, decode_answer
from qwarden.inference.port import GuardUnavailable, Trouble

MODEL = "qwen3guard_gen"
_PING = b"{}"
"""A row that the engine refuses at once, naming its revision."""

_QUEUE_IS_FULL = "Exceeds maximum queue size"
_WAITED_TOO_LONG = "Request timeout expired"
"""What Triton 2.51 says of its queue, both under UNAVAILABLE, which is also the code of a server
that is not there."""

_DEAD_STUB = re.compile("[Ss]tub process .*is not healthy")
"""What it says, under INTERNAL, to every request once the model's process has died."""


class TritonGuard:
    """A guard behind Triton at `url` (gRPC, host:port).

    `timeout_s` is how long one request may take, its time in Triton's queue included. `queue_s` is
    how long it may wait there before Triton itself refuses it; at most half of the request's time,
    so that a queue is told from a row that takes too long, and nobody works for a client that has
    left.
    """

    def __init__(self, url: str, *, timeout_s: float, queue_s: float = 60.0) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._queue_s = queue_s
        self._channel: grpc.aio.Channel | None = None
        self._stub: service_pb2_grpc.GRPCInferenceServiceStub | None = None
        self._revision: str | None = None
        self._watch: asyncio.Task[None] | None = None

    async def revision(self) -> str:
        """The revision of the guard that is connected now; asked again after each disconnect."""
        if self._revision is None:
            (answer,) = await self.judge((_PING,))
            self._revision = answer.revision
        return self._revision

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        timeout = self._timeout_s if timeout_s is None else timeout_s
        request = _request(rows, min(self._queue_s, timeout / 2))
        try:
            response = await self._connected().ModelInfer(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise self._unavailable(
                f"{error.code().name}: {error.details()}", _trouble(error.code(), error.details())
            ) from error
        except grpc.aio.UsageError as error:  # the channel was closed before the call
            raise self._unavailable(f"nothing: {error}", Trouble.AWAY) from error
        except asyncio.CancelledError:
            asking = asyncio.current_task()
            if asking is None or asking.cancelling():
                raise
            # Nobody cancelled the task: the channel was closed under the call.
            raise self._unavailable("nothing: the channel is closed", Trouble.AWAY) from None
        try:
            return _answers(response, len(rows))
        except (ValueError, RecursionError) as error:
            raise self._unavailable(
                f"what the contract of {MODEL} does not know: {error}", Trouble.FAILED
            ) from error

    def _unavailable(self, answered: str, trouble: Trouble) -> GuardUnavailable:
        return GuardUnavailable(f"Triton at {self._url} answered {answered}", trouble)

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()
        self._channel = self._stub = self._watch = None

    def _connected(self) -> service_pb2_grpc.GRPCInferenceServiceStub:
        if self._stub is None:
            self._channel = grpc.aio.insecure_channel(
                self._url,
                options=[
                    ("grpc.max_send_message_length", -1),
                    ("grpc.max_receive_message_length", -1),
                    # A server that comes back is tried again within this, not within gRPC's 120 s.
                    ("grpc.max_reconnect_backoff_ms", 1000),
                    ("grpc.keepalive_time_ms", 20_000),
                ],
            )
            self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
            self._watch = asyncio.create_task(self._forget_on_disconnect(), name="triton-watch")
        return self._stub

    async def _forget_on_disconnect(self) -> None:
        """A server that went away may come back with another model, and so another revision."""
        assert self._channel is not None
        state = self._channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.SHUTDOWN:
            await self._channel.wait_for_state_change(state)
            was, state = state, self._channel.get_state(try_to_connect=True)
            if was is grpc.ChannelConnectivity.READY:
                self._revision = None


def _trouble(code: grpc.StatusCode, details: str | None) -> Trouble:
    """What a status says of the rows. Where it does not say whether the queue or the row took too
    long (DEADLINE_EXCEEDED), the request has failed, and the known good conversation tells."""
    said = details or ""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Trouble.BUSY
    if code is grpc.StatusCode.UNAVAILABLE:
        full = _QUEUE_IS_FULL in said or _WAITED_TOO_LONG in said
        return Trouble.BUSY if full else Trouble.AWAY
    if code is grpc.StatusCode.CANCELLED or _DEAD_STUB.search(said):
        return Trouble.AWAY
    return Trouble.FAILED


def _request(rows: Sequence[bytes], queue_s: float) -> service_pb2.ModelInferRequest:
    count = len(rows)
    request = service_pb2.ModelInferRequest(
        model_name=MODEL,
        inputs=[
            service_pb2.ModelInferRequest.InferInputTensor(
                name="ROW", datatype="BYTES", shape=[count, 1]
            )
        ],
        outputs=[service_pb2.ModelInferRequest.InferRequestedOutputTensor(name="ANSWER")],
        raw_input_contents=[b"".join(len(row).to_bytes(4, "little") + row for row in rows)],
    )
    request.parameters["timeout"].int64_param = int(queue_s * 1_000_000)
    return request


def _answers(response: service_pb2.ModelInferResponse, rows: int) -> list[Answer]:
    """Triton's BYTES tensor: each element is its length in 4 bytes, little-endian, then itself.

    Raises `ValueError` for anything else, and for another number of answers.
    """
    if len(response.raw_output_contents) != 1:
        raise ValueError(f"{len(response.raw_output_contents)} tensors where there is one, ANSWER")
    data = response.raw_output_contents[0]
    answers = []
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if end > len(data):
            raise ValueError("the tensor ANSWER is shorter than its lengths say")
        answers.append(decode_answer(data[at + 4 : end]))
        at = end
    if len(answers) != rows:
        raise ValueError(f"{len(answers)} answers for {rows} rows")
    return answers
