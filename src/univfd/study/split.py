"""Who trains and who is tested: by generator, source and group, never by image alone.

Some generators train. Everything of the others is tested, and with it every image that shares a source or a group with
one of theirs. What is left, training generators and real sources, is dealt to training, validation and test in *units*:
all images that hang together by source, group or equal bytes. So a test image of a training generator is of a source
that does not train. Where a generator (or the reals) has only one unit, its images are dealt in *knots* instead: those
that share a group or their bytes stay together. Which of the two it was is part of the split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import registry
from ..errors import DataError
from ..types import data_digest
from .data import Data, Rows, Strings

TRAIN, VALIDATION, TEST, LEFT_OUT = "train", "validation", "test", "left out"
REAL = ""
"""The class of the reals, among generators."""
_MOST = 0.6  # of a generator's images, at most, are held out with whole units
_OTHER_SOURCES, _OTHER_IMAGES, _UNSEEN = "other sources", "other images of the same sources", "unseen"

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Member:
    """A generator or real source, and what became of its images: n in training, validation, test and left out."""

    label: str
    name: str
    family: str
    counts: Mapping[str, int]
    tested: str


@dataclass(frozen=True, eq=False)
class Split:
    """The parts of N images.

    Attributes:
        part: `(N,)` `train`, `validation`, `test` or `left out`.
        seen: generators that train.
        how: of each training generator, and of the reals (""), how its test images are held out.
        members: generators and real sources.
        digest: of the training part, see `univfd.types.data_digest`.
    """

    part: Strings
    seen: tuple[str, ...]
    how: Mapping[str, str]
    members: tuple[Member, ...]
    digest: str

    def rows(self, part: str) -> Rows:
        """Rows of a part, in order."""
        return np.flatnonzero(self.part == part)


def split(
    data: Data,
    *,
    families: Sequence[str] = (),
    generators: Sequence[str] = (),
    seed: int = 0,
    test: float = 0.3,
    test_reals: float = 0.45,
    validation: float = 0.2,
) -> Split:
    """Part a data set.

    Args:
        data: the images.
        families: their generators train.
        generators: these train too.
        seed: of the deal; the same images give the same parts in any order.
        test: share of each training generator's images to test on, about.
        test_reals: the same of the reals.
        validation: share of the rest to set thresholds on, about.

    Raises:
        UnknownNameError: no such family or generator.
        DataError: no unseen generator, or a part without a class.
    """
    seen = _seen(data, families, generators)
    made = np.where(data.fake, data.column("generator"), REAL).astype(object)
    unseen = data.fake & ~np.isin(made, list(seen))
    if not unseen.any():
        raise DataError("every generator trains; name fewer, so that some are left to test on")
    key = np.array(data.keys, dtype=object)
    group, source = data.column("group"), data.column("source")
    unit, knot = _joined([source, group, key], key), _joined([group, key], key)
    free = ~np.isin(unit, np.unique(unit[unseen]))
    rng = np.random.default_rng(seed)
    part = np.full(len(data), TRAIN, dtype=object)
    part[~free] = TEST
    if not all((free & (made == g)).any() for g in (REAL, *seen)):
        lacking = [g or "the reals" for g in (REAL, *seen) if not (free & (made == g)).any()]
        raise DataError(
            f"nothing is left to train on of {', '.join(lacking)}: all images share a source or a group with "
            "generators that are held out. Name more generators to train on, or state sources (univfd scan shows them)"
        )
    held, how = _hold_out(made, unit, knot, free, seen, (test, test_reals), rng)
    part[held == 1], part[held == 2] = TEST, LEFT_OUT
    rest, _ = _hold_out(made, unit, knot, free & (held == 0), seen, (validation, validation), rng)
    part[rest == 1], part[rest == 2] = VALIDATION, LEFT_OUT
    _require_both_classes(data, part)
    picked = np.flatnonzero(part == TRAIN)
    digest = data_digest((data.keys[i], data.samples[i].label) for i in picked)
    return Split(part, seen, how, tuple(_members(data, part, seen, how)), digest)


def _require_both_classes(data: Data, part: NDArray[np.object_]) -> None:
    for name in (TRAIN, VALIDATION, TEST):
        for word, rows in (("real", ~data.fake), ("fake", data.fake)):
            if not (rows & (part == name)).any():
                raise DataError(
                    f"no {word} image is left for {name}: more real sources, generators or images are needed"
                )


def _seen(data: Data, families: Sequence[str], generators: Sequence[str]) -> tuple[str, ...]:
    family, generator = data.column("family")[data.fake], data.column("generator")[data.fake]
    for what, wanted, known in (("family", families, family), ("generator", generators, generator)):
        for name in wanted:
            if name not in known:
                raise registry.unknown(f"{what} of fakes in these data", name, {k for k in known if k})
    if not families and not generators:
        there = sorted({f for f in family if f})
        hint = f"--train-family {there[0]}" if there else f"--train-generator {min(generator)}"
        raise DataError(
            f"which generators train? Name them, such as {hint}; families here: {', '.join(there) or 'none'}"
        )
    return tuple(sorted({*generator[np.isin(family, list(families))], *generators}))


def _joined(columns: Sequence[Strings], key: Strings) -> NDArray[np.intp]:
    """`(N,)` numbers of the sets of images that hang together by a value of any column; empty values join nothing.

    The numbers follow the smallest key of each set, whatever the order of the images.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(key)
    edges, total = [], n
    for column in columns:
        names, codes = np.unique(column.astype(str), return_inverse=True)
        there = np.flatnonzero(column.astype(str) != "")
        edges.append((there, codes[there] + total))
        total += len(names)
    start, end = (np.concatenate([e[i] for e in edges]) for i in (0, 1))
    graph = coo_array((np.ones(len(start)), (start, end)), shape=(total, total))
    found = connected_components(graph, directed=False)[1][:n]
    _, order = np.unique(key.astype(str), return_inverse=True)
    first = np.full(total, n)
    np.minimum.at(first, found, order)
    return np.asarray(np.unique(first[found], return_inverse=True)[1], np.intp)


