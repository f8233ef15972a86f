"""Perturbations: what the web does to pictures. Pure functions of pixels, a seed and one value."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from . import registry
from .errors import UnsupportedImageError, UsageError
from .types import Pixels

Step = Callable[[Pixels, int, float], Pixels]
"""`(pixels (H, W, 3) uint8, seed, value) -> pixels`: deterministic in all three."""
_PERTURBATIONS: dict[str, tuple[Step, float, bool]] = {}
_MOST_PIXELS = 200_000_000  # of a picture scaled up; as many as a file may have


def _perturbation(high: float = np.inf, *, whole: bool = False) -> Callable[[Step], Step]:
    """Make a function a perturbation under its own name; its value is above 0, at most `high`, perhaps whole."""

    def register(function: Step) -> Step:
        _PERTURBATIONS[function.__name__] = (function, high, whole)
        return function

    return register


@_perturbation(100, whole=True)
def jpeg(pixels: Pixels, seed: int, quality: float) -> Pixels:
    """Through JPEG at `quality` 1..100 with 4:2:0 chroma, as most of the web stores it."""
    return _reencode(pixels, "JPEG", quality=int(quality), subsampling=2)


@_perturbation(100, whole=True)
def webp(pixels: Pixels, seed: int, quality: float) -> Pixels:
    """Through lossy WebP at `quality` 1..100."""
    return _reencode(pixels, "WEBP", quality=int(quality), method=4)


@_perturbation(100)
def blur(pixels: Pixels, seed: int, sigma: float) -> Pixels:
    """Gaussian blur, `sigma` in pixels, per channel (as the paper's robustness test)."""
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(pixels.astype(np.float32), sigma=(sigma, sigma, 0))
    return np.asarray(np.rint(blurred), dtype=np.uint8)  # a mean of bytes is one


@_perturbation(16)
def scale(pixels: Pixels, seed: int, factor: float) -> Pixels:
    """Both sides times `factor`, bicubic with antialiasing; never up to more pixels than a file may have."""
    h, w = pixels.shape[:2]
    size = (max(1, round(w * factor)), max(1, round(h * factor)))
    if factor > 1 and size[0] * size[1] > _MOST_PIXELS:
        raise UnsupportedImageError(
            f"{w} x {h} pixels times {factor:g} would be {size[0]} x {size[1]}, more than the "
            f"{_MOST_PIXELS / 1e6:.0f} megapixels that are taken: scale by less"
        )
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


@_perturbation()
def limit(pixels: Pixels, seed: int, side: float) -> Pixels:
    """Scaled down so that the long side is at most `side` pixels; never up. What web sites do to uploads."""
    return scale(pixels, seed, min(1.0, side / max(pixels.shape[:2])))


@_perturbation(4096, whole=True)
def square(pixels: Pixels, seed: int, side: float) -> Pixels:
    """The largest square in the middle, scaled to `side` x `side` pixels, up or down: no size or shape tells then."""
    h, w = pixels.shape[:2]
    least = min(h, w)
    top, left = (h - least) // 2, (w - least) // 2
    middle = Image.fromarray(np.ascontiguousarray(pixels[top : top + least, left : left + least]))
    return np.asarray(middle.resize((int(side), int(side)), Image.Resampling.BICUBIC))


@_perturbation(255)
def noise(pixels: Pixels, seed: int, sigma: float) -> Pixels:
    """Plus Gaussian noise of standard deviation `sigma` (of 255)."""
    values = pixels + np.random.default_rng(seed).normal(0, sigma, pixels.shape)
    return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)


@_perturbation(whole=True)
def reencode(pixels: Pixels, seed: int, draw: float) -> Pixels:
    """What a picture may have been through on the web, drawn at random: for training, so that no format tells.

    In half of the cases scaled by 0.5..1; then JPEG (three in four) or WebP (one in four) of quality 50..95.

    Args:
        pixels: `(H, W, 3)`.
        seed: of the picture.
        draw: number of the copy: another number, another draw.
    """
    rng = np.random.default_rng([seed, int(draw)])
    if rng.random() < 0.5:
        pixels = scale(pixels, seed, rng.uniform(0.5, 1))
    return _random_encoding(pixels, seed, rng, coarsest=50, jpegs=0.75)


