"""One model of a Triton, as all clients of one ask it: texts in, as many texts out, over gRPC.

Written on the raw messages of tritonclient: `InferInput` and `InferResult` cost 20 µs more a
request and copy every tensor twice.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from qwarden.inference.port import GuardUnavailable, Trouble
from qwarden.tracing import carried

T = TypeVar("T")

_QUEUE_IS_FULL = "Exceeds maximum queue size"
_WAITED_TOO_LONG = "Request timeout expired"
"""What Triton 2.51 says of its queue, both under UNAVAILABLE, which is also the code of a server
that is not there."""

_DEAD_STUB = re.compile("[Ss]tub process .*is not healthy")
"""What it says, under INTERNAL, to every request once the model's process has died."""


class TritonModel:
    """The model `name` behind Triton at `url` (gRPC, host:port), which takes the tensor `takes` and
    gives the tensor `gives`, both of texts.

    `timeout_s` is how long one request may take, its time in Triton's queue included. `queue_s` is
    how long it may wait there before Triton itself refuses it; at most half of the request's time,
    so that a queue is told from a row that takes too long, and nobody works for a client that has
    left. `tls`: how the connection is encrypted; None where it is not.
    """

    def __init__(
        self,
        url: str,
        name: str,
        takes: str,
        gives: str,
        *,
        timeout_s: float,
        queue_s: float,
        tls: Tls | None = None,
    ) -> None:
        self._url = url
        self._tls = tls
        self._name = name
        self._takes = takes
        self._gives = gives
        self._timeout_s = timeout_s
        self._queue_s = queue_s
        self._connections: list[_Connection] = []
        """The last one is used; on those before it calls are still out, which may end."""

    async def revision(self, asked: Callable[[], Awaitable[str]]) -> str:
        """The revision of the guard that is connected now, by what was `asked` of it once."""
        connection = self._connected()
        if connection.revision is None:
            connection.revision = await asked()
        return connection.revision

    async def ask(
        self, texts: Sequence[bytes], decode: Callable[[bytes], T], timeout_s: float | None = None
    ) -> list[T]:
        """What `decode` makes of the answer to each text, in their order; its `ValueError` is an
        answer that the contract does not know.

        Raises `GuardUnavailable` where the request as a whole has no answers.
        """
        timeout = self._timeout_s if timeout_s is None else timeout_s
        request = self._request(texts, min(self._queue_s, timeout / 2))
        connection = self._connected()
        connection.calls += 1
        try:
            response = await connection.stub.ModelInfer(
                request, timeout=timeout, metadata=carried()
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._leave(connection)
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
        finally:
            connection.calls -= 1
            if not connection.calls and connection in self._connections[:-1]:
                self._connections.remove(connection)
                await connection.close()
        try:
            return [decode(text) for text in self._texts(response, len(texts))]
        except (ValueError, RecursionError) as error:
            raise self._unavailable(
                f"what the contract of {self._name} does not know: {error}", Trouble.FAILED
            ) from error

    async def close(self) -> None:
        connections, self._connections = self._connections, []
        for connection in connections:
            await connection.close()

    def _unavailable(self, answered: str, trouble: Trouble) -> GuardUnavailable:
        fix = _fix(answered, self._tls)
        return GuardUnavailable(f"Triton at {self._url} answered {answered}{fix}", trouble)

    def _connected(self) -> _Connection:
        if not self._connections:
            self._connections.append(_Connection(self._url, self._tls))
        return self._connections[-1]

    def _leave(self, connection: _Connection) -> None:
        """The next call takes a new connection. One whose other end is gone without a word looks
        like one whose answers are late for the 78 s that gRPC takes to tell them apart (measured),
        and a new one is a millisecond's work.

        Only a call that ran out of its time on the connection in use ends it, so at most one is
        made in the time of a call, however many are out. Those have their time on the old one.
        """
        if connection in self._connections[-1:]:
            self._connections.append(_Connection(self._url, self._tls))

    def _request(self, texts: Sequence[bytes], queue_s: float) -> service_pb2.ModelInferRequest:
        request = service_pb2.ModelInferRequest(
            model_name=self._name,
            inputs=[
                service_pb2.ModelInferRequest.InferInputTensor(
                    name=self._takes, datatype="BYTES", shape=[len(texts), 1]
                )
            ],
            outputs=[service_pb2.ModelInferRequest.InferRequestedOutputTensor(name=self._gives)],
            raw_input_contents=[b"".join(len(text).to_bytes(4, "little") + text for text in texts)],
        )
        request.parameters["timeout"].int64_param = int(queue_s * 1_000_000)
        return request

    def _texts(self, response: service_pb2.ModelInferResponse, count: int) -> list[bytes]:
        """Triton's BYTES tensor: each element is its length in 4 bytes, little-endian, then itself.

        Raises `ValueError` for anything else, and for another number of elements.
        """
        tensors = len(response.raw_output_contents)
        if tensors != 1:
            raise ValueError(f"{tensors} tensors where there is one, {self._gives}")
        data = response.raw_output_contents[0]
        texts = []
        at = 0
        while at < len(data):
            end = at + 4 + int.from_bytes(data[at : at + 4], "little")
            if end > len(data):
                raise ValueError(f"the tensor {self._gives} is shorter than its lengths say")
            texts.append(data[at + 4 : end])
            at = end
        if len(texts) != count:
            raise ValueError(f"{len(texts)} answers for {count} of {self._takes}")
        return texts


_UNTRUSTED = ("CERTIFICATE_VERIFY_FAILED", "Peer name", "Hostname Verification")
"""What gRPC says of a certificate of another authority, or of another name."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How the connection to a server is encrypted, all in PEM. `authority`: who signed the server's
    certificate, the system's own where None; `key` and `certificate`: ours, where the server asks
    for one. `name`: the server's in its certificate, where the address is not it.
    """

    authority: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = None
    name: str | None = None


class _Connection:
    """A channel that shares its connection with no other.

    `revision`: of the guard at its other end, None where it is to be asked. `calls`: how many are
    out on it.
    """

    def __init__(self, url: str, tls: Tls | None) -> None:
        options: list[tuple[str, object]] = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            # A server that comes back is tried again within this, not within gRPC's 120 s.
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.keepalive_time_ms", 20_000),
            # gRPC waits 60 s for a ping's answer, whatever its keepalive time-out (measured).
            ("grpc.http2.ping_timeout_ms", 20_000),
            # Else a new channel to this address takes the connection of an old one.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if tls is None:
            self._channel = grpc.aio.insecure_channel(url, options=options)
        else:
            if tls.name is not None:
                options.append(("grpc.ssl_target_name_override", tls.name))
            shown = grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate)
            self._channel = grpc.aio.secure_channel(url, shown, options=options)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self.revision: str | None = None
        self.calls = 0
        self._watch = asyncio.create_task(self._forget_on_disconnect(), name="triton-watch")

    async def close(self) -> None:
        """Ends the calls that are out on it."""
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)
        await self._channel.close()

    async def _forget_on_disconnect(self) -> None:
        """A server that went away may come back with another model, and so another revision."""
        state = self._channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.SHUTDOWN:
            await self._channel.wait_for_state_change(state)
            was, state = state, self._channel.get_state(try_to_connect=True)
            if was is grpc.ChannelConnectivity.READY:
                self.revision = None