def _hold_out(
    made: Strings, unit: Rows, knot: Rows, free: Flags, seen: Sequence[str], shares: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[NDArray[np.intp], dict[str, str]]:  # fmt: skip
    """Take about a share of each training generator and of the reals away.

    Returns:
        `(N,)` 1 where held out, 2 where an image may neither train nor be held out: its source trains, its group is
        held out; and how the images of each were held out.
    """
    held, lone, how = np.zeros(len(made), bool), np.zeros(len(made), bool), {}
    for name, share in [*((g, shares[0]) for g in seen), (REAL, shares[1])]:
        own = free & (made == name)
        for number in _units(made, unit, free & ~held, name, own, share, seen, rng, held):
            held |= free & (unit == number)
        if (held & own).any():
            how[name] = _OTHER_SOURCES
            continue
        how[name] = _OTHER_IMAGES
        knots = rng.permutation(np.unique(knot[own]))
        sizes = np.array([(own & (knot == k)).sum() for k in knots])
        enough = np.cumsum(sizes) - sizes < share * own.sum()
        enough[-1] = False  # one at least trains
        lone |= free & np.isin(knot, knots[enough])
    found = np.zeros(len(made), np.intp)
    found[held | lone] = 1
    by_source = np.array([how.get(str(name)) == _OTHER_SOURCES for name in made])
    found[lone & ~held & by_source] = 2
    return found, how


def _units(
    made: Strings, unit: Rows, left: Flags, name: str, own: Flags, share: float, seen: Sequence[str],
    rng: np.random.Generator, held: Flags,
) -> Iterator[int]:  # fmt: skip
    """Units to hold out, one after the other, until a share of a generator's images is; each keeps one at least."""
    wanted, most, done = share * own.sum(), max(_MOST, share) * own.sum(), int((own & held).sum())
    remaining = left.copy()
    for number in rng.permutation(np.unique(unit[own & left])):
        inside = remaining & (unit == number)
        after = remaining & ~inside
        size = int((inside & own).sum())
        if done >= wanted:
            return
        if done + size <= most and all(
            (after & (made == g)).any() for g in (REAL, *seen) if (inside & (made == g)).any()
        ):
            remaining, done = after, done + size
            yield int(number)


def _members(data: Data, part: Strings, seen: Sequence[str], how: Mapping[str, str]) -> Iterator[Member]:
    generator, family, source = (data.column(c) for c in ("generator", "family", "source"))
    for label, rows, names in (("fake", data.fake, generator), ("real", ~data.fake, source)):
        for name in sorted(set(names[rows])):
            own = rows & (names == name)
            counts = {p: int((own & (part == p)).sum()) for p in (TRAIN, VALIDATION, TEST, LEFT_OUT)}
            if label == "fake":
                tested = how[name] if name in seen else _UNSEEN
            else:
                tested = _UNSEEN if not counts[TRAIN] and not counts[VALIDATION] else how[REAL]
            kind = str(family[own][0]) if label == "fake" else ""
            yield Member(label, name, kind, counts, tested if counts[TEST] else "")
