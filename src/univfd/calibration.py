"""From a score to a verdict: probability, thresholds with a promised error rate, and "unsure" between them.

Thresholds are fixed by the Neyman-Pearson order statistic: with n real scores that the detector has not seen, the
k-th smallest is a threshold whose false-alarm rate exceeds alpha with probability

    P(Bin(n, 1 - alpha) >= k)

whatever the distribution of the scores (Tong, Feng, Li: "Neyman-Pearson classification algorithms and NP receiver
operating characteristics", 2018, Proposition 1). The smallest k that keeps this at 1 - confidence or less is taken.
The plain quantile breaks its promise in about half of all cases. The promise holds for real images of the kind that
the scores were taken from; it says nothing about others. Over a mixture of kinds it is kept for the mixture, and may be
broken for one of them: `by_group` gives the threshold of each kind by itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, FormatError
from .remarks import Remark
from .types import VerdictLabel
from .wording import counted

Scores = NDArray[np.float64]

_FINITE = 1e300  # an integer of JSON may be too large to become a float at all
BETWEEN = "between the two thresholds"
"""The reason of an ordinary `unsure`."""
UNKNOWN_GENERATOR = "unknown generator"
"""The attribution of a fake image that is not near enough to any fake row of the bank."""


def of_groups(n: int, word: str, groups: int) -> str:
    """What it does to the promise of a class that its images come in groups; `Calibration.caveat` finds it again.

    Args:
        n: images of the class.
        word: `real` or `fake`.
        groups: how many groups they are of; an image by itself is one.
    """
    apart = counted(groups, "group")
    return (
        f"{n} {word} images are of {apart}: a promise takes images as independent, so this one may be broken more "
        "often than it says"
    )


@dataclass(frozen=True, slots=True)
class GroupPromise:
    """The threshold that one group of real images would need for the promised rate.

    Attributes:
        group: its name.
        n: real scores in it.
        fake_above: the threshold; None: too few images for the promise.
    """

    group: str
    n: int
    fake_above: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns a score s into a verdict.

    Attributes:
        slope: a in the probability 1 / (1 + exp(-(a s + b))) (Platt); None: not calibrated.
        intercept: b.
        fake_above: s above this is `fake`.
        real_below: s below this is `real`; between the two, `unsure`. Where both are equal nothing is unsure.
        max_fpr: promised bound on the share of real images called fake.
        max_miss: promised bound on the share of fake images called real.
        confidence: with which each promise holds.
        n_real: real scores behind it.
        n_fake: fake scores behind it.
        data: what they were scores of.
        groups: what each group of the real images would need by itself; empty where no groups were told.
        known_within: cosine distance to the nearest bank row of either class within which an image is like those that
            the promise is about; None: not judged.
        named_within: cosine distance to the nearest fake bank row within which its generator is named, see
            `univfd.attribution`; None: none is named.
    """

    fake_above: float
    real_below: float
    slope: float | None = None
    intercept: float | None = None
    max_fpr: float | None = None
    max_miss: float | None = None
    confidence: float | None = None
    n_real: int = 0
    n_fake: int = 0
    data: str = ""
    groups: tuple[GroupPromise, ...] = ()
    known_within: float | None = None
    named_within: float | None = None

    def __post_init__(self) -> None:
        """Check the order of the thresholds."""
        if type(self.fake_above) is bool or type(self.real_below) is bool:
            raise FormatError("thresholds must be numbers")
        if not -_FINITE <= self.real_below <= self.fake_above <= _FINITE:
            raise FormatError(f"thresholds real_below={self.real_below}, fake_above={self.fake_above}: out of order")

    @property
    def between(self) -> float:
        """How far the two thresholds are apart: the scale on which a difference of scores is large or small."""
        return self.fake_above - self.real_below

    def verdict(self, score: float) -> VerdictLabel:
        """`fake`, `real` or `unsure`.

        A score on both thresholds is `real` where nothing is promised of fakes; else it is one that fakes may have.
        """
        if score > self.fake_above:
            return "fake"
        one = self.real_below == self.fake_above and self.max_miss is None
        return "real" if score < self.real_below or one else "unsure"

    def doubts(self, score: float, distance: float, conditions: tuple[Remark, ...]) -> tuple[Remark, ...]:
        """Why the verdict must be `unsure`; empty where it need not be.

        Args:
            score: the image's.
            distance: to its nearest bank row of either class.
            conditions: degradations of the image, see `univfd.conditions.conditions`. They void a promise; a detector
                that promises nothing has nothing to void.
        """
        found: list[Remark] = []
        if self.verdict(score) == "unsure":
            found.append(Remark("between", BETWEEN, {"real_below": self.real_below, "fake_above": self.fake_above}))
        if self.max_fpr is not None:
            found += conditions
        if self.known_within is not None and distance > self.known_within:
            text = (
                f"unlike all of the bank: distance {distance:.3f} to the nearest image in it, known images are "
                f"within {self.known_within:.3f}"
            )
            near = {"distance": distance} if math.isfinite(distance) else {}  # of an empty bank
            found.append(Remark("unlike", text, {**near, "known_within": self.known_within}))
        return tuple(found)

    def attribution(self, verdict: VerdictLabel, generator: str, distance: float) -> str:
        """The generator of an image, `UNKNOWN_GENERATOR`, or nothing where none is asked for.

        Args:
            verdict: only a `fake` has a generator.
            generator: of the nearest fake row of the bank.
            distance: to it.
        """
        if verdict != "fake" or self.named_within is None:
            return ""
        return generator if generator and distance <= self.named_within else UNKNOWN_GENERATOR

    def probability(self, score: float) -> float | None:
        """Of being fake, where half of the images are; None where not calibrated."""
        if self.slope is None or self.intercept is None:
            return None
        return 0.5 * (1 + math.tanh((self.slope * score + self.intercept) / 2))

    @property
    def worst_group(self) -> GroupPromise | None:
        """The group with the largest threshold; None where no group has one."""
        known = [g for g in self.groups if g.fake_above is not None]
        return max(known, key=lambda g: g.fake_above or 0.0, default=None)

    def caveat(self, word: str) -> str:
        """What `data` says against the promise about a class (`real`, `fake`), see `of_groups`; empty: nothing."""
        pattern = re.escape(of_groups(0, word, 0)).replace("0", r"[\d,]+").replace("groups", "groups?")
        found = re.search(pattern, self.data)
        return found[0] if found else ""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        record = asdict(self)
        groups = list(record.pop("groups"))
        # Left out where there are none: a detector's identity is a digest of this record, and older versions read it.
        for limit in ("known_within", "named_within"):
            if record[limit] is None:
                del record[limit]
        return record | ({"groups": groups} if groups else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Inverse of `to_dict`.

        Raises:
            FormatError: unknown or missing fields, or values that none can have.
        """
        try:
            groups = tuple(GroupPromise(**group) for group in data.get("groups", ()))
            made = cls(**{**data, "groups": groups})
        except (TypeError, AttributeError) as error:
            raise FormatError(f"calibration {str(data)[:500]} cannot be read: {error}") from error
        made._check_types()
        return made

    def _check_types(self) -> None:
        """Refuse what is no number, and numbers that no calibration has: the record may be a stranger's.

        Raises:
            FormatError: says which.
        """
        shares = {name: getattr(self, name) for name in ("max_fpr", "max_miss", "confidence")}
        others = {name: getattr(self, name) for name in ("slope", "intercept", "known_within", "named_within")}
        others |= {f"fake_above of group {str(g.group)[:80]!r}": g.fake_above for g in self.groups}
        for name, value in {**shares, **others}.items():
            if value is not None and not (type(value) in {int, float} and -_FINITE <= value <= _FINITE):
                raise FormatError(f"calibration: {name} is {value!r}; expected a finite number")
        for name, value in shares.items():
            if value is not None and not 0 < value < 1:
                raise FormatError(f"calibration: {name} is {value!r}; expected a share between 0 and 1")
        counts = [self.n_real, self.n_fake, *(g.n for g in self.groups)]
        if not all(type(n) is int and n >= 0 for n in counts):
            raise FormatError("calibration: a number of images is no whole number of 0 or more")
        if not all(isinstance(t, str) for t in (self.data, *(g.group for g in self.groups))):
            raise FormatError("calibration: 'data' and names of groups must be text")


UNCALIBRATED = Calibration(fake_above=0.0, real_below=0.0)
"""The classifier's own decision: fake above 0, never unsure, no probability."""


def calibrate(
    scores: Scores,
    labels: NDArray[Any],
    *,
    max_fpr: float = 0.05,
    max_miss: float = 0.05,
    confidence: float = 0.9,
    data: str = "",
    groups: Sequence[str] | None = None,
    worst_group: bool = False,
) -> Calibration:
    """Fix thresholds and probability on scores of images that the classifier has not seen.

    Args:
        scores: `(N,)`, held out (for new generators: held out by generator).
        labels: `(N,)` 0 real, 1 fake.
        max_fpr: promised bound on real images called fake.
        max_miss: promised bound on fake images called real.
        confidence: of each promise.
        data: what the scores are of, for the record.
        groups: `(N,)` names of the kinds of image; those of the reals get a promise each, on record.
        worst_group: keep the promise in every group that has enough images for one, see `false_alarm_threshold`.

    Returns:
        Thresholds, and a probability unless the fakes score no higher than the reals.

    Raises:
        DataError: too few images for the promise (says how many are needed), `worst_group` without groups, or scores
            that are not finite.
    """
    check_promise(max_fpr, max_miss, confidence)
    if not np.isfinite(scores).all():
        raise DataError(
            f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are no finite numbers; leave them out"
        )
    real, fake = scores[labels == 0], scores[labels == 1]
    kinds = None
    if groups is not None:
        if len(groups) != len(scores):
            raise DataError(f"{len(groups)} names of groups for {len(scores)} scores; expected one each")
        kinds = [groups[int(i)] for i in np.flatnonzero(labels == 0)]
    fake_above, promises = false_alarm_threshold(real, kinds, max_fpr, confidence, worst_group=worst_group)
    real_below = -threshold_for(-fake, max_miss, confidence)
    slope, intercept = platt(scores, labels)
    told = slope > 0  # a probability that falls while the score rises would contradict the verdict
    return Calibration(
        fake_above=fake_above,
        real_below=min(real_below, fake_above),
        slope=slope if told else None,
        intercept=intercept if told else None,
        max_fpr=max_fpr,
        max_miss=max_miss,
        confidence=confidence,
        n_real=len(real),
        n_fake=len(fake),
        data=data,
        groups=promises,
    )


def check_promise(*rates: float) -> None:
    """Refuse a rate or confidence that nobody can promise.

    Raises:
        DataError: one is not between 0 and 1.
    """
    for rate in rates:
        if not 0 < rate < 1:
            raise DataError(f"a promised rate or confidence of {rate:g}; expected a number between 0 and 1")


def false_alarm_threshold(
    scores: Scores, groups: Sequence[str] | None, rate: float, confidence: float, *, worst_group: bool = False
) -> tuple[float, tuple[GroupPromise, ...]]:
    """`fake_above` of real scores, and what each group of them needs.

    Args:
        scores: `(n,)` of real images.
        groups: `(n,)` names; None: not told.
        rate: promised share called fake, at most.
        confidence: of the promise.
        worst_group: take the largest of the threshold of all and those of the groups. The promise then holds in each
            group that has enough images, with this confidence for each by itself; of a group with too few it says
            nothing.

    Returns:
        The threshold; the groups' promises, empty where `groups` is None.

    Raises:
        DataError: too few images in all, or `worst_group` without groups.
    """
    if worst_group and groups is None:
        raise DataError("the worst group was asked for, and no groups were told")
    pooled = threshold_for(scores, rate, confidence)
    promises = by_group(scores, groups, rate, confidence) if groups is not None else ()
    own = [g.fake_above for g in promises if g.fake_above is not None]
    return max([pooled, *own]) if worst_group else pooled, promises


def by_group(scores: Scores, groups: Sequence[str], rate: float, confidence: float) -> tuple[GroupPromise, ...]:
    """The threshold of each group of real images by itself.

    Args:
        scores: `(n,)` of real images.
        groups: `(n,)` names.
        rate: promised share called fake, at most.
        confidence: of each promise by itself.

    Returns:
        One a group, by name; `fake_above` is None where the group has fewer images than `needed_for` says.

    Raises:
        DataError: not one name a score, or an impossible rate or confidence.
    """
    check_promise(rate, confidence)
    if len(groups) != len(scores):
        raise DataError(f"{len(groups)} names of groups for {len(scores)} scores; expected one each")
    names = np.asarray(groups, dtype=object)
    promises = []
    for name in sorted(set(groups)):
        own = scores[names == name]
        promises.append(GroupPromise(name, len(own), _order_statistic(own, rate, confidence)))
    return tuple(promises)


def threshold_for(scores: Scores, rate: float, confidence: float) -> float:
    """The threshold that at most `rate` of such scores exceed, with the given confidence.

    Args:
        scores: `(n,)` of one class.
        rate: alpha, 0 < alpha < 1.
        confidence: 1 - delta.

    Returns:
        The k-th smallest score, k the smallest with P(Bin(n, 1 - alpha) >= k) <= delta.

    Raises:
        DataError: n is too small for any k to do.
    """
    threshold = _order_statistic(scores, rate, confidence)
    if threshold is None:
        raise too_few(len(scores), rate, confidence)
    return threshold


def _order_statistic(scores: Scores, rate: float, confidence: float) -> float | None:
    """See `threshold_for`; None where n is too small for any k to do."""
    from scipy.stats import binom

    n = len(scores)
    ranks = np.arange(1, n + 1)
    allowed = np.flatnonzero(binom.sf(ranks - 1, n, 1 - rate) <= 1 - confidence)
    return float(np.sort(scores)[allowed[0]]) if len(allowed) else None


def too_few(n: int, rate: float, confidence: float, what: str = "images") -> DataError:
    """The error of n images that cannot carry a promise; says how many can."""
    need = needed_for(rate, confidence)
    return DataError(
        f"{n} {what} are too few to promise a rate of {rate:g} at {confidence:.0%} confidence: at least {need} are "
        "needed. Give more images, or promise less"
    )


def needed_for(rate: float, confidence: float) -> int:
    """The least number of images with which `threshold_for` can keep its promise."""
    from scipy.stats import binom

    n = max(1, math.floor(math.log(1 - confidence) / math.log1p(-rate)))
    enough = binom.sf(n - 1, n, 1 - rate) <= 1 - confidence  # the very test that is made then: its last bits decide
    return n if enough else n + 1


def platt(scores: Scores, labels: NDArray[Any]) -> tuple[float, float]:
    """Slope and intercept of the log-odds of fake, for equal class sizes.

    Args:
        scores: `(N,)`.
        labels: `(N,)` 0 real, 1 fake; both must be there.
    """
    from sklearn.linear_model import LogisticRegression

    spread = float(scores.std()) or 1.0  # of order 1, so that the weak penalty is equally weak for every classifier
    model = LogisticRegression(C=1e4, class_weight="balanced").fit((scores / spread)[:, None], labels)
    return float(model.coef_[0, 0]) / spread, float(model.intercept_[0])
