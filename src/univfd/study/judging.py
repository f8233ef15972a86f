"""What scores come to on the test images: figures per generator, means over generators, with intervals.

The sets of a study have unequal numbers of reals and fakes, the paper's have equal ones. So AP is that of equal weights
of both classes, and accuracy the balanced one: with equal numbers they are the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..benchmark.drawing import MIN_FAKES, Drawn, draw, estimate
from ..benchmark.groups import UNNAMED, Group, groups, redrawing
from ..benchmark.rows import Cell, Images, Texts
from ..metrics import Absent, Estimate, interval
from .data import Data
from .split import TEST, VALIDATION, Split

Floats = NDArray[np.float64]

AP, AUROC = "ap_equal", "auroc"
HALF = ("balanced_accuracy_half", "real_accuracy_half", "fake_accuracy_half")
THRESHOLD = tuple(name.replace("half", "threshold") for name in HALF)
ORACLE = "balanced_accuracy_oracle"
SINK = "misses"
EVERY = (AP, AUROC, *HALF, *THRESHOLD, ORACLE, SINK)
SEEN, UNSEEN = "training generators", "unseen generators"
NOTE = (
    "Each cell: value [95 % interval] n. AP: of equal weights of both classes, as in the paper's sets of equal "
    f"numbers; accuracy: the mean of both classes'. A mean over generators is over those with at least {MIN_FAKES} "
    "test images; its n counts generators, and its interval redraws the generators and their images. Over one "
    "generator it has none: one says nothing about how others would do. Other intervals redraw images (those of one "
    "group or file together); those of shares of images are exact binomial ones, or wider where images come in groups."
)


@dataclass(frozen=True, eq=False)
class Panel:
    """Methods on the test images.

    Attributes:
        images: the n test images.
        cells: one a method.
        about: groups of images: generators, real sources, sets of generators.
        drawn: figures of these groups, one for each cell.
        sets: generators of each set: training generators, unseen ones, each family of the unseen ones.
        seed: of the redrawing.
    """

    images: Images
    cells: tuple[Cell, ...]
    about: tuple[Group, ...]
    drawn: tuple[Drawn, ...]
    sets: Mapping[str, tuple[str, ...]]
    seed: int

    @cached_property
    def shown(self) -> tuple[str, ...]:
        """Names of the sets, without that of a family that all unseen generators are of: it is that of the unseen."""
        whole = self.sets.get(UNSEEN)
        return tuple(of for of in self.sets if of == UNSEEN or self.sets[of] != whole)

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say of the sets that are not shown."""
        return tuple(
            f"All unseen generators are of the family {of.removeprefix(unseen(''))}, which has no row of its own."
            for of in self.sets
            if of not in self.shown
        )

    @property
    def methods(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(c.detector for c in self.cells)

    def generators(self, of: str | Sequence[str]) -> list[str]:
        """Those of a set, or of some generators, that are averaged."""
        return [g for g in (self.sets[of] if isinstance(of, str) else of) if self.fakes(g) >= MIN_FAKES]

    def family(self, generator: str) -> str:
        """The family of a generator."""
        fakes = self._group("generator", generator)[1].fake
        return self.images.columns["family"][int(np.flatnonzero(fakes)[0])]

    def fakes(self, generator: str) -> int:
        """Test images of a generator."""
        return int(self._group("generator", generator)[1].fake.sum())

    def of(self, method: str, figure: str, name: str, kind: str = "generator") -> Estimate | Absent:
        """A figure of a generator, a real source (kind `source`) or a whole set (kind `family`)."""
        place, group = self._group(kind, name)
        cell = self.methods.index(method)
        return estimate(self.drawn[cell], (place, figure), group, self.cells[cell])

    def mean(self, method: str, figure: str, of: str | Sequence[str]) -> Estimate | Absent:
        """The mean of a figure over the generators of a set, or over some by name; n counts them.

        Of one generator it has no interval: one says nothing about how others would do.
        """
        if not (isinstance(of, str) or of):
            return Absent("no such generator is tested")
        drawn = self.drawn[self.methods.index(method)]
        found = [(self._group("generator", g)[0], figure) for g in self.generators(of)]
        known = [drawn.values[key] for key in found if key in drawn.values]
        if not known or len(known) < len(found):
            return Absent(f"no generator has {MIN_FAKES} test images" if not found else "not of every generator")
        means = _redrawn(np.array(known), self.seed)
        return interval(means if len(known) > 1 else means[:1], len(known))

    def _group(self, kind: str, name: str) -> tuple[int, Group]:
        place = self._places[kind, name]
        return place, self.about[place]

    @cached_property
    def _places(self) -> dict[tuple[str, str], int]:
        return {(g.kind, g.name): i for i, g in enumerate(self.about)}


def judged(
    data: Data,
    split: Split,
    scores: Mapping[str, Floats],
    *,
    figures: Sequence[str] = EVERY,
    rounds: int,
    seed: int,
    perturbation: str = "clean",
) -> Panel:
    """Figures of methods on the test images.

    Args:
        data: the N images.
        split: their parts; thresholds are set on the validation part.
        scores: of each method `(N,)`; nan where there is none.
        figures: of `univfd.metrics.FIGURES`.
        rounds: redrawn sets.
        seed: of the redrawing.
        perturbation: of the test images, for the record.
    """
    test, checked = split.rows(TEST), split.rows(VALIDATION)
    images = data.images(test)
    limits = {name: threshold(s[checked], data.fake[checked]) for name, s in scores.items()}
    cells = [_cell(name, s[test], limits[name], perturbation) for name, s in scores.items()]
    sets = sets_of(data, split)
    about = [g for g in groups(images) if g.kind != "family"]
    generator = _named(data.column("generator")[test])
    for name, members in sets.items():
        own = images.fake & np.isin(generator, members)
        about.append(Group("family", name, own, ~images.fake, "all reals"))
    plan = redrawing(images)
    drawn = [draw(cell, images, about, list(figures), plan, rounds=rounds, seed=seed) for cell in cells]
    return Panel(images, tuple(cells), tuple(about), tuple(drawn), sets, seed)


def sets_of(data: Data, split: Split) -> dict[str, tuple[str, ...]]:
    """Sets of generators that are tested, by name; each has one at least."""
    test = split.part == TEST
    generator, family = _named(data.column("generator")), data.column("family")
    fakes = test & data.fake
    seen = fakes & np.isin(generator, list(split.seen))
    chosen = {SEEN: seen, UNSEEN: fakes & ~seen}
    chosen |= {unseen(f): fakes & ~seen & (family == f) for f in sorted(set(family[fakes & ~seen]) - {""})}
    return {name: tuple(sorted(set(generator[rows]))) for name, rows in chosen.items() if rows.any()}


def _named(generators: NDArray[Any]) -> NDArray[np.str_]:
    """Names of generators, as groups have them."""
    names = generators.astype(str)
    return np.where(names == "", UNNAMED, names)


def unseen(family: str) -> str:
    """Name of the set of a family's unseen generators."""
    return f"unseen {family}"


def threshold(scores: Floats, fake: NDArray[np.bool_]) -> float:
    """The threshold of the best balanced accuracy on these images; of several, the one nearest to 0.

    Args:
        scores: `(n,)` of validation images; nan ones are passed over.
        fake: `(n,)`.
    """
    there = ~np.isnan(scores)
    scores, fake = scores[there], fake[there]
    levels = np.unique(scores)
    if not fake.any() or fake.all():
        return float("nan")
    # Between two levels every threshold decides alike: the one of these that is nearest to 0 stands for all.
    low, high = np.r_[-np.inf, levels], np.r_[levels, np.inf]
    places = np.clip(0.0, low, np.nextafter(high, -np.inf))
    found = 1 - np.searchsorted(np.sort(scores[fake]), places, "right") / fake.sum()
    kept = np.searchsorted(np.sort(scores[~fake]), places, "right") / (~fake).sum()
    best = np.flatnonzero(found + kept >= (found + kept).max() - 1e-12)
    return float(places[best[np.abs(places[best]).argmin()]])


def _redrawn(values: Floats, seed: int) -> Floats:
    """`(G, 1 + R)` a figure of G generators -> `(1 + R,)` its mean; in redrawn sets, of redrawn generators."""
    count, rounds = len(values), values.shape[1] - 1
    picked = np.random.default_rng([seed, count]).integers(0, count, (count, rounds))
    drawn = values[:, 1:][picked, np.arange(rounds)]
    return np.concatenate([[values[:, 0].mean()], drawn.mean(axis=0)])


def _cell(name: str, scores: Floats, limit: float, perturbation: str) -> Cell:
    there = ~np.isnan(scores)
    verdict = np.where(there, (np.nan_to_num(scores) > 0).astype(np.int32), 2).astype(np.int32)
    return Cell(
        perturbation=perturbation,
        detector=name,
        identity=name,
        fake_above=limit,
        real_below=float("nan"),
        judged=there,
        score=scores,
        probability=None,
        verdict=Texts(verdict, ("real", "fake", "")),
        in_bank=np.zeros(len(scores), bool),
    )
