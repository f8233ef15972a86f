"""The methods that the paper compares, as scores of every image: higher = fake, 0 = the method's own decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import registry
from ..detector import Detector
from ..errors import DataError, FormatError
from ..storage import parsed, within
from ..training import RECORD
from ..types import FloatArray
from ..wording import counted
from .data import Data, Rows
from .features import Encoder
from .split import TEST, VALIDATION, Split

Floats = NDArray[np.float64]
Makers = Mapping[str, Callable[[], Any]]
"""Name of a method -> a fresh classifier."""

NETWORK, LINEAR = "network", "linear"
NETWORK_ABSENT = (
    "No trained network was given, so its row is missing. univfd study split writes the images with their split "
    "as a manifest; train on that (univfd train leaves the test part out) and name the detector's folder with "
    "--network."
)


def neighbours(k: int) -> str:
    """Name of nearest neighbours with a voting pool of k."""
    return f"knn-{k}"


def titled(method: str) -> str:
    """A method in words."""
    known = {NETWORK: "trained network", LINEAR: "linear probe"}
    kind, _, k = method.partition("-")
    return known.get(method) or (f"nearest neighbours, k={k}" if kind == "knn" and k.isdecimal() else method)


def probes(ks: Sequence[int]) -> dict[str, Callable[[], Any]]:
    """Nearest neighbours of each k, and the linear probe: the package's own, with their defaults.

    Raises:
        DataError: a k that no vote can be held with.
    """
    for k in ks:
        if k < 1 or k % 2 == 0:
            raise DataError(f"k is {k}; expected odd numbers, so that a vote cannot tie")
    knn, linear = (registry.load("classifiers", name) for name in ("knn", "linear"))
    return {neighbours(k): partial(knn, k=k) for k in ks} | {LINEAR: linear}


def scored(makers: Makers, vectors: FloatArray, data: Data, train: Rows) -> dict[str, Floats]:
    """Fit each method on the rows that train, and score every row.

    Args:
        makers: the methods.
        vectors: `(N, D)`; a row of nan has no score.
        data: the N images.
        train: rows to fit on.

    Returns:
        For each method `(N,)`; nan where there is no vector.
    """
    fitted = fit(makers, vectors[train], data.labels[train])
    return {name: scores_of(classifier, vectors) for name, classifier in fitted.items()}


def fit(makers: Makers, vectors: FloatArray, labels: NDArray[np.uint8]) -> dict[str, Any]:
    """A classifier of each method, fitted.

    Raises:
        DataError: too few rows of a class.
    """
    fitted = {}
    for name, make in makers.items():
        try:
            fitted[name] = make().fit(vectors, labels)
        except ValueError as error:
            counts = (
                f"{counted(int((labels == 0).sum()), 'real')} and {counted(int((labels == 1).sum()), 'fake')} train"
            )
            raise DataError(f"{titled(name)} cannot be fitted ({counts}): {error}") from error
    return fitted


def scores_of(classifier: Any, vectors: FloatArray) -> Floats:
    """Scores `(n,)` of `(n, D)`; nan where a row has no vector."""
    there = ~np.isnan(vectors[:, 0])
    scores = np.full(len(vectors), np.nan)
    if there.any():
        scores[there] = classifier.decision_function(np.ascontiguousarray(vectors[there]))
    return scores


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network, as a detector: its encoder is the network up to the last layer, which is the classifier.

    Attributes:
        detector: from its folder.
        encoder: of the detector's own feature space.
    """

    detector: Detector
    encoder: Encoder

    @cached_property
    def name(self) -> str:
        """Name and digest."""
        return self.detector.identity

    @cached_property
    def known(self) -> tuple[frozenset[str], frozenset[str]]:
        """Generators and real sources whose images trained it, where a record lies beside its encoder; else none."""
        folder = self.detector.backbone.entry.folder
        try:
            part = parsed(within(folder / RECORD).read_bytes())["images"]["train"] if folder else {}
            generators, sources = (part.get(name, ()) for name in ("fake by generator", "real by source"))
            return frozenset(generators) - {""}, frozenset(sources) - {""}
        except (OSError, FormatError, ValueError, LookupError, TypeError, AttributeError):
            return frozenset(), frozenset()  # another's file of that name: nothing is known

    def vectors(self, data: Data, rows: Rows | None = None, *, then: str = "") -> FloatArray:
        """Penultimate features `(n, D)`."""
        return self.encoder.embed(data, rows, then=then)

    def scores(self, data: Data, rows: Rows | None = None, *, then: str = "") -> Floats:
        """The detector's scores `(n,)`."""
        return scores_of(self.detector.classifier, self.vectors(data, rows, then=then))


def with_network(scores: Mapping[str, Floats], network: Network | None, data: Data, split: Split) -> dict[str, Floats]:
    """The network's scores of the validation and test images before those of other methods, where there is one."""
    if network is None:
        return dict(scores)
    rows = apart(split)
    return {NETWORK: spread(network.scores(data, rows), rows, len(data))} | dict(scores)


def apart(split: Split) -> Rows:
    """Rows of the validation part, then of the test part."""
    return np.concatenate([split.rows(VALIDATION), split.rows(TEST)])


def spread(values: Floats, rows: Rows, n: int) -> Floats:
    """`(m,)` values at rows -> `(n,)`, nan elsewhere."""
    found = np.full(n, np.nan)
    found[rows] = values
    return found
