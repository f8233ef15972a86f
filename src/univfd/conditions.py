"""What makes a verdict's promise void: states of a picture that its pixels (or its JPEG tables) give away.

Pure functions. Every statistic is taken on a bounded sample (an even grid of tiles, a centre region), so a picture
of any size costs about the same (9 to 10 ms for 12 megapixels on one CPU).

The thresholds were set by eye on a collection of 1100 real and 1275 generated images and on degradations made from
them. On that same collection some condition but `small` holds for 3.5 % of the real images and 2.0 % of the generated
ones (all of these `upscaled`); `small` for 87 of 821 real images and no generated one. It is not even: 7 of 100 real
drawings are `flat`, and 17 of 30 portraits of one source `upscaled`. Dense line drawings on white are taken for text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .remarks import Remark
from .types import FloatArray, Pixels

CODES = ("tiny", "small", "flat", "text", "recompressed", "upscaled")
"""Of the conditions; under each of them nothing is promised."""

SHORT_SIDE = 64
"""Below it, most of what the encoder sees is interpolation; also the least that the other statistics need."""
SMALL_SIDE = 256
"""Generators' pictures begin here: what a detector finds of smaller copies was never measured, and its thresholds rest
on real images that are nearly all larger."""
FLAT_RESIDUAL = 1.0
"""RMS grey levels about a tile's best plane; rounding alone gives 0.3, sensor noise and texture well above 1."""
FLAT_SHARE = 0.9
"""Share of tiles; the 98th percentile of real images is 0.76, of generated ones 0.43."""
TEXT_CONSTANT, TEXT_RANGE = 0.1, 8
"""Least share of tiles that span at most 8 grey levels (JPEG's ringing included): drawn pages had 0.12 and more."""
TEXT_TOP1, TEXT_TOP8 = 0.4, 0.85
"""Least share of pixels in the most common, and the eight most common, of 4096 colours: drawn pages 0.42, 0.86."""
TEXT_EDGE, TEXT_EDGES = 60, 0.08
"""Share of steps of 60 levels in the tiles that are not constant: drawn pages 0.085, cartoons mostly less."""
TEXT_SHARP, TEXT_SHARP_TILES = 100, 0.7
"""Share of the tiles that are not constant with a step of 100 levels: drawn pages 0.72 and more."""
QUALITY = 30
"""JPEG quality by the tables of the Independent JPEG Group below which a file counts as heavily compressed."""
BLOCK_COEFFICIENT, BLOCK_RATIO, BLOCK_LEAST = 4.0, 0.18, 0.02
"""Blocks on the 8 x 8 grid have less than 0.18 of the coefficients above 4 that blocks off the grid have: true of
most pictures at quality 10 and 20, of about 1 % at 50. Below a share of 0.02 off the grid there is nothing to see."""
SPECTRUM_LOW, SPECTRUM_HIGH = (0.06, 0.17), 0.36
"""Bands, cycles a pixel. Enlarging by 2 leaves nothing above 0.25, but for what the interpolation lets through."""
SPECTRUM_RATIO, SPECTRUM_CEILING, SPECTRUM_CONTENT = 4e-4, 9.0, 20.0
"""Power above over power below, at the sharpest tiles (95th percentile); most power that may be left above; least
power below, for there to be a picture that could have detail. Bilinear enlargement, which leaves aliases, is missed."""

_TILE, _TILES, _BLOCKS, _PATCH, _PATCHES, _CENTRE = 16, 32, 8, 64, 8, 512
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# The luminance table of the JPEG standard (ITU-T T.81, annex K.1), row by row.
STANDARD_LUMINANCE = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
])  # fmt: skip

Tables = Sequence[Sequence[int]]
"""Quantisation tables of a JPEG, 64 values each, row by row; the first is luminance. Empty: not a JPEG."""


