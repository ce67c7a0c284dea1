"""The HTTP of a service that consumes: probes, metrics, and an app of its own beside them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import uvicorn
from faststream.asgi import AsgiFastStream, AsgiResponse, get
from prometheus_client import make_asgi_app

from qwarden.metric import registry_of

_log = logging.getLogger(__name__)

App = Callable[[Any, Any, Any], Awaitable[None]]
"""As ASGI has it: scope, receive, send."""
Reasons = Callable[[], Sequence[str]]
"""Why the answer is no; none where it is yes."""


def probing(
    service: str, unwell: Reasons, unready: Reasons, app: App | None, *, stop_s: float
) -> uvicorn.Server:
    """The server of /healthz, /readyz and the service's /metrics, and of `app` at every other path.
    `stop_s`: how long a request may take that is underway when it ends; a stream of events has no
    end of its own.
    """

    async def healthz(scope: Any) -> AsgiResponse:
        return _answer(unwell(), "alive")

    async def readyz(scope: Any) -> AsgiResponse:
        return _answer(unready(), "ready")

    probes: list[tuple[str, Any]] = [
        ("/healthz", get(healthz)),
        ("/readyz", get(readyz)),
        ("/metrics", make_asgi_app(registry_of(service))),
    ]
    routes: App = AsgiFastStream(logger=_log, asgi_routes=probes)
    if app is not None:
        routes = _Beside(routes, frozenset(path for path, _ in probes), app)
    return _Server(
        uvicorn.Config(
            routes,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=int(stop_s),
        )
    )


def _answer(reasons: Sequence[str], else_: str) -> AsgiResponse:
    return AsgiResponse(
        ("\n".join(reasons) or else_).encode() + b"\n",
        status_code=503 if reasons else 200,
        headers={"content-type": "text/plain"},
    )


class _Beside:
    """An app at every path that is none of the probes'."""

    def __init__(self, probes: App, paths: frozenset[str], app: App) -> None:
        self._probes = probes
        self._paths = paths
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        app = self._probes if scope.get("path") in self._paths else self._app
        await app(scope, receive, send)


class _Server(uvicorn.Server):
    """Leaves signals to the service: uvicorn's own handling ends the process before the drain."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
