"""A server that behaves as tritonserver does in what the supervisor sees of it.

`fake_triton.py FOLDER PORT ARGS...`: writes its pid and its stub's pid under FOLDER, makes a
region in shared memory under the prefix that it is given, and answers as the file FOLDER/mode says:
`answers`, `busy` (its own inferences fail, others are answered) or `silent`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

folder, port = Path(sys.argv[1]), int(sys.argv[2])
prefix = sys.argv[-1].rpartition("shm-region-prefix-name=")[2]
count = 0

stub = os.fork()
if stub == 0:
    ctypes.CDLL(None).prctl(15, b"triton_python_backend_stub", 0, 0, 0)  # PR_SET_NAME
    while os.getppid() != 1:
        time.sleep(0.05)
    os._exit(0)
(Path(os.environ["FAKE_SHM"]) / f"{prefix}region").touch()
with (folder / "starts").open("a") as starts:
    starts.write(f"{os.getpid()} {stub}\n")


class Handler(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        global count  # noqa: PLW0603
        mode = (folder / "mode").read_text()
        if self.path.endswith("/infer"):
            self.rfile.read(int(self.headers["content-length"]))
            if mode != "answers":
                self.send_error(400)
                return
            count += 1
        if self.path.endswith("/stats") and mode == "busy":
            count += 1
        stats = {"model_stats": [{"inference_stats": {"success": {"count": count}}}]}
        body = json.dumps(stats).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def end(*_: object) -> None:
    if (folder / "mode").read_text() == "stubborn":
        return
    os.kill(stub, signal.SIGKILL)
    os._exit(0)


signal.signal(signal.SIGTERM, end)
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