@_perturbation(whole=True)
def augment(pixels: Pixels, seed: int, draw: float) -> Pixels:
    """A harder `reencode`, for training copies of both classes: crop, scaling, blur, noise, one or two re-encodings.

    Each step is taken at random: a crop of 70-100 % of both sides (3 in 10), scaling by 0.35..1.5 with one of three
    filters (6 in 10), Gaussian blur up to 1.2 pixels (1 in 10), noise up to 6 of 255 (1 in 10); then JPEG (7 in 10) or
    WebP of quality 35..95, twice in 3 of 10 cases.

    Args:
        pixels: `(H, W, 3)`.
        seed: of the picture.
        draw: number of the copy: another number, another draw.
    """
    rng = np.random.default_rng([seed, int(draw)])
    if rng.random() < 0.3:
        pixels = _random_crop(pixels, rng)
    if rng.random() < 0.6:
        pixels = _random_scale(pixels, rng)
    if rng.random() < 0.1:
        pixels = blur(pixels, seed, round(rng.uniform(0.3, 1.2), 3))
    if rng.random() < 0.1:
        sigma = round(rng.uniform(1, 6), 3)
        pixels = noise(pixels, int(rng.integers(1 << 30)), sigma)
    for _ in range(1 + (rng.random() < 0.3)):
        pixels = _random_encoding(pixels, seed, rng, coarsest=35, jpegs=0.7)
    return pixels


_FILTERS = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS)
_LEAST_SIDE = 64  # random scaling leaves something to see


def _random_encoding(pixels: Pixels, seed: int, rng: np.random.Generator, *, coarsest: int, jpegs: float) -> Pixels:
    quality = int(rng.integers(coarsest, 96))
    return jpeg(pixels, seed, quality) if rng.random() < jpegs else webp(pixels, seed, quality)


def _random_crop(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    h, w = pixels.shape[:2]
    share = rng.uniform(0.7, 1)
    width, height = max(1, round(w * share)), max(1, round(h * share))
    x, y = int(rng.integers(0, w - width + 1)), int(rng.integers(0, h - height + 1))
    return pixels[y : y + height, x : x + width]


def _random_scale(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    h, w = pixels.shape[:2]
    factor = float(np.exp(rng.uniform(np.log(0.35), np.log(1.5))))
    size = (max(_LEAST_SIDE, round(w * factor)), max(_LEAST_SIDE, round(h * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, _FILTERS[int(rng.integers(3))]))


def perturbation(text: str, seed: int | None = None) -> Callable[[Pixels], Pixels]:
    """Read a chain such as `limit:768+jpeg:60`.

    Args:
        text: steps `name:value` joined by `+`, applied from left to right. `clean` or nothing changes nothing.
        seed: of the steps that draw at random. Default: the content of each picture, so that a picture is changed in
            the same way in any order, batch and machine.

    Raises:
        UnknownNameError: a step of an unknown name.
        UsageError: a value that is no number or out of range.
    """
    steps = [] if text in {"", "clean"} else [_step(part) for part in text.split("+")]

    def run(pixels: Pixels) -> Pixels:
        if not steps:
            return pixels
        start = zlib.crc32(pixels.tobytes()) if seed is None else seed
        for i, (function, value) in enumerate(steps):
            pixels = function(pixels, start + i, value)
        return np.ascontiguousarray(pixels)

    return run


def _step(part: str) -> tuple[Step, float]:
    name, _, value = part.partition(":")
    if name not in _PERTURBATIONS:
        raise registry.unknown("perturbation", name, _PERTURBATIONS)
    try:
        number = float(value)
    except ValueError:
        raise UsageError(f"perturbation {part!r}: expected a number after the colon, as in '{name}:60'") from None
    function, high, whole = _PERTURBATIONS[name]
    if not (math.isfinite(number) and 0 < number <= high) or (whole and number != int(number)):
        most = f", at most {high:g}" if math.isfinite(high) else ""
        raise UsageError(f"perturbation {part!r}: expected a {'whole ' * whole}number above 0{most}")
    return function, number


def _reencode(pixels: Pixels, format: str, **options: int) -> Pixels:
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, format, **options)
    except (OSError, ValueError) as error:
        height, width = pixels.shape[:2]
        raise UnsupportedImageError(f"{width} x {height} pixels cannot be stored as {format}: {error}") from error
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"))
