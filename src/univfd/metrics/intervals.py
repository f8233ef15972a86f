"""How sure a figure is: exact binomial intervals, and the bootstrap over source images.

Images that come from one another (the same input, the same identity, the same file) say less than as many independent
ones. They form a *cluster*, and clusters are redrawn whole, within *strata* (a generator, the reals of a subset): which
generators a benchmark has is fixed, only their images are a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]

CONFIDENCE = 0.95
_BLOCK = 1_000_000  # weights held at a time
_FEW = 10  # clusters, of which redrawing among themselves says little


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval and the number of images behind it; an interval of nan: there is none."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f}" if np.isnan(self.low) else f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Absent:
    """A figure that cannot be computed, and why."""

    reason: str
    n: int = 0


@dataclass(frozen=True, eq=False)
class Design:
    """How N images are redrawn.

    Attributes:
        cluster: `(N,)` number of each image's cluster, 0..C-1.
        strata: the clusters of each stratum.
    """

    cluster: Codes
    strata: tuple[Codes, ...]


def proportion(hits: int, n: int, confidence: float = CONFIDENCE, *, distinct: float = 1.0) -> Estimate:
    """A share with its exact (Clopper-Pearson) binomial interval.

    Args:
        hits: of them.
        n: images.
        confidence: of the interval.
        distinct: share of the images that are none but a copy of another; the interval and the n that is stated are of
            so many.

    Raises:
        DataError: of nothing.
    """
    from scipy.special import betaincinv

    if n < 1:
        raise DataError(f"a share of {n} images; expected at least 1")
    tail = (1 - confidence) / 2
    good, bad = hits * distinct, (n - hits) * distinct
    low = float(betaincinv(good, bad + 1, tail)) if hits else 0.0
    high = float(betaincinv(good + 1, bad, 1 - tail)) if hits < n else 1.0
    return Estimate(hits / n, low, high, max(1, round(n * distinct)))


def share_difference(first: Estimate, second: Estimate, firsts: Floats, seconds: Floats) -> Estimate:
    """One share minus another of the same images, with an interval made of both shares' own ones.

    Newcombe (1998), *Improved confidence intervals for the difference between binomial proportions based on paired
    data*, method 10, with the shares' own (exact) intervals in place of Wilson's, and as correlation of the two that of
    their values in redrawn sets.

    Args:
        first: a share.
        second: another.
        firsts: `(R,)` the first in redrawn sets.
        seconds: `(R,)` the second in the same sets.

    Returns:
        Without an interval where one of the two has none.
    """
    varies = len(firsts) > 1 and np.ptp(firsts) > 0 and np.ptp(seconds) > 0
    together = float(np.corrcoef(firsts, seconds)[0, 1]) if varies else 0.0

    def reach(mine: float, other: float) -> float:
        return float(np.sqrt(np.maximum(0, mine**2 - 2 * together * mine * other + other**2)))

    value = first.value - second.value
    low = value - reach(first.value - first.low, second.high - second.value)
    high = value + reach(first.high - first.value, second.value - second.low)
    low, high = np.clip([low, high], -1, 1)  # nan stays
    return Estimate(value, float(low), float(high), min(first.n, second.n))


def interval(values: Floats, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """A figure with its percentile interval.

    Args:
        values: `(1 + R,)` the figure, then its values of R redrawn sets; nan where a set has none.
        n: images.
        confidence: of the interval.
    """
    tail = (1 - confidence) / 2
    drawn = values[1:][~np.isnan(values[1:])]
    low, high = np.quantile(drawn, [tail, 1 - tail]) if len(drawn) else (np.nan, np.nan)
    return Estimate(float(values[0]), float(low), float(high), n)


def bootstrap(
    figure: Callable[[NDArray[Any], Floats], float],
    labels: NDArray[Any],
    scores: Floats,
    *,
    rounds: int = 1000,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """Any figure with its percentile bootstrap interval; images are redrawn one by one within each class."""
    rng = np.random.default_rng(seed)
    real, fake = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    values = [figure(labels, scores)]
    for _ in range(rounds):
        drawn = np.concatenate([rng.choice(real, len(real)), rng.choice(fake, len(fake))])
        values.append(figure(labels[drawn], scores[drawn]))
    return interval(np.array(values), len(labels), confidence)


def design(kinds: Codes, clusters: Codes, classes: NDArray[Any] | None = None) -> Design:
    """Clusters and strata of N images.

    Args:
        kinds: `(N,)` what must keep its share of the images: its class, its generator.
        clusters: `(N,)` equal where images belong together.
        classes: `(N,)` the same for all images of a kind: those whose clusters may stand for one another where a
            stratum has one cluster alone. Without them such a stratum is in every redrawn set as it is.

    Returns:
        A design whose strata are the clusters that hold the same kinds: where one holds a real image and the fake made
        of it, such clusters are redrawn among themselves. So no kind that is there can vanish from a redrawn set.
        Strata of a few clusters would hardly be redrawn at all: those that share a kind are one stratum, from which a
        kind may be missing in a redrawn set. So it is with clusters that are the only ones of their stratum, by class
        (collapsed strata: Cochran, *Sampling Techniques*, 1977, 5A.12): the interval then holds the differences between
        their kinds too, and is rather too wide than too narrow.
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    pairs = np.unique(np.stack([cluster, kinds], axis=1), axis=0) if len(kinds) else np.empty((0, 2), np.intp)
    starts = np.flatnonzero(np.diff(pairs[:, 0], prepend=-1))
    strata: dict[tuple[int, ...], list[int]] = {}
    for number, held in enumerate(np.split(pairs[:, 1], starts[1:])):
        strata.setdefault(tuple(held.tolist()), []).append(number)
    named = {held: np.array(sorted(strata[held]), np.intp) for held in sorted(strata)} if len(pairs) else {}
    strata_of = _enough(named)
    if classes is not None:
        strata_of = _none_alone(strata_of, dict(zip(kinds.tolist(), classes.tolist(), strict=True)))
    return Design(cluster.astype(np.intp), tuple(strata_of.values()))


