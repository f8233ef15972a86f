"""How near an engine's vectors are to the reference's: fixed inputs, what is compared, and the bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import EngineError
from .types import FloatArray, Pixels

FLOAT32_COSINE = 0.999
"""Least cosine to the reference's of the vector of another engine in float32."""
LOSSY_COSINE = 0.99
"""The same of an engine that is lossy by design."""
FLOAT32_SCORE = 1e-4
"""Largest difference of a score under another engine in float32: above rounding, far below float16's."""
LOSSY_SHARE = 0.1
"""Largest difference of a score under a lossy engine, as a share of the distance between the detector's thresholds."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Vectors `(4, D)` of the fixed crops.

    Attributes:
        engine: whose they are.
        cosine: least accepted cosine.
        lossy: whether it is lossy by design; else scores must agree to rounding.
        reference: float32 ONNX Runtime on the CPU.
        batch: the engine's, all crops at once.
        single: the engine's, one crop at a time.
    """

    engine: str
    cosine: float
    lossy: bool
    reference: FloatArray
    batch: FloatArray
    single: FloatArray

    @property
    def loss(self) -> float:
        """Largest 1 - cosine to the reference; infinite where a value is not finite."""
        if not (np.isfinite(self.batch).all() and np.isfinite(self.single).all()):
            return float("inf")
        return max(cosine_loss(self.batch, self.reference), cosine_loss(self.single, self.reference))

    def require(self) -> None:
        """Refuse an engine whose vectors are wrong.

        Raises:
            EngineError: says how far off they are.
        """
        if not self.loss <= 1 - self.cosine:
            raise EngineError(
                f"engine {self.engine!r} computes wrong vectors on this machine: 1 - cosine to float32 is "
                f"{self.loss:.1e}, at most {1 - self.cosine:.0e} is accepted. Take another engine (cpu)"
            )

    def score_difference(self, score: Callable[[FloatArray], Any]) -> float:
        """Largest difference of a score from the reference's.

        Args:
            score: `(N, D)` -> `(N,)`.
        """
        expected = np.asarray(score(self.reference))
        return max(float(np.abs(np.asarray(score(v)) - expected).max()) for v in (self.batch, self.single))

    def require_scores(self, score: Callable[[FloatArray], Any], between: float = 0.0) -> None:
        """Refuse an engine that moves the scores of a detector: one in float32 beyond rounding, a lossy one by more
        than a little.

        Args:
            score: `(N, D)` -> `(N,)`.
            between: distance of the detector's thresholds; 0 where it has one, which is no measure for a lossy engine.

        Raises:
            EngineError: says by how much.
        """
        if not self.lossy:
            allowed = FLOAT32_SCORE
        elif between > 0:
            allowed = LOSSY_SHARE * between
        else:
            return
        if not (difference := self.score_difference(score)) <= allowed:
            raise EngineError(
                f"engine {self.engine!r} moves scores by {difference:.1e} on this machine; at most {allowed:.0e} "
                "is accepted. Take another engine (cpu)"
            )


def fixed_crops(size: int) -> Pixels:
    """Four picture-like crops `(4, S, S, 3)` uint8, the same on every machine: ramps, waves, noise, a checkerboard."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float64) / size
    rng = np.random.default_rng(0)
    ramp = np.stack([x, y, 1 - x], axis=-1)
    wave = np.stack([np.sin(20 * x), np.cos(13 * y), np.sin(9 * (x + y))], axis=-1) / 2 + 0.5
    noise = rng.random((size, size, 3))
    board = np.repeat((((x * 16).astype(int) + (y * 16).astype(int)) % 2)[..., None], 3, axis=-1)
    stacked = np.stack([ramp, wave, 0.5 * noise + 0.5 * ramp, 0.8 * board + 0.2 * wave])
    return np.asarray(np.rint(stacked * 255), dtype=np.uint8)


def cosine_loss(a: FloatArray, b: FloatArray) -> float:
    """Largest 1 - cosine of corresponding rows."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    cosine = (a64 * b64).sum(axis=1) / (np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1))
    return float((1 - cosine).max())
