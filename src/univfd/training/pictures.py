"""Labelled pictures for many passes: decoded in threads, scaled once, kept in memory as far as a budget goes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..backbones import cpus
from ..embedding import NO_MEMORY
from ..errors import InputError, MissingExtraError
from ..images import DEFAULT_MAX_PIXELS, decode
from ..perturbations import perturbation
from ..pipeline import ordered_map
from ..types import Failure, Pixels, Sample
from .crops import SHORT_SIDE, scaled

_BUDGET = 1 << 30
_AHEAD = 64


class Pictures:
    """Pictures of a collection by their number.

    Args:
        samples: the collection.
        short_side: see `univfd.training.crops.scaled`.
        perturb: chain laid on every picture first, see `univfd.perturbations.perturbation`; one encoder for both
            classes keeps a network from learning file formats.
        max_pixels: see `univfd.images.decode`.
        workers: decoding threads; default: one per CPU.
        budget: bytes of scaled pictures that are kept.

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
        budget: int = _BUDGET,
    ) -> None:
        self.labels: NDArray[np.float32] = np.array([s.label for s in samples], np.float32)
        self.failures: dict[int, Failure] = {}
        self._samples = samples
        self._short_side = short_side
        self._perturb = perturbation(perturb)
        self._max_pixels = max_pixels
        self._workers = workers or cpus()
        self._left = budget
        self._kept: dict[int, Pixels] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._samples)

    def crops(self, order: Iterable[int], cut: Callable[[int, Pixels], Pixels]) -> Iterator[tuple[int, Pixels]]:
        """Crops in an order, without those of pictures that cannot be read (see `failures`).

        Args:
            order: numbers of pictures.
            cut: `(number, scaled picture (H, W, 3)) -> crop (S, S, 3)`; runs in the threads.

        Yields:
            The number and its crop.
        """

        def work(i: int) -> tuple[int, Pixels | None]:
            if i in self.failures:
                return i, None
            try:
                return i, cut(i, self._picture(i))
            except (InputError, MissingExtraError) as error:
                self.failures[i] = Failure(self._samples[i].ref.name, error.code, str(error))
                return i, None
            except MemoryError:
                self.failures[i] = Failure(self._samples[i].ref.name, InputError.code, NO_MEMORY)
                return i, None

        for i, crop in ordered_map(work, order, workers=self._workers, ahead=_AHEAD):
            if crop is not None:
                yield i, crop

    def _picture(self, i: int) -> Pixels:
        if i in self._kept:
            return self._kept[i]
        decoded = decode(self._samples[i].ref, max_pixels=self._max_pixels).pixels
        pixels = scaled(self._perturb(decoded), self._short_side)
        with self._lock:
            if pixels.nbytes <= self._left and i not in self._kept:
                self._left -= pixels.nbytes
                self._kept[i] = pixels
        return pixels