def conditions(pixels: Pixels, quantisation: Tables = ()) -> tuple[Remark, ...]:
    """The conditions of a picture under which no error rate is promised.

    Args:
        pixels: RGB `(H, W, 3)` uint8, at least 1 x 1.
        quantisation: the JPEG tables of the file that holds just these pixels; empty for any other.

    Returns:
        Those that hold, with a code of `CODES`.
    """
    height, width = pixels.shape[:2]
    found = []
    quality = jpeg_quality(quantisation[0]) if quantisation else None
    if quality is not None and quality < QUALITY:
        found.append(
            Remark(
                "recompressed",
                f"heavily compressed: JPEG quality about {quality:.0f}",
                {"quality": round(quality), "least": QUALITY},
            )
        )
    size = {"width": width, "height": height}
    if min(height, width) < SHORT_SIDE:
        return (Remark("tiny", f"tiny: {width} x {height} pixels", {**size, "least": SHORT_SIDE}), *found)
    if min(height, width) < SMALL_SIDE:
        text = f"small: {width} x {height} pixels, below {SMALL_SIDE} on the short side"
        found.append(Remark("small", text, {**size, "least": SMALL_SIDE}))
    tiles = _tiles(pixels, _TILE, _TILES)
    grey = tiles @ _LUMA
    if _is_flat(grey):
        found.append(Remark("flat", "almost nothing but flat areas"))
    if _is_text(tiles, grey):
        found.append(Remark("text", "looks like a page of text or a screenshot"))
    if all(f.code != "recompressed" for f in found) and _is_blocky(_centre(pixels)):
        found.append(Remark("recompressed", "heavily compressed: visible 8 x 8 blocks"))
    if _is_upscaled(pixels):
        found.append(Remark("upscaled", "enlarged: no detail finer than half its resolution"))
    return tuple(found)


def jpeg_quality(table: Sequence[int]) -> float:
    """The quality 1..100 whose luminance table is nearest to this one, by the Independent JPEG Group's scaling.

    Args:
        table: 64 values, row by row.

    Returns:
        An estimate; tables of other makers are not multiples of the standard's.
    """
    values = np.asarray(table, np.float64)
    free = values < 255  # 8-bit tables stop there
    use = free if free.any() else np.ones_like(free)
    scale = 100 * float(np.median(values[use] / STANDARD_LUMINANCE[use]))
    return max(1.0, 5000 / scale if scale > 100 else 100 - scale / 2)


def _tiles(pixels: Pixels, size: int, most: int) -> Pixels:
    """At most `most` x `most` tiles `(n, size, size, 3)`, evenly spread, none overlapping."""
    ys, xs = (_places(length, size, most) for length in pixels.shape[:2])
    return np.stack([pixels[y : y + size, x : x + size] for y in ys for x in xs])


