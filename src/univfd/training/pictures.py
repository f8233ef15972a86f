"""Labelled pictures for many passes: decoded in threads, scaled once, kept in memory as far as a budget goes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..backbones import cpus
from ..embedding import NO_MEMORY
from ..errors import DataError, InputError, MissingExtraError
from ..images import DEFAULT_MAX_PIXELS, decode
from ..perturbations import perturbation
from ..pipeline import ordered_map
from ..sources import file_of
from ..types import Failure, Pixels, Sample
from .crops import SHORT_SIDE, scaled

_KEPT = 1 << 30
_AHEAD = 64


class Memory:
    """Room for scaled pictures, of several parts together.

    Args:
        size: in bytes.
    """

    def __init__(self, size: int = _KEPT) -> None:
        self._left = size
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Whether there is room for so many bytes more, which are then taken."""
        with self._lock:
            fits = size <= self._left
            self._left -= size * fits
            return fits


class Pictures:
    """Pictures of a collection by their number.

    Args:
        samples: the collection.
        short_side: see `univfd.training.crops.scaled`.
        perturb: chain laid on every picture first, see `univfd.perturbations.perturbation`; one encoder for both
            classes keeps a network from learning file formats.
        max_pixels: see `univfd.images.decode`.
        workers: decoding threads; default: one per CPU.
        memory: where scaled pictures are kept; default: 1 GB.
        failures: of an earlier run, in which all the other pictures could be read; None: nothing is known of them.

    Attributes:
        labels: `(N,)` float32, 1 fake.
        failures: of the pictures that could not be read so far, by number.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        short_side: int = SHORT_SIDE,
        perturb: str = "clean",
        max_pixels: int = DEFAULT_MAX_PIXELS,
        workers: int | None = None,
        memory: Memory | None = None,
        failures: Mapping[int, Failure] | None = None,
    ) -> None:
        self.labels: NDArray[np.float32] = np.array([s.label for s in samples], np.float32)
        self.failures: dict[int, Failure] = dict(failures or {})
        self._samples = samples
        self._short_side = short_side
        self._perturb = perturbation(perturb)
        self._max_pixels = max_pixels
        self._workers = workers or cpus()
        self._memory = memory or Memory()
        self._kept: dict[int, Pixels] = {}
        self._read = set() if failures is None else set(range(len(samples))) - self.failures.keys()
        self._there = _there(samples)

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def share(self) -> np.float32:
        """Of fakes, without the pictures that could not be read so far."""
        readable = np.ones(len(self), bool)
        readable[list(self.failures)] = False
        return np.float32(self.labels[readable].mean())

    def crops(self, order: Iterable[int], cut: Callable[[int, Pixels], Pixels]) -> Iterator[tuple[int, Pixels]]:
        """Crops in an order, without those of pictures that cannot be read (see `failures`).

        Args:
            order: numbers of pictures.
            cut: `(number, scaled picture (H, W, 3)) -> crop (S, S, 3)`; runs in the threads.

        Yields:
            The number and its crop.

        Raises:
            DataError: a picture that could be read in an earlier pass, or whose file was there, is not there now.
        """

        def work(i: int) -> tuple[int, Pixels | None]:
            if i in self.failures:
                return i, None
            name = self._samples[i].ref.name
            try:
                crop = cut(i, self._picture(i))
            except MemoryError as error:
                if i in self._read:
                    raise DataError(f"{name} was read before: {NO_MEMORY}, and go on with --resume") from error
                self.failures[i] = Failure(name, InputError.code, NO_MEMORY)
                return i, None
            except (InputError, MissingExtraError) as error:
                if i in self._read or i in self._there - _there([self._samples[i]], i):
                    # to go on without it would be to train and validate on other data from here on
                    raise DataError(
                        f"{name} was there before and now cannot be read: {error}. Put the data back, and go on with "
                        "--resume behind the last whole epoch; or begin anew under another name"
                    ) from error
                self.failures[i] = Failure(name, error.code, str(error))
                return i, None
            self._read.add(i)
            return i, crop

        for i, crop in ordered_map(work, order, workers=self._workers, ahead=_AHEAD):
            if crop is not None:
                yield i, crop

    def _picture(self, i: int) -> Pixels:
        if i in self._kept:
            return self._kept[i]
        decoded = decode(self._samples[i].ref, max_pixels=self._max_pixels).pixels
        pixels = scaled(self._perturb(decoded), self._short_side)
        if self._memory.take(pixels.nbytes):
            pixels = np.ascontiguousarray(pixels)  # decoded pixels may be a window on four channels, which would stay
            self._kept[i] = pixels
        return pixels


def _there(samples: Sequence[Sample], first: int = 0) -> set[int]:
    """Numbers, from `first` on, of the pictures whose files are there."""
    files = (file_of(s.ref) for s in samples)
    return {i for i, file in enumerate(files, first) if file is not None and _is_there(file)}


def _is_there(file: Path) -> bool:
    try:
        return file.exists()
    except (OSError, ValueError):  # a path that the system refuses
        return False
