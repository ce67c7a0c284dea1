"""The API and the console as one ASGI app."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from qwarden import telemetry
from qwarden.review.http import (
    appeals,
    auth,
    bulk,
    decisions,
    goldens,
    items,
    ledger,
    live,
    logs,
    me,
    people,
    quality,
    queues,
    rulings,
)
from qwarden.review.http.auth import Door
from qwarden.review.http.errors import RETRY_S, Problem, answer, answer_errors, failed
from qwarden.review.http.live import Live
from qwarden.review.http.served import Served

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MOST_BYTES = 8 * 1024 * 1024
"""Of a body. The largest that is meant is a file of golden items, each a whole conversation."""

_CONSOLE = Path(__file__).parents[1] / "console"
_DESCRIPTION = (
    "People's queue, decisions, appeals and the ledger. Sign in with a link or OpenID Connect "
    "(cookie `qw_session`, and its `X-CSRF-Token` on every method that changes something), or "
    "send `Authorization: Bearer TOKEN`. Errors are `{code, detail, holder?}`: `detail` is a "
    "sentence, and nothing has changed. Times are seconds since 1970."
)
_VERSION = "1"
"""Of the API. What would break a caller gets another prefix than /v1."""
_PROBLEMS: dict[int | str, str] = {
    401: "Nobody is signed in.",
    403: "This one's roles do not allow it, or the page's token is missing.",
    404: "There is no such thing, or it is none of this one's business.",
    409: "It is not, or no longer, in a state in which that can be done; `holder` has it.",
    422: "What was sent cannot be meant.",
    429: "Too often; Retry-After says when.",
    503: "The database is away; Retry-After says when.",
}
_HEADERS: list[tuple[bytes, bytes]] = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src "
        b"'self'; font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


def app_of(
    served: Served, door: Door, live_view: Live, *, is_prepared: Callable[[], bool]
) -> _Guarded:
    """All of it. `is_prepared`: whether the database can be asked; until then nothing is done."""
    state = {"served": served, "door": door, "live": live_view}
    return _Guarded(routes(), state, is_prepared)


@cache
def routes() -> FastAPI:
    """What can be asked, without anything to answer it from: that comes with each request, as its
    state. So there is one, and it is built once."""
    app = FastAPI(
        title="qwarden review",
        version=_VERSION,
        description=_DESCRIPTION,
        openapi_url="/v1/openapi.json",
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        responses={
            status: {"model": Problem, "description": description}
            for status, description in _PROBLEMS.items()
        },
    )
    for each in (
        auth, me, queues, items, rulings, decisions, bulk, appeals, ledger, quality, goldens, logs,
        people, live,
    ):  # fmt: skip
        app.include_router(each.router)
    answer_errors(app)
    _serve_console(app)
    return app


def _serve_console(app: FastAPI) -> None:
    app.mount("/console", StaticFiles(directory=_CONSOLE, check_dir=False), name="console")
    for path, page in (("/", "index.html"), ("/sign-in", "sign-in.html")):
        app.add_api_route(path, _page(page), include_in_schema=False)


def _page(name: str) -> Callable[[], Awaitable[FileResponse]]:
    async def page() -> FileResponse:
        return FileResponse(_CONSOLE / name)

    return page


class _Guarded:
    """What holds for every request: nothing too large is read, nothing is kept by caches or run by
    browsers that is not ours, and what fails is neither told to the server's log nor half done."""

    def __init__(
        self, app: FastAPI, state: Mapping[str, Any], is_prepared: Callable[[], bool]
    ) -> None:
        self.api = app
        self._state = state
        self._is_prepared = is_prepared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began = time.monotonic()
        status = 0
        is_api = scope["path"].startswith(("/v1/", "/oidc/"))

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                caching = b"no-store" if is_api else b"no-cache"
                message["headers"] = [
                    *(pair for pair in message["headers"] if pair[0].lower() != b"cache-control"),
                    (b"cache-control", caching),
                    *_HEADERS,
                ]
            await send(message)

        try:
            if is_api and not self._is_prepared():
                refusal = answer(
                    503,
                    "database_away",
                    "the database is not ready yet; nothing has changed, try again in a moment",
                    headers={"Retry-After": str(RETRY_S)},
                )
                await refusal(scope, receive, sent)
            else:
                scope["state"] = dict(self._state)
                await self.api(scope, _bounded(scope, receive), sent)
        except Exception as error:
            # Starlette raises what it has answered once more, for the server's log, with all the
            # words of it.
            if not status:
                await failed(scope["path"], error)(scope, receive, sent)
        finally:
            telemetry.REVIEW_REQUESTS.add(
                telemetry.method_label(scope["method"]), f"{status // 100}xx"
            )
            if scope["path"] != "/v1/live":
                telemetry.REVIEW_REQUEST_SECONDS.observe(time.monotonic() - began)


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Reads a body of at most `MOST_BYTES`."""
    read = 0

    async def receives() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > MOST_BYTES:
            raise HTTPException(413)
        return message

    return receives
