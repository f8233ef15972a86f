"""Known degradations that void a detector's promise: pure functions of the decoded picture.

The promise of a threshold is about images like those that it was set on. A picture of a few dozen pixels, one that is
mostly a single tone, or one through a very coarse JPEG holds too little of what the encoder's features were read from;
the verdict is then `unsure`, and says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .types import Pixels

LEAST_SIDE = 64
"""Pixels; below it a crop for the encoder is mostly invented by interpolation (224 / 64 = 3.5 times)."""
LEAST_QUALITY = 30
"""Of a JPEG, on libjpeg's scale. The coarsest copies that the shipped detectors were trained on have 35."""
FLAT_SHARE = 0.95
"""Share of tiles without structure from which a picture counts as flat: a blank page, a gradient, a logo on white."""

_TILE = 16
_MOST_TILES = 64  # a side; larger pictures are sampled
_FLAT_SPREAD = 1.5  # standard deviation, of 255; sky and skin of photographs have more, from noise and texture
# Sum of the example luminance table of the JPEG standard (ITU-T T.81, table K.1), which libjpeg calls quality 50.
_STANDARD_LUMINANCE = 3688


def jpeg_quality(quantisation: Mapping[int, Sequence[int]]) -> int | None:
    """The quality 1..100 at which libjpeg writes tables as coarse as these.

    Steps end at 255, so the coarsest tables (below about 20) look somewhat finer than they were asked for.

    Args:
        quantisation: table number -> 64 steps, as Pillow gives them; table 0 is luminance.

    Returns:
        None without a luminance table.
    """
    if 0 not in quantisation:
        return None
    percent = 100 * sum(quantisation[0]) / _STANDARD_LUMINANCE
    quality = 100 - percent / 2 if percent <= 100 else 5000 / percent
    return int(np.clip(round(quality), 1, 100))


def conditions(pixels: Pixels, quality: int | None = None) -> tuple[str, ...]:
    """Why a picture is too poor for a promise, in words; empty for an ordinary one.

    Args:
        pixels: `(H, W, 3)`.
        quality: of the JPEG that it was read from; None: no JPEG.
    """
    height, width = pixels.shape[:2]
    found = []
    if min(height, width) < LEAST_SIDE:
        found.append(f"tiny: {width} x {height} pixels, under {LEAST_SIDE} on the short side")
    if quality is not None and quality < LEAST_QUALITY:
        found.append(f"heavily compressed: JPEG quality {quality}, under {LEAST_QUALITY}")
    share = flat_share(pixels)
    if share >= FLAT_SHARE:
        found.append(f"mostly flat: no structure in {share:.0%} of the picture")
    return tuple(found)


def flat_share(pixels: Pixels) -> float:
    """Share 0..1 of 16 x 16 tiles whose grey values hardly differ; of a picture smaller than a tile: of the picture."""
    height, width = pixels.shape[:2]
    tile = min(_TILE, height, width)
    rows, columns = (_starts(side, tile) for side in (height, width))
    flat = 0
    for top in rows:
        band = pixels[top : top + tile].astype(np.float32).mean(axis=2)
        tiles = np.stack([band[:, left : left + tile] for left in columns])
        flat += int((tiles.std(axis=(1, 2)) < _FLAT_SPREAD).sum())
    return flat / (len(rows) * len(columns))


def _starts(side: int, tile: int) -> list[int]:
    """Tops (lefts) of the tiles: all of them, or evenly spaced ones."""
    count = min(side // tile, _MOST_TILES)
    return [int(i) for i in np.linspace(0, side - tile, count)]
