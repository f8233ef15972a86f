"""What the service lets in, and how much of it at a time."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import BusyError, RateLimitedError, UsageError
from ..wording import counted

_UPLOAD_BYTES = 512 << 20
_MAPS = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one process of the service.

    Attributes:
        queue: single images that are decoded, waiting or judged at a time; those of batches have half as many more.
        max_bytes: of one image.
        max_pixels: of one image.
        max_batch: images in one batch request.
        upload_bytes: that all unfinished uploads together may hold in memory.
        deadline: seconds for one image, from its last byte (in a batch: from when it gets a place) to its answer.
        connections: open at a time.
        rate: images a minute of one key (or address, where no keys are asked for); 0: any number.
        maps: heat maps that are drawn or waiting at a time; 0: none is drawn.
    """

    queue: int = 64
    max_bytes: int = 25_000_000
    max_pixels: int = 100_000_000
    max_batch: int = 1000
    upload_bytes: int = _UPLOAD_BYTES
    deadline: float = 30.0
    connections: int = 512
    rate: int = 0
    maps: int = _MAPS

    @classmethod
    def of(
        cls, *, megabytes: float, megapixels: float, queue: int, max_batch: int, deadline: float, rate: int,
        heatmaps: bool, connections: int = 512,
    ) -> Limits:  # fmt: skip
        """Limits in the units of the command line; uploads together have 512 MiB, or four of the largest images.

        Raises:
            UsageError: nothing would be served under them.
        """
        if not all(map(math.isfinite, (megabytes, megapixels, deadline))):
            raise UsageError(
                f"limits of {megabytes} MB, {megapixels} megapixels, {deadline} s: expected finite numbers"
            )
        most = round(megabytes * 1e6)
        if rate:  # a larger batch would be told to wait, for ever
            max_batch = min(max_batch, rate)
        return cls(
            queue=queue, max_bytes=most, max_pixels=round(megapixels * 1e6), max_batch=max_batch,
            upload_bytes=max(_UPLOAD_BYTES, 4 * most), deadline=deadline, connections=connections, rate=rate,
            maps=_MAPS if heatmaps else 0,
        )  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse limits under which nothing would be served."""
        low = [n for n in self.__slots__ if n not in {"rate", "maps"} and getattr(self, n) <= 0]
        if low or self.rate < 0 or self.maps < 0 or self.upload_bytes < self.max_bytes:
            told = low or ["rate", "maps", "upload_bytes"]
            raise UsageError(f"limits {told}: expected more than 0, and room for one image")


class Memory:
    """Bytes of all uploads that are under way; used in the event loop alone.

    Args:
        most: that may be held at a time.
        told: how many are held, whenever that changes.
    """

    def __init__(self, most: int, told: Callable[[int], object] = lambda held: None) -> None:
        self._most, self._told, self.held = most, told, 0

    def take(self, size: int) -> None:
        """Count bytes in.

        Raises:
            BusyError: there is no room for them.
        """
        if self.held + size > self._most:
            raise BusyError("the service holds as many bytes of unfinished uploads as it may")
        self.held += size
        self._told(self.held)

    def give(self, size: int) -> None:
        """Count bytes out."""
        self.held -= size
        self._told(self.held)


class RateLimiter:
    """A bucket of tokens a caller, filled at the rate allowed; used in the event loop alone."""

    _MOST_CALLERS = 10_000

    def __init__(self, a_minute: int) -> None:
        self._rate = a_minute / 60
        self._burst = float(a_minute)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Count one image of a caller.

        Raises:
            RateLimitedError: it has none left.
        """
        if not self._rate:
            return
        now = time.monotonic()
        left, then = self._buckets.pop(caller, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._rate)
        self._buckets[caller] = (max(left - 1, 0.0) if left >= 1 else left, now)
        while len(self._buckets) > self._MOST_CALLERS:  # the one that was longest silent, whose bucket is the fullest
            self._buckets.popitem(last=False)
        if left < 1:
            raise RateLimitedError(
                f"more than {counted(round(self._burst), 'image')} a minute", seconds=(1 - left) / self._rate
            )

    def give_back(self, caller: str, images: int, wanted: int) -> float:
        """Take back that images were counted which were not judged.

        Args:
            caller: whose.
            images: so many.
            wanted: that the caller will send again.

        Returns:
            Seconds until there will be enough for these, or for as many as there can ever be.
        """
        if not self._rate:
            return 0.0
        left, then = self._buckets.get(caller, (self._burst, time.monotonic()))
        left = min(self._burst, left + images)
        self._buckets[caller] = (left, then)
        return max(0.0, (min(wanted, self._burst) - left) / self._rate)
