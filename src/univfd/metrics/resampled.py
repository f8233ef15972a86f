"""Every figure for many weightings of the same images at once: what makes the bootstrap of a large benchmark quick.

Images are sorted by score once; a redrawn set is a row of weights on them (see `intervals.weightings`). With running
sums of the weights each figure of B sets costs a few operations on `(B, n)` arrays. Ranking figures change only where a
fake is, so they are computed at the fakes; the running sums over the reals serve every generator that is tested
against those reals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Places = NDArray[np.intp]

BINS = 10
"""Equal-width bins of the probability, for the ECE."""
FLAGS = ("half", "above", "fake", "real")
"""What is known of each image's decision: fake at probability 0.5 (or score 0), score above the detector's threshold,
verdict `fake`, verdict `real`."""


@dataclass(frozen=True, eq=False)
class OneClass:
    """The n images of one class, sorted by score.

    Attributes:
        order: `(n,)` their places before sorting.
        scores: `(n,)` ascending.
        flags: `(n, len(FLAGS))` 0 or 1.
        square: `(n,)` squared error of the probability; of 0.5 where there is none, as are the next two.
        chance: `(n, BINS)` the probability, in its bin.
        filled: `(n, BINS)` 1 in the bin of the probability.
    """

    order: Places
    scores: Floats
    flags: Floats
    square: Floats
    chance: Floats
    filled: Floats

    def weighted(self, weights: Floats) -> Side:
        """Under weightings `(B, n)`, in the order before sorting."""
        ordered = np.take(weights, self.order, axis=1)
        below = np.zeros((len(weights), len(self.scores) + 1))
        np.cumsum(ordered, axis=1, out=below[:, 1:])
        return Side(
            scores=self.scores,
            weights=ordered,
            below=below,
            sums=dict(zip(FLAGS, (ordered @ self.flags).T, strict=True)),
            square=ordered @ self.square,
            chance=ordered @ self.chance,
            filled=ordered @ self.filled,
        )


@dataclass(frozen=True, eq=False)
class Side:
    """The n images of one class under B weightings.

    Attributes:
        scores: `(n,)` ascending.
        weights: `(B, n)`, in the order of the scores.
        below: `(B, n + 1)`; column i is the weight of the i lowest scores.
        sums: per flag `(B,)`, the weight of the images that have it.
        square: `(B,)` weighted sum of the squared errors of the probability.
        chance: `(B, BINS)` weighted sum of the probabilities in each bin.
        filled: `(B, BINS)` weight in each bin.
    """

    scores: Floats
    weights: Floats
    below: Floats
    sums: Mapping[str, Floats]
    square: Floats
    chance: Floats
    filled: Floats

    @property
    def total(self) -> Floats:
        """`(B,)` weight in all."""
        return self.below[:, -1]

    @cached_property
    def _limits(self) -> dict[float, Floats]:
        return {}

    def limit(self, share: float) -> Floats:
        """`(B,)` the score that at most `share` of the images exceed; the highest score where that is less than one."""
        if share not in self._limits:  # one set of reals serves many generators
            allowed = np.minimum(np.floor(share * self.total + 1e-9), self.total - 1)
            rows, wanted = np.arange(len(self.total)), self.total - allowed
            place = _last(lambda at: self.below[rows, at] < wanted, len(rows), len(self.scores))
            self._limits[share] = self.scores[place]
        return self._limits[share]


def one_class(scores: Floats, flags: Mapping[str, Flags], chances: Floats | None, label: int) -> OneClass:
    """Sort one class's images.

    Args:
        scores: `(n,)`.
        flags: `(n,)` for each of `FLAGS`.
        chances: `(n,)` probabilities of being fake; None: not calibrated.
        label: 0 real, 1 fake.
    """
    order = np.argsort(scores, kind="stable")
    known = np.full(len(scores), 0.5) if chances is None else chances[order]
    inside = np.clip((known * BINS).astype(int), 0, BINS - 1)[:, None] == np.arange(BINS)
    return OneClass(
        order=order,
        scores=scores[order],
        flags=np.stack([flags[f][order] for f in FLAGS], axis=1).astype(float),
        square=np.square(known - label),
        chance=inside * known[:, None],
        filled=inside.astype(float),
    )


@dataclass(frozen=True, eq=False)
class Contest:
    """Fakes against reals: where the scores of each lie among those of the other."""

    real: OneClass
    fake: OneClass

    @cached_property
    def reals_below(self) -> Places:
        """`(F,)` reals that score below each fake."""
        return np.searchsorted(self.real.scores, self.fake.scores, "left")

    @cached_property
    def reals_upto(self) -> Places:
        """`(F,)` reals that score below each fake or the same."""
        return np.searchsorted(self.real.scores, self.fake.scores, "right")

    @cached_property
    def fakes_below(self) -> Places:
        """`(F,)` fakes that score below each fake."""
        return np.searchsorted(self.fake.scores, self.fake.scores, "left")

    @cached_property
    def steps(self) -> tuple[Places, Places]:
        """Reals and fakes that score below each distinct score of either, and at last all of them."""
        scores = np.unique(np.concatenate([self.real.scores, self.fake.scores]))
        real, fake = (np.append(np.searchsorted(s, scores), len(s)) for s in (self.real.scores, self.fake.scores))
        return real, fake


@dataclass(frozen=True, eq=False)
class Pair:
    """Fakes against reals, each under the same B weightings."""

    contest: Contest
    real: Side
    fake: Side

    @cached_property
    def reals_below(self) -> Floats:
        """`(B, F)` weight of the reals that score below each fake."""
        return np.take(self.real.below, self.contest.reals_below, axis=1)

    @cached_property
    def reals_upto(self) -> Floats:
        """`(B, F)` weight of the reals that score below each fake or the same."""
        if np.array_equal(self.contest.reals_below, self.contest.reals_upto):
            return self.reals_below
        return np.take(self.real.below, self.contest.reals_upto, axis=1)

    @cached_property
    def fakes_from(self) -> Floats:
        """`(B, F)` weight of the fakes that score as high as each fake, or higher."""
        return self.fake.total[:, None] - np.take(self.fake.below, self.contest.fakes_below, axis=1)


def auroc(pair: Pair) -> Floats:
    """The chance that a fake scores above a real; ties count half."""
    wins = np.einsum("bf,bf->b", pair.fake.weights, pair.reals_below + pair.reals_upto) / 2
    return np.asarray(wins / (pair.real.total * pair.fake.total))


def average_precision(pair: Pair) -> Floats:
    """Mean precision over the recall steps, fake positive; images of one score come in one step."""
    called = pair.fakes_from + pair.real.total[:, None] - pair.reals_below
    precision = np.divide(pair.fakes_from, called, out=np.zeros_like(called), where=called > 0)
    return np.asarray(np.einsum("bf,bf->b", pair.fake.weights, precision) / pair.fake.total)


def average_precision_equal(pair: Pair) -> Floats:
    """AP if both classes weighed the same: as with equal numbers of both, which the paper's test sets have."""
    found = pair.fakes_from * (pair.real.total / pair.fake.total)[:, None]
    called = found + pair.real.total[:, None] - pair.reals_below
    precision = np.divide(found, called, out=np.zeros_like(called), where=called > 0)
    return np.asarray(np.einsum("bf,bf->b", pair.fake.weights, precision) / pair.fake.total)


