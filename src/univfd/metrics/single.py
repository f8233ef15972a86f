"""One figure of one set of scores. SciPy and scikit-learn compute; this module fixes the conventions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

Scores = NDArray[np.float64]
Labels = NDArray[Any]


def auroc(labels: Labels, scores: Scores) -> float:
    """Area under the ROC curve: the chance that a fake image scores above a real one (ties count half).

    Raises:
        DataError: one class is absent.
    """
    from scipy.stats import rankdata

    _both(labels)
    fakes, reals = int((labels == 1).sum()), int((labels == 0).sum())
    above = float(rankdata(scores)[labels == 1].sum()) - fakes * (fakes + 1) / 2  # Mann and Whitney's U
    return above / (fakes * reals)


def average_precision(labels: Labels, scores: Scores) -> float:
    """AP, the paper's main figure: mean precision over the recall steps, fake positive.

    Raises:
        DataError: one class is absent.
    """
    from sklearn.metrics import average_precision_score

    _both(labels)
    return float(average_precision_score(labels, scores))


def tpr_at_fpr(labels: Labels, scores: Scores, fpr: float) -> float:
    """Share of fakes found at the threshold that at most `fpr` of these very real images exceed.

    It describes a ranking; a threshold to be used must be fixed on other data (`univfd.calibration`).

    Raises:
        DataError: one class is absent.
    """
    _both(labels)
    real = np.sort(scores[labels == 0])[::-1]
    threshold = real[min(int(np.floor(fpr * len(real) + 1e-9)), len(real) - 1)]
    return float((scores[labels == 1] > threshold).mean())


def balanced_accuracy(labels: Labels, decided_fake: NDArray[np.bool_]) -> float:
    """Mean of the shares of fakes called fake and of reals not called fake.

    Raises:
        DataError: one class is absent.
    """
    _both(labels)
    return float((decided_fake[labels == 1].mean() + (~decided_fake[labels == 0]).mean()) / 2)


def expected_calibration_error(labels: Labels, probabilities: Scores, bins: int = 10) -> float:
    """ECE: how far the share of fakes is from the mean probability, over equal-width bins weighted by their images."""
    which = np.clip((probabilities * bins).astype(int), 0, bins - 1)
    total = 0.0
    for b in range(bins):
        inside = which == b
        if inside.any():
            total += inside.sum() * abs(labels[inside].mean() - probabilities[inside].mean())
    return total / len(labels)


def _both(labels: Labels) -> None:
    if not ((labels == 0).any() and (labels == 1).any() and ((labels == 0) | (labels == 1)).all()):
        raise DataError(f"labels {np.unique(labels).tolist()}; this figure needs both classes, 0 (real) and 1 (fake)")
