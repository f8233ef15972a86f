"""What answers: the detector, opened and proven in the background, and the way of one image through it."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from PIL import Image

from .. import errors as e
from ..backbones import cpus
from ..detector import Detector
from ..embedding import Loaded, default_batch, loader, pixels_at_a_time
from ..provenance import ProvenanceReader, require_extra, unread
from ..types import Failure, ImageRef, Pixels, Verdict
from ..weights import verify
from ..wording import counted
from .engine import Engine
from .limits import Limits, Memory
from .monitoring import Monitor
from .problems import words_for
from .uploads import Upload

log = logging.getLogger(__name__)
T = TypeVar("T")

_PROVENANCE_SECONDS = 5.0
_OPENING_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
"""Seconds until a detector that could not be opened is tried again."""

Judged = tuple[Verdict | Failure, dict[str, Any]]
"""What came of an image, and what was asked for beside it: `heatmap`, `provenance`."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller wants to know of an image beside the verdict."""

    neighbors: int = 1
    heatmap: bool = False
    provenance: bool = False


class Service:
    """One detector and what it needs to serve requests; its coroutines run in one event loop."""

    def __init__(
        self,
        opening: Callable[[], Detector],
        limits: Limits,
        monitor: Monitor,
        *,
        workers: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.limits, self.monitor = limits, monitor
        self.memory = Memory(limits.upload_bytes, monitor.upload_bytes.set)
        self._open_detector, self._budget = opening, pixels_at_a_time()
        self._batch_size = batch_size or default_batch()
        self._pool = ThreadPoolExecutor(workers or cpus(), thread_name_prefix="univfd-decode")
        self._provenance_pool = ThreadPoolExecutor(1, thread_name_prefix="univfd-provenance")
        self._provenance: ProvenanceReader | None = None
        self._singles = asyncio.Semaphore(limits.queue)
        self._maps = asyncio.Semaphore(limits.maps)
        self._batched = asyncio.Semaphore(max(1, limits.queue // 2))
        self._opened: tuple[Detector, Engine] | None = None
        self._why_not: type[e.WeightsError | e.NotReadyError] | None = None
        self._tried, self._closing = threading.Event(), threading.Event()
        self._opening = threading.Thread(target=self._open, name="univfd-open", daemon=True)

    def start(self) -> None:
        """Begin to open the detector."""
        self._opening.start()

    def close(self) -> None:
        """Finish what was taken. Blocks; the event loop must have no request left."""
        self._closing.set()
        self._opening.join(_OPENING_SECONDS)  # a download is not waited for
        self._pool.shutdown()
        self._provenance_pool.shutdown()
        if self._opened:
            self._opened[1].close()
        if self._provenance is not None:
            self._provenance.close()

    @property
    def detector(self) -> Detector:
        """The detector.

        Raises:
            NotReadyError: it is being opened, or could not be.
            WeightsError: its weights are missing or wrong.
        """
        return self._ready()[0]

    def _ready(self) -> tuple[Detector, Engine]:
        if self._opened is not None:
            return self._opened
        if self._why_not is None:
            raise e.NotReadyError("the detector is being opened and its weights verified")
        raise self._why_not("the detector cannot be opened; the log of the service says why, and it tries again")

    def _open(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closing.is_set():
            self._try_to_open()
            self._tried.set()
            if self._opened or self._closing.wait(pause):
                return
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _try_to_open(self) -> None:
        """Open it, or log why not. The error is not kept: its words are not for callers."""
        try:
            detector = self._open_detector()
            if detector.backbone.entry.recipe:
                verify(detector.backbone.entry)
            for item in detector.detect(_proof()):
                if isinstance(item, Failure):
                    raise e.NotReadyError(f"the detector cannot judge: {item.message}")
        except e.UnivFDError as error:
            log.error("not ready: %s", error)
            self._why_not = e.WeightsError if isinstance(error, e.WeightsError) else e.NotReadyError
        except Exception:
            log.exception("not ready")
            self._why_not = e.NotReadyError
        else:
            self._opened = detector, Engine(detector, batch_size=self._batch_size, on_batch=self.monitor.on_batch)
            self.monitor.ready.set(1)
            log.info("ready: %s", detector.identity)

    async def opened(self) -> None:
        """Wait until it is ready, or could not be opened at the first try.

        Raises:
            NotReadyError, WeightsError: see `detector`.
        """
        await self.tried()
        self._ready()

    async def tried(self, seconds: float | None = None) -> None:
        """Wait for the end of the first try to open it, at most so many seconds."""
        await asyncio.to_thread(self._tried.wait, seconds)

    def admit(self, *, heatmap: bool = False, provenance: bool = False) -> None:
        """Refuse early, before a body is read.

        Args:
            heatmap: one is asked for.
            provenance: likewise.

        Raises:
            NotReadyError, WeightsError, BusyError: see each.
            NoProvenanceError: without the extra `provenance`.
            ForbiddenError: heat maps are switched off.
        """
        self._ready()
        if heatmap and not self.limits.maps:
            raise e.ForbiddenError("heat maps are switched off here")
        if provenance:
            require_extra()
        if self._singles.locked():
            raise self._full(f"all {self.limits.queue} places are taken")
        if heatmap and self._maps.locked():
            raise self._full(
                f"{counted(self.limits.maps, 'heat map is', 'heat maps are')} being drawn, and no more at a time"
            )

    async def single(self, upload: Upload, options: Options, *, reported: bool = False) -> Judged:
        """Judge the image of a request of its own; see `_judge`.

        Args:
            upload: the image.
            options: what is asked for.
            reported: it was judged before: its bytes are still needed (else they are let go as soon as they are read),
                and it does not count among the images.

        Raises:
            BusyError, ForbiddenError: see `admit`.
        """
        self.admit(heatmap=options.heatmap)
        async with self._singles, self._maps if options.heatmap else nullcontext():
            return await self._judge(upload, options, reported=reported)

    async def begin(self, upload: Upload, options: Options) -> asyncio.Task[Judged]:
        """Wait for a place and begin with an image of a batch; what goes wrong with it alone is a `Failure`."""
        try:
            await self._batched.acquire()
        except BaseException:
            upload.release()
            raise
        task = asyncio.create_task(self._of_batch(upload, options))

        def ended(_: asyncio.Task[Judged]) -> None:  # also where it was cancelled before its first step
            upload.release()
            self._batched.release()

        task.add_done_callback(ended)
        return task

    async def _of_batch(self, upload: Upload, options: Options) -> Judged:
        try:
            return await self._judge(upload, options)
        except e.UnivFDError as error:
            self._count(error.code, reported=False)
            return Failure(upload.name, error.code, words_for(error)), {}
        except Exception:  # a mistake of ours; the answer has begun, so it must be a row
            log.exception("internal error")
            return Failure(upload.name, "internal", "the service made a mistake"), {}

    async def _judge(self, upload: Upload, options: Options, *, reported: bool = False) -> Judged:
        """The verdict of an image and what was asked for beside it: `heatmap`, `provenance`.

        Raises:
            DeadlineError: not done in time.
            UsageError, MissingExtraError: the detector has no maps; the extra `provenance` is not installed.
        """
        detector, engine = self._ready()
        until = time.monotonic() + self.limits.deadline
        if upload.too_large:
            self._count(e.TooLargeError.code, reported)
            return Failure(upload.name, e.TooLargeError.code, "over the limit of bytes for one image"), {}
        picture = _Picture(detector) if options.heatmap else None
        ref = ImageRef(upload.name or "image", upload.whole())
        load_one = loader(
            detector.backbone, detector.view, max_pixels=self.limits.max_pixels,
            on_pixels=picture.keep if picture else None, budget=self._budget,
        )  # fmt: skip
        looking = self._look(ref, until) if options.provenance else None
        self.monitor.at_work.inc()
        try:
            item: Any = await self._in_time(self._pool.submit(load_one, ref), until)
            del ref
            if not (reported or looking):  # they count for as long as they are there
                upload.release()
            if isinstance(item, Loaded):
                item = await self._in_time(engine.judge(item, options.neighbors), until)
            beside = {} if looking is None else {"provenance": await looking}
            if not reported:
                upload.release()
            if isinstance(item, Failure):
                self._count(item.error, reported)
                return item, beside
            if picture is not None:
                beside["heatmap"] = await self._in_time(engine.call(picture.draw), until)
            self._count(item.verdict, reported)
            return item, beside
        finally:
            if looking is not None:
                looking.cancel()
            self.monitor.at_work.dec()

    def _look(self, ref: ImageRef, until: float) -> asyncio.Task[Any]:
        """What the file says of its origin, read while the encoder works."""
        if self._provenance is None:
            self._provenance = ProvenanceReader(deadline=_PROVENANCE_SECONDS)
        reader, start = self._provenance, time.perf_counter()

        async def look() -> dict[str, Any] | None:
            try:
                return (await self._in_time(self._provenance_pool.submit(reader.read, ref), until)).to_dict()
            except e.InputError:  # the image's own row says why
                return None
            except e.UnivFDError as error:  # the verdict stands without it
                return unread(ref.name, words_for(error), start).to_dict()

        task = asyncio.create_task(look())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may not be waited for
        return task

    async def _in_time(self, work: Future[T], until: float) -> T:
        """Wait for work in a thread; where time is up it is cancelled if it has not begun.

        Raises:
            DeadlineError: time is up.
        """
        try:
            return await asyncio.wait_for(asyncio.wrap_future(work), max(0.0, until - time.monotonic()))
        except TimeoutError as error:
            raise e.DeadlineError(f"not done within {self.limits.deadline:g} seconds") from error

    def _count(self, outcome: str, reported: bool) -> None:
        """Count an image, unless it was counted when it was first judged."""
        if not reported:
            self.monitor.images.labels(outcome).inc()

    def _full(self, why: str) -> e.BusyError:
        return e.BusyError(why)


class _Picture:
    """Keeps what a heat map needs of an image until it is drawn."""

    def __init__(self, detector: Detector) -> None:
        from .. import heatmap

        _, backbone = heatmap.require_probe(detector)
        self._detector, self._spec, self._heatmap = detector, backbone.entry.preprocess, heatmap
        self._reduced: Any = None

    def keep(self, ref: ImageRef, pixels: Pixels) -> None:
        self._reduced = self._heatmap.reduced(pixels, self._spec)

    def draw(self) -> dict[str, Any]:
        drawn = self._heatmap.draw(self._detector, self._reduced)
        png = base64.b64encode(drawn.png()).decode()
        return {"media_type": "image/png", "caption": self._heatmap.CAPTION, "base64": png}


def _proof() -> bytes:
    """A picture that every detector can judge."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