def tpr_at_fpr(pair: Pair, fpr: float) -> Floats:
    """Share of the fakes above the threshold that at most `fpr` of these reals exceed: of the ranking, an oracle."""
    place = np.searchsorted(pair.fake.scores, pair.real.limit(fpr), "right")
    return np.asarray(1 - pair.fake.below[np.arange(len(place)), place] / pair.fake.total)


def equal_error_rate(pair: Pair) -> Floats:
    """The error rate where the straight-line ROC curve has equal shares of both classes wrong."""
    places = pair.contest.steps
    rows = np.arange(len(pair.real.below))

    def rates(at: Places) -> tuple[Floats, Floats]:
        """False alarms and misses if all from the `at`-th score on are called fake."""
        real, fake = (s.below[rows, p[at]] / s.total for s, p in zip((pair.real, pair.fake), places, strict=True))
        return 1 - real, fake

    def too_low(at: Places) -> Flags:
        alarms, misses = rates(at)
        return alarms >= misses

    low = _last(too_low, len(rows), len(places[0]) - 1)
    (alarms, misses), (fewer, more) = rates(low), rates(low + 1)
    share = (alarms - misses) / ((alarms - misses) + (more - fewer))
    return np.asarray(alarms + share * (fewer - alarms))


def _last(test: Callable[[Places], Flags], rows: int, end: int) -> Places:
    """`(rows,)` the last place before `end` where the test holds; it holds at 0 and never again once it has failed."""
    low, high = np.zeros(rows, np.intp), np.full(rows, end)
    while (high - low > 1).any():
        middle = (low + high) // 2
        holds = test(middle)
        low, high = np.where(holds, middle, low), np.where(holds, high, middle)
    return low


