"""A server that behaves as tritonserver does in what the supervisor sees of it.

`fake_triton.py FOLDER PORT ARGS...`: writes its pid and its stub's pid under FOLDER, makes a
region in shared memory under the prefix that it is given, and lives as the file FOLDER/mode says:
`answers`, `busy` (inferences fail, slices are finished), `stuck` (one slice does not end), `half`
(`busy`, and of its last model `stuck`), `silent`, `stubborn` (told to end, it does not) or
`lingers` (it ends a while after its stub).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from qwarden_engine.pulse import PULSE, Pulse

folder, port = Path(sys.argv[1]), int(sys.argv[2])
prefix = sys.argv[-1].rpartition("shm-region-prefix-name=")[2]

named, name = os.pipe()
stub = os.fork()
if stub == 0:
    ctypes.CDLL(None).prctl(15, b"triton_python_backend_stub", 0, 0, 0)  # PR_SET_NAME
    os.write(name, b"!")
    while os.getppid() != 1:
        time.sleep(0.05)
    os._exit(0)
os.read(named, 1)  # Triton is ready when its stubs have loaded: until then nobody knows this one
(Path(os.environ["FAKE_SHM"]) / f"{prefix}region").touch()
with (folder / "starts").open("a") as starts:
    starts.write(f"{os.getpid()} {stub}\n")


class Handler(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        if self.path.endswith("/infer"):
            self.rfile.read(int(self.headers["content-length"]))
            if (folder / "mode").read_text() != "answers":
                self.send_error(400)
                return
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def live() -> None:
    """The engines' own signs of life."""
    states = ("QWARDEN_ENGINE__STATE", "QWARDEN_STREAM__STATE")
    pulses = [Pulse(Path(os.environ[each]) / PULSE) for each in states if each in os.environ]
    while True:
        mode = (folder / "mode").read_text()
        for pulse in pulses:
            if mode in ("busy", "half", "stuck"):
                pulse.starts()
            if mode == "busy" or (mode == "half" and pulse is not pulses[-1]):
                pulse.ends()
        time.sleep(0.02)


def end(*_: object) -> None:
    if (folder / "mode").read_text() == "stubborn":
        return
    server.server_close()
    os.kill(stub, signal.SIGKILL)
    if (folder / "mode").read_text() == "lingers":
        time.sleep(0.3)
    os._exit(0)


server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
signal.signal(signal.SIGTERM, end)
threading.Thread(target=live, daemon=True).start()
server.serve_forever()