def _places(length: int, size: int, most: int) -> NDArray[np.intp]:
    return np.rint(np.linspace(0, length - size, max(1, min(most, length // size)))).astype(np.intp)


def _centre(pixels: Pixels) -> FloatArray:
    """The grey centre, at most 512 x 512."""
    top, left = (max(0, (length - _CENTRE) // 2) for length in pixels.shape[:2])
    return np.asarray(pixels[top : top + _CENTRE, left : left + _CENTRE] @ _LUMA)


def _is_flat(grey: FloatArray) -> bool:
    """Most tiles are planes: constant, or a smooth ramp."""
    steps = np.arange(_TILE, dtype=np.float32) - (_TILE - 1) / 2
    plane = np.stack(np.broadcast_arrays(np.float32(1), steps[:, None], steps[None, :])).reshape(3, -1)
    plane = plane / np.linalg.norm(plane, axis=1, keepdims=True)
    values = grey.reshape(len(grey), -1)
    rest = values - (values @ plane.T) @ plane
    return float(((rest**2).mean(axis=1) < FLAT_RESIDUAL**2).mean()) > FLAT_SHARE


def _is_text(tiles: Pixels, grey: FloatArray) -> bool:
    """Few colours, constant paper, and wherever there is anything, many hard edges."""
    constant = np.ptp(grey.reshape(len(grey), -1), axis=1) <= TEXT_RANGE
    if constant.mean() < TEXT_CONSTANT or constant.all():
        return False
    coarse = (tiles >> 4).astype(np.intp)
    colours = np.bincount((coarse[..., 0] << 8 | coarse[..., 1] << 4 | coarse[..., 2]).ravel())
    shares = np.sort(colours)[::-1] / colours.sum()
    if shares[0] < TEXT_TOP1 or shares[:8].sum() < TEXT_TOP8:
        return False
    rest = grey[~constant]
    across, down = np.abs(np.diff(rest, axis=2)), np.abs(np.diff(rest, axis=1))
    sharpest = np.maximum(across.max(axis=(1, 2)), down.max(axis=(1, 2)))
    edges = ((across >= TEXT_EDGE).mean() + (down >= TEXT_EDGE).mean()) / 2
    return bool(edges >= TEXT_EDGES and (sharpest >= TEXT_SHARP).mean() >= TEXT_SHARP_TILES)


def _is_blocky(grey: FloatArray) -> bool:
    """Blocks on the grid, wherever it lies, are far simpler than blocks half a period off it."""
    top, left = _phase(grey.T), _phase(grey)
    off = _detail(grey, (top + 4) % _BLOCKS, (left + 4) % _BLOCKS)
    return off >= BLOCK_LEAST and _detail(grey, top, left) < BLOCK_RATIO * (off + 0.01)


def _phase(grey: FloatArray) -> int:
    """Column (0..7) in which blocks begin: where steps stand out most from those beside them."""
    step = np.diff(grey, axis=1)
    jump = np.minimum(np.abs(step[:, 1:-1] - (step[:, :-2] + step[:, 2:]) / 2), 16).mean(axis=0)
    return (int(np.argmax([jump[p::_BLOCKS].mean() for p in range(_BLOCKS)])) + 2) % _BLOCKS


def _detail(grey: FloatArray, top: int, left: int) -> float:
    """Share of the finer coefficients of 8 x 8 blocks that are not nearly zero."""
    k = np.arange(_BLOCKS)
    basis = np.cos((2 * k + 1) * k[:, None] * np.pi / 16) / 2
    basis[0] /= np.sqrt(2)
    part = grey[top:, left:]
    rows, columns = part.shape[0] // _BLOCKS, part.shape[1] // _BLOCKS
    blocks = part[: rows * _BLOCKS, : columns * _BLOCKS].reshape(rows, _BLOCKS, columns, _BLOCKS)
    both = np.kron(basis, basis)[(k[:, None] + k >= 3).ravel()].astype(np.float32)
    found = np.abs(blocks.swapaxes(1, 2).reshape(-1, _BLOCKS**2) @ both.T) > BLOCK_COEFFICIENT
    return float(found.mean())


def _is_upscaled(pixels: Pixels) -> bool:
    """Even the tiles with most detail have none of the finest."""
    patches = _tiles(pixels, _PATCH, _PATCHES) @ _LUMA
    patches -= patches.mean(axis=(1, 2), keepdims=True)
    window = np.hanning(_PATCH + 2)[1:-1]
    window /= np.sqrt((window**2).mean())
    spectrum = np.fft.rfft2(patches * np.outer(window, window).astype(np.float32))
    power: NDArray[Any] = np.abs(spectrum) ** 2 / _PATCH**2
    radius = np.maximum(np.abs(np.fft.fftfreq(_PATCH))[:, None], np.fft.rfftfreq(_PATCH))
    low = (radius >= SPECTRUM_LOW[0]) & (radius < SPECTRUM_LOW[1])
    below, above = (float(np.percentile(power[:, band].mean(axis=1), 95)) for band in (low, radius >= SPECTRUM_HIGH))
    return below > SPECTRUM_CONTENT and above < min(SPECTRUM_CEILING, SPECTRUM_RATIO * (below + 1))
