"""Image statistics without weights: every machine has it at once. For tests and documentation; not a detector."""

from __future__ import annotations

import numpy as np

from ..catalogue import Entry
from ..downloads import Progress
from ..types import FloatArray, Pixels


class ToyBackbone:
    """Per channel: mean, spread and shape of the pixels and of their differences to neighbours at 2, 4 and 8 pixels."""

    def __init__(self, entry: Entry, taps: tuple[str, ...], threads: int, progress: Progress | None) -> None:
        self.entry = entry
        self.taps = taps

    def embed(self, crops: Pixels) -> FloatArray:
        """`(N, S, S, 3)` uint8 -> `(N, 48)` float32."""
        x = crops[:, ::2, ::2].astype(np.float32) / 255
        fields = [x]
        for step in (1, 2, 4):
            fields += [x[:, step:] - x[:, :-step], x[:, :, step:] - x[:, :, :-step]]
        features = [x.mean(axis=(1, 2)), x.max(axis=(1, 2)) - x.min(axis=(1, 2))]
        for field in fields:
            centred = field - field.mean(axis=(1, 2), keepdims=True)
            features += [np.sqrt(np.square(centred).mean(axis=(1, 2))), np.abs(centred).mean(axis=(1, 2))]
        stacked = np.concatenate(features, axis=1).astype(np.float32)
        return np.concatenate([stacked] * len(self.taps), axis=1)


PLUGIN = ToyBackbone
