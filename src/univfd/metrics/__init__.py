"""Figures of merit with intervals.

Scores: higher = fake. Labels: 0 real, 1 fake. Every rate is of its own class.
"""

from .intervals import Absent, Design, Estimate, bootstrap, design, interval, proportion, share_difference, weightings
from .resampled import FIGURES, Figure, confident
from .single import (
    Labels,
    Scores,
    auroc,
    average_precision,
    balanced_accuracy,
    expected_calibration_error,
    tpr_at_fpr,
)

__all__ = [
    "FIGURES",
    "Absent",
    "Design",
    "Estimate",
    "Figure",
    "Labels",
    "Scores",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "bootstrap",
    "confident",
    "design",
    "expected_calibration_error",
    "interval",
    "proportion",
    "share_difference",
    "tpr_at_fpr",
    "weightings",
]
