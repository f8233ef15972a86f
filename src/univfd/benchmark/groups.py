"""Which images a figure is about, and how they are redrawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..metrics import Design, design
from .rows import Flags, Images

UNNAMED = "(not named)"
ALL_REALS = "all reals"

Kind = Literal["all", "generator", "family", "source"]


@dataclass(frozen=True, eq=False)
class Group:
    """Which images a set of figures is about, `(N,)` each.

    Attributes:
        kind: what it is one of.
        name: of the generator, family or source.
        fake: its fakes.
        real: the reals that they are tested against, or the reals of a source.
        against: which reals those are, in words.
    """

    kind: Kind
    name: str
    fake: Flags
    real: Flags
    against: str


def everything(images: Images) -> Group:
    """All images."""
    return Group("all", "all", images.fake, ~images.fake, ALL_REALS)


def groups(images: Images) -> Iterator[Group]:
    """Generators, families and real sources, each kind by name; families only where one is named."""
    none = np.zeros(len(images), bool)
    generators, families, sources = (images.columns[c] for c in ("generator", "family", "source"))
    for name in generators.among(images.fake):
        own = images.fake & generators.are(name)
        yield Group("generator", name or UNNAMED, own, *_reals_for(own, images))
    names = families.among(images.fake)
    for name in names if names != [""] else []:
        yield Group("family", name or UNNAMED, images.fake & families.are(name), ~images.fake, ALL_REALS)
    for name in sources.among(~images.fake):
        yield Group("source", name or UNNAMED, none, ~images.fake & sources.are(name), "")


def _reals_for(own: Flags, images: Images) -> tuple[Flags, str]:
    """The reals of the subsets that a generator's images are in, where each of these has some; else all reals."""
    subset = images.columns["subset"]
    paired = {name: subset.are(name) & ~images.fake for name in subset.among(own)}
    if all(name and there.any() for name, there in paired.items()):
        return np.any(list(paired.values()), axis=0), f"reals of {', '.join(paired)}"
    return ~images.fake, ALL_REALS


def redrawing(images: Images) -> Design:
    """How images are redrawn: by group, file or name, within each generator and the reals of each subset; of those that
    are of one group, among themselves.
    """
    columns = [images.fake, images.columns["subset"].codes, np.where(images.fake, images.columns["generator"].codes, 0)]
    _, kinds = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    return design(kinds.ravel(), images.origin, images.fake)
