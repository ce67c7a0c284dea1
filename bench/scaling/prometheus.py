"""The real Prometheus for a simulated fleet, by either of two clocks.

`Clocked` scrapes and evaluates by the machine's clock, as everywhere; a day then needs its windows
divided. `Stepped` is told the time: it is sent each moment's samples, and asked for each rule at
that moment, in the rules' order, so that a day takes as long as its questions, comes out the same
each time, and no window is changed. PromQL is Prometheus's own in both.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import struct
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from qwarden.stack.home import Home
from qwarden.stack.prometheus import Prometheus, scraping
from scaling.fleet import Metrics
from scaling.rules import Rule

Labels = tuple[tuple[str, str], ...]
Series = tuple[str, Labels]

_GONE = struct.pack("<Q", 0x7FF0000000000002)
"""The value that says that a series has ended. Not a float here: Python may change its bits."""


class Asked(Prometheus):
    """One that answers questions, of now or of another moment."""

    @cached_property
    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def stop(self, grace_s: float | None = None) -> None:
        """End it."""
        self._connection.close()
        super().stop(grace_s)

    def ask(self, query: str, at_s: float | None = None) -> dict[Labels, float]:
        """What a query says, now or at a time: each series without its name, and its value."""
        form = {"query": query} | ({} if at_s is None else {"time": f"{at_s:.3f}"})
        body = urllib.parse.urlencode(form).encode()
        said = json.loads(
            self._post("/api/v1/query", body, {"Content-Type": "application/x-www-form-urlencoded"})
        )
        found = {}
        for each in said["data"]["result"]:
            labels = {name: value for name, value in each["metric"].items() if name != "__name__"}
            found[tuple(sorted(labels.items()))] = float(each["value"][1])
        return found

    def _post(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        self._connection.request("POST", path, body, dict(headers))
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status not in (200, 204):
            raise RuntimeError(f"Prometheus answers {path} with {answer.status}: {text.decode()}")
        return text


class Stepped(Asked):
    """Is told its moments, which only go up."""

    def __init__(self, home: Home, rules: Sequence[Rule]) -> None:
        super().__init__(home, {}, {}, options=["--web.enable-remote-write-receiver"])
        self._in_order = rules
        self._scraped: set[Series] = set()
        self._recorded: list[set[Series]] = [set() for _ in rules]

    def look(self, at_s: float, metrics: Metrics) -> dict[Series, float]:
        """One scrape and one evaluation of all rules at that time; all that they record."""
        self._write(at_s, metrics, self._scraped - metrics.keys())
        self._scraped = set(metrics)
        found: dict[Series, float] = {}
        new: dict[Series, float] = {}
        gone: set[Series] = set()
        for number, rule in enumerate(self._in_order):
            if (new or gone) and rule.reads & {name for name, _ in (*new, *gone)}:
                self._write(at_s, new, gone)
                new, gone = {}, set()
            says = {
                (rule.record, tuple(sorted(dict(labels + rule.labels).items()))): value
                for labels, value in self.ask(rule.expr, at_s).items()
            }
            new |= says
            gone |= self._recorded[number] - says.keys()
            self._recorded[number] = set(says)
            found |= says
        self._write(at_s, new, gone)
        return found

    def _write(self, at_s: float, values: Mapping[Series, float], gone: Iterable[Series]) -> None:
        moment = round(at_s * 1000)
        body = b"".join(
            _field(1, _series(series, value, moment))
            for series, value in (
                *((series, struct.pack("<d", value)) for series, value in values.items()),
                *((series, _GONE) for series in gone),
            )
        )
        if body:
            self._post(
                "/api/v1/write",
                _snappy(body),
                {
                    "Content-Encoding": "snappy",
                    "Content-Type": "application/x-protobuf",
                    "X-Prometheus-Remote-Write-Version": "0.1.0",
                },
            )


class Clocked(Asked):
    """Scrapes what `metrics` says, by the machine's clock, and evaluates `rules`, a file's text."""

    def __init__(self, home: Home, rules: str, metrics: Callable[[], str], every_s: float) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                text = metrics().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # it gave up: its scrape was late
                    self.wfile.write(text)

            def log_message(self, *args: object) -> None:
                """Nobody reads four lines a second."""

        self._exporter = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._exporter.daemon_threads = True
        target = f"127.0.0.1:{self._exporter.server_address[1]}"
        job = {"honor_labels": True, "static_configs": [{"targets": [target]}]}
        super().__init__(home, scraping({"fleet": job}, every_s), {"autoscaling.rules.yaml": rules})

    def __enter__(self) -> Self:
        threading.Thread(target=self._exporter.serve_forever, daemon=True).start()
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        self._exporter.shutdown()
        self._exporter.server_close()


# Remote write's message, protobuf in a snappy block: TimeSeries{Label{name, value}…, Sample{value,
# timestamp}}. Thirty lines, against two libraries for one message.


def _series(series: Series, value: bytes, moment: int) -> bytes:
    name, labels = series
    every = (("__name__", name), *labels)
    written = b"".join(
        _field(1, _field(1, key.encode()) + _field(2, text.encode())) for key, text in every
    )
    return written + _field(2, b"\x09" + value + b"\x10" + _varint(moment))


def _field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _snappy(data: bytes) -> bytes:
    """A block that copies nothing: literals of up to 65,536 bytes."""
    parts = [_varint(len(data))]
    for start in range(0, len(data), 65_536):
        piece = data[start : start + 65_536]
        parts += [b"\xf4", struct.pack("<H", len(piece) - 1), piece]
    return b"".join(parts)
