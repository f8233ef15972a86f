"""What an addition would do to verdicts, before it is made; and what a refit has changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import registry
from ..backbones import Backbone
from ..bank import FeatureBank
from ..building import Built, check_classifier, fit_detector, with_sizes
from ..calibration import Calibration
from ..detector import Detector
from ..embedding import Batch, Loaded
from ..errors import DataError, UsageError
from ..evaluation import Cohort, held_out_scores, per_row
from ..metrics import Absent, Estimate, proportion
from ..types import Embeddings, Label, Verdict
from ..views import View
from .rows import Rows

FOLDS = 8
MAX_JUDGED = 4_000
_NOTHING = np.empty((0, 0, 0, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class Flip:
    """An image whose verdict another bank changes."""

    image: str
    before: str
    after: str

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"image": self.image, "before": self.before, "after": self.after}


@dataclass(frozen=True, eq=False)
class Effect:
    """What two banks make of the same images of one class.

    Attributes:
        name: of the images.
        label: their true class.
        n: how many were judged.
        before: number of each verdict with the first bank.
        after: number of each verdict with the second.
        flips: images whose verdict differs.
        moved: how many have another score.
    """

    name: str
    label: Label
    n: int
    before: Mapping[str, int]
    after: Mapping[str, int]
    flips: tuple[Flip, ...]
    moved: int

    def called_fake(self, counts: Mapping[str, int]) -> Estimate | Absent:
        """Share called fake: recall of fakes, false alarms of reals."""
        return proportion(counts.get("fake", 0), self.n) if self.n else Absent("no images")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "images": self.name, "label": self.label.word, "n": self.n, "before": dict(self.before),
            "after": dict(self.after), "moved": self.moved, "flips": [f.to_dict() for f in self.flips],
        }  # fmt: skip


def effect(name: str, label: Label, batch: Batch, before: Detector, after: Detector) -> Effect:
    """Judge a batch of one class with two detectors."""
    return _effect(name, label, before.judge(batch), after.judge(batch))


def effect_on_bank(before: Detector, after: FeatureBank, label: Label, *, max_judged: int = MAX_JUDGED) -> Effect:
    """What a bank's own images of one class would be called if their generator, or source, were not in it.

    Generators, or sources, are dealt into folds; each fold is judged by both banks without it, new rows of its
    generators or sources too. A fold without which either bank has too few rows of a class to decide with is not
    judged: `n` says how many rows were. A trained probe has seen them nevertheless: of such a detector only the flips
    say something, not the shares.

    Args:
        before: the detector with its bank.
        after: that bank and the new rows behind it.
        label: which of the old bank's rows are judged.
        max_judged: at most so many rows are judged, evenly spread.
    """
    old = before.bank
    if not isinstance(old, FeatureBank):
        raise UsageError(f"what-if reads all rows of a bank; {before.name} has {len(old):,} in a store")
    rows = old.rows(label)
    rows = rows[:: max(1, -(-len(rows) // max_judged))]
    places = _places(old)[rows]
    names = np.unique(places)
    parts: tuple[list[Verdict], list[Verdict]] = ([], [])
    for fold in range(min(FOLDS, len(names))):
        own = names[fold::FOLDS]
        banks = [b.take(~(np.isin(_places(b), own) & (b.labels == label))) for b in (old, after)]
        if not all(map(_both_classes, banks)):
            continue
        try:
            detectors = [before.with_bank(bank) for bank in banks]
        except UsageError:  # more neighbours than a class has rows
            continue
        batch = _batch_of(old.take(rows[np.isin(places, own)]))
        for detector, verdicts in zip(detectors, parts, strict=True):
            verdicts += detector.judge(batch)
    return _effect(f"the bank's own {label.word} images, their places taken out", label, *parts)


def _places(bank: FeatureBank) -> NDArray[np.str_]:
    """`(N,)` the generator of each fake, wherever it was found, and the source of each image without one."""
    return np.where(bank.generator == "", bank.origin, bank.generator).astype(str)


def _both_classes(bank: FeatureBank) -> bool:
    return all(len(bank.rows(label)) for label in Label)


def _effect(name: str, label: Label, before: Sequence[Verdict], after: Sequence[Verdict]) -> Effect:
    pairs = list(zip(before, after, strict=True))
    flips = tuple(Flip(b.image, b.verdict, a.verdict) for b, a in pairs if b.verdict != a.verdict)
    return Effect(
        name, label, len(pairs), Counter(str(b.verdict) for b in before), Counter(str(a.verdict) for a in after), flips,
        sum(b.score != a.score for b, a in pairs),
    )  # fmt: skip


def _batch_of(bank: FeatureBank) -> Batch:
    """Rows of a bank as if they had just been embedded; what their files were like is not known here."""
    items = tuple(
        Loaded(bank.key(i)[:12], bank.key(i), "", 0, 0, (), (), _NOTHING, 0.0) for i in range(len(bank))
    )  # fmt: skip
    return Batch(items, Embeddings(bank.vectors, bank.space), 0.0)


@dataclass(frozen=True, eq=False)
class Refit:
    """A detector that was trained on a version of a store.

    Attributes:
        detector: the new one.
        flips: rows of both versions whose held-out verdict differs.
        compared: number of rows that have a held-out verdict in both.
        wrong_before: how many of them the version before called by the wrong class.
        wrong_after: how many the new one does.
        not_compared: why not, where there is nothing to compare with.
    """

    detector: Detector
    flips: tuple[Flip, ...]
    compared: int
    wrong_before: int
    wrong_after: int
    not_compared: str = ""


def refit(
    name: str,
    rows: Rows,
    before: Rows | None,
    backbone: Backbone,
    view: View,
    classifier: str,
    params: dict[str, Any],
    *,
    max_fpr: float = 0.05,
    max_miss: float = 0.05,
) -> Refit:
    """Train and calibrate a classifier on a version, and tell what became different.

    Verdicts of rows that are in both versions are compared, each with the row's generator or source held out, so that
    neither side has seen it.

    Args:
        name: of the detector.
        rows: the version.
        before: an earlier one to compare with; None: do not compare.
        backbone: the encoder.
        view: the view.
        classifier: name in the registry `classifiers`.
        params: its parameters.
        max_fpr: see `building.fit_detector`.
        max_miss: see `building.fit_detector`.

    Raises:
        DataError: too few generators, sources or images to calibrate.
    """
    params = with_sizes(params, backbone, view)
    fit = partial(_fit, name, backbone, view, classifier, params, max_fpr, max_miss)
    made, now = fit(rows)
    if before is None:
        return Refit(made, (), 0, 0, 0)
    try:
        _, then = fit(before)
    except (DataError, UsageError) as error:  # the classifier itself may want more rows than there were
        return Refit(made, (), 0, 0, 0, f"it cannot be held out: {error}")
    labels = dict(zip(rows.keys(), map(Label, rows.bank.labels.tolist()), strict=True))
    both = [key for key in now if key in then]
    flips = tuple(Flip(key, then[key], now[key]) for key in both if then[key] != now[key])
    old, new = (sum(_wrong(said[key], labels[key]) for key in both) for said in (then, now))
    return Refit(made, flips, len(both), old, new)


def _fit(
    name: str, backbone: Backbone, view: View, classifier: str, params: dict[str, Any], max_fpr: float, max_miss: float,
    rows: Rows,
) -> tuple[Detector, dict[str, str]]:  # fmt: skip
    """A detector, and the verdict of each row with its place held out, by key."""
    bank = rows.bank
    built = Built(bank, tuple(rows.group.astype(str)), ())
    made = fit_detector(name, backbone, view, built, classifier, params, max_fpr=max_fpr, max_miss=max_miss)
    scores = held_out(rows, classifier, params)
    return made, _verdicts(rows.keys(), scores, made.calibration)


def held_out(rows: Rows, classifier: str, params: Mapping[str, Any], only: NDArray[np.bool_] | None = None) -> Any:
    """`(N,)` scores of rows whose generator or source was held out; nan where there is none.

    Args:
        rows: the rows.
        classifier: name in the registry.
        params: its parameters.
        only: `(N,)` rows that train; None: all. All are judged.

    Raises:
        UsageError: parameters that the classifier does not take, or that do not fit the rows.
        DataError: too few generators or sources.
    """
    bank = rows.bank
    make: Any = partial(registry.load("classifiers", classifier), **params)
    cohort = Cohort(bank.labels, bank.generator, bank.source, rows.group)
    if only is not None:
        make = partial(_Chosen, make, {v.tobytes() for v in bank.vectors[only]})
    try:
        return per_row(held_out_scores(cohort, [bank.vectors], {"": bank.vectors}, make)[""], len(bank))
    except ValueError as error:
        check_classifier(classifier, dict(params), bank)  # what is wrong with all rows too has another reason
        raise DataError(
            f"with a generator and its sources held out nothing is left to train on that has both classes ({error}); "
            "rows of more generators and sources are needed"
        ) from error


class _Chosen:
    """A classifier that trains on chosen vectors only."""

    def __init__(self, make: Any, chosen: set[bytes]) -> None:
        self._inner, self._chosen = make(), chosen

    def fit(self, X: Any, y: Any) -> Any:
        """Train on those of the rows that were chosen."""
        keep = np.array([x.tobytes() in self._chosen for x in X])
        self._inner.fit(X[keep], np.asarray(y)[keep])
        return self

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Score."""
        return np.asarray(self._inner.decision_function(X))


def _verdicts(keys: Sequence[str], scores: NDArray[np.float64], calibration: Calibration) -> dict[str, str]:
    return {key: calibration.verdict(float(s)) for key, s in zip(keys, scores, strict=True) if np.isfinite(s)}


def _wrong(verdict: str, label: Label) -> bool:
    return verdict not in ("unsure", label.word)
