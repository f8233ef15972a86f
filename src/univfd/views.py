"""Views: how a picture becomes the crops that an encoder sees. Pure functions of pixels.

A view's name is part of the feature space: the same picture under two views gives vectors that are never mixed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from . import registry
from .remarks import Remark
from .types import Pixels, digest_of

Pool = Literal["mean", "concat"]
_WIDE = 4  # times the crop: below this the narrowed picture would be no smaller than the picture
_REACH = 2  # half-width of the widest filter (bicubic), in crop pixels
_BAND_PIXELS = 1 << 20
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, slots=True)
class PreprocessSpec:
    """What an encoder wants: crops of `size` x `size`, scaled to 0..1, minus `mean`, over `std` (per channel)."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        """Check the interpolation's name."""
        if self.interpolation not in _RESAMPLING:
            raise registry.unknown("interpolation", self.interpolation, _RESAMPLING)

    @property
    def resampling(self) -> Image.Resampling:
        """The interpolation as Pillow names it."""
        return _RESAMPLING[self.interpolation]

    def digest(self, recipe: str) -> str:
        """16 hex digits of this specification and the recipe that prepared the graph."""
        return digest_of(asdict(self) | {"recipe": recipe})[:16]

    def normalise(self, crops: Pixels) -> np.ndarray[Any, np.dtype[np.float32]]:
        """`(N, S, S, 3)` uint8 -> `(N, 3, S, S)` float32, C order."""
        scale = (1.0 / (255.0 * np.asarray(self.std))).astype(np.float32)
        shift = (np.asarray(self.mean) / np.asarray(self.std)).astype(np.float32)
        out = np.empty((len(crops), 3, *crops.shape[1:3]), np.float32)
        for c in range(3):
            np.multiply(crops[..., c], scale[c], out=out[:, c])
            out[:, c] -= shift[c]
        return out


@dataclass(frozen=True, slots=True)
class Crops:
    """Crops `(n, S, S, 3)` uint8 of one picture, and the factor by which it was scaled up to reach them (1 = not)."""

    pixels: Pixels
    upscaled: float = 1.0

    @property
    def notes(self) -> tuple[Remark, ...]:
        """For the verdict."""
        text = f"upscaled {self.upscaled:.2f}x: smaller than the encoder's input"
        return (Remark("upscaled", text, {"factor": self.upscaled}),) if self.upscaled > 1 else ()


Cut = Callable[[Pixels, PreprocessSpec], Crops]
"""`(pixels (H, W, 3), spec) -> Crops`."""


@dataclass(frozen=True, slots=True)
class View:
    """A named way to cut crops from a picture.

    Attributes:
        name: as recorded in the feature space.
        cut: `(pixels (H, W, 3), spec) -> Crops`.
        pool: how the embeddings of several crops become one: their mean, or side by side.
        count: crops a picture gives.
    """

    name: str
    cut: Cut
    pool: Pool
    count: int


_VIEWS: dict[str, View] = {}


def _view(count: int, pool: Pool = "mean") -> Callable[[Cut], Cut]:
    """Make a function a view under its own name."""

    def register(cut: Cut) -> Cut:
        _VIEWS[cut.__name__] = View(cut.__name__, cut, pool, count)
        return cut

    return register


@_view(1)
def native(pixels: Pixels, spec: PreprocessSpec) -> Crops:
    """The centre crop at the picture's own resolution: what the paper's test code does.

    A picture whose short side is below the crop is scaled up (the paper's code pads it with black instead, which
    draws an edge that no real picture has); the factor is recorded.
    """
    return _crops_at(pixels, spec, [(0.5, 0.5)])


@_view(1)
def resize(pixels: Pixels, spec: PreprocessSpec) -> Crops:
    """Short side to the crop size, then the centre crop: CLIP's own preprocessing. Sees the whole composition."""
    h, w = pixels.shape[:2]
    side = min(h, w)
    return Crops(_resampled(pixels, _box(h, w, side, 0.5, 0.5), spec)[None], max(1.0, spec.size / side))


@_view(5)
def five(pixels: Pixels, spec: PreprocessSpec) -> Crops:
    """Centre and four corners at the picture's own resolution."""
    return _crops_at(pixels, spec, [(0.5, 0.5), (0, 0), (0, 1), (1, 0), (1, 1)])


def grid(n: int) -> Cut:
    """`n` x `n` evenly spaced crops at the picture's own resolution (overlapping where it is small)."""
    steps = [i / (n - 1) for i in range(n)]
    return lambda pixels, spec: _crops_at(pixels, spec, [(y, x) for y in steps for x in steps])


_MAX_GRID = 8


def view(name: str) -> View:
    """The view called `name`: `native`, `resize`, `five`, `grid-2` ... `grid-8`.

    Raises:
        UnknownNameError: no such view.
    """
    found = re.fullmatch(r"grid-(\d+)", name)
    if found and 2 <= int(found[1]) <= _MAX_GRID:
        n = int(found[1])
        return View(name, grid(n), "mean", n * n)
    if name not in _VIEWS:
        raise registry.unknown("view", name, [*_VIEWS, *(f"grid-{n}" for n in range(2, _MAX_GRID + 1))])
    return _VIEWS[name]


def _crops_at(pixels: Pixels, spec: PreprocessSpec, places: list[tuple[float, float]]) -> Crops:
    """Square crops at places given as fractions (0 = top/left, 1 = bottom/right) of the free way."""
    h, w = pixels.shape[:2]
    side = min(h, w, spec.size)
    boxes = [_box(h, w, side, y, x) for y, x in places]
    if side == spec.size:
        tiles = [pixels[int(t) : int(t) + side, int(x) : int(x) + side] for x, t, _, _ in boxes]
    else:
        tiles = [_resampled(pixels, box, spec) for box in boxes]
    return Crops(np.ascontiguousarray(np.stack(tiles)), spec.size / side)


def _box(h: int, w: int, side: int, y: float, x: float) -> tuple[float, float, float, float]:
    left, top = round((w - side) * x), round((h - side) * y)
    return (left, top, left + side, top + side)


def _resampled(pixels: Pixels, box: tuple[float, float, float, float], spec: PreprocessSpec) -> Pixels:
    # Only the box is resampled: a 1 x 100,000 strip must not grow to 224 x 22,400,000 on its way to the crop.
    height, width = pixels.shape[:2]
    left, top, right, bottom = box
    if width < _WIDE * spec.size:
        image = Image.fromarray(pixels).resize((spec.size, spec.size), spec.resampling, box=box)
        return np.asarray(image)
    # Pillow resamples along rows, keeps 8 bits, then along columns. Band by band this gives the same bytes, without
    # a second picture in memory. Rows out of the filter's reach are never looked at.
    reach = math.ceil(_REACH * max(1.0, (bottom - top) / spec.size)) + 1
    first, last = max(0, math.floor(top) - reach), min(height, math.ceil(bottom) + reach)
    narrow = np.empty((height, spec.size, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // width)
    for start in range(first, last, rows):
        end = min(start + rows, last)
        band = Image.fromarray(pixels[start:end])
        across = band.resize((spec.size, end - start), spec.resampling, box=(left, 0, right, end - start))
        narrow[start:end] = np.asarray(across)
    image = Image.fromarray(narrow).resize((spec.size, spec.size), spec.resampling, box=(0, top, spec.size, bottom))
    return np.asarray(image)