def best_accuracy(pair: Pair, *, balanced: bool = False) -> Floats:
    """The accuracy at the best threshold for these very images: an oracle, out of reach in use."""
    real, fake = pair.real.total, pair.fake.total
    per_real, per_fake = (0.5 / real, 0.5 / fake) if balanced else (1 / (real + fake), 1 / (real + fake))
    none_called = real * per_real
    if not pair.fake.scores.size:
        return none_called
    reached = pair.fakes_from * per_fake[:, None] + pair.reals_below * per_real[:, None]
    return np.asarray(np.maximum(reached.max(axis=1), none_called))


def calibration_error(pair: Pair) -> Floats:
    """ECE: mean over bins of |share of fakes - mean probability|, weighted by the bin's images."""
    gaps = np.abs(pair.fake.filled - pair.real.chance - pair.fake.chance).sum(axis=1)
    return np.asarray(gaps / (pair.real.total + pair.fake.total))


def brier(pair: Pair) -> Floats:
    """Mean squared error of the probability."""
    return (pair.real.square + pair.fake.square) / (pair.real.total + pair.fake.total)


def _right(pair: Pair, flag: str) -> tuple[Floats, Floats]:
    right = pair.fake.sums[flag] + pair.real.total - pair.real.sums[flag]
    return right, pair.real.total + pair.fake.total


def _balanced(pair: Pair, flag: str) -> Floats:
    return (pair.fake.sums[flag] / pair.fake.total + 1 - pair.real.sums[flag] / pair.real.total) / 2


def _called(pair: Pair, label: str, as_: str) -> tuple[Floats, Floats]:
    side = pair.fake if label == "fake" else pair.real
    return side.sums[as_], side.total


def _unsure(pair: Pair) -> tuple[Floats, Floats]:
    total = pair.real.total + pair.fake.total
    return total - _decided(pair), total


def _decided(pair: Pair) -> Floats:
    return sum((s.sums[v] for s in (pair.real, pair.fake) for v in ("fake", "real")), np.zeros(len(pair.real.total)))


@dataclass(frozen=True)
class Figure:
    """What a figure is.

    Attributes:
        title: for tables.
        compute: `(pair) -> (B,)`, or, for a share, hits `(B,)` and of how many `(B,)`.
        needs: the classes that it is about; `any`: whichever are there.
        share: of images, with an exact binomial interval; others have a bootstrap interval.
        probability: only where there is one.
        error: lower is better.
    """

    title: str
    compute: Callable[[Pair], Floats | tuple[Floats, Floats]]
    needs: Literal["both", "real", "fake", "any"] = "both"
    share: bool = False
    probability: bool = False
    error: bool = False


def _decision(name: str, at: str, flag: str) -> dict[str, Figure]:
    """Accuracy of a decision, its halves, and their mean."""
    return {
        f"accuracy_{name}": Figure(f"accuracy {at}", partial(_right, flag=flag), "both", share=True),
        f"real_accuracy_{name}": Figure(
            f"real accuracy {at}", lambda p: (p.real.total - p.real.sums[flag], p.real.total), "real", share=True
        ),
        f"fake_accuracy_{name}": Figure(
            f"fake accuracy {at}", lambda p: (p.fake.sums[flag], p.fake.total), "fake", share=True
        ),
        f"balanced_accuracy_{name}": Figure(f"balanced accuracy {at}", partial(_balanced, flag=flag)),
    }


