"""The service as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from .._version import __version__
from ..detector import Detector, load
from .guards import guard
from .keys import Keys
from .limits import Limits, RateLimiter
from .monitoring import Counting, Monitor
from .problems import install
from .request_log import RequestLog
from .routes import State, open_routes, routes
from .service import Service

_PATIENCE_SECONDS = 15  # then probes are to hear why it is not ready

DESCRIPTION = (
    "Says of images whether they are AI-generated, with the evidence and the promised error rates. A verdict is a "
    "signal, not proof. Images are neither stored nor logged, except those reported to /v1/feedback where the operator "
    "keeps them. Every error has the shape of ProblemAnswer."
)


def create_app(
    opening: Callable[[], Detector] = load,
    *,
    limits: Limits | None = None,
    key_file: Path | None = None,
    hosts: tuple[str, ...] = (),
    feedback: Path | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    request_log: Path | None = None,
) -> FastAPI:
    """The application; its detector is opened when it starts.

    Args:
        opening: opens the detector, in the background; default: the shipped one.
        limits: what it lets in.
        key_file: of `univfd serve keygen`; None: no key is asked for.
        hosts: names under which it is asked; empty: any.
        feedback: folder that reported verdicts are filed in; None: none are.
        workers: decoding threads.
        batch_size: images a batch of the encoder.
        request_log: file that a line of JSON is added to for each request; None: none.

    Raises:
        UsageError, FormatError: the file of keys cannot be read.
        UnivFDError: the request log cannot be written.
    """
    limits, monitor = limits or Limits(), Monitor()
    let_in = guard(Keys(key_file) if key_file else None, hosts)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        service = Service(opening, limits, monitor, workers=workers, batch_size=batch_size)
        app.state.service = State(service, RateLimiter(limits.rate), feedback)
        service.start()
        if monitor.shared:  # connections go to any process that takes some: to this one once it can answer them
            await service.tried(_PATIENCE_SECONDS)
        yield
        monitor.ready.set(0)
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="UnivFD", version=__version__, description=DESCRIPTION, lifespan=life, docs_url=None, redoc_url=None,
        redirect_slashes=False,  # it would name the host that the caller sent, without TLS, and ask for no key
    )  # fmt: skip
    install(app)
    app.include_router(open_routes)
    app.include_router(routes(let_in))

    app.add_middleware(Counting, monitor=monitor, requests=RequestLog(request_log) if request_log else None)
    return app
