"""What generators leave in the frequencies: the spectrum of what a median filter takes away from a picture.

Upsampling inside a generator shows as a grid of bright points (the paper, section 3.2 and figure 3). Pure functions of
pixels and of spectra.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .types import Pixels

Floats = NDArray[np.float64]

SIDE = 128
"""Pixels of the centre that is looked at, unless asked otherwise; smaller pictures have no spectrum of this size."""
PERIODS = (2, 4, 8, 16)
"""Of grids, in pixels."""
_NEAR = 3  # bins around a peak that its surroundings are taken from


def residual_spectrum(pixels: Pixels, side: int = SIDE) -> Floats | None:
    """Log power spectrum of a picture's residual: its grey values less the median of each 3 x 3 neighbourhood.

    Args:
        pixels: RGB `(H, W, 3)` uint8.
        side: of the centre crop, in pixels.

    Returns:
        `(side, side)` in dB, frequency 0 in the middle; None for a picture with a smaller side.
    """
    from scipy.ndimage import median_filter

    if min(pixels.shape[:2]) < side:
        return None
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    grey = pixels[top : top + side, left : left + side].astype(np.float64).mean(axis=2)
    residual = grey - median_filter(grey, size=3, mode="reflect")
    power = np.abs(np.fft.fftshift(np.fft.fft2(residual))) ** 2 / side**2
    return np.asarray(10 * np.log10(power + 1e-3))


def grid_peak(mean: Floats, period: int) -> float:
    """How far a mean spectrum stands out where a grid of this period would show, in dB.

    The mean over the grid's frequencies (multiples of 1/period in both directions, without those of a grid of half the
    period, and without zero) of the spectrum minus the median of its surroundings.
    """
    size = len(mean)
    middle, step = size // 2, size // period
    steps = np.arange(-(period // 2), period // 2)
    excess = []
    for i in steps:
        for j in steps:
            if i % 2 == 0 and j % 2 == 0:
                continue  # zero, and what a grid of half the period has too
            rows, columns = ((middle + k * step + np.arange(-_NEAR, _NEAR + 1)) % size for k in (i, j))
            patch = mean[np.ix_(rows, columns)].copy()
            peak = patch[_NEAR, _NEAR]
            patch[_NEAR, :], patch[:, _NEAR] = np.nan, np.nan  # axes of the spectrum have energy of their own
            excess.append(peak - np.nanmedian(patch))
    return float(np.mean(excess))


def by_frequency(spectrum: Floats) -> Floats:
    """The mean of a spectrum in rings about frequency 0.

    Args:
        spectrum: `(S, S)`, from `residual_spectrum` or a mean of such.

    Returns:
        `(S / 2 + 1,)` from frequency 0 to half a cycle a pixel.
    """
    middle = len(spectrum) // 2
    rows, columns = np.indices(spectrum.shape) - middle
    ring = np.rint(np.hypot(rows, columns)).astype(int).ravel()
    total, count = (np.bincount(ring, weights) for weights in (spectrum.ravel(), None))
    return np.asarray((total / count)[: middle + 1])