FIGURES: dict[str, Figure] = {
    "ap": Figure("AP", average_precision),
    "ap_equal": Figure("AP (classes of equal weight)", average_precision_equal),
    "auroc": Figure("AUROC", auroc),
    "tpr_at_1_oracle": Figure("TPR at 1 % FPR (oracle threshold)", partial(tpr_at_fpr, fpr=0.01)),
    "tpr_at_5_oracle": Figure("TPR at 5 % FPR (oracle threshold)", partial(tpr_at_fpr, fpr=0.05)),
    "eer_oracle": Figure("EER (oracle threshold)", equal_error_rate, error=True),
    **_decision("half", "at 0.5", "half"),
    **_decision("threshold", "at the detector's threshold", "above"),
    "accuracy_oracle": Figure("accuracy (oracle threshold)", best_accuracy),
    "balanced_accuracy_oracle": Figure("balanced accuracy (oracle threshold)", partial(best_accuracy, balanced=True)),
    "recall": Figure("fakes called fake", partial(_called, label="fake", as_="fake"), "fake", share=True),
    "misses": Figure("fakes called real", partial(_called, label="fake", as_="real"), "fake", share=True, error=True),
    "false_alarms": Figure(
        "reals called fake", partial(_called, label="real", as_="fake"), "real", share=True, error=True
    ),
    "unsure": Figure("unsure", _unsure, "any", share=True, error=True),
    "risk_decided": Figure(
        "wrong among decided",
        lambda p: (p.real.sums["fake"] + p.fake.sums["real"], _decided(p)), "any", share=True, error=True,
    ),
    "ece": Figure("ECE", calibration_error, probability=True, error=True),
    "brier": Figure("Brier", brier, probability=True, error=True),
}  # fmt: skip
"""Every figure of a set of images, by name. `half`: at probability 0.5, or where there is none at score 0."""


@dataclass(frozen=True, eq=False)
class Confident:
    """Answers, the most confident first.

    Attributes:
        order: `(n,)` places before sorting.
        wrong: `(n,)` 1 where the answer is wrong.
        first: `(n,)` place of the first image that is as confident as each.
        end: `(n,)` place behind the last one.
    """

    order: Places
    wrong: Floats
    first: Places
    end: Places

    def risks(self, weights: Floats, coverages: Sequence[float]) -> Floats:
        """Share of wrong answers if only the most confident images, a share `coverage` of all, get one.

        Of images with equal confidence, each is taken with the same chance.

        Args:
            weights: `(B, n)`, in the order before sorting.
            coverages: C shares, above 0, at most 1.

        Returns:
            `(B, C)`.
        """
        ordered = np.take(weights, self.order, axis=1)
        kept, bad = (np.zeros((len(weights), len(self.order) + 1)) for _ in range(2))
        np.cumsum(ordered, axis=1, out=kept[:, 1:])
        ordered *= self.wrong
        np.cumsum(ordered, axis=1, out=bad[:, 1:])
        return np.stack([self._risk(kept, bad, c * kept[:, -1]) for c in coverages], axis=1)

    def _risk(self, kept: Floats, bad: Floats, wanted: Floats) -> Floats:
        rows = np.arange(len(kept))
        last = _last(lambda at: kept[rows, at] < wanted, len(rows), len(self.order))
        first, end = self.first[last], self.end[last]
        with np.errstate(invalid="ignore"):  # nan where none of few images was drawn
            share = (wanted - kept[rows, first]) / (kept[rows, end] - kept[rows, first])
            return np.asarray((bad[rows, first] + share * (bad[rows, end] - bad[rows, first])) / wanted)


def confident(confidence: Floats, wrong: Flags) -> Confident:
    """Sort `(n,)` answers by their confidence."""
    order = np.argsort(-confidence, kind="stable")
    fallen = -confidence[order]
    first, end = (np.searchsorted(fallen, fallen, to) for to in ("left", "right"))
    return Confident(order, wrong[order].astype(float), first, end)