def _enough(strata: Mapping[tuple[int, ...], Codes]) -> dict[tuple[int, ...], Codes]:
    """Strata by the kinds that their clusters hold, small ones that share a kind together; where a small one is left
    alone, with the largest that shares a kind.
    """
    enough = {held: clusters for held, clusters in strata.items() if len(clusters) >= _FEW}
    merged: list[tuple[set[int], list[tuple[int, ...]]]] = []
    for held in (h for h in strata if h not in enough):
        sharing = [m for m in merged if m[0] & set(held)]
        merged = [m for m in merged if m not in sharing]
        kinds, parts = set(held), [held]
        for more, others in sharing:
            kinds, parts = kinds | more, [*others, *parts]
        merged.append((kinds, parts))
    for kinds, parts in merged:
        clusters = np.sort(np.concatenate([strata[h] for h in parts]))
        near = [held for held in enough if kinds & set(held)] if len(clusters) < 2 else []
        place = max(near, key=lambda held: len(enough[held]), default=tuple(sorted(kinds)))
        enough[place] = np.sort(np.concatenate([enough[place], clusters])) if place in enough else clusters
    return {held: enough[held] for held in sorted(enough)}


def _none_alone(strata: Mapping[tuple[int, ...], Codes], classes: Mapping[int, Any]) -> dict[tuple[int, ...], Codes]:
    """Strata of one cluster together, by the classes that it holds; a single one of its classes with their smallest."""
    found = dict(strata)
    alike: dict[frozenset[Any], list[tuple[int, ...]]] = {}
    for held in strata:
        alike.setdefault(frozenset(classes[kind] for kind in held), []).append(held)
    for of_class in alike.values():
        by_size = sorted(of_class, key=lambda held: (len(strata[held]), held))
        alone = sum(len(strata[held]) < 2 for held in by_size)
        together = by_size[: max(alone, 2)] if alone else []
        if len(together) > 1:
            clusters = np.sort(np.concatenate([found.pop(held) for held in together]))
            found[tuple(sorted({kind for held in together for kind in held}))] = clusters
    return {held: found[held] for held in sorted(found)}


def weightings(plan: Design, rounds: int, seed: int = 0) -> Iterator[Floats]:
    """How often each image is in the set itself (once), and in each of `rounds` sets redrawn with replacement.

    Yields:
        `(B, N)` float64, in blocks of bounded size; the first row of the first block is all ones.
    """
    n = len(plan.cluster)
    count = sum(len(s) for s in plan.strata)
    streams = [np.random.default_rng([seed, i]) for i in range(len(plan.strata))]
    size = max(1, _BLOCK // max(n, 1))
    yield np.ones((1, n))
    for start in range(0, rounds, size):
        block = min(size, rounds - start)
        weights = np.empty((block, count))
        for stratum, rng in zip(plan.strata, streams, strict=True):
            weights[:, stratum] = _counts(rng, block, len(stratum))
        yield np.take(weights, plan.cluster, axis=1)  # in C order, unlike what indexing gives


def _counts(rng: np.random.Generator, block: int, n: int) -> NDArray[np.intp]:
    """`(block, n)` how often each of n things is drawn in n draws with replacement."""
    drawn = rng.integers(0, n, (block, n))
    drawn += np.arange(block)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=block * n).reshape(block, n)
