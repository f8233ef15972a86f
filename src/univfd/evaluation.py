"""How well a classifier does on generators and real sources that it has not seen: leave one generator out.

One round a generator (that has images to test on): its fakes are the test fakes, and one fold of the real *sources*
gives the test reals. Neither, nor any other image of their sources (real or fake: a source has its own formats, sizes
and subjects), nor any image of the same group (same input picture, same identity), is in that round's training set.
Splitting by
image instead would test on the training generators, which says nothing about the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .bank import origins
from .errors import DataError
from .types import FloatArray
from .wording import counted

Strings = NDArray[np.object_]


class Scorer(Protocol):
    """A classifier that can be fitted here: scikit-learn's contract."""

    def fit(self, X: Any, y: Any) -> Any:
        """Train."""
        ...

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Score."""
        ...


@dataclass(frozen=True, eq=False)
class Cohort:
    """What is known about N images, for splitting.

    Attributes:
        labels: `(N,)` 0 real, 1 fake.
        generator: `(N,)` strings; empty for reals.
        source: `(N,)` strings.
        group: `(N,)` strings; empty where there is none.
        judged: `(N,)` whether an image may be tested on; the others only train. None: all may.
    """

    labels: NDArray[np.uint8]
    generator: Strings
    source: Strings
    group: Strings
    judged: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Round:
    """One generator held out: row indices to train on and to test on."""

    generator: str
    train: NDArray[np.intp]
    test: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Scores of one round's test rows."""

    generator: str
    rows: NDArray[np.intp]
    scores: NDArray[np.float64]


def rounds(cohort: Cohort, *, folds: int = 5, seed: int = 0, by_source: bool = True) -> Iterator[Round]:
    """Leave-one-generator-out rounds, generators in alphabetical order.

    Args:
        cohort: the images.
        folds: real sources are dealt into so many folds of about equal size (no more than there are generators, so
            that each is held out, nor than there are sources); round i holds out fold i mod `folds`.
        seed: of the deal.
        by_source: hold out every image, real or fake, of the sources that the test images come from. Without it only
            the generator, the fold of real sources and the groups are held out; other generators' images from the
            same web site still train.

    Raises:
        DataError: fewer than two generators, or than two real sources.
    """
    real = cohort.labels == 0
    judged = np.ones(len(real), bool) if cohort.judged is None else cohort.judged
    generators = np.unique(cohort.generator[~real & judged].astype(str))
    if len(generators) < 2:
        raise DataError(
            f"{counted(len(generators), 'generator')}; leaving one out needs at least 2. Name them: a folder each "
            "(fake/NAME/...), or the column 'generator' of a manifest"
        )
    sources = np.unique(cohort.source[real & judged].astype(str))
    if len(sources) < 2:
        raise DataError(
            f"{counted(len(sources), 'real source')}; leaving one out needs at least 2. Name them: a folder each "
            "(real/NAME/...), or the column 'source' of a manifest"
        )
    folds = min(folds, len(generators), len(sources))
    fold = _deal(cohort.source.astype(str), real & judged, folds, seed)
    group, source = _codes(cohort.group), _codes(cohort.source)
    for i, name in enumerate(generators):
        own = ~real & (cohort.generator == name)
        test = judged & (own | (fold == i % folds))
        held = own | (real & np.isin(source, source[test & real]))
        for codes in (group, source) if by_source else (group,):
            held |= np.isin(codes, codes[test]) & (codes != 0)
        yield Round(str(name), np.flatnonzero(~held & ~test), np.flatnonzero(test))


def together(group: Strings, keys: NDArray[np.uint8]) -> Strings:
    """`(N,)` names that are equal where images are of one group or one file, or linked by such; empty where alone.

    Args:
        group: `(N,)` strings; empty where there is none.
        keys: `(N, 32)` sha256 of the files.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(group)
    _, files = np.unique(keys, axis=0, return_inverse=True)
    groups = _codes(group)
    named = np.flatnonzero(groups)
    rows = np.concatenate([np.arange(n), named])
    nodes = np.concatenate([n + files.ravel(), 2 * n + groups[named]])
    graph = coo_array((np.ones(len(rows), bool), (rows, nodes)), shape=(3 * n + 1, 3 * n + 1))
    part = connected_components(graph, directed=False)[1][:n]
    several = np.bincount(part)[part] > 1
    return np.array([f"{p}" if more else "" for p, more in zip(part, several, strict=True)], dtype=object)


def _codes(column: Strings) -> NDArray[np.intp]:
    """`(N,)` numbers that are equal where strings are; 0: the empty one."""
    known = {"": 0}
    return np.array([known.setdefault(str(value), len(known)) for value in column.tolist()], np.intp)


def _deal(source: NDArray[Any], real: NDArray[np.bool_], folds: int, seed: int) -> NDArray[np.intp]:
    """Fold of each real row by its source, -1 for fakes: largest sources first, each to the smallest fold."""
    names, counts = np.unique(source[real], return_counts=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    sizes = np.zeros(folds, int)
    fold = np.full(len(source), -1)
    for i in sorted(shuffled, key=lambda i: -counts[i]):
        smallest = int(sizes.argmin())
        sizes[smallest] += counts[i]
        fold[real & (source == names[i])] = smallest
    return fold


def held_out_scores(
    cohort: Cohort,
    train: Sequence[FloatArray],
    tests: Mapping[str, FloatArray],
    make: Callable[[], Scorer],
    *,
    folds: int = 5,
    seed: int = 0,
    by_source: bool = True,
) -> dict[str, list[HeldOut]]:
    """Train on each round and score what it holds out.

    Args:
        cohort: the N images.
        train: one or more `(N, D)` arrays, row i an embedding of image i (as it is, re-encoded, ...); a round trains
            on all of them.
        tests: named `(N, D)` arrays to score.
        make: gives a fresh classifier. One whose `fit` takes `groups` is told where the rows come from.
        folds: see `rounds`.
        seed: see `rounds`.
        by_source: see `rounds`.

    Returns:
        For each name in `tests`, one `HeldOut` a round.
    """
    from sklearn.utils.validation import has_fit_parameter

    results: dict[str, list[HeldOut]] = {name: [] for name in tests}
    places = origins(cohort.generator, cohort.source)
    for r in rounds(cohort, folds=folds, seed=seed, by_source=by_source):
        labels = np.concatenate([cohort.labels[r.train]] * len(train))
        fitted = make()
        fit: Any = fitted.fit
        told = {"groups": np.tile(places[r.train], len(train))} if has_fit_parameter(fitted, "groups") else {}
        fit(np.concatenate([vectors[r.train] for vectors in train]), labels, **told)
        for name, vectors in tests.items():
            results[name].append(HeldOut(r.generator, r.test, fitted.decision_function(vectors[r.test])))
    return results


def per_row(held_out: Sequence[HeldOut], n: int) -> NDArray[np.float64]:
    """Mean held-out score of each of n rows; nan where a row was never held out."""
    total, count = np.zeros(n), np.zeros(n)
    for part in held_out:
        total[part.rows] += part.scores
        count[part.rows] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
