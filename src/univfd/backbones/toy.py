"""Image statistics without weights: every machine has it at once. For tests and documentation; not a detector."""

from __future__ import annotations

import numpy as np

from ..catalogue import Entry
from ..downloads import Progress
from ..types import FloatArray, Pixels

_CELL = 16


class ToyBackbone:
    """Per channel: mean, spread and shape of the pixels and of their differences to neighbours at 2, 4 and 8 pixels."""

    def __init__(self, entry: Entry, taps: tuple[str, ...], threads: int, progress: Progress | None) -> None:
        self.entry = entry
        self.taps = taps

    def embed(self, crops: Pixels) -> FloatArray:
        """`(N, S, S, 3)` uint8 -> `(N, 48)` float32 a tap: of the whole crop (`proj`), or the mean over its cells."""
        each = [
            _statistics(crops) if tap == "proj" else self.patch_tokens(crops, 1).mean(axis=(1, 2)) for tap in self.taps
        ]
        return np.concatenate(each, axis=1)

    def patch_tokens(self, crops: Pixels, block: int) -> FloatArray:
        """`(N, 224, 224, 3)` uint8 -> `(N, 14, 14, 48)` float32: the same statistics of each cell of 16 pixels."""
        self.entry.tap_dim(f"mean.{block}")
        n, side = len(crops), crops.shape[1] // _CELL
        cells = crops.reshape(n, side, _CELL, side, _CELL, 3).swapaxes(2, 3).reshape(-1, _CELL, _CELL, 3)
        return _statistics(cells).reshape(n, side, side, -1)


def _statistics(crops: Pixels) -> FloatArray:
    x = crops[:, ::2, ::2].astype(np.float32) / 255
    fields = [x]
    for step in (1, 2, 4):
        fields += [x[:, step:] - x[:, :-step], x[:, :, step:] - x[:, :, :-step]]
    features = [x.mean(axis=(1, 2)), x.max(axis=(1, 2)) - x.min(axis=(1, 2))]
    for field in fields:
        centred = field - field.mean(axis=(1, 2), keepdims=True)
        features += [np.sqrt(np.square(centred).mean(axis=(1, 2))), np.abs(centred).mean(axis=(1, 2))]
    return np.concatenate(features, axis=1).astype(np.float32)


PLUGIN = ToyBackbone
