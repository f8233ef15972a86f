"""Fewer rows that say nearly the same: a coreset of each generator and each source, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..metrics import auroc, balanced_accuracy
from ..types import FloatArray
from .rows import Rows
from .trying import held_out


@dataclass(frozen=True, eq=False)
class Condensed:
    """What may stay.

    Attributes:
        keep: `(N,)` whether a row stays.
        judged: rows that the figures are of: all that could be held out, those that go too.
        auroc: of nearest neighbours with generators and sources held out, before and after.
        accuracy: balanced accuracy at score 0, before and after.
    """

    keep: NDArray[np.bool_]
    judged: int
    auroc: tuple[float, float]
    accuracy: tuple[float, float]


def condense(rows: Rows, share: float, *, k: int = 1) -> Condensed:
    """Keep a share of each generator's and source's rows, those that cover the others best, and measure the cost.

    Rows are taken one after the other, each time the one that is farthest from all taken (Gonzalez 1985, "Clustering to
    minimize the maximum intercluster distance"; at most twice the best possible covering radius), from the row that is
    nearest to the middle on.

    Args:
        rows: of a version.
        share: of each place's rows, above 0 and below 1; at least one of each stays.
        k: of the nearest neighbours that the cost is measured with.

    Raises:
        UsageError: a share that is none, or a k that is not odd.
        DataError: too few generators or sources to measure the cost.
    """
    if not 0 < share < 1:
        raise UsageError(f"the share to keep is {share}; expected a number between 0 and 1")
    keep = np.zeros(len(rows), bool)
    places = np.char.add(rows.bank.labels.astype(str), rows.bank.origin.astype(str))
    for place in np.unique(places):
        own = np.flatnonzero(places == place)
        keep[own[farthest_first(rows.bank.unit[own], max(1, round(share * len(own))))]] = True
    labels, params = rows.bank.labels, {"k": k}
    scores = [held_out(rows, "knn", params, only) for only in (None, keep)]
    judged = np.isfinite(scores[0]) & np.isfinite(scores[1])
    aurocs = [auroc(labels[judged], s[judged]) for s in scores]
    right = [balanced_accuracy(labels[judged], s[judged] > 0) for s in scores]
    return Condensed(keep, int(judged.sum()), (aurocs[0], aurocs[1]), (right[0], right[1]))


def farthest_first(unit: FloatArray, n: int) -> NDArray[np.intp]:
    """Indices of n of the rows `(N, D)` of length 1 that cover the others; ties by row."""
    first = int((unit @ unit.mean(axis=0)).argmax())
    taken = [first]
    distance = 1 - unit @ unit[first]
    while len(taken) < n:
        distance[taken] = -1
        taken.append(int(distance.argmax()))
        distance = np.minimum(distance, 1 - unit @ unit[taken[-1]])
    return np.sort(np.array(taken, np.intp))
