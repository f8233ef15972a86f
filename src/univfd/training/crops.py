"""The crops that a network is trained and validated on. Pure functions of pixels and a random generator.

Wang et al. 2020, section 3.2 and their code: short side to 256; Gaussian blur, sigma uniform in 0..3, and JPEG, quality
uniform over 30..100, each with a probability of its own draw; a random crop of 224; mirrored in half of the cases. They
draw JPEG's encoder from OpenCV and Pillow; here it is Pillow's. Their validation has the centre crop, and the middle of
the ranges in place of the draw: sigma 1.5 and quality 65.

Not theirs: of a picture longer than 16 times its short side the middle is scaled (a line of 1 x 30,000 would grow to
256 x 7,680,000), and a picture with more pixels on a side than JPEG has room for is never compressed.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..perturbations import blur, jpeg
from ..types import Pixels
from ..views import PreprocessSpec, view

SHORT_SIDE = 256
_SIGMA = (0.0, 3.0)
_QUALITY = (30, 100)
_LONGEST = 16  # times the short side
_JPEG_SIDE = 65_500  # the most that libjpeg writes


def scaled(pixels: Pixels, short_side: int) -> Pixels:
    """The picture with its short side at `short_side` pixels (bilinear, antialiased); 0: as it is.

    Of a picture longer than 16 times its short side the middle.
    """
    if not short_side:
        return pixels
    pixels = _middle(pixels)
    h, w = pixels.shape[:2]
    if min(h, w) == short_side:
        return pixels
    size = (max(1, round(w * short_side / min(h, w))), max(1, round(h * short_side / min(h, w))))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def training_crop(pixels: Pixels, spec: PreprocessSpec, probability: float, rng: np.random.Generator) -> Pixels:
    """One random, perhaps blurred, compressed and mirrored crop.

    Args:
        pixels: `(H, W, 3)`, already scaled.
        spec: of the network; a picture whose short side is below the crop is scaled up to it.
        probability: of blur, and of JPEG.
        rng: the only source of chance.

    Returns:
        `(S, S, 3)`.
    """
    sigma = rng.uniform(*_SIGMA) if rng.random() < probability else 0.0
    quality = int(rng.integers(_QUALITY[0], _QUALITY[1] + 1)) if rng.random() < probability else 0
    y, x, mirrored = rng.random(), rng.random(), rng.random() < 0.5
    pixels = _degraded(pixels, sigma, quality)
    if min(pixels.shape[:2]) < spec.size:
        pixels = scaled(pixels, spec.size)
    top, left = (int(at * (side - spec.size + 1)) for at, side in zip((y, x), pixels.shape[:2], strict=True))
    crop = pixels[top : top + spec.size, left : left + spec.size]
    return np.ascontiguousarray(crop[:, ::-1] if mirrored else crop)


def validation_crop(pixels: Pixels, spec: PreprocessSpec, probability: float, rng: np.random.Generator) -> Pixels:
    """The centre crop; blurred and compressed by the middle of the ranges, each with its probability.

    Args:
        pixels: `(H, W, 3)`, already scaled.
        spec: of the network.
        probability: of blur, and of JPEG.
        rng: the only source of chance.

    Returns:
        `(S, S, 3)`.
    """
    sigma = sum(_SIGMA) / 2 if rng.random() < probability else 0.0
    quality = sum(_QUALITY) // 2 if rng.random() < probability else 0
    cut: Pixels = view("native").cut(_degraded(pixels, sigma, quality), spec).pixels[0]
    return cut


def _middle(pixels: Pixels) -> Pixels:
    h, w = pixels.shape[:2]
    height, width = (min(side, _LONGEST * min(h, w)) for side in (h, w))
    if (height, width) == (h, w):
        return pixels
    top, left = (h - height) // 2, (w - width) // 2
    return pixels[top : top + height, left : left + width].copy()  # a view would keep the whole picture in memory


def _degraded(pixels: Pixels, sigma: float, quality: int) -> Pixels:
    if sigma:
        pixels = blur(pixels, 0, sigma)
    return jpeg(pixels, 0, quality) if quality and max(pixels.shape[:2]) <= _JPEG_SIDE else pixels
