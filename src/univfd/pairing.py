"""Fakes and reals of the same size and nearly the same bytes, in pairs. Numbers only: no file is read here."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from .types import Label

CALIPERS = (0.005, 0.01, 0.02, 0.05)
"""Most that the logarithms of a pair's bytes may differ by: the next one only where those before leave too many alone.
Boosted trees find what wider pairs leave: AUROC 0.51 with 0.005 and 0.55 with 0.05, of 2,375 images at random."""
ENOUGH = 0.5
"""Share of the smaller class (of images that have any side) with a partner, from which on no wider caliper is tried."""
GROUP_LIMIT = 50
"""Two groups are not joined by a pair where they would have more images: one group of all could not be split."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A fake and a real of one size: indices into the measured images."""

    fake: int
    real: int
    side: int


def find_pairs(
    labels: Sequence[Label],
    groups: Sequence[str],
    bytes: Sequence[Mapping[int, int]],
    *,
    splits: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[list[Pair], list[int]]:
    """Pair fakes with reals of the same side and nearly the same bytes.

    Nearest neighbour matching without replacement, in random order, within a caliper: at the largest side that each
    image has first, then with one side less, and so on. Wider calipers only where few find a partner otherwise.

    Args:
        labels: of N images.
        groups: of the images; empty where there is none.
        bytes: of the images: side -> bytes.
        splits: of the images; only images of one split are paired. None: all are of one.
        seed: of the order of the fakes.

    Returns:
        The pairs, and for each image the number of its group: groups that a pair has joined are one.
    """
    split = ("",) * len(labels) if splits is None else splits
    rank = np.random.default_rng(seed).permutation(len(labels)).tolist()
    ladders = [sorted(each, reverse=True) for each in bytes]
    joined = _Groups(groups)
    sides = sorted({s for ladder in ladders for s in ladder}, reverse=True)
    able = Counter((part, label) for part, label, ladder in zip(split, labels, ladders, strict=True) if ladder)
    smaller = sum(min(able[part, label] for label in Label) for part in set(split))
    free, pairs = set(range(len(labels))), list[Pair]()
    for caliper in CALIPERS:
        if len(pairs) >= ENOUGH * smaller:
            break
        for depth, side, part in product(range(1, 1 + len(sides)), sides, sorted(set(split))):
            able_here = (i for i in free if split[i] == part and side in ladders[i][:depth])
            here = [(float(np.log(bytes[i][side])), rank[i], i) for i in able_here]
            reals = sorted(each for each in here if labels[each[2]] is Label.REAL)
            sets = {joined.of(each[2]) for each in reals}
            for fake in sorted((each for each in here if labels[each[2]] is Label.FAKE), key=lambda each: each[1]):
                if len(sets) <= _FEW and not any(joined.may_join(fake[2], real) for real in sets):
                    continue
                if (at := _partner(fake, reals, caliper, joined)) is not None:
                    real = reals.pop(at)[2]
                    joined.join(fake[2], real)
                    free -= {fake[2], real}
                    pairs.append(Pair(fake[2], real, side))
    return pairs, [joined.of(i) for i in range(len(labels))]


_Place = tuple[float, int, int]
_FEW = 100  # sets of reals: so few are asked one by one whether any may be joined, before all their images are


def _partner(fake: _Place, reals: list[_Place], caliper: float, joined: _Groups) -> int | None:
    """Index of the nearest real within the caliper whose group may be joined with the fake's."""
    above = bisect.bisect(reals, fake)
    below = above - 1
    while True:
        up = reals[above][0] - fake[0] if above < len(reals) else np.inf
        down = fake[0] - reals[below][0] if below >= 0 else np.inf
        if min(up, down) > caliper:
            return None
        at = above if up < down else below
        if joined.may_join(fake[2], reals[at][2]):
            return at
        above, below = (above + 1, below) if up < down else (above, below - 1)


class _Groups:
    """Disjoint sets of images that must be held out together; they start as the collection's own groups."""

    def __init__(self, groups: Sequence[str]) -> None:
        first: dict[str, int] = {}
        self._parent = [first.setdefault(g, i) if g else i for i, g in enumerate(groups)]
        self._size = np.bincount(self._parent, minlength=len(groups)).tolist()

    def of(self, image: int) -> int:
        """Number of an image's set."""
        while self._parent[image] != image:
            self._parent[image] = self._parent[self._parent[image]]
            image = self._parent[image]
        return image

    def may_join(self, a: int, b: int) -> bool:
        """Whether the two sets are one, one of them is a single image, or both together are small."""
        a, b = self.of(a), self.of(b)
        sizes = self._size[a], self._size[b]
        return a == b or min(sizes) == 1 or sum(sizes) <= GROUP_LIMIT

    def join(self, a: int, b: int) -> None:
        """Make the two sets one."""
        a, b = sorted((self.of(a), self.of(b)))
        if a != b:
            self._parent[b] = a
            self._size[a] += self._size[b]
