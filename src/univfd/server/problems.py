"""Every error of the tree as an HTTP answer, once: `{"error": {"code", "message", "what_to_do"}}`."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from .. import errors as e
from ..writers import unseen_escaped

log = logging.getLogger(__name__)

RETRY_SECONDS = 2
KEPT_NOWHERE = {"x-content-type-options": "nosniff", "cache-control": "no-store"}
"""Headers of every answer: browsers shall guess nothing and keep nothing."""
BODY_READ = "univfd.body_read"
"""In the scope of a request whose whole body was read."""
_INTERNAL = "a mistake of the service; tell its operator, who finds more in its log"
_DRAIN_SECONDS, _DRAIN_BYTES = 2.0, 32 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """How an error is told: HTTP status, and what the caller can do about it."""

    status: int
    what_to_do: str


_WEIGHTS = Answer(503, "wait; the operator must see to the weights of the service")
ANSWERED = "answered"
"""In the state of a request: when its answer was there, where more was awaited behind it (`time.perf_counter`)."""
_AGAIN = "try again after the seconds of Retry-After"
_PICTURE = "send a whole JPEG, PNG, WebP, AVIF, GIF, TIFF, BMP or HEIC file"

ANSWERS: dict[type[e.UnivFDError], Answer] = {
    e.UnivFDError: Answer(500, _INTERNAL),
    e.InputError: Answer(422, "send another version of the image"),
    e.FileAccessError: Answer(422, _PICTURE),
    e.EmptyFileError: Answer(422, _PICTURE),
    e.NotAnImageError: Answer(415, _PICTURE),
    e.TruncatedImageError: Answer(422, _PICTURE),
    e.UnsupportedImageError: Answer(415, "convert it to 8 bits a channel and send it again"),
    e.TooManyPixelsError: Answer(413, "send a smaller version of the image"),
    e.UsageError: Answer(422, "correct the request; /docs shows what is understood"),
    e.UnknownNameError: Answer(422, "correct the name; /docs shows what is understood"),
    e.MissingExtraError: Answer(501, "ask the operator to install what the message names"),
    e.NoProvenanceError: Answer(501, "ask without provenance, or the operator to install what the message names"),
    e.OutputExistsError: Answer(409, "it is there already; nothing needs to be done"),
    e.WeightsError: _WEIGHTS,
    e.OfflineError: _WEIGHTS,
    e.DownloadError: _WEIGHTS,
    e.ChecksumError: _WEIGHTS,
    e.CacheError: _WEIGHTS,
    e.EngineError: _WEIGHTS,
    e.FormatError: Answer(500, _INTERNAL),
    e.FeatureSpaceError: Answer(500, _INTERNAL),
    e.StaleIndexError: Answer(500, _INTERNAL),
    e.ConflictError: Answer(409, "send it again"),
    e.DataError: Answer(422, "correct the request; /docs shows what is understood"),
    e.ServiceError: Answer(500, _INTERNAL),
    e.RequestError: Answer(422, "correct the request; /docs shows what is understood"),
    e.UnauthorizedError: Answer(401, "send 'Authorization: Bearer KEY' with a key of this service"),
    e.ForbiddenError: Answer(403, "ask the operator, if you should be let do this"),
    e.TooLargeError: Answer(413, "send a smaller file, or fewer in one request"),
    e.SlowUploadError: Answer(408, "send it again over a faster connection, or a smaller version"),
    e.RateLimitedError: Answer(429, _AGAIN),
    e.BusyError: Answer(503, _AGAIN),
    e.NotReadyError: Answer(503, _AGAIN),
    e.DeadlineError: Answer(504, "try again when the service is less busy, or with a smaller image"),
    e.UnreachableError: Answer(502, "check the address"),
}
BY_CODE = {kind.code: kind for kind in ANSWERS}


class Json(JSONResponse):
    """JSON in which nothing unseen is left raw, as in all outputs; see `writers.json_of`."""

    def render(self, content: Any) -> bytes:
        """The bytes of the body."""
        return unseen_escaped(super().render(content).decode()).encode()


class _Refusal(Json):
    """An answer given before the whole request was read.

    A connection closed on unread bytes is reset, and its client may never see the answer. So the answer is sent whole
    (its length is told), what still comes is thrown away for a short time, and then the connection is closed.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send(start | {"headers": [*self.raw_headers, (b"connection", b"close")]})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        scope.setdefault("state", {})[ANSWERED] = time.perf_counter()
        seen, until = 0, time.monotonic() + _DRAIN_SECONDS
        while seen < _DRAIN_BYTES and (left := until - time.monotonic()) > 0:
            try:
                message = await asyncio.wait_for(receive(), left)
            except TimeoutError:
                break
            seen += len(message.get("body", b""))
            if message["type"] != "http.request" or not message.get("more_body"):
                break
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def body_of(code: str, message: str, what_to_do: str) -> dict[str, Any]:
    """The one shape of errors."""
    return {"error": {"code": code, "message": message, "what_to_do": what_to_do}}


def answer_to(error: e.UnivFDError) -> Answer:
    """The entry of an error's class, or of the nearest class above it."""
    return next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)


def words_for(error: e.UnivFDError) -> str:
    """What a caller is told of an error. Words that name files of this machine go to the log alone."""
    if answer_to(error).status == 500 or isinstance(error, e.WeightsError):
        log.error("%s: %s", type(error).__name__, error)
        return "the service cannot do this; its log says why"
    return str(error)


def respond(request: Request, code: str, message: str, answer: Answer, **headers: str) -> JSONResponse:
    """An error as a response."""
    if answer.status in {429, 503}:
        headers.setdefault("Retry-After", str(RETRY_SECONDS))
    if answer.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    whole = BODY_READ in request.scope or not _has_body(request)
    kind = Json if whole else _Refusal
    return kind(body_of(code, message, answer.what_to_do), answer.status, headers)


def _has_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def install(app: FastAPI) -> None:
    """Make the application answer all errors in the one shape."""

    @app.exception_handler(e.UnivFDError)
    async def known(request: Request, error: e.UnivFDError) -> JSONResponse:
        headers = {}
        if isinstance(error, e.RateLimitedError) and error.seconds:
            headers["Retry-After"] = str(math.ceil(error.seconds))
        return respond(request, error.code, words_for(error), answer_to(error), **headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        said = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        return respond(request, e.RequestError.code, said, ANSWERS[e.RequestError])

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "request")
        answer = Answer(error.status_code, "see /docs for the addresses and methods of this service")
        return respond(request, code, str(error.detail), answer, **dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def internal(request: Request, error: Exception) -> JSONResponse:  # uvicorn logs it
        # It is answered outside of all middleware, so nobody else adds the headers.
        return respond(request, "internal", "the service made a mistake", Answer(500, _INTERNAL), **KEPT_NOWHERE)
