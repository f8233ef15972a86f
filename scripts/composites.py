"""Composites with known truth: a generated image pasted into a photograph, and a real one in the same place of the same.

All three pictures are of generators and sources of one part of the collection, so that a probe that was trained without
this part has seen none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from univfd.images import decode
from univfd.perturbations import perturbation
from univfd.types import Label, Pixels, Sample

SIDE = 448  # of a composite; at this size a map is made of it without another reduction
PASTED = (160, 256)  # least and largest side of what is pasted
MIN_BASE = 416  # short side of a photograph that others are pasted into


@dataclass(frozen=True, slots=True)
class Composite:
    """Indices of three images, and where one is pasted: a square of `side` pixels at `top`, `left`."""

    part: int
    base: int
    fake: int
    control: int
    side: int
    top: int
    left: int

    def pixels(self, samples: Sequence[Sample], pasted: int) -> Pixels:
        """`(SIDE, SIDE, 3)` uint8: an image of the list pasted into the base, then JPEG 90 all over."""
        picture = _square(samples[self.base], SIDE).copy()
        picture[self.top : self.top + self.side, self.left : self.left + self.side] = _square(
            samples[pasted], self.side
        )
        return perturbation("jpeg:90")(picture)

    def inside(self, cells: int) -> NDArray[np.int8]:
        """`(cells, cells)`: 1 for cells wholly within what was pasted, 0 wholly without, -1 on its edge."""
        start = np.arange(cells) * SIDE / cells
        end = start + SIDE / cells
        within = [(start >= first) & (end <= first + self.side) for first in (self.top, self.left)]
        touched = [(end > first) & (start < first + self.side) for first in (self.top, self.left)]
        return np.where(np.outer(*within), 1, np.where(np.outer(*touched), -1, 0)).astype(np.int8)


def parts_of(samples: Sequence[Sample], parts: int) -> NDArray[np.intp]:
    """Part of each image: whole generators and, of the reals, whole sources, dealt at random."""
    bases = {s.source for s in samples if _can_be_base(s)}
    pools = [  # sources with bases are dealt apart: each part needs some of them
        {(Label.FAKE, s.generator) for s in samples if s.label is Label.FAKE},
        {(Label.REAL, s.source) for s in samples if s.label is Label.REAL and s.source in bases},
        {(Label.REAL, s.source) for s in samples if s.label is Label.REAL and s.source not in bases},
    ]
    rng = np.random.default_rng(0)
    dealt: dict[tuple[Label, str], int] = {}
    for pool in map(sorted, pools):
        dealt |= {pool[at]: i % parts for i, at in enumerate(rng.permutation(len(pool)))}
    return np.array([dealt[s.label, s.generator if s.label is Label.FAKE else s.source] for s in samples])


def draw(samples: Sequence[Sample], part: NDArray[np.intp], count: int, seed: int) -> Iterator[Composite]:
    """Composites of whole images, the parts in turn.

    Any photograph is as likely a base as another (some sources have only one); what is pasted is of any generator, or any
    source, with equal chance. The control is of another source than the base and, where the part has such reals, of the
    fake's kind (photograph, face, art).
    """
    rng = np.random.default_rng(seed)
    whole = [i for i, s in enumerate(samples) if s.extra["crop"] is None]
    for turn in range(count):
        mine = turn % (int(part.max()) + 1)
        here = [i for i in whole if part[i] == mine]
        reals = [i for i in here if samples[i].label is Label.REAL]
        fake = _one(rng, samples, [i for i in here if samples[i].label is Label.FAKE])
        base = int(rng.choice([i for i in reals if _can_be_base(samples[i])]))
        others = [i for i in reals if samples[i].source != samples[base].source]
        alike = [i for i in others if samples[i].extra["content"] == samples[fake].extra["content"]]
        control = _one(rng, samples, alike or others)
        side = int(rng.integers(PASTED[0], PASTED[1] + 1))
        top, left = (int(v) for v in rng.integers(0, SIDE - side + 1, 2))
        yield Composite(mine, base, fake, control, side, top, left)


def _one(rng: np.random.Generator, samples: Sequence[Sample], among: list[int]) -> int:
    """One of some images: first any generator or source, then any image of it."""
    names = [samples[i].generator or samples[i].source for i in among]
    name = rng.choice(sorted(set(names)))
    return int(rng.choice([i for i, n in zip(among, names, strict=True) if n == name]))


def _can_be_base(sample: Sample) -> bool:
    large = min(sample.extra["width"], sample.extra["height"]) >= MIN_BASE
    return sample.label is Label.REAL and sample.extra["crop"] is None and sample.extra["content"] == "photo" and large


def _square(sample: Sample, side: int) -> Pixels:
    """The centre square of an image, scaled to `side`."""
    picture = Image.fromarray(decode(sample.ref).pixels)
    short, (w, h) = min(picture.size), picture.size
    left, top = (w - short) // 2, (h - short) // 2
    box = (left, top, left + short, top + short)
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, box=box))
