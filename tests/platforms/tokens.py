"""An issuer of tokens by client credentials, over HTTPS, as the broker and its clients ask one."""

from __future__ import annotations

import base64
import functools
import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs

from joserfc import jwt
from joserfc.jwk import RSAKey

from certificates import Issued

ISSUER = "https://issuer.test"
CLIENT = "qwarden"
SECRET = "a secret: with % signs"


@functools.cache
def _key() -> RSAKey:
    """Of all issuers: to make one takes as long as a test."""
    return RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})


@dataclass
class TokenIssuer:
    """`life_s`: of its tokens. `keys`: a file with what they are verified with, which brokers read.
    `asked`: the form of each request. `answers`: what it says instead, a status and a body."""

    folder: Path
    shows: Issued
    audience: str = "kafka"
    life_s: float = 300
    asked: list[dict[str, str]] = field(default_factory=list)
    answers: tuple[int, dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        self._key = _key()
        self.keys = self.folder / "keys.json"
        self.keys.write_text(json.dumps({"keys": [self._key.as_dict(private=False)]}))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.shows.certificate, self.shows.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}/token"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *why: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def token(self) -> str:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": CLIENT,
            "aud": self.audience,
            "scope": "publish consume",
            "iat": now,
            "exp": now + max(1, int(self.life_s)),
        }
        return jwt.encode({"alg": "RS256", "kid": "one"}, claims, self._key)

    def _said(self, authorization: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        self.asked.append(form)
        if self.answers is not None:
            return self.answers
        login = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        if authorization != f"Basic {login}":
            return 401, {"error": "invalid_client", "error_description": "no such client"}
        token = {"access_token": self.token(), "token_type": "Bearer", "expires_in": self.life_s}
        return 200, token

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                status, body = issuer._said(
                    self.headers.get("authorization", ""), {k: v[0] for k, v in form.items()}
                )
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args: object) -> None: ...

        return Handler
