"""Which generator made a fake image: the one of its nearest fake row of the bank, or none that the bank knows.

The nearest row always has a generator, also when the image comes from one that the bank has no images of. So a name is
given only within a distance at which images of absent generators seldom are: an open-set decision. It is evidence
beside the verdict and never changes it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .bank import FeatureBank
from .calibration import needed_for, threshold_for
from .types import FloatArray, Label

MAX_NAMED = 0.1
"""Share of images of generators that are not in the bank that get a name, at most."""
_PAIRS = 32_000_000  # compared at a time


def naming_distance(bank: FeatureBank, queries: FloatArray | None = None, *, confidence: float = 0.9) -> float | None:
    """The distance within which a generator may be named, by leaving each generator out of the bank in turn.

    Args:
        bank: known images.
        queries: `(N, D)` unit vectors of the bank's images in its order, perhaps re-encoded; None: its own.
        confidence: with which at most `MAX_NAMED` of the images of an absent generator are nearer; images of the bank's
            generators stand for those of generators to come.

    Returns:
        A cosine distance; None where the bank has too few fakes, or fakes of one generator only.
    """
    distances = absent_generator_distances(bank, queries)
    distances = distances[np.isfinite(distances)]
    if len(distances) < needed_for(MAX_NAMED, confidence):
        return None
    return -threshold_for(-distances, MAX_NAMED, confidence)


def absent_generator_distances(bank: FeatureBank, queries: FloatArray | None = None) -> NDArray[np.float64]:
    """Cosine distance of each fake image to the nearest fake row of another generator.

    Args:
        bank: known images.
        queries: see `naming_distance`.

    Returns:
        `(n,)` in the order of `bank.rows(Label.FAKE)`; infinity where there is no other generator.
    """
    rows = bank.rows(Label.FAKE)
    rows_unit, generator = bank.unit_of(Label.FAKE), bank.generator[rows].astype(str)
    asked = rows_unit if queries is None else queries[rows]
    found = np.full(len(rows), np.inf)
    for name in np.unique(generator):
        own = np.flatnonzero(generator == name)
        others = rows_unit[generator != name]
        step = max(1, _PAIRS // max(1, len(others)))
        for some in (own[i : i + step] for i in range(0, len(own) if len(others) else 0, step)):
            found[some] = 1 - (asked[some] @ others.T).max(axis=1)
    return found
