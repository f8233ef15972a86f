"""Is a labelled collection fit for measuring detectors? A detector that sees no pixel says: it must not do well.

Benchmarks hold JPEG reals and PNG fakes, photographs of every size and fakes of 256 x 256. A detector may learn that
and nothing else, and score well. So one is trained here on nothing but what the headers say (`univfd.metadata`) and
tested on images held out, twice: on generators and real sources that it has not seen (what carries over to the next
collection) and on images drawn at random (what a split by image gives away). Where either AUROC is above 0.6 the
collection is unfit as it is; `univfd.matching` makes a fit one of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, InputError, MissingExtraError
from .evaluation import Cohort
from .images import DEFAULT_MAX_PIXELS
from .metadata import Features, Metadata, features, read_metadata
from .metadata_detector import LEAST, MIN_N, Check, Labels, at_random, new_generators
from .metrics import auroc
from .pipeline import ordered_map
from .types import Failure, Sample
from .wording import counted

LIMIT = 0.6
"""AUROC of a detector that sees only metadata, above which a collection is unfit."""
_NAMED, _LISTED, _SAME, _CHANCE = 8, 10, 0.9, 0.51
# Generators named and features listed at most; rank correlation of two that say the same; AUROC of what says nothing.

Verdict = Literal["fit", "doubtful", "unfit"]
VERDICTS: tuple[Verdict, ...] = ("fit", "doubtful", "unfit")


@dataclass(frozen=True, slots=True)
class Tell:
    """How well one feature alone tells the classes apart, on all images (nothing is held out).

    Attributes:
        feature: its name.
        flag: whether it is yes or no.
        auroc: 0.5 to 1, in whichever direction is better, over the files that have it.
        fake: share of the fakes that have it (flag), or their median.
        real: the same of the reals.
        n_fake: fakes that have a value.
        n_real: reals that have a value.
    """

    feature: str
    flag: bool
    auroc: float
    fake: float
    real: float
    n_fake: int
    n_real: int

    def __str__(self) -> str:
        if self.flag:
            return f"{self.feature}: {self.fake:.0%} of fakes, {self.real:.0%} of reals"
        return f"{self.feature}: median {readable(self.fake)} of fakes, {readable(self.real)} of reals"


@dataclass(frozen=True, slots=True)
class Audit:
    """The report.

    Attributes:
        verdict: `fit`, `doubtful` or `unfit` for measuring detectors.
        reasons: why, in words.
        checks: the AUROCs, with their protocols.
        tells: the features that tell most by themselves, best first.
        fakes: number of fakes read.
        reals: number of reals read.
        copies: number of samples that are the same file as an earlier one of their class; they count once.
        failures: a row for each file that could not be read.
        seed: of folds and intervals.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    tells: tuple[Tell, ...]
    fakes: int
    reals: int
    copies: int
    failures: tuple[Failure, ...]
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {
            "limit": LIMIT,
            "checks": [asdict(c) | {"generators": {g: asdict(e) for g, e in c.generators}} for c in self.checks],
            "failures": [f.to_dict() for f in self.failures],
        }


def audit(
    samples: Iterable[Sample],
    *,
    seed: int = 0,
    workers: int = 1,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    on_done: Callable[[int], None] = lambda _: None,
) -> Audit:
    """Judge a collection by its files' headers; no pixel is decoded.

    Args:
        samples: the collection.
        seed: of folds and intervals.
        workers: reading threads.
        max_pixels: larger images are failures.
        on_done: called with 1 after each file.

    Raises:
        DataError: fewer than `LEAST` readable images of either class.
    """
    kept, files, failures = read_all(samples, workers=workers, max_pixels=max_pixels, on_done=on_done)
    kept, files, copies = _each_once(kept, files)
    cohort = cohort_of(kept)
    fakes, reals = int((cohort.labels == 1).sum()), int((cohort.labels == 0).sum())
    if min(fakes, reals) < LEAST:
        raise DataError(
            f"{fakes} fake and {reals} real images could be read, {counted(len(failures), 'file')} could not; "
            f"an audit needs at least {LEAST} of each class"
        )
    table = features(files)
    checks = tuple(c for c in (new_generators(cohort, table, seed), at_random(cohort, table, seed)) if c)
    tells = what_tells(table, cohort.labels)
    verdict, reasons = judge(checks, tells)
    return Audit(verdict, reasons, checks, tells, fakes, reals, copies, tuple(failures), seed)


def read_all(
    samples: Iterable[Sample],
    *,
    workers: int = 1,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    on_done: Callable[[int], None] = lambda _: None,
) -> tuple[list[Sample], list[Metadata], list[Failure]]:
    """The samples whose headers can be read, their metadata in the same order, and a failure for each other one."""
    kept, files, failures = [], [], []

    def read(sample: Sample) -> tuple[Sample, Metadata | Failure]:
        try:
            return sample, read_metadata(sample.ref, max_pixels=max_pixels)
        except (InputError, MissingExtraError) as error:
            return sample, Failure(sample.ref.name, error.code, str(error))
        except MemoryError:
            return sample, Failure(sample.ref.name, InputError.code, "not enough memory to read it")

    for sample, found in ordered_map(read, samples, workers=workers, ahead=8 * workers):
        if isinstance(found, Failure):
            failures.append(found)
        else:
            kept.append(sample)
            files.append(found)
        on_done(1)
    return kept, files, failures


