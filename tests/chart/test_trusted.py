"""trustedCa: whether the libraries that ask web servers heed what the chart sets for it."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest

from certificates import Authority
from chart.releases import MATRIX, Render, env

WAYS: Final = {
    # People's issuer and, behind OpenSSL's own defaults, Kafka's.
    "httpx": "import httpx; httpx.get(url).raise_for_status()",
    "ssl": (
        "from qwarden import tls; from qwarden.settings import Certificates; import httpx\n"
        "context = tls.context_of(Certificates('QWARDEN_KAFKA__'))\n"
        "httpx.get(url, verify=context).raise_for_status()"
    ),
    "hub": "import huggingface_hub as h; h.get_session().get(url).raise_for_status()",
    # The object store.
    "urllib": "import urllib.request; urllib.request.urlopen(url)",
    "traces": (
        "from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter\n"
        "assert OTLPSpanExporter(url, timeout=2).export([]).name == 'SUCCESS'"
    ),
}


class Fine(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("trusted"))


@pytest.fixture(scope="module")
def url(authority: Authority) -> Iterator[str]:
    """Of a server whose certificate that authority has signed."""
    issued = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Fine) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def answers(way: str, url: str, environ: dict[str, str]) -> bool:
    """Whether a process with these variables gets an answer."""
    left_out = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    program = f"import sys\nurl = sys.argv[1]\n{WAYS[way]}"
    done = subprocess.run(
        [sys.executable, "-c", program, url],
        env={**kept, "NO_PROXY": "127.0.0.1", **environ},
        check=False,
        capture_output=True,
        timeout=120,
    )
    return done.returncode == 0


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_a_library_that_goes_on_with_the_authorities_of_the_image(
    render: Render, authority: Authority, url: str, way: str
) -> None:
    container = render(MATRIX["authorities-of-our-own"]).container("moderator")
    set_for_it = {
        name: str(authority.file)
        for name, value in env(container).items()
        if isinstance(value, str) and Path(value).is_relative_to("/etc/qwarden/trusted-ca")
    }
    assert answers(way, url, set_for_it)
    assert not answers(way, url, {}), "it would have believed anybody"
