"""The service as a deployment of Ray Serve (extra `ray`): replicas on as many machines as the cluster has.

    serve run univfd.server.ray_serve:app replicas=4 cpus=8 key_file=/etc/univfd/keys

A replica is what one process of `univfd serve` is: the same application with a detector, a queue and limits of its own.
Ray's proxies stand in front of it in place of uvicorn, so what `protocol` does about slow clients is theirs to do.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from ..detector import load
from ..embedding import default_batch
from ..errors import UsageError
from .app import create_app
from .limits import Limits
from .uploads import GRACE_SECONDS

_MORE_REQUESTS = 512
"""That a replica takes beside the images it has places for: it refuses them itself, in the shape of all errors."""


class Settings(BaseModel):
    """What can be set: `name=value` behind `serve run`, or `args` of a configuration file.

    Attributes:
        detector: a shipped detector's name, or a folder that every machine has.
        replicas: processes with a detector of their own.
        cpus: of each replica.
        key_file: of `univfd serve keygen`, a file that every machine has.
        allow_anonymous: serve without keys.
        allowed_hosts: names under which it is asked, with commas between them; empty: any.
        queue: see `Limits`, for each replica, as those below.
        deadline: seconds.
        max_bytes: megabytes.
        max_pixels: megapixels.
        max_batch: images.
        rate: images a minute.
        heatmaps: draw heat maps for who asks, two at a time.
    """

    model_config = ConfigDict(extra="forbid")

    detector: str = "default"
    replicas: int = Field(default=1, ge=1)
    cpus: int = Field(default=1, ge=1)
    key_file: Path | None = None
    allow_anonymous: bool = False
    allowed_hosts: str = ""
    queue: int = Field(default=64, ge=1)
    deadline: float = Field(default=30, gt=0)
    max_bytes: float = Field(default=25, gt=0, le=1024)
    max_pixels: float = Field(default=100, gt=0, le=1000)
    max_batch: int = Field(default=1000, ge=1)
    rate: int = Field(default=0, ge=0)
    heatmaps: bool = True

    def limits(self) -> Limits:
        """Of each replica."""
        return Limits.of(
            megabytes=self.max_bytes, megapixels=self.max_pixels, queue=self.queue, max_batch=self.max_batch,
            deadline=self.deadline, rate=self.rate, heatmaps=self.heatmaps,
        )  # fmt: skip


class _Replica:
    """What Ray asks of a replica beside requests; `serve.ingress` adds `app`."""

    app: FastAPI

    async def check_health(self) -> None:
        """Ray asks this before it sends the first request, and from time to time.

        Raises:
            UnivFDError: the detector could not be opened.
        """
        await self.app.state.service.service.opened()


def app(options: dict[str, Any]) -> Any:
    """The application for `serve run` and `serve.run`.

    Args:
        options: values of `Settings` by name.

    Raises:
        UsageError: neither keys nor leave to do without.
        pydantic.ValidationError: values that are none.
    """
    settings = Settings.model_validate(options)
    if settings.key_file is None and not settings.allow_anonymous:
        raise UsageError(
            "Ray may listen where other machines reach it, and no keys are asked for. Make one with 'univfd serve "
            "keygen --key-file FILE' and give key_file=FILE, or say allow_anonymous=true"
        )
    limits = settings.limits()
    most = limits.queue + limits.queue // 2 + _MORE_REQUESTS
    deployment = serve.deployment(
        name="univfd", num_replicas=settings.replicas, ray_actor_options={"num_cpus": settings.cpus},
        max_ongoing_requests=most, max_queued_requests=most,
        graceful_shutdown_timeout_s=2 * limits.deadline + GRACE_SECONDS, health_check_timeout_s=60,
    )  # fmt: skip
    return deployment(serve.ingress(_building(settings, limits))(_Replica)).bind()


def _building(settings: Settings, limits: Limits) -> Any:
    hosts = tuple(name.strip().lower() for name in settings.allowed_hosts.split(",") if name.strip())

    def build() -> FastAPI:  # in the replica; Ray takes a plain function only
        return create_app(
            partial(load, settings.detector, threads=settings.cpus), limits=limits, key_file=settings.key_file,
            hosts=hosts, workers=settings.cpus, batch_size=default_batch(settings.cpus),
        )  # fmt: skip

    return build
