"""One thread that decides: images of all requests, put together into batches of the encoder."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ..blas import one_thread
from ..detector import Detector
from ..embedding import Loaded, embed_loaded
from ..types import Failure, Verdict

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Image:
    loaded: Loaded
    neighbors: int
    future: Future[Verdict | Failure] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Call:
    function: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)


class Engine:
    """Judges images in the order in which they come, several at a time.

    The first image that waits is joined by those that come within `wait` seconds, at most `batch_size`. While the
    encoder works others queue up, so under load batches are full and nobody waits for the clock.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        batch_size: int,
        wait: float = 0.004,
        on_batch: Callable[[int, float], None] = lambda images, seconds: None,
    ) -> None:
        """Start the thread.

        Args:
            detector: what judges.
            batch_size: images of a batch, at most.
            wait: seconds that the first image of a batch waits for others.
            on_batch: told the images and seconds of each batch, in the thread.
        """
        self._detector, self._size, self._wait, self._on_batch = detector, batch_size, wait, on_batch
        self._queue: queue.SimpleQueue[_Image | _Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="univfd-engine", daemon=True)
        self._thread.start()

    def judge(self, loaded: Loaded, neighbors: int) -> Future[Verdict | Failure]:
        """The verdict of an image, to come; a failure where the encoder gives no usable vector.

        Cancelled before its batch starts, it costs nothing.
        """
        item = _Image(loaded, neighbors)
        self._queue.put(item)
        return item.future

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run a function in the thread, after the images before it: for other work of the encoder."""
        item = _Call(function)
        self._queue.put(item)
        return item.future

    def close(self) -> None:
        """Finish what was taken, then end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            items, ended = self._gather(first)
            images = [i for i in items if isinstance(i, _Image) and i.future.set_running_or_notify_cancel()]
            if images:
                self._judge(images)
            for item in items:
                if isinstance(item, _Call) and item.future.set_running_or_notify_cancel():
                    _settle(item.future, item.function)
            if ended:
                return

    def _gather(self, first: _Image | _Call) -> tuple[list[_Image | _Call], bool]:
        items: list[_Image | _Call] = [first]
        until = time.monotonic() + self._wait
        while len(items) < self._size:
            try:
                item = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if item is None:
                return items, True
            items.append(item)
        return items, False

    def _judge(self, images: list[_Image]) -> None:
        start = time.perf_counter()
        try:
            with one_thread():  # for the threads that decode meanwhile
                batch = embed_loaded(self._detector.backbone, self._detector.view, [i.loaded for i in images])
            verdicts = self._detector.judge(batch, neighbors=max(i.neighbors for i in images))
        except BaseException as error:  # whoever waits must hear of it, and the thread goes on
            for image in images:
                image.future.set_exception(error)
            return
        judged = iter(verdicts)
        for image, item in zip(images, batch.items, strict=True):
            image.future.set_result(item if isinstance(item, Failure) else _with(next(judged), image.neighbors))
        self._on_batch(len(images), time.perf_counter() - start)


def _with(verdict: Verdict, neighbors: int) -> Verdict:
    """The verdict with as many rows of evidence as were asked for; a batch is judged with the most of all."""
    return replace(
        verdict, nearest_fake=verdict.nearest_fake[:neighbors], nearest_real=verdict.nearest_real[:neighbors]
    )


def _settle(future: Future[Any], function: Callable[[], Any]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
