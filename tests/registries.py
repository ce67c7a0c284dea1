"""A server that speaks what readers use of Confluent's REST interface, over a real socket."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class RegistryServer:
    """`schemas`: by id, an answer as a registry gives it, of Protobuf the text and beside it, under
    `serialized`, what it says with that format. `subjects`: by subject and version, an id.
    `fault`: a status and body in place of every answer. `login`: what a client must send."""

    url: str = ""
    schemas: dict[int, dict[str, Any]] = field(default_factory=dict)
    subjects: dict[tuple[str, int], int] = field(default_factory=dict)
    fault: tuple[int, bytes] | None = None
    login: str | None = None
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str, authorization: str | None) -> tuple[int, bytes]:
        self.asked.append(path)
        if self.fault is not None:
            return self.fault
        if self.login is not None:
            wanted = "Basic " + base64.b64encode(self.login.encode()).decode()
            if authorization != wanted:
                return 401, b'{"error_code":401,"message":"User cannot access the resource."}'
        parts = urlsplit(path)
        asked = parse_qs(parts.query)
        match [unquote(each) for each in parts.path.strip("/").split("/")]:
            case ["schemas", "ids", identity]:
                return self._found(int(identity), asked, 40403, "Schema not found")
            case ["subjects", subject, "versions", version]:
                found = self.subjects.get((subject, int(version)), -1)
                return self._found(found, asked, 40402, "Version not found")
        return 404, b'{"error_code":404,"message":"HTTP 404 Not Found"}'

    def _found(
        self, identity: int, asked: dict[str, list[str]], code: int, message: str
    ) -> tuple[int, bytes]:
        held = self.schemas.get(identity)
        if held is None:
            return 404, json.dumps({"error_code": code, "message": message}).encode()
        said = {name: each for name, each in held.items() if name != "serialized"}
        if asked.get("format") == ["serialized"] and "serialized" in held:
            said["schema"] = held["serialized"]
        return 200, json.dumps(said).encode()


@contextmanager
def registry_server() -> Iterator[RegistryServer]:
    served = RegistryServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = served.answer(self.path, self.headers.get("authorization"))
            self.send_response(status)
            self.send_header("content-type", "application/vnd.schemaregistry.v1+json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}"
    running = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    running.start()
    try:
        yield served
    finally:
        server.shutdown()
        running.join()
        server.server_close()
