"""The numbers behind the report's curves, from the score rows of one detector under one perturbation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..benchmark.drawing import decisions
from ..benchmark.rows import Cell, Images
from ..metrics import Estimate, confident, proportion

Floats = NDArray[np.float64]

POINTS = 400
"""Of a curve, at most; more cannot be seen."""
BINS = 10
ALARMS = (0.01, 0.05, 0.1, 0.2)
"""Shares of reals above the threshold at which a ROC curve is read."""
RECALLS = (0.5, 0.75, 0.9, 0.99)
"""At which precision is read."""
COVERAGES = (0.5, 0.75, 0.9, 1.0)
"""At which risk is read."""
_STEPS = 200


@dataclass(frozen=True, eq=False)
class Curve:
    """A line of at most `POINTS` points, `x` ascending, and how many images it was made of.

    Attributes:
        x: `(P,)`.
        y: `(P,)`.
        n_fake: judged fakes.
        n_real: judged reals.
        read: y at some x, from all points.
    """

    x: Floats
    y: Floats
    n_fake: int
    n_real: int
    read: Mapping[float, float]


@dataclass(frozen=True)
class Bin:
    """The images whose probability lies in one tenth.

    Attributes:
        tenth: which one, from 0.
        probability: their mean probability.
        fakes: the share of fakes among them.
    """

    tenth: int
    probability: float
    fakes: Estimate


def roc(cell: Cell, images: Images) -> Curve | None:
    """Fakes found (y) against false alarms (x) over all thresholds; None where a class is absent."""
    from sklearn.metrics import roc_curve

    fake, score = _judged(cell, images)
    if not _both(fake):
        return None
    alarms, found, _ = roc_curve(fake, score)
    return _curve(alarms, found, fake, {at: float(found[alarms <= at].max()) for at in ALARMS})


def precision_recall(cell: Cell, images: Images) -> Curve | None:
    """Precision (y) against recall (x) over all thresholds, fake positive; None where a class is absent."""
    from sklearn.metrics import precision_recall_curve

    fake, score = _judged(cell, images)
    if not _both(fake):
        return None
    precision, recall, _ = precision_recall_curve(fake, score, drop_intermediate=True)
    return _curve(recall[::-1], precision[::-1], fake, {at: float(precision[recall >= at].max()) for at in RECALLS})


def risk_coverage(cell: Cell, images: Images) -> Curve | None:
    """Share of wrong answers (y) if only the most confident share (x) of the images gets one; None without images."""
    fake, score = _judged(cell, images)
    if not len(fake):
        return None
    chance = None if cell.probability is None else cell.probability[cell.judged]
    sure = np.abs(score if chance is None else chance - 0.5)
    answers = confident(sure, decisions(cell)["half"][cell.judged] != fake)
    every = np.linspace(0, 1, min(_STEPS, len(fake)) + 1)[1:]
    risks = answers.risks(np.ones((1, len(fake))), [*every.tolist(), *COVERAGES])[0]
    return _curve(every, risks[: len(every)], fake, dict(zip(COVERAGES, risks[len(every) :].tolist(), strict=True)))


def reliability(cell: Cell, images: Images) -> list[Bin]:
    """The bins of the probability that hold images, lowest first; none of an uncalibrated detector."""
    if cell.probability is None:
        return []
    fake, chance = images.fake[cell.judged], cell.probability[cell.judged]
    which = np.clip((chance * BINS).astype(int), 0, BINS - 1)
    inside = [(tenth, which == tenth) for tenth in range(BINS)]
    return [
        Bin(tenth, float(chance[own].mean()), proportion(int(fake[own].sum()), int(own.sum())))
        for tenth, own in inside
        if own.any()
    ]


def thinned(x: Floats, y: Floats, points: int = POINTS) -> tuple[Floats, Floats]:
    """At most so many points of a line, evenly along its length, the first and the last among them.

    Args:
        x: `(N,)`, about in 0..1.
        y: `(N,)`, likewise.
        points: at least 2.
    """
    if len(x) <= points:
        return x, y
    steps = np.hypot(np.diff(x), np.diff(y))
    along = np.concatenate([[0.0], np.cumsum(steps)])
    kept = np.searchsorted(along, np.linspace(0, along[-1], points))
    kept = np.unique(np.concatenate([[0], kept[1:-1], [len(x) - 1]]))
    return x[kept], y[kept]


def _judged(cell: Cell, images: Images) -> tuple[NDArray[np.bool_], Floats]:
    return images.fake[cell.judged], cell.score[cell.judged]


def _both(fake: NDArray[np.bool_]) -> bool:
    return bool(fake.any() and not fake.all())


def _curve(x: Floats, y: Floats, fake: NDArray[np.bool_], read: Mapping[float, float]) -> Curve:
    return Curve(*thinned(x, y), n_fake=int(fake.sum()), n_real=int((~fake).sum()), read=read)
