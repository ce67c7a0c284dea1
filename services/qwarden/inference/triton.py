"""The client of the Triton model `qwen3guard_gen`: one gRPC request carries many rows.

Written on the raw messages of tritonclient: `InferInput` and `InferResult` cost 20 µs more a
request and copy every tensor twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from qwarden.guard.answer import Answer, decode_answer
from qwarden.inference.port import GuardUnavailable

MODEL = "qwen3guard_gen"
_PING = b"{}"
"""A row that the engine refuses at once, naming its revision."""


class TritonGuard:
    """A guard behind Triton at `url` (gRPC, host:port).

    `timeout_s` is how long one request may take: it is the deadline of the call and the timeout
    that Triton's queue applies, so that nobody works for a client that has left.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
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
        request = _request(rows, timeout)
        try:
            response = await self._connected().ModelInfer(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise GuardUnavailable(
                f"Triton at {self._url} answered {error.code().name}: {error.details()}"
            ) from error
        try:
            return list(_answers(response, len(rows)))
        except (ValueError, IndexError) as error:
            raise GuardUnavailable(
                f"Triton at {self._url} answered what the contract of {MODEL} does not know: "
                f"{error!r}"
            ) from error

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


def _request(rows: Sequence[bytes], timeout_s: float) -> service_pb2.ModelInferRequest:
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
    request.parameters["timeout"].int64_param = int(timeout_s * 1_000_000)
    return request


def _answers(response: service_pb2.ModelInferResponse, rows: int) -> Iterator[Answer]:
    """Triton's BYTES tensor: each element is its length in 4 bytes, little-endian, then itself."""
    (data,) = response.raw_output_contents
    at = 0
    for _ in range(rows):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if end > len(data):
            raise ValueError("the tensor ANSWER is shorter than its lengths say")
        yield decode_answer(data[at + 4 : end])
        at = end
