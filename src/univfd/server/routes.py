"""The addresses."""

from __future__ import annotations

import asyncio
import difflib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from .. import conditions
from ..calibration import Calibration
from ..errors import ForbiddenError, RateLimitedError, RequestError, TooLargeError, UnivFDError
from ..provenance import require_extra
from ..types import Failure, Label
from ..writers import json_of
from .feedback import file_wrong
from .limits import RateLimiter
from .monitoring import CONTENT_TYPE
from .pages import page
from .problems import ANSWERS, BY_CODE, Json, respond
from .schema import (
    DetectorRow,
    DetectorsAnswer,
    FailureRow,
    FeedbackAnswer,
    HealthAnswer,
    LimitsRow,
    ProblemAnswer,
    VerdictRow,
)
from .service import Judged, Options, Service
from .uploads import many_files, one_file

MOST_NEIGHBORS = 20
ABOUT = (
    "images like those that the thresholds were fixed on (data); nothing is promised of degraded ones: what is "
    "recognised as one (void_under) is 'unsure', but not all are recognised"
)
NO_PROMISE = "nothing is promised"
_NDJSON = "application/x-ndjson"
_FILE = {"type": "string", "format": "binary"}


@dataclass(frozen=True, slots=True)
class State:
    """What the routes use, made when the application starts."""

    service: Service
    rate: RateLimiter
    feedback: Path | None


def _only_known(request: Request) -> None:
    """Refuse options that would be ignored.

    Raises:
        RequestError: one that this address does not have.
    """
    known = {p.alias for p in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name == "heatmap" and name not in known:
            raise RequestError("a heat map is drawn by /v1/detect alone, for one image a request")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted(known)) or 'none'}."
            raise RequestError(f"no option is called {name[:50]!r}. {hint}")


