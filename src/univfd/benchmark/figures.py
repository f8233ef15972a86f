"""Figures of a run, from its score rows alone: over all images, per generator, per family, per real source.

The same rows give the same figures: the bootstrap is seeded, and every detector and perturbation has the same draws.
Images that could not be judged are in no figure; they are counted beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..metrics import FIGURES, Absent, Design, Estimate, interval
from .drawing import MIN_FAKES, draw, estimate, mean_over_generators
from .groups import Group, Kind, everything, groups, redrawing
from .rows import Cell, Images, Scores

ROUNDS = 1000
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
MIN_REALS = 20
"""Real sources with fewer images are listed, but not named as the worst."""
_NAMED = 3  # of those that are the worst alike, at most
_ALIKE = 1e-9  # values that are apart by rounding alone
OF_SOURCES = ("false_alarms", "real_accuracy_half", "real_accuracy_threshold", "unsure")


@dataclass(frozen=True)
class Part:
    """The figures of a group under one perturbation and detector; n counts images that were judged."""

    name: str
    n_fake: int
    n_real: int
    against: str
    figures: Mapping[str, Estimate | Absent]


@dataclass(frozen=True)
class CellFigures:
    """All figures of one detector under one perturbation.

    Attributes:
        perturbation: as in the rows.
        detector: its name.
        identity: its name and digest.
        calibrated: whether there is a probability; else `half` is the classifier's own decision at score 0.
        failed: images that could not be judged: fakes, reals.
        in_bank: judged images that the detector was made of.
        overall: over all images.
        means: mean over the generators with at least `MIN_FAKES` images, of each figure; n counts generators.
        generators: one a generator.
        families: one a family; none where no family is named.
        sources: one a source of real images, only `OF_SOURCES`.
        coverage: risk at each coverage of `COVERAGES`, see `univfd.metrics.confident`.
    """

    perturbation: str
    detector: str
    identity: str
    calibrated: bool
    failed: tuple[int, int]
    in_bank: int
    overall: Part
    means: Mapping[str, Estimate | Absent]
    generators: tuple[Part, ...]
    families: tuple[Part, ...]
    sources: tuple[Part, ...]
    coverage: tuple[tuple[float, Estimate | Absent], ...]


def figures(scores: Scores, *, rounds: int = ROUNDS, seed: int = 0) -> list[CellFigures]:
    """Every figure of a run.

    Args:
        scores: its rows.
        rounds: redrawn sets of the bootstrap.
        seed: of the bootstrap.
    """
    plan = redrawing(scores.images)
    whole, parts = [everything(scores.images)], list(groups(scores.images))
    return [_cell_figures(scores.images, cell, whole + parts, plan, rounds, seed) for cell in scores.cells]


@dataclass(frozen=True)
class Worst:
    """The parts of a kind with the worst value of a figure.

    Attributes:
        parts: by name; several where they are alike.
        among: how many there are with enough images.
        value: the figure of the one with the fewest images, whose interval is as wide as any.
    """

    parts: tuple[Part, ...]
    among: int
    value: Estimate

    @property
    def names(self) -> str:
        """Who it is, in words: of several alike a few, and how many they are; that none is, where all are alike."""
        if len(self.parts) == 1:
            return self.parts[0].name
        if len(self.parts) == self.among:
            return f"none: all {self.among} are alike"
        more = " and others" if len(self.parts) > _NAMED else ""
        named = ", ".join(p.name for p in self.parts[:_NAMED])
        return f"{named}{more} ({len(self.parts)} of {self.among} alike)"


def worst(parts: Sequence[Part], name: str) -> Worst | None:
    """The parts with the worst value of a figure, among those with enough images; None: there is none."""
    known: list[tuple[float, Part, Estimate]] = []
    for part in parts:
        value = part.figures.get(name)
        enough = part.n_fake >= MIN_FAKES or (not part.n_fake and part.n_real >= MIN_REALS)
        if isinstance(value, Estimate) and enough:
            known.append((-value.value if FIGURES[name].error else value.value, part, value))
    if not known:
        return None
    least = min(goodness for goodness, _, _ in known)
    alike = sorted((k for k in known if k[0] - least < _ALIKE), key=lambda k: k[1].name)
    return Worst(tuple(part for _, part, _ in alike), len(known), min((k[2] for k in alike), key=lambda v: v.n))


def _cell_figures(
    images: Images, cell: Cell, about: Sequence[Group], plan: Design, rounds: int, seed: int
) -> CellFigures:
    sources = [g for g in about if g.kind == "source"]
    others = [g for g in about if g.kind != "source"]
    drawn = draw(cell, images, others, list(FIGURES), plan, rounds=rounds, seed=seed, coverages=COVERAGES)
    reals = images.origin[~images.fake]
    grouped = len(np.unique(reals)) < len(reals)  # else no interval of a share comes from redrawn sets
    shares = draw(cell, images, sources, OF_SOURCES, plan, rounds=rounds if grouped else 0, seed=seed)
    parts: dict[Kind, list[Part]] = {"all": [], "generator": [], "family": [], "source": []}
    for found, members, names in ((drawn, others, list(FIGURES)), (shares, sources, list(OF_SOURCES))):
        for i, group in enumerate(members):
            values = {name: estimate(found, (i, name), group, cell) for name in names}
            n_fake, n_real = (int((mask & cell.judged).sum()) for mask in (group.fake, group.real))
            parts[group.kind].append(Part(group.name, n_fake, n_real, group.against, values))
    failed = ~cell.judged
    n = int(cell.judged.sum())
    return CellFigures(
        perturbation=cell.perturbation,
        detector=cell.detector,
        identity=cell.identity,
        calibrated=cell.probability is not None,
        failed=(int((failed & images.fake).sum()), int((failed & ~images.fake).sum())),
        in_bank=int((cell.in_bank & cell.judged).sum()),
        overall=parts["all"][0],
        means={name: mean_over_generators(drawn, name, others, cell) for name in FIGURES},
        generators=tuple(parts["generator"]),
        families=tuple(parts["family"]),
        sources=tuple(parts["source"]),
        coverage=tuple(
            (c, interval(drawn.risks[c], n) if c in drawn.risks else Absent("no image was judged")) for c in COVERAGES
        ),
    )