def _each_once(samples: Sequence[Sample], files: Sequence[Metadata]) -> tuple[list[Sample], list[Metadata], int]:
    """Without copies: a file that is trained on and tested again would be known by its number of bytes."""
    first = {(s.label, m.sha256): i for i, (s, m) in reversed(list(enumerate(zip(samples, files, strict=True))))}
    at = sorted(first.values())
    return [samples[i] for i in at], [files[i] for i in at], len(samples) - len(at)


def cohort_of(samples: Sequence[Sample]) -> Cohort:
    """What is known about the samples, for splitting."""
    generator, source, group = (
        np.array([getattr(s, name) for s in samples], dtype=object) for name in ("generator", "source", "group")
    )
    return Cohort(np.array([s.label for s in samples], np.uint8), generator, source, group)


def readable(value: float) -> str:
    """A median in few digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def what_tells(table: Features, labels: Labels) -> tuple[Tell, ...]:
    """The features that tell the classes apart best by themselves, without those that say the same as a better one."""
    found = []
    for column, (name, flag) in enumerate(zip(table.names, table.flags, strict=True)):
        values = table.values[:, column].astype(np.float64)
        has = np.isfinite(values)
        fake, real = values[has & (labels == 1)], values[has & (labels == 0)]
        if min(len(fake), len(real)) < LEAST:
            continue
        area = auroc(labels[has], values[has])
        middle = np.mean if flag else np.median
        tell = Tell(name, flag, max(area, 1 - area), float(middle(fake)), float(middle(real)), len(fake), len(real))
        found.append((tell, values))
    found.sort(key=lambda pair: -pair[0].auroc)
    kept: list[tuple[Tell, NDArray[np.float64]]] = []
    for tell, values in found:
        worth = not kept or tell.auroc >= _CHANCE
        if worth and len(kept) < _LISTED and not any(_alike(values, other) for _, other in kept):
            kept.append((tell, values))
    return tuple(tell for tell, _ in kept)


def _alike(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Whether two columns rank the images nearly the same, or the opposite, way."""
    from scipy.stats import rankdata

    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < len(a) / 2:
        return False
    x, y = rankdata(a[both]), rankdata(b[both])
    x, y = x - x.mean(), y - y.mean()
    return bool(abs(x @ y) > _SAME * np.sqrt((x @ x) * (y @ y)) > 0)


def judge(checks: Sequence[Check], tells: Sequence[Tell]) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict and its reasons.

    `unfit`: an AUROC above `LIMIT` that is not explained by chance. `doubtful`: one above it that may be chance, or an
    interval that reaches above it, or, at random, clearly below 0.5. `fit`: none of these.
    """
    reasons: list[str] = []
    verdict: Verdict = "fit"
    for check in checks:
        state, text = _state(check)
        verdict = max(verdict, state, key=VERDICTS.index)
        reasons.append(text)
        suspect = [g for g, a in check.generators if a.n >= MIN_N and a.low > LIMIT]
        if suspect and state == "unfit":
            more = f" and {len(suspect) - _NAMED} more" if len(suspect) > _NAMED else ""
            reasons.append(f"metadata alone give away {', '.join(suspect[:_NAMED])}{more}")
    if verdict != "fit":
        reasons += [str(t) for t in tells if t.auroc > LIMIT] or [f"most telling by itself: {t}" for t in tells[:1]]
    return verdict, tuple(reasons)


def _state(check: Check) -> tuple[Verdict, str]:
    where = {
        "new generators": "on generators and real sources it has not seen",
        "at random": "on images drawn at random",
    }
    says = f"a detector that sees only metadata has AUROC {check.auroc} {where[check.name]}"
    if check.auroc.value > LIMIT:
        if check.auroc.low > 0.5:
            return "unfit", f"{says}; the limit is {LIMIT}"
        return "doubtful", f"{says}: above the limit of {LIMIT}, but so few images may do that by chance"
    if not check.auroc.high <= LIMIT:  # nan: no interval
        return "doubtful", f"{says}: too few images to tell that it is below the limit of {LIMIT}"
    if check.name == "at random" and check.auroc.high < 0.5 - (LIMIT - 0.5):
        remedy = (
            "there are too few groups to hold twins out together, so images of others are needed"
            if check.apart
            else "give twins the same 'group', so that they are held out together"
        )
        return "doubtful", f"{says}: far below chance, as where each image has a twin of the other class; {remedy}"
    return "fit", f"{says}; the limit is {LIMIT}"
