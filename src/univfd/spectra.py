"""What generators leave in the frequencies: the mean spectrum of what a median filter takes away from their pictures.

Upsampling inside a generator shows as a grid of bright points (the paper, section 3 and figure 3). A pure function of
pixels, and its mean over many.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .types import Pixels

Floats = NDArray[np.float64]

SIDE = 256
"""Pixels of the centre that is looked at; smaller pictures have no spectrum of this size."""
_LUMA = np.array([0.299, 0.587, 0.114])


def residual_power(pixels: Pixels) -> Floats | None:
    """Power spectrum of a picture's residual: its luma less the median of each 3 x 3 neighbourhood.

    Args:
        pixels: RGB `(H, W, 3)` uint8.

    Returns:
        `(SIDE, SIDE)`, frequency 0 in the middle; None for a picture with a side below `SIDE`.
    """
    from scipy.ndimage import median_filter

    height, width = pixels.shape[:2]
    if min(height, width) < SIDE:
        return None
    top, left = (height - SIDE) // 2, (width - SIDE) // 2
    luma = pixels[top : top + SIDE, left : left + SIDE] @ _LUMA
    residual = luma - median_filter(luma, 3)
    return np.asarray(np.fft.fftshift(np.abs(np.fft.fft2(residual)) ** 2) / SIDE**2)


def by_frequency(power: Floats) -> Floats:
    """Mean power in rings about frequency 0.

    Args:
        power: `(SIDE, SIDE)`, from `residual_power` or a mean of such.

    Returns:
        `(SIDE / 2 + 1,)` from frequency 0 to half a cycle a pixel.
    """
    middle = SIDE // 2
    rows, columns = np.indices(power.shape) - middle
    ring = np.rint(np.hypot(rows, columns)).astype(int).ravel()
    total, count = (np.bincount(ring, weights) for weights in (power.ravel(), None))
    return np.asarray((total / count)[: middle + 1])
