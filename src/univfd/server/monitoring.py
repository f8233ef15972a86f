"""Figures for Prometheus. No label comes from a caller: neither names of images nor of keys."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import ANSWERED, KEPT_NOWHERE
from .request_log import RequestLog

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Set before the first process of several starts; then each answers for all."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Monitor:
    """The counters of one process."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        self.requests = Counter(
            "univfd_requests", "Requests by address and HTTP status.", ["path", "status"], registry=own
        )
        self.images = Counter("univfd_images", "Images by outcome: verdict or error code.", ["outcome"], registry=own)
        self.feedback = Counter(
            "univfd_feedback", "Reports of wrong verdicts by what came of them.", ["status"], registry=own
        )
        self.seconds = Histogram(
            "univfd_request_seconds", "Seconds from the first byte to the answer.", ["path"], buckets=_SECONDS,
            registry=own,
        )  # fmt: skip
        self.batch_images = Histogram(
            "univfd_encoder_batch_images", "Images of a batch of the encoder.", buckets=(1, 2, 4, 8, 16, 32),
            registry=own,
        )  # fmt: skip
        self.batch_seconds = Histogram(
            "univfd_encoder_batch_seconds", "Seconds of a batch of the encoder.", buckets=_SECONDS, registry=own
        )
        self.at_work = Gauge(
            "univfd_images_at_work", "Images accepted and not answered.", registry=own, multiprocess_mode="livesum"
        )
        self.upload_bytes = Gauge(
            "univfd_upload_bytes", "Bytes of uploads in memory.", registry=own, multiprocess_mode="livesum"
        )
        self.ready = Gauge(
            "univfd_ready_processes", "Processes that are ready.", registry=own, multiprocess_mode="livesum"
        )

    @property
    def shared(self) -> bool:
        """Whether other processes serve the same address."""
        return FOLDER in os.environ

    def on_batch(self, images: int, seconds: float) -> None:
        """Count a batch of the encoder."""
        self.batch_images.observe(images)
        self.batch_seconds.observe(seconds)

    def on_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            path: of the route, not what the caller wrote.
            status: of the answer.
            seconds: until it was sent.
        """
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def page(self) -> bytes:
        """The text that Prometheus reads; of all processes, where there are several."""
        if not self.shared:
            return generate_latest(self._registry)
        folder = os.environ[FOLDER]
        _forget_the_dead(Path(folder))
        together = CollectorRegistry()
        collector: Any = multiprocess.MultiProcessCollector
        collector(together, path=folder)
        return generate_latest(together)


class Counting:
    """ASGI middleware: counts requests, logs them where that is asked for, tells browsers to keep and guess nothing."""

    _HEADERS = tuple((name.encode(), value.encode()) for name, value in KEPT_NOWHERE.items())

    def __init__(self, app: ASGIApp, monitor: Monitor, requests: RequestLog | None) -> None:
        self._app, self._monitor, self._requests = app, monitor, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        start, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                told = list(message.get("headers", []))
                names = {name.lower() for name, _ in told}
                message = {**message, "headers": told + [h for h in self._HEADERS if h[0] not in names]}
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            noted = scope.get("state", {})  # by `guard`, the routes and refusals
            path, seconds = (
                getattr(scope.get("route"), "path", "other"),
                noted.get(ANSWERED, time.perf_counter()) - start,
            )
            self._monitor.on_request(path, status, seconds)
            if self._requests is not None:
                self._requests.add(
                    key=noted.get("key", ""), path=path, status=status, images=noted.get("images", 0), seconds=seconds
                )


def _forget_the_dead(folder: Path) -> None:
    """What a killed process last said of its gauges is no longer so; its counts stay."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            file.unlink(missing_ok=True)
        except PermissionError:
            continue
