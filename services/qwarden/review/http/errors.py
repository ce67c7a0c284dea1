"""How a request that is not done is answered: `{"code", "detail", "holder"?}`, the detail a
sentence that names the fix and quotes nothing that was sent."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from qwarden.review.failing import where
from qwarden.review.refusals import Conflict, Refusal
from qwarden.review.store.database import is_outage

_log = logging.getLogger(__name__)

RETRY_S = 2
"""In Retry-After while the database is away: a restart of PostgreSQL takes some seconds."""

_SAID = {
    400: ("invalid", "the body cannot be read; send JSON in UTF-8"),
    404: ("not_found", "there is nothing at this address; /v1/openapi.json lists what there is"),
    405: ("not_allowed", "this address takes another method; see /v1/openapi.json"),
    413: ("too_large", "the body is larger than any that is meant; send less"),
}
"""What the framework itself refuses."""


class Problem(BaseModel):
    """Why it was not done; nothing has changed."""

    code: str
    detail: str
    holder: str | None = None
    """Who has the item, a pseudonym."""


def answer(
    status: int,
    code: str,
    detail: str,
    *,
    holder: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """One such answer."""
    body = {"code": code, "detail": _written_out(detail)}
    if holder is not None:
        body["holder"] = holder
    return JSONResponse(body, status, headers)


def answer_errors(app: FastAPI) -> None:
    """Has the app answer every error so."""
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _failed)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    holder = error.holder if isinstance(error, Conflict) else None
    headers = {}
    wait_s = getattr(error, "retry_after_s", None)
    if wait_s is not None:
        headers["Retry-After"] = str(max(1, round(wait_s)))
    return answer(error.status, error.code, str(error), holder=holder, headers=headers)


async def _unreadable(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return answer(422, "invalid", sentence_of(error.errors()))


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code, detail = _SAID.get(error.status_code, ("refused", "this is refused here"))
    return answer(error.status_code, code, detail, headers=error.headers)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return failed(request.url.path, error)


def failed(path: str, error: Exception) -> JSONResponse:
    """The answer to what nobody has foreseen. Logged by its kind alone: its words, and those of its
    frames, may quote what was sent."""
    if is_outage(error):
        _log.warning("the database is away: %s", type(error).__name__)
        return answer(
            503,
            "database_away",
            "the database is away; look in a moment whether this was done, and try again if not",
            headers={"Retry-After": str(RETRY_S)},
        )
    _log.error("%s failed: %s", _shape(path), where(error))
    return answer(500, "failed", "this went wrong here, and nothing has changed; the log has where")


def _written_out(sentence: str) -> str:
    """With a capital and a full stop, as people read it; names and fields stay as they are."""
    first = sentence.split(" ", maxsplit=1)[0]
    begun = sentence[:1].upper() + sentence[1:] if first.isalpha() else sentence
    return begun if begun.endswith((".", "?")) else f"{begun}."


def sentence_of(errors: Sequence[Any]) -> str:
    """What is wrong with a body or a query, first things first, without a word of what it said."""
    said = []
    for error in errors[:3]:
        where = ".".join(str(each) for each in error["loc"] if each not in ("body", "query"))
        said.append(f"{where or 'the body'}: {_PLAIN.get(error['type'], error['msg'])}")
    more = len(errors) - len(said)
    return "; ".join(said) + (f"; and {more} more" if more > 0 else "")


_PLAIN = {
    "missing": "is missing; add it",
    "extra_forbidden": "is not known here; remove it",
    "json_invalid": "is not JSON",
}


def _shape(path: str) -> str:
    """A path without what stands in it: ids and names are not for the log."""
    return "/".join(each if each.isalpha() or each == "v1" else "*" for each in path.split("/"))
