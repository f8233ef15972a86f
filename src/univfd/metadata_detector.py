"""A detector that sees no pixel, trained on what headers say and tested on images held out in two ways.

On generators and real sources that it has not seen: what it learns there carries over to the next collection. On
images drawn at random: what a split by image gives away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError
from .evaluation import Cohort, HeldOut, Strings, held_out_scores, rounds
from .metadata import Features, Metadata, features
from .metrics import Estimate, design, interval, weightings
from .types import FloatArray

LEAST = 10
"""Images of each class to train on, below which nothing is learnt."""
MIN_N = 5
"""A generator with fewer images does not count in the mean."""

_FOLDS, _BOOTSTRAPS = 5, 500

Labels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Check:
    """AUROC of the metadata detector under one way of holding images out.

    Attributes:
        name: `new generators` or `at random`.
        protocol: how images were held out, in words.
        auroc: of the first, the mean over generators; of the second, of all images. With 95 % interval (generators
            and images redrawn; images redrawn; groups whole; none of a class
            in one group) and n (generators; images).
        generators: of the first, each generator's, most images first; n is of its images.
        apart: whether images of one group were held out apart, for want of groups.
    """

    name: str
    protocol: str
    auroc: Estimate
    generators: tuple[tuple[str, Estimate], ...] = ()
    apart: bool = False


def metadata_auroc(
    cohort: Cohort, files: Sequence[Metadata], *, folds: int = _FOLDS, seed: int = 0, by_source: bool = True
) -> Estimate:
    """Mean AUROC over generators left out of a detector that sees only the files' metadata.

    Args:
        cohort: the N images.
        files: their N headers.
        folds: see `univfd.evaluation.rounds`.
        seed: of folds and interval.
        by_source: see `univfd.evaluation.rounds`.

    Raises:
        DataError: too few generators or sources to hold out (see `rounds`), or none with `MIN_N` images.
    """
    x = features(files).values
    held = held_out_scores(cohort, [x], {"": x}, MetadataDetector, folds=folds, seed=seed, by_source=by_source)[""]
    return _check_of(held, cohort, "", seed).auroc


class MetadataDetector:
    """Log-odds of gradient boosting plus log-odds of logistic regression: the one finds rules, the other trends."""

    def fit(self, X: FloatArray, y: Labels) -> MetadataDetector:
        """Train on `(N, D)` features (nan: has no such thing) and N labels of both classes."""
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import FunctionTransformer, StandardScaler

        self.parts_: list[Any] = []
        if X.shape[1] and len(np.unique(y)) == 2:
            logistic = make_pipeline(
                FunctionTransformer(np.log1p), SimpleImputer(keep_empty_features=True), StandardScaler(),
                LogisticRegression(C=0.1, max_iter=2000),
            )  # fmt: skip
            boosting = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, random_state=0)
            self.parts_ = [part.fit(X, y) for part in (boosting, logistic)]
        return self

    def decision_function(self, X: FloatArray) -> NDArray[np.float64]:
        """Scores `(N,)`, higher = fake; all 0 where there was nothing to learn."""
        total = np.zeros(len(X))
        for part in self.parts_:
            total += part.decision_function(X)
        return total


def new_generators(cohort: Cohort, table: Features, seed: int) -> Check | None:
    """Leave one generator out, as strictly as the collection allows; None where it does not."""
    fake = cohort.labels == 1
    cohort = replace(cohort, generator=np.where(fake & (cohort.generator == ""), "(unnamed)", cohort.generator))
    names, counts = np.unique(cohort.generator[fake].astype(str), return_counts=True)
    sources = len(np.unique(cohort.source[~fake].astype(str)))
    if len(names) < 2 or counts.max() < MIN_N:
        return None
    folds = min(_FOLDS, len(names), sources) if sources > 1 else _FOLDS
    reals = f"one of {folds} folds of the real sources"
    if sources < 2:  # the only thing left to hold out is the image
        fold = np.random.default_rng(seed).integers(0, 4 * folds, len(fake)).astype(str)
        cohort = replace(cohort, source=np.where(fake, cohort.source, np.char.add("\0fold ", fold).astype(object)))
        reals = f"one of {min(folds, len(names))} folds of the real images (they are of one source)"
    for by_source in (True, False):
        if _can_train(cohort, folds, seed, by_source):
            x = table.values
            held = held_out_scores(cohort, [x], {"": x}, MetadataDetector, folds=folds, seed=seed, by_source=by_source)
            also = "all else of their sources, and their groups" if by_source else "and their groups"
            protocol = f"held out: one generator, {reals}, {also}"
            return _check_of(held[""], cohort, protocol, seed)
    return None


def _can_train(cohort: Cohort, folds: int, seed: int, by_source: bool) -> bool:
    """Whether each round leaves both classes to train on."""
    each = rounds(cohort, folds=folds, seed=seed, by_source=by_source)
    return all(np.bincount(cohort.labels[r.train], minlength=2).min() >= LEAST for r in each)


def _check_of(held: Sequence[HeldOut], cohort: Cohort, protocol: str, seed: int) -> Check:
    clusters = _clusters(cohort.group)
    each, redrawn = [], _redrawn(held, cohort.labels, clusters, seed)
    for part, values in zip(held, redrawn, strict=True):
        fakes = int(cohort.labels[part.rows].sum())
        each.append((part.generator, _estimate(values, fakes, cohort.labels[part.rows], clusters[part.rows])))
    enough = [i for i, (_, estimate) in enumerate(each) if estimate.n >= MIN_N]
    if not enough:
        raise DataError(f"no generator has {MIN_N} images; a mean over generators needs some")
    rng = np.random.default_rng(seed)
    # all generators of a redraw from the same set of images: those of one fold share its reals, and their luck
    drawn = redrawn[enough][
        rng.integers(0, len(enough), (_BOOTSTRAPS, len(enough))), rng.integers(1, 1 + _BOOTSTRAPS, (_BOOTSTRAPS, 1))
    ]
    mean = interval(np.append(redrawn[enough, 0].mean(), drawn.mean(axis=1)), len(enough))
    return Check("new generators", protocol, mean, tuple(sorted(each, key=lambda pair: -pair[1].n)))


def _estimate(values: NDArray[np.float64], n: int, labels: Labels, clusters: NDArray[np.intp]) -> Estimate:
    """With an interval where each class is of two clusters at least: one says nothing about how others would do."""
    several = all(len(np.unique(clusters[labels == label])) > 1 for label in (0, 1))
    return interval(values if several else values[:1], n)


def _clusters(group: Strings) -> NDArray[np.intp]:
    """`(N,)` numbers, equal where images are of one group."""
    named = [g or f"\0{i}" for i, g in enumerate(group)]
    return np.unique(named, return_inverse=True)[1]


def _redrawn(held: Sequence[HeldOut], labels: Labels, clusters: NDArray[np.intp], seed: int) -> NDArray[np.float64]:
    """AUROC of each part, and of `_BOOTSTRAPS` redraws of the images: `(parts, 1 + _BOOTSTRAPS)`.

    Clusters are redrawn whole, and the reals that several parts share for all of them at once. nan where a redrawn part
    has one class alone.
    """
    kinds = np.zeros(len(labels), np.intp)
    for number, part in enumerate(held, 1):
        fake = labels[part.rows] == 1
        kinds[part.rows[fake]] = number
        kinds[part.rows[~fake]] = -1 - part.rows[~fake].min()
    ranked = [(p.rows, labels[p.rows] == 1, *np.unique(p.scores, return_inverse=True)) for p in held]
    return np.concatenate(
        [
            [_aurocs(weights[:, rows], fake, at, len(places)) for rows, fake, places, at in ranked]
            for weights in weightings(design(kinds, clusters), _BOOTSTRAPS, seed)
        ],
        axis=1,
    )


def _aurocs(
    weights: NDArray[np.float64], fake: NDArray[np.bool_], at: NDArray[np.intp], places: int
) -> NDArray[np.float64]:
    """`(B,)` under weightings `(B, n)`, of scores given by their place among the distinct ones."""
    found = np.empty(len(weights))
    for i, row in enumerate(weights):
        reals, fakes = (np.bincount(at[of], row[of], places) for of in (~fake, fake))
        pairs = reals.sum() * fakes.sum()
        found[i] = fakes @ (np.cumsum(reals) - reals / 2) / pairs if pairs else np.nan
    return found


def at_random(cohort: Cohort, table: Features, seed: int) -> Check:
    """Folds of images, each with the classes' shares of the whole; images of one group stay together."""
    n = len(cohort.labels)
    member = _clusters(cohort.group)
    groups, first = np.unique(member, return_index=True)
    fold = _dealt(cohort.labels, first, member, seed)
    few = any(np.bincount(cohort.labels[fold != i], minlength=2).min() < LEAST for i in range(_FOLDS))
    if apart := few or len(groups) < _FOLDS:
        fold = _dealt(cohort.labels, np.arange(n), np.arange(n), seed)
    scores = np.zeros(n)
    for i in range(_FOLDS):
        test = fold == i
        fitted = MetadataDetector().fit(table.values[~test], cohort.labels[~test])
        # folds of groups train on other shares of the classes, which would be in all of their scores
        real, fake = np.bincount(cohort.labels[~test], minlength=2)
        shift = len(fitted.parts_) * np.log(fake / real) if fitted.parts_ else 0.0
        scores[test] = fitted.decision_function(table.values[test]) - shift
    how = f"; their groups apart, for there are too few ({len(groups)})" if apart else "; images of one group together"
    how, apart = (how, apart) if len(groups) < n else ("", False)
    protocol = f"held out: one of {_FOLDS} folds of the images, whatever their generator and source{how}"
    (values,) = _redrawn([HeldOut("", np.arange(n), scores)], cohort.labels, member, seed)
    return Check("at random", protocol, _estimate(values, n, cohort.labels, member), apart=apart)


def _dealt(labels: Labels, first: NDArray[np.intp], member: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """The fold of each image: sets of images are dealt out, those of each class in turn.

    Args:
        labels: `(N,)`.
        first: `(G,)` an image of each set.
        member: `(N,)` the set of each image.
        seed: of the deal.
    """
    order = np.lexsort((np.random.default_rng(seed).permutation(len(first)), labels[first]))
    fold = np.empty(len(first), np.intp)
    fold[order] = np.arange(len(first)) % _FOLDS
    return fold[member]
