"""What operators see, and what must not be in it."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import logging
import threading
from collections.abc import Iterator

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from qwarden.outcomes.source import Source
from qwarden.telemetry import JsonFormatter, TenantLabels, Trace

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED = ("traceparent", f"00-{TRACE_ID}-{PARENT}-01".encode())
UNSAMPLED = ("traceparent", f"00-{TRACE_ID}-{PARENT}-00".encode())
SOURCE = Source("content.events", 1, 2, 1_700_000_000_000, None, b"{}", ())


@pytest.fixture
def sink() -> Iterator[tuple[str, list[bytes]]]:
    """A real OTLP sink over HTTP, and what it was sent."""
    sent: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1/traces", sent
    server.shutdown()
    server.server_close()


def test_a_trace_ends_at_the_moderator() -> None:
    others = [("x", b"y"), ("tracestate", b"vendor=1")]
    assert Trace(None, "s").forward([SAMPLED, *others], SOURCE, "guard") == [
        SAMPLED,
        ("tracestate", b"vendor=1"),
    ]
    assert Trace(None, "s").forward(others[:1], SOURCE, "guard") == []


def test_a_span_of_ours_is_missing_between_producer_and_consumer(
    sink: tuple[str, list[bytes]],
) -> None:
    endpoint, sent = sink
    trace = Trace(endpoint, "qwarden-moderator")
    ((name, value),) = trace.forward([SAMPLED], SOURCE, "guard")
    trace.close()
    assert name == "traceparent"
    _, trace_id, span_id, flags = value.decode().split("-")
    assert trace_id == TRACE_ID
    assert span_id != PARENT
    assert flags == "01"
    (body,) = sent
    request = ExportTraceServiceRequest.FromString(body)
    (span,) = request.resource_spans[0].scope_spans[0].spans
    assert span.trace_id.hex() == TRACE_ID
    assert span.parent_span_id.hex() == PARENT
    assert span.span_id.hex() == span_id


@pytest.mark.parametrize("error", [None, ValueError("a text of theirs"), asyncio.CancelledError()])
def test_a_batch_is_traced_by_nothing_of_its_own(
    sink: tuple[str, list[bytes]], error: BaseException | None
) -> None:
    endpoint, sent = sink
    trace = Trace(endpoint, "qwarden-moderator")
    records = [SOURCE, msgspec.structs.replace(SOURCE, partition=3), SOURCE]
    with contextlib.suppress(BaseException), trace.batch(records):
        if error is not None:
            raise error
    with trace.batch([]):
        pass
    trace.close()
    (body,) = sent
    (span,) = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
    said = {each.key: each.value.string_value or each.value.int_value for each in span.attributes}
    assert span.name == "moderate batch"
    assert not span.parent_span_id
    assert said["messaging.destination.name"] == "content.events"
    assert said["messaging.batch.message_count"] == 3
    assert said["qwarden.partitions"] == 2
    assert span.end_time_unix_nano >= span.start_time_unix_nano
    assert span.status.message == ("" if error is None else type(error).__name__)
    assert b"a text of theirs" not in body


def test_an_unsampled_trace_costs_a_span(sink: tuple[str, list[bytes]]) -> None:
    endpoint, sent = sink
    trace = Trace(endpoint, "qwarden-moderator")
    assert trace.forward([UNSAMPLED], SOURCE, "guard") == [UNSAMPLED]
    assert trace.forward([("traceparent", b"\xff nonsense")], SOURCE, "guard") == [
        ("traceparent", b"\xff nonsense")
    ]
    trace.close()
    assert sent == []


def test_made_up_tenants_grow_the_metrics_without_bound() -> None:
    label = TenantLabels(frozenset({"paper"}), most=3)
    assert [label(f"t{n}") for n in range(5)] == ["t0", "t1", "t2", "other", "other"]
    assert label("paper") == "paper"
    assert label("t1") == "t1"


def test_a_log_line_is_no_json_when_its_message_has_quotes_or_an_error() -> None:
    try:
        raise ValueError("broken\nin two lines")
    except ValueError as error:
        record = logging.LogRecord(
            "qwarden", logging.ERROR, "f", 1, 'said "%s"', ("x",), (ValueError, error, None)
        )
    line = json.loads(JsonFormatter().format(record))
    assert line["message"] == 'said "x"'
    assert line["level"] == "error"
    assert "broken" in line["error"]