def _taken_in(request: Request) -> None:
    """Note one more image, for the request log."""
    request.state.images = getattr(request.state, "images", 0) + 1


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documentation of the errors of a route."""
    words = {
        401: "No key, or an unknown one.", 403: "Another site's page, another host name, or switched off.",
        408: "The bytes came too slowly.", 409: "Reported before as the other class.", 413: "Too many bytes or pixels.",
        415: "Not an image that is read here.", 422: "Not understood, or a damaged image.", 429: "Too many a minute.",
        501: "An extra is not installed.", 503: "Not ready, or all places are taken; see Retry-After.",
        504: "Not done in time.",
    }  # fmt: skip
    return {status: {"model": ProblemAnswer, "description": words[status]} for status in statuses}


_ASKED = (401, 403, 422, 429, 503)
_JUDGED = (*_ASKED, 408, 413, 415, 501, 504)

Neighbors = Annotated[int, Query(ge=1, le=MOST_NEIGHBORS, description="Rows of evidence of each class.")]
Heat = Annotated[bool, Query(description="Add a picture of where the score of the patch probe comes from; slow.")]
Origin = Annotated[bool, Query(description="Add what the file says of its own origin.")]
Name = Annotated[str, Query(max_length=200, description="What the answer calls the image; default: its file name.")]
Truth = Annotated[Literal["real", "fake"], Query(description="What the image really is.")]
Maker = Annotated[str, Query(max_length=200, description="Of a fake: the generator, where it is known.")]
Place = Annotated[str, Query(max_length=200, description="Where the image comes from.")]
Note = Annotated[str, Query(max_length=200, description="Whatever else whoever looks at it should know.")]

open_routes = APIRouter(dependencies=[Depends(_only_known)])


@open_routes.get("/", include_in_schema=False)
async def home() -> HTMLResponse:
    """The page."""
    return page("page.html")


@open_routes.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    """The documentation of the addresses."""
    return page("docs.html")


@open_routes.get("/healthz", response_model=HealthAnswer, responses=_errors(422))
async def healthz() -> JSONResponse:
    """The process is alive."""
    return JSONResponse({"status": "ok"})


@open_routes.get("/readyz", response_model=HealthAnswer, responses=_errors(422, 503))
async def readyz(request: Request) -> JSONResponse:
    """The weights are verified and the detector has judged a picture."""
    _ = _state(request).service.detector
    return JSONResponse({"status": "ok"})


async def detect(
    request: Request, neighbors: Neighbors = 1, heatmap: Heat = False, provenance: Origin = False, name: Name = ""
) -> JSONResponse:
    """Judge one image: the bytes as the body, or a form with one file."""
    state = _state(request)
    try:
        state.service.admit(heatmap=heatmap, provenance=provenance)
        state.rate.take(request.state.caller)
        upload = await one_file(request, state.service.limits, state.service.memory)
        _taken_in(request)
        upload.rename(name or upload.name)
        try:
            judged = await state.service.single(upload, Options(neighbors, heatmap, provenance))
        finally:
            upload.release()
    except UnivFDError as error:
        state.service.monitor.images.labels(error.code).inc()
        raise
    if isinstance(judged[0], Failure):
        return _refused(request, judged[0])
    return Json(_row(state.service, judged))


async def batch(request: Request, neighbors: Neighbors = 1, provenance: Origin = False) -> StreamingResponse:
    """Judge the files of a form: one line of JSON each, in order; a bad image is a line with `status` `failed`."""
    state = _state(request)
    _ = state.service.detector
    if provenance:
        require_extra()
    options = Options(neighbors, provenance=provenance)
    tasks: deque[asyncio.Task[Judged]] = deque()
    try:
        async with aclosing(many_files(request, state.service.limits, state.service.memory)) as uploads:
            async for upload in uploads:
                try:
                    state.rate.take(request.state.caller)
                except BaseException:
                    upload.release()
                    raise
                _taken_in(request)
                tasks.append(await state.service.begin(upload, options))
    except (RateLimitedError, TooLargeError) as error:  # images that were judged already stay counted
        unjudged = sum(not task.done() for task in tasks)
        _cancel(tasks)
        again = 2 * len(tasks) + 1  # how many will come again is not known: it has not been read
        seconds = state.rate.give_back(request.state.caller, unjudged, again)
        if isinstance(error, RateLimitedError):
            error.seconds = max(error.seconds, seconds)
        raise
    except BaseException:
        _cancel(tasks)
        raise
    return StreamingResponse(_lines(state.service, tasks), media_type=_NDJSON)


async def feedback(
    request: Request, truth: Truth, generator: Maker = "", source: Place = "", note: Note = "", name: Name = ""
) -> JSONResponse:
    """Report an image whose verdict is wrong. Where the operator switched this on, the image is kept."""
    state = _state(request)
    if state.feedback is None:
        raise ForbiddenError("feedback is not switched on here")
    state.service.admit()
    state.rate.take(request.state.caller)
    upload = await one_file(request, state.service.limits, state.service.memory)
    _taken_in(request)
    upload.rename(name or upload.name)
    facts = {"generator": generator, "source": source, "note": note}
    try:
        verdict, _ = await state.service.single(upload, Options(), reported=True)
        if isinstance(verdict, Failure):
            return _refused(request, verdict)
        status = await asyncio.to_thread(file_wrong, state.feedback, upload.whole(), verdict, Label.parse(truth), facts)
        state.service.monitor.feedback.labels(status).inc()
    finally:
        upload.release()
    return Json({"status": status, "verdict": verdict.verdict, "sha256": verdict.sha256})


async def detectors(request: Request) -> JSONResponse:
    """The detectors that answer here, with what they promise, and what is let in."""
    state = _state(request)
    detector, limits = state.service.detector, state.service.limits
    row = DetectorRow(
        name=detector.name, identity=detector.identity, backbone=detector.backbone.entry.name, view=detector.view.name,
        space=detector.reads.digest, bank_rows=len(detector.bank),
        heatmaps=detector.patch_probe is not None and limits.maps > 0,
        promise=promise(detector.calibration),  # type: ignore[arg-type]
    )  # fmt: skip
    let_in = LimitsRow(
        max_bytes=limits.max_bytes, max_pixels=limits.max_pixels, max_batch=limits.max_batch,
        max_neighbors=MOST_NEIGHBORS, deadline=limits.deadline,
    )  # fmt: skip
    answer = DetectorsAnswer(detectors=[row], limits=let_in, feedback=state.feedback is not None)
    return Json(answer.model_dump())


async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    monitor = _state(request).service.monitor
    return Response(await asyncio.to_thread(monitor.page), media_type=CONTENT_TYPE)


def routes(let_in: Callable[[Request], Awaitable[None]]) -> APIRouter:
    """The addresses that are asked for a key, where the service has keys."""
    router = APIRouter(dependencies=[Depends(let_in), Depends(_only_known)])
    one = {"multipart/form-data": {"schema": _form(_FILE)}, "application/octet-stream": {"schema": _FILE}}
    many = {"multipart/form-data": {"schema": _form({"type": "array", "items": _FILE, "minItems": 1})}}
    rows = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in (VerdictRow, FailureRow)]
    lines = {"description": "One row a line.", "content": {_NDJSON: {"schema": {"anyOf": rows}}}}
    router.post("/v1/detect", response_model=VerdictRow, responses=_errors(*_JUDGED), openapi_extra=_body(one))(detect)
    router.post(
        "/v1/batch",
        response_model=VerdictRow | FailureRow,  # so that the schemas are there
        response_class=StreamingResponse,
        responses=_errors(*_ASKED, 408, 413) | {200: lines},
        openapi_extra=_body(many),
    )(batch)
    router.post(
        "/v1/feedback", response_model=FeedbackAnswer, responses=_errors(*_JUDGED, 409), openapi_extra=_body(one)
    )(feedback)
    router.get("/v1/detectors", response_model=DetectorsAnswer, responses=_errors(401, 403, 422, 503))(detectors)
    router.get("/metrics", response_class=Response, responses=_errors(401, 403, 422))(metrics)
    return router


def promise(calibration: Calibration) -> dict[str, Any]:
    """What verdicts of a detector keep to, and of which images that is said."""
    names = ("fake_above", "real_below", "max_fpr", "max_miss", "confidence", "n_real", "n_fake", "data")
    void = [] if calibration.max_fpr is None else list(conditions.CODES)
    if calibration.known_within is not None:
        void.append("unlike")
    about = NO_PROMISE if calibration.max_fpr is None else ABOUT
    return {name: getattr(calibration, name) for name in names} | {
        "known_within": calibration.known_within, "about": about, "void_under": void,
    }  # fmt: skip


def _state(request: Request) -> State:
    state: State = request.app.state.service
    return state


def _row(service: Service, judged: Judged) -> dict[str, Any]:
    item, beside = judged
    row = item.to_dict()
    if not isinstance(item, Failure):
        row["promise"] = promise(service.detector.calibration)
    return row | beside


def _refused(request: Request, failure: Failure) -> JSONResponse:
    return respond(request, failure.error, failure.message, ANSWERS[BY_CODE[failure.error]])


async def _lines(service: Service, tasks: deque[asyncio.Task[Judged]]) -> AsyncIterator[bytes]:
    try:
        while tasks:
            row = _row(service, await tasks[0])
            tasks.popleft()
            yield json_of(row).encode() + b"\n"
    finally:
        _cancel(tasks)


def _cancel(tasks: deque[asyncio.Task[Judged]]) -> None:
    for task in tasks:
        task.cancel()


def _form(file: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"file": file}, "required": ["file"], "additionalProperties": False}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}
