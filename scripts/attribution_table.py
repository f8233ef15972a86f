"""How well fake images are given their generator, and how often one that the bank lacks gets a name."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from univfd import metrics
from univfd.attribution import MAX_NAMED, absent_generator_distances
from univfd.bank import FeatureBank
from univfd.calibration import threshold_for
from univfd.types import FloatArray, Label

Flags = NDArray[np.bool_]
INTRODUCTION = [
    "The generator of the nearest fake row is named within a distance that at most "
    f"{MAX_NAMED:.0%} of the images of an absent generator",
    "are nearer than. *Absent*: the image's generator is taken out of the bank, and the distance was set without it.",
    "*Present*: it has other images in the bank, of any source, or of other sources than the image's only.",
]


def attribution_table(
    bank: FeatureBank, versions: dict[str, FloatArray], groups: NDArray[np.object_], confidence: float
) -> list[str]:
    """One line a version of the images.

    Args:
        bank: N images.
        versions: unit vectors `(N, D)` of the images, in the bank's order.
        groups: `(N,)` images of one group are one picture.
        confidence: of the distances.
    """
    rows = [
        *INTRODUCTION,
        "",
        "| images | absent: called unknown | present: right / wrong / unknown | present in other sources: right / wrong / unknown |",
        "| --- | --- | --- | --- |",
    ]
    fake = bank.rows(Label.FAKE)
    generator = bank.generator[fake].astype(str)
    absent = {name: absent_generator_distances(bank, unit) for name, unit in versions.items()}
    limit = np.empty(len(fake))
    for name in np.unique(generator):
        others = generator != name
        limit[~others] = min(-threshold_for(-d[others], MAX_NAMED, confidence) for d in absent.values())
    for version, unit in versions.items():
        unknown = metrics.proportion(int((absent[version] > limit).sum()), len(fake))
        cells = [_present(bank, fake, unit, groups, limit, other_sources=o) for o in (False, True)]
        rows.append(f"| {version} | {unknown} (n = {len(fake)}) | {cells[0]} | {cells[1]} |")
    return rows


def _present(
    bank: FeatureBank,
    fake: NDArray[np.intp],
    unit: FloatArray,
    groups: NDArray[np.object_],
    limit: NDArray[np.float64],
    *,
    other_sources: bool,
) -> str:
    generator, source, group = (np.asarray(c[fake], str) for c in (bank.generator, bank.source, groups))
    hidden = np.eye(len(fake), dtype=bool) | ((group[:, None] == group[None]) & (group != ""))
    if other_sources:
        hidden |= source[:, None] == source[None]
    distance = np.where(hidden, np.inf, 1 - unit[fake] @ bank.unit_of(Label.FAKE).T)
    asked = ((generator[:, None] == generator[None]) & ~hidden).any(axis=1)
    named = distance.min(axis=1) <= limit
    right = named & (generator[distance.argmin(axis=1)] == generator)
    shares = [f[asked].mean() for f in (right, named & ~right, ~named)]
    return " / ".join(f"{s:.3f}" for s in shares) + f" (n = {int(asked.sum())})"
