"""Traces against a real OTLP sink: what a record's trace tells, and what none of them says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from otlp import Sink, attributes, otlp_sink
from qwarden.contracts import topics
from qwarden.contracts.headers import ORIGIN
from qwarden.guard.answer import Answer
from qwarden.guard.stream import Append, Part
from qwarden.inference.dispatch import Dispatcher, Judged, Limits
from qwarden.inference.memory import MemoryGuard
from qwarden.inference.memory_stream import MemoryStream
from qwarden.inference.replica import StreamLimits
from qwarden.inference.session import Session
from qwarden.inference.stream_client import StreamClient
from qwarden.outcomes.lookup import Found
from qwarden.outcomes.source import Source
from qwarden.tracing import OFF, REQUEST_SPAN, Trace, carried
from unit.builders import REVISION, SAFE, assessment

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED = ("traceparent", f"00-{TRACE_ID}-{PARENT}-01".encode())
UNSAMPLED = ("traceparent", f"00-{TRACE_ID}-{PARENT}-00".encode())
STREAM_LIMITS = StreamLimits(
    appends_a_request=4,
    requests_in_flight=1,
    replay_tokens_a_second=1000.0,
    leave_s=10.0,
    backoff_s=0.1,
    max_backoff_s=1.0,
    alone_s=60.0,
    alone_1000_tokens_s=20.0,
)
SOURCE = Source("content.events", 1, 2, 1_700_000_000_000, None, b"{}", ())
TRACED = msgspec.structs.replace(SOURCE, headers=(SAMPLED,))


@pytest.fixture
def sink() -> Iterator[Sink]:
    with otlp_sink() as made:
        yield made


def test_a_trace_ends_at_the_moderator() -> None:
    others = [("x", b"y"), ("tracestate", b"vendor=1")]
    assert OFF.forward([SAMPLED, *others], SOURCE, "guard") == [
        SAMPLED,
        ("tracestate", b"vendor=1"),
    ]
    assert OFF.forward(others[:1], SOURCE, "guard") == []


@pytest.mark.long
def test_a_span_of_ours_is_missing_between_producer_and_consumer(sink: Sink) -> None:
    trace = Trace(sink.endpoint, "qwarden-moderator")
    ((name, value),) = trace.forward([SAMPLED], SOURCE, "guard")
    trace.close()
    assert name == "traceparent"
    _, trace_id, span_id, flags = value.decode().split("-")
    assert trace_id == TRACE_ID
    assert span_id != PARENT
    assert flags == "01"
    (span,) = sink.spans()
    assert span.trace_id.hex() == TRACE_ID
    assert span.parent_span_id.hex() == PARENT
    assert span.span_id.hex() == span_id


@pytest.mark.long
def test_a_stage_on_the_way_of_a_record_is_not_in_its_trace(sink: Sink) -> None:
    trace = Trace(sink.endpoint, "qwarden-moderator")
    polled = time.monotonic()
    other = msgspec.structs.replace(SOURCE, offset=3)
    with trace.batch([TRACED, other]):
        context = trace.of(TRACED)
        assert context is not None
        assert trace.of(other) is None
        with trace.request(REQUEST_SPAN, [context], 2) as request:
            ((_, sent),) = carried()
        ended = time.monotonic()
        found = Found(assessment(SAFE), "miss", 0.001, 0.002, 0.0005, ended, request)
        headers = trace.forward(TRACED.headers, TRACED, "guard", polled=polled, found=[found])
    trace.published(headers, 2, time.monotonic() - 0.01)
    trace.close()
    named = sink.named()
    assert set(named) == {
        "queue wait", "moderate", "moderate batch", "cache", "guard", "guard request", "publish",
    }  # fmt: skip
    own = named["moderate"]
    for name, parent in (
        ("queue wait", PARENT),
        ("moderate", PARENT),
        ("cache", own.span_id.hex()),
        ("guard", own.span_id.hex()),
        ("publish", own.span_id.hex()),
    ):
        assert named[name].trace_id.hex() == TRACE_ID
        assert named[name].parent_span_id.hex() == parent, name
    for name in ("moderate batch", "guard request"):
        (link,) = named[name].links
        assert (link.trace_id.hex(), link.span_id.hex()) == (TRACE_ID, PARENT), name
        assert not named[name].parent_span_id
    (link,) = named["guard"].links
    assert link.span_id == named["guard request"].span_id
    assert sent.split("-")[1:3] == [
        named["guard request"].trace_id.hex(),
        named["guard request"].span_id.hex(),
    ], "Triton goes on with the request's own trace"
    wait = named["queue wait"]
    assert wait.start_time_unix_nano == SOURCE.timestamp * 1_000_000
    assert named["cache"].end_time_unix_nano < named["guard"].start_time_unix_nano
    assert own.start_time_unix_nano >= wait.end_time_unix_nano - 50_000_000
    for span in named.values():
        assert span.end_time_unix_nano >= span.start_time_unix_nano
    said = attributes(named["moderate batch"])
    assert said["messaging.destination.name"] == "content.events"
    assert (said["messaging.batch.message_count"], said["qwarden.traced"]) == (2, 1)


@pytest.mark.long
@pytest.mark.parametrize("error", [None, ValueError("a text of theirs"), asyncio.CancelledError()])
def test_a_span_quotes_content(sink: Sink, error: BaseException | None) -> None:
    trace = Trace(sink.endpoint, "qwarden-moderator")
    secret = msgspec.structs.replace(TRACED, key=b"their key", value=b"a text of theirs")
    with (
        contextlib.suppress(BaseException),
        trace.batch([secret]),
        trace.request(REQUEST_SPAN, [each for each in [trace.of(secret)] if each], 1),
    ):
        if error is not None:
            raise error
    with trace.batch([]):
        pass
    trace.forward(secret.headers, secret, "guard")
    trace.close()
    named = sink.named()
    for name in ("moderate batch", "guard request"):
        assert named[name].status.message == ("" if error is None else type(error).__name__)
    for body in sink.bodies:
        assert b"theirs" not in body
        assert b"their key" not in body


@pytest.mark.long
def test_an_unsampled_trace_costs_a_span(sink: Sink) -> None:
    trace = Trace(sink.endpoint, "qwarden-moderator", ratio=1.0)
    unsampled = msgspec.structs.replace(SOURCE, headers=(UNSAMPLED,))
    with trace.batch([unsampled]):
        assert trace.forward([UNSAMPLED], unsampled, "guard") == [UNSAMPLED]
        with trace.request(REQUEST_SPAN, [], 3):
            assert carried() == ()
    trace.published([UNSAMPLED], 1, 0.0)
    broken = ("traceparent", b"\xff nonsense")
    assert trace.forward([broken], SOURCE, "guard") == [broken]
    trace.close()
    assert sink.bodies == []


@pytest.mark.long
def test_the_context_of_an_unsampled_record_is_read_as_a_whole_when_it_is_published(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = Trace(sink.endpoint, "qwarden-moderator")
    monkeypatch.setattr("qwarden.tracing._PROPAGATOR", None)
    trace.published([UNSAMPLED], 1, 0.0)
    with pytest.raises(AttributeError):
        trace.published([SAMPLED], 1, 0.0)
    trace.close()


@pytest.mark.long
def test_a_record_without_a_time_loses_its_batch_of_spans(sink: Sink) -> None:
    trace = Trace(sink.endpoint, "qwarden-moderator")
    timeless = msgspec.structs.replace(TRACED, timestamp=-1)
    with trace.batch([timeless]):
        trace.forward(timeless.headers, timeless, "guard")
    trace.close()
    named = sink.named()
    assert set(named) == {"queue wait", "moderate", "moderate batch"}
    assert named["queue wait"].start_time_unix_nano == 0


@pytest.mark.long
def test_which_records_begin_a_trace_is_said_differently_at_every_delivery(sink: Sink) -> None:
    records = [msgspec.structs.replace(SOURCE, offset=n) for n in range(4000)]
    moderator = Trace(sink.endpoint, "qwarden-moderator", ratio=0.05)
    streamer = Trace(sink.endpoint, "qwarden-streamer", ratio=0.05)
    begun = [moderator.of(each) for each in records]
    assert begun == [streamer.of(each) for each in records]
    assert 120 <= sum(each is not None for each in begun) <= 280
    assert not any(map(Trace(sink.endpoint, "none", ratio=0.0).of, records))
    first = next(n for n, each in enumerate(begun) if each is not None)
    relayed = Source(
        topics.BACKLOG, 0, 77, 0, None, b"{}", ((ORIGIN, f"content.events/1/{first}".encode()),)
    )
    assert moderator.of(relayed) == begun[first], "its origin says so on the backlog too"
    moderator.close()
    streamer.close()


@pytest.mark.long
def test_a_trace_that_a_record_begins_has_no_root(sink: Sink) -> None:
    trace = Trace(sink.endpoint, "qwarden-moderator", ratio=1.0)
    with trace.batch([SOURCE]):
        ((_, value),) = trace.forward((), SOURCE, "guard", polled=time.monotonic())
    trace.close()
    named = sink.named()
    root, own = named["queue wait"], named["moderate"]
    assert not root.parent_span_id
    assert own.parent_span_id == root.span_id
    assert own.trace_id == root.trace_id
    assert value.decode().split("-")[1] == root.trace_id.hex()
    (link,) = named["moderate batch"].links
    assert link.span_id == root.span_id
    assert json.dumps(attributes(root)), "plain figures and names"


@pytest.mark.long
def test_a_request_of_untraced_rows_goes_on_with_another_s_trace(sink: Sink) -> None:
    trace = Trace(sink.endpoint, "qwarden-moderator")
    context = trace.of(TRACED)
    assert context is not None

    async def ask() -> tuple[tuple[str, str], ...]:
        with trace.request(REQUEST_SPAN, [], 1):
            return carried()

    async def both() -> tuple[tuple[str, str], ...]:
        with trace.batch([TRACED]):
            inner = asyncio.create_task(ask())
            return await inner

    assert asyncio.run(both()) == ()
    trace.close()


class _Guard(MemoryGuard):
    """Notes what a request would bring to Triton."""

    def __init__(self) -> None:
        super().__init__(lambda row: assessment(SAFE), revision=REVISION)
        self.brought: list[tuple[tuple[str, str], ...]] = []

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        self.brought.append(carried())
        return await super().judge(rows, timeout_s=timeout_s)


@pytest.mark.long
async def test_a_request_does_not_say_whose_rows_it_has(sink: Sink) -> None:
    guard, trace = _Guard(), Trace(sink.endpoint, "qwarden-moderator")
    dispatcher = Dispatcher(guard, Limits(4, 10_000, 1, 0.01, 0.1))
    dispatcher.trace = trace
    context = trace.of(TRACED)
    assert context is not None
    told: dict[int, Judged | Exception] = {}
    everyone = asyncio.Event()

    def tell(index: int, said: Judged | Exception) -> None:
        told[index] = said
        if len(told) == 6:
            everyone.set()

    dispatcher.ask([b"%d" % n for n in range(6)], tell, {1: context, 3: context})
    async with asyncio.timeout(30):
        await everyone.wait()
    await dispatcher.close()
    trace.close()
    (request,) = sink.spans()
    assert [link.span_id.hex() for link in request.links] == [PARENT, PARENT]
    assert attributes(request)["qwarden.rows"] == 4
    ((_, sent),) = guard.brought[0]
    assert sent.split("-")[2] == request.span_id.hex()
    assert guard.brought[1] == (), "the second one is about nobody who is traced"
    spans = [said.span for said in (told[n] for n in range(6)) if isinstance(said, Judged)]
    assert [each is not None for each in spans] == [True] * 4 + [False] * 2


class _Stream(MemoryStream):
    """The same for a stream guard."""

    def __init__(self) -> None:
        super().__init__()
        self.brought: list[tuple[tuple[str, str], ...]] = []

    async def append(self, appends: Sequence[Append], *, timeout_s: float | None = None) -> Any:
        self.brought.append(carried())
        return await super().append(appends, timeout_s=timeout_s)


@pytest.mark.long
async def test_a_chunk_s_trace_ends_before_the_stream_guard(sink: Sink) -> None:
    guard, trace = _Stream(), Trace(sink.endpoint, "qwarden-streamer")

    async def there() -> frozenset[str]:
        return frozenset({"a:1"})

    client = StreamClient(lambda address: guard, there, STREAM_LIMITS, look_s=1.0)
    client.trace = trace
    session = Session("t", "s")
    async with asyncio.timeout(30):
        await client.append(session, [Part("user", "hello", end=True)], trace=trace.of(TRACED))
        await client.append(session, [Part("assistant", "you ")], trace=trace.of(SOURCE))
    await client.close()
    trace.close()
    (request,) = sink.spans()
    assert request.name == "stream guard request"
    assert [link.span_id.hex() for link in request.links] == [PARENT]
    (first, second) = [each for each in guard.brought if each or each == ()][-2:]
    assert first[0][1].split("-")[2] == request.span_id.hex()
    assert second == ()
