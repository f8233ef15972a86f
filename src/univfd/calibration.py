"""From a score to a verdict: probability, thresholds with a promised error rate, and "unsure" between them.

Thresholds are fixed by the Neyman-Pearson order statistic: with n real scores that the detector has not seen, the
k-th smallest is a threshold whose false-alarm rate exceeds alpha with probability

    P(Bin(n, 1 - alpha) >= k)

whatever the distribution of the scores (Tong, Feng, Li: "Neyman-Pearson classification algorithms and NP receiver
operating characteristics", 2018, Proposition 1). The smallest k that keeps this at 1 - confidence or less is taken.
The plain quantile breaks its promise in about half of all cases. The promise holds for real images of the kind that
the scores were taken from; it says nothing about others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, FormatError
from .types import VerdictLabel

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns a score s into a verdict.

    Attributes:
        slope: a in the probability 1 / (1 + exp(-(a s + b))) (Platt); None: not calibrated.
        intercept: b.
        fake_above: s above this is `fake`.
        real_below: s below this is `real`; between the two, `unsure`. Where both are equal nothing is unsure.
        max_fpr: promised bound on the share of real images called fake.
        max_miss: promised bound on the share of fake images called real.
        confidence: with which each promise holds.
        n_real: real scores behind it.
        n_fake: fake scores behind it.
        data: what they were scores of.
    """

    fake_above: float
    real_below: float
    slope: float | None = None
    intercept: float | None = None
    max_fpr: float | None = None
    max_miss: float | None = None
    confidence: float | None = None
    n_real: int = 0
    n_fake: int = 0
    data: str = ""

    def __post_init__(self) -> None:
        """Check the order of the thresholds."""
        if not (math.isfinite(self.fake_above) and self.real_below <= self.fake_above):
            raise FormatError(f"thresholds real_below={self.real_below}, fake_above={self.fake_above}: out of order")

    def verdict(self, score: float) -> VerdictLabel:
        """`fake`, `real` or `unsure`."""
        if score > self.fake_above:
            return "fake"
        return "real" if score < self.real_below or self.real_below == self.fake_above else "unsure"

    def probability(self, score: float) -> float | None:
        """Of being fake, where half of the images are; None where not calibrated."""
        if self.slope is None or self.intercept is None:
            return None
        return 0.5 * (1 + math.tanh((self.slope * score + self.intercept) / 2))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Inverse of `to_dict`.

        Raises:
            FormatError: unknown or missing fields.
        """
        try:
            return cls(**data)
        except TypeError as error:
            raise FormatError(f"calibration {dict(data)!r} cannot be read: {error}") from error


UNCALIBRATED = Calibration(fake_above=0.0, real_below=0.0)
"""The classifier's own decision: fake above 0, never unsure, no probability."""


def calibrate(
    scores: Scores,
    labels: NDArray[Any],
    *,
    max_fpr: float = 0.05,
    max_miss: float = 0.05,
    confidence: float = 0.9,
    data: str = "",
) -> Calibration:
    """Fix thresholds and probability on scores of images that the classifier has not seen.

    Args:
        scores: `(N,)`, held out (for new generators: held out by generator).
        labels: `(N,)` 0 real, 1 fake.
        max_fpr: promised bound on real images called fake.
        max_miss: promised bound on fake images called real.
        confidence: of each promise.
        data: what the scores are of, for the record.

    Raises:
        DataError: too few images for the promise; says how many are needed.
    """
    for rate in (max_fpr, max_miss, confidence):
        if not 0 < rate < 1:
            raise DataError(f"a promised rate or confidence of {rate:g}; expected a number between 0 and 1")
    real, fake = scores[labels == 0], scores[labels == 1]
    fake_above = threshold_for(real, max_fpr, confidence)
    real_below = -threshold_for(-fake, max_miss, confidence)
    slope, intercept = _platt(scores, labels)
    return Calibration(
        fake_above=fake_above,
        real_below=min(real_below, fake_above),
        slope=slope,
        intercept=intercept,
        max_fpr=max_fpr,
        max_miss=max_miss,
        confidence=confidence,
        n_real=len(real),
        n_fake=len(fake),
        data=data,
    )


def threshold_for(scores: Scores, rate: float, confidence: float) -> float:
    """The threshold that at most `rate` of such scores exceed, with the given confidence.

    Args:
        scores: `(n,)` of one class.
        rate: alpha, 0 < alpha < 1.
        confidence: 1 - delta.

    Returns:
        The k-th smallest score, k the smallest with P(Bin(n, 1 - alpha) >= k) <= delta.

    Raises:
        DataError: n is too small for any k to do.
    """
    from scipy.stats import binom

    n = len(scores)
    ranks = np.arange(1, n + 1)
    allowed = np.flatnonzero(binom.sf(ranks - 1, n, 1 - rate) <= 1 - confidence)
    if not len(allowed):
        need = needed_for(rate, confidence)
        raise DataError(
            f"{n} images are too few to promise a rate of {rate:g} at {confidence:.0%} confidence: at least {need} are "
            "needed. Give more images, or promise less"
        )
    return float(np.sort(scores)[allowed[0]])


def needed_for(rate: float, confidence: float) -> int:
    """The least number of images with which `threshold_for` can keep its promise."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - rate))


def _platt(scores: Scores, labels: NDArray[Any]) -> tuple[float, float]:
    """Slope and intercept of the log-odds, for equal class sizes."""
    from sklearn.linear_model import LogisticRegression

    spread = float(scores.std()) or 1.0  # of order 1, so that the weak penalty is equally weak for every classifier
    model = LogisticRegression(C=1e4, class_weight="balanced").fit((scores / spread)[:, None], labels)
    return float(model.coef_[0, 0]) / spread, float(model.intercept_[0])
