"""New thresholds for a detector, fixed on the user's own images.

A shipped threshold keeps its promise for real images like those that it was fixed on. Those of another place (another
camera, another archive) may score higher; then the promise is broken, and only real images of that place can mend it.
The detector's classifier stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .calibration import (
    Calibration,
    check_promise,
    false_alarm_threshold,
    needed_for,
    platt,
    threshold_for,
    too_few,
)
from .collection import Collection
from .detector import Detector
from .errors import DataError, UsageError
from .images import DEFAULT_MAX_PIXELS
from .metrics import Estimate, proportion
from .search import NEAR
from .sources import display_name
from .types import Failure, Verdict
from .wording import counted

LEAST_FOR_PROBABILITY = 20

_FEW_NEAR = 0.05  # share of near ones that is not spoken of
_NAMED = 5  # groups that one remark names

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scored:
    """A collection with its scores: `members[i]` has `scores[i]`.

    Attributes:
        collection: without what could not be read, and without `unsure`.
        scores: `(N,)`.
        unsure: verdicts on those images that are unsure whatever their score (a degradation, unlike all of the bank).
            No promise is made about such images, so none is fixed on them.
        near: how many of the scored images are nearly the same as a row of the detector's bank.
    """

    collection: Collection
    scores: Scores
    unsure: tuple[Verdict, ...] = ()
    near: int = 0

    def highest(self, most: int) -> list[tuple[str, float]]:
        """Names and scores of the images that score highest, the highest first."""
        order = np.argsort(-self.scores, kind="stable")[:most]
        return [(self.collection.members[int(i)].ref.name, float(self.scores[i])) for i in order]

    @property
    def groups(self) -> list[str]:
        """The group of each score."""
        return [m.group for m in self.collection.members]


@dataclass(frozen=True, slots=True)
class Change:
    """The share of a class above the old threshold and above the new one, of the images that a score decides about."""

    before: Estimate
    after: Estimate


@dataclass(frozen=True)
class Recalibrated:
    """A detector with new thresholds and what they cost.

    Attributes:
        detector: the new one.
        old: the calibration that it replaces.
        real: reals called fake; `after` is of the very images that the threshold was fixed on.
        fake: fakes called fake; None where no fakes were given.
        remarks: what the user should know, one sentence each.
    """

    detector: Detector
    old: Calibration
    real: Change
    fake: Change | None
    remarks: tuple[str, ...] = field(default=())


def check_enough(
    real: Collection, fake: Collection | None = None, *, max_fpr: float, confidence: float, max_miss: float = 0.05
) -> None:
    """Refuse what cannot carry the promise; to be asked before long work.

    Args:
        real: real images.
        fake: fake images.
        max_fpr: promised share of reals called fake, at most.
        confidence: of the promise.
        max_miss: promised share of fakes called real, at most.

    Raises:
        DataError: too few distinct real images (says how many are needed), a folder of fakes without any, a file that
            is in both, or an impossible rate.
    """
    check_promise(max_fpr, max_miss, confidence)
    if len(real.members) < needed_for(max_fpr, confidence):
        raise too_few(len(real.members), max_fpr, confidence, "distinct real images")
    if fake is None:
        return
    if not fake.members:
        raise DataError(f"{display_name(fake.folder)} holds no readable images; leave --fake out if there are no fakes")
    names = {m.sha256: m.ref.name for m in real.members}
    for member in fake.members:
        if member.sha256 in names:
            raise DataError(f"{names[member.sha256]} and {member.ref.name} are one file, given as real and as fake")


def unknown_to(detector: Detector, collection: Collection) -> tuple[Collection, int]:
    """A collection without the images that the detector was made of, and the number of those.

    A classifier scores its own training rows better than others, so a threshold fixed on them would promise too much.
    """
    known = {row.tobytes().hex() for row in detector.bank.keys}
    members = tuple(m for m in collection.members if m.sha256 not in known)
    return replace(collection, members=members), len(collection.members) - len(members)


def score(
    detector: Detector,
    collection: Collection,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    on_done: Callable[[int], None] = lambda _: None,
) -> Scored:
    """Score a collection; what cannot be read goes from its members to its failures, see `Scored` for what else goes.

    Args:
        detector: gives the scores.
        collection: the images.
        batch_size: images a batch.
        workers: decoding threads.
        max_pixels: larger images are refused.
        on_done: called after each image with 1.

    Raises:
        UsageError: the detector is on a lossy engine; thresholds would be kept as those of float32.
    """
    if detector.lossy:
        raise UsageError(
            f"this engine is lossy ({detector.lossy}), and thresholds are of float32 scores: calibrate on one in "
            "float32 (UNIVFD_ENGINE=cpu); lossy engines may use what comes of it"
        )
    members, scores, unsure, failures, near = [], [], [], list(collection.failures), 0
    rows = _promising(detector).detect(
        [m.ref for m in collection.members], batch_size=batch_size, workers=workers, max_pixels=max_pixels,
        neighbors=2,
    )  # fmt: skip
    for member, row in zip(collection.members, rows, strict=True):
        if isinstance(row, Failure):
            failures.append(row)
        elif any(doubt.code != "between" for doubt in row.doubts):
            unsure.append(row)
        else:
            members.append(member)
            scores.append(row.score)
            near += _is_near(row)
        on_done(1)
    left = replace(collection, members=tuple(members), failures=tuple(failures))
    return Scored(left, np.asarray(scores, np.float64), tuple(unsure), near)


def _is_near(verdict: Verdict) -> bool:
    """Is it nearly one row of the bank, and less than half as far from it as from the next one?

    Near alone says little in the spaces of some encoders, where all images are near each other.
    """
    distances = sorted(n.distance for n in (*verdict.nearest_real, *verdict.nearest_fake))
    return len(distances) > 1 and distances[0] < min(NEAR, distances[1] / 2)


def _promising(detector: Detector) -> Detector:
    """A detector that promises something: only then do degradations make a verdict unsure, as they will afterwards."""
    if detector.calibration.max_fpr is not None:
        return detector
    return replace(detector, calibration=replace(detector.calibration, max_fpr=0.5))


def recalibrate(
    name: str,
    detector: Detector,
    real: Scored,
    fake: Scored | None = None,
    *,
    max_fpr: float,
    max_miss: float = 0.05,
    confidence: float = 0.9,
    worst_group: bool = False,
) -> Recalibrated:
    """A detector whose thresholds keep their promise on these images.

    `real_below` comes from the fakes where there are enough of them; else it is the old one, lowered to `fake_above`
    where that is less. The probability is refitted with at least 20 images of each class, else it is the old one.

    Args:
        name: of the new detector.
        detector: the old one, which gave the scores.
        real: real images, none of which the detector has seen.
        fake: likewise fakes.
        max_fpr: promised share of reals called fake, at most.
        max_miss: promised share of fakes called real, at most.
        confidence: of each promise.
        worst_group: keep `max_fpr` in every group, see `univfd.calibration.false_alarm_threshold`.

    Raises:
        DataError: too few real images for the promise (says how many are needed), or an impossible rate.
    """
    check_promise(max_fpr, max_miss, confidence)
    left_out = (*_unsure_remarks(real, fake), *_near_remarks(real, fake))
    lacking = "no fakes were given" if fake is None else "none of the fakes could be judged"
    if fake is not None and not len(fake.scores):  # every one of them was unreadable, or unsure whatever its score
        fake = None
    old = detector.calibration
    if real.unsure and len(real.scores) < needed_for(max_fpr, confidence):
        what = f"real images, beside {len(real.unsure)} that are unsure whatever their score,"
        raise too_few(len(real.scores), max_fpr, confidence, what)
    fake_above, groups = false_alarm_threshold(real.scores, real.groups, max_fpr, confidence, worst_group=worst_group)
    real_below, kept_miss, miss_remark = _real_below(old, fake, lacking, fake_above, max_miss, confidence)
    slope, intercept, chance_remark = _probability(old, real, fake)
    new = Calibration(
        fake_above=fake_above, real_below=real_below, slope=slope, intercept=intercept,
        max_fpr=max_fpr, max_miss=kept_miss, confidence=confidence,
        n_real=len(real.scores), n_fake=0 if fake is None else len(fake.scores),
        data=_description(detector, real, fake), groups=groups,
        known_within=old.known_within,
        named_within=old.named_within,
    )  # fmt: skip
    return Recalibrated(
        replace(detector, name=name, calibration=new),
        old,
        _change(real.scores, old, new),
        None if fake is None else _change(fake.scores, old, new),
        (*left_out, *_group_remarks(new, worst_group), miss_remark, chance_remark),
    )


def _real_below(
    old: Calibration, fake: Scored | None, lacking: str, fake_above: float, max_miss: float, confidence: float
) -> tuple[float, float | None, str]:
    """The lower threshold, the miss rate that it promises (None: nothing), and what to say."""
    kept = min(old.real_below, fake_above)
    if fake is None:
        return kept, None, (
            f"{lacking}: what share of fakes is found (the recall) is unknown, and no miss rate is promised; "
            "the threshold for 'real' is the old one, or the new threshold for 'fake' where that is lower"
        )  # fmt: skip
    n, need = len(fake.scores), needed_for(max_miss, confidence)
    if n < need:
        return kept, None, (
            f"{counted(n, 'fake is', 'fakes are')} too few to promise that at most {max_miss:.3g} of fakes are called "
            f"real ({need} are needed): the threshold for 'real' is the old one, or the new threshold for 'fake' where "
            "that is lower"
        )  # fmt: skip
    own = -threshold_for(-fake.scores, max_miss, confidence)
    return min(own, fake_above), max_miss, f"the threshold for 'real' was fixed on {counted(n, 'fake')}"


def _probability(old: Calibration, real: Scored, fake: Scored | None) -> tuple[float | None, float | None, str]:
    """Slope, intercept and what to say about them."""
    kept = "there is no probability, as before" if old.slope is None else "the probability is the old one"
    n = 0 if fake is None else len(fake.scores)
    if fake is None or min(n, len(real.scores)) < LEAST_FOR_PROBABILITY:
        there = f"{counted(n, 'fake')}, {counted(len(real.scores), 'real')}"
        return old.slope, old.intercept, f"{kept} ({there}; a new one needs {LEAST_FOR_PROBABILITY} of each)"
    slope, intercept = platt(np.concatenate([real.scores, fake.scores]), np.repeat([0, 1], [len(real.scores), n]))
    if slope <= 0:  # a probability that falls while the score rises would contradict the verdict
        return old.slope, old.intercept, f"{kept}: these fakes score no higher than these reals, so none can be fitted"
    return slope, intercept, f"the probability was refitted on {len(real.scores)} reals and {n} fakes"


def _unsure_remarks(real: Scored, fake: Scored | None) -> Iterator[str]:
    for word, scored in (("real", real), ("fake", fake)):
        if scored is not None and scored.unsure:
            codes = Counter(doubt.code for v in scored.unsure for doubt in v.doubts if doubt.code != "between")
            why = ", ".join(f"{code} {n}" for code, n in sorted(codes.items()))
            one, several = f"{word} image that is unsure whatever its", f"{word} images that are unsure whatever their"
            images = counted(len(scored.unsure), one, several)
            yield f"left out {images} score ({why}): no promise is made about such images"


def _near_remarks(real: Scored, fake: Scored | None) -> Iterator[str]:
    for word, scored in (("real", real), ("fake", fake)):
        if scored is not None and scored.near > _FEW_NEAR * len(scored.scores):
            yield (
                f"WARNING: {scored.near} of {len(scored.scores)} {word} images are nearly the same as images that the "
                "detector was made of (copies of them, it seems). It scores those better than others: what is promised "
                "here holds for no new images. Take images of your own"
            )


def _group_remarks(new: Calibration, worst_group: bool) -> tuple[str, ...]:
    if new.max_fpr is None or new.confidence is None or len(new.groups) < 2:
        return ()
    need = needed_for(new.max_fpr, new.confidence)
    few = [g for g in new.groups if g.fake_above is None]
    remarks = []
    if few:
        least, most = min(g.n for g in few), max(g.n for g in few)
        names = ", ".join(repr(g.group) for g in few[:_NAMED]) + (" ..." if len(few) > _NAMED else "")
        sizes = f"{least}" if least == most else f"{least} to {most}"
        remarks.append(
            f"group{'s' * (len(few) > 1)} {names}: {sizes} images are too few for a promise of "
            f"{'its' if len(few) == 1 else 'their'} own ({need} are needed)"
            + (": --worst-group keeps the promise in the others alone" if worst_group else "")
        )
    worst = new.worst_group
    if not worst_group and worst is not None and (worst.fake_above or 0.0) > new.fake_above:
        remarks.append(
            f"the promise holds for all groups as they are mixed here; group {worst.group!r} by itself would need a "
            f"threshold of {worst.fake_above:.4g} (--worst-group takes it)"
        )
    return tuple(remarks)


def _description(detector: Detector, real: Scored, fake: Scored | None) -> str:
    text = f"scores by {detector.identity} of own images: {_counted(real)}"
    return text + (f"; {_counted(fake)}" if fake is not None else "; no fakes")


def _counted(scored: Scored) -> str:
    counts: Mapping[str, int] = Counter(scored.groups)
    parts = ", ".join(f"{name} {counts[name]}" for name in sorted(counts))
    return f"{scored.collection.name} ({parts})"


def _change(scores: Scores, old: Calibration, new: Calibration) -> Change:
    before, after = (int((scores > c.fake_above).sum()) for c in (old, new))
    return Change(proportion(before, len(scores)), proportion(after, len(scores)))
