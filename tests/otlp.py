"""A real OTLP sink over HTTP, and what it was sent."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_IDS = ("traceId", "spanId", "parentSpanId")


@dataclass
class Sink:
    """`endpoint`: for QWARDEN_TELEMETRY__OTLP_ENDPOINT. `bodies`: of the requests, as they came."""

    endpoint: str = ""
    bodies: list[bytes] = field(default_factory=list)
    _requests: list[ExportTraceServiceRequest] = field(default_factory=list)

    def take(self, body: bytes, kind: str) -> None:
        """A request: ours come as protobuf, and Triton's as JSON."""
        self.bodies.append(body)
        if kind.startswith("application/json"):
            request = ExportTraceServiceRequest()
            json_format.ParseDict(_in_base64(json.loads(body)), request, ignore_unknown_fields=True)
        else:
            request = ExportTraceServiceRequest.FromString(body)
        self._requests.append(request)

    def spans(self) -> list[Any]:
        """All that came."""
        return [
            span
            for request in list(self._requests)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self) -> dict[str, Any]:
        """The same by name, where each came once."""
        spans = self.spans()
        found = {span.name: span for span in spans}
        assert len(found) == len(spans)
        return found


def _in_base64(value: Any) -> Any:
    """Ids as protobuf's JSON has bytes: in OTLP's they are hexadecimal digits."""
    if isinstance(value, list):
        return [_in_base64(each) for each in value]
    if isinstance(value, dict):
        return {
            key: base64.b64encode(bytes.fromhex(of)).decode() if key in _IDS else _in_base64(of)
            for key, of in value.items()
        }
    return value


@contextmanager
def otlp_sink() -> Iterator[Sink]:
    """One that takes all that comes, while the context lasts."""
    made = Sink()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            made.take(self.rfile.read(length), self.headers["content-type"])
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made.endpoint = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
    yield made
    server.shutdown()
    server.server_close()


def attributes(span: Any) -> dict[str, Any]:
    """Of a span, as plain values."""
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}