def _fix(said: str, tls: Tls | None) -> str:
    """What to set where a connection fails by what is set; nothing for any other answer."""
    if not said.startswith("UNAVAILABLE"):
        return ""
    if any(each in said for each in _UNTRUSTED):
        return (
            "; set QWARDEN_TRITON__CA_FILE to the authority that signed its certificate, and name "
            "it in QWARDEN_TRITON__URL as that does"
        )
    if "WRONG_VERSION_NUMBER" in said:
        return "; it does not speak TLS there: set QWARDEN_TRITON__TLS to false, or another port"
    ends = "Socket closed" in said or "reset by peer" in said
    if "last error" in said and ends:  # it was there, and would not talk
        if tls is None:
            return "; if it speaks TLS there, set QWARDEN_TRITON__TLS to true"
        if tls.certificate is None:
            return "; if it asks for a certificate of ours, set QWARDEN_TRITON__CERTIFICATE_FILE"
    return ""


def _trouble(code: grpc.StatusCode, details: str | None) -> Trouble:
    """What a status says of the rows. Where it does not say whether the queue or the row took too
    long (DEADLINE_EXCEEDED), the request has failed, and what is known to be good tells."""
    said = details or ""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Trouble.BUSY
    if code is grpc.StatusCode.UNAVAILABLE:
        full = _QUEUE_IS_FULL in said or _WAITED_TOO_LONG in said
        return Trouble.BUSY if full else Trouble.AWAY
    if code is grpc.StatusCode.CANCELLED or _DEAD_STUB.search(said):
        return Trouble.AWAY
    return Trouble.FAILED
