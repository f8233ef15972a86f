"""Who trains and who is tested: by generator, source and group, never by image alone.

Some generators train. Everything of the others is tested, and with it every image that hangs together with one of
theirs by source, group or equal bytes. Where that leaves too little (pairs of a fake and a real tie every source to
every other), what shares a source with one of theirs is tested, and what is of one group with a tested image does not
train. What is left, training generators and real sources, is dealt to training, validation and test in *units*: all
images that hang together. So a test image of a training generator is of a source that does not train. Where a generator
(or the reals) has only one unit, its images are dealt in *knots* instead: those that share a group or their bytes stay
together. Which of the two it was is part of the split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .. import registry
from ..errors import DataError
from ..types import data_digest
from ..wording import counted
from .data import Data, Rows, Strings

TRAIN, VALIDATION, TEST, LEFT_OUT = "train", "validation", "test", "left out"
REAL = ""
"""The class of the reals, among generators."""
_MOST = 0.6  # of a generator's images, at most, are held out with whole units
_OTHER_SOURCES, _OTHER_IMAGES, _UNSEEN = "other sources", "other images of the same sources", "unseen"
_NOT_NAMED, _SOME_NAMED = "other images, source not named", "other sources, where named"

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Member:
    """A generator or real source.

    Attributes:
        label: real or fake.
        name: of it.
        family: of a generator.
        counts: what became of its images: n in training, validation, test and left out.
        tested: how its test images are held out, in words; empty where there are none.
    """

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

    def of(self, data: Data, kept: Rows) -> Split:
        """The same deal, of the images that turned out to be of use.

        Args:
            data: those n images.
            kept: `(n,)` their rows among the N.

        Raises:
            DataError: a part is left without a class, or a generator without training images.
        """
        return _made(data, self.part[kept], self.seen, self.how)


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
    ties = _Ties(made, data.column("source"), data.column("group"), key)
    ways = (ties.whole(unseen), ties.direct(unseen))
    for tested, mates in ways:
        try:
            part, how = _deal(ties, tested, mates, seen, (test, test_reals), validation, seed)
            return _made(data, part, seen, how)
        except DataError as error:
            problem = error
    raise problem


@dataclass(frozen=True, eq=False)
class _Ties:
    """What hangs together among N images.

    Attributes:
        made: `(N,)` generators; `REAL` of the reals.
        source: `(N,)`.
        group: `(N,)`.
        key: `(N,)` checksums.
    """

    made: Strings
    source: Strings
    group: Strings
    key: Strings

    @cached_property
    def knot(self) -> Rows:
        """`(N,)` numbers of the sets that hang together by group or equal bytes."""
        return _joined([self.group, self.key], self.key)

    def units(self, among: Flags) -> Rows:
        """`(N,)` numbers of the sets that hang together by source, group or equal bytes, among some; -1 elsewhere."""
        found = np.full(len(among), -1, np.intp)
        found[among] = _joined([self.source[among], self.group[among], self.key[among]], self.key[among])
        return found

    def of_one_source(self, rows: Flags) -> Flags:
        """`(N,)` which images are of a source of some."""
        return np.isin(self.source, sorted({*self.source[rows]} - {""}))

    def whole(self, unseen: Flags) -> tuple[Flags, Flags]:
        """`(N,)` each: what is tested, where all that hangs together with the unseen fakes is; and none besides."""
        unit = self.units(np.ones_like(unseen))
        return np.isin(unit, np.unique(unit[unseen])), np.zeros_like(unseen)

    def direct(self, unseen: Flags) -> tuple[Flags, Flags]:
        """`(N,)` each: the unseen fakes and all of their sources; and other images of a group with one of these."""
        tested = unseen | self.of_one_source(unseen)
        return tested, np.isin(self.knot, np.unique(self.knot[tested])) & ~tested


def _deal(
    ties: _Ties, tested: Flags, mates: Flags, seen: Sequence[str], test: tuple[float, float], validation: float,
    seed: int,
) -> tuple[Strings, dict[str, str]]:  # fmt: skip
    """Deal what is not bound to be tested.

    Args:
        ties: of the N images.
        tested: `(N,)` which are tested whatever the deal.
        mates: `(N,)` which do not train, since their group is tested; they are tested where their source does not
            train, or where their generator is dealt by group anyway.
        seen: generators that train.
        test: shares to test on, of each of these and of the reals.
        validation: share of the rest to validate on.
        seed: of the deal.

    Returns:
        `(N,)` parts; how the test images of each training generator, and of the reals, are held out.

    Raises:
        DataError: nothing is left of one of them.
    """
    made, free = ties.made, ~tested & ~mates
    if lacking := [g for g in (REAL, *seen) if not (free & (made == g)).any()]:
        raise DataError(
            f"nothing is left to train on of {', '.join(g or 'the reals' for g in lacking)}: all images share a source "
            "or a group with what is held out. Let the generators that share it train too, take them out of the data, "
            "or correct the columns source and group (univfd scan shows them)"
        )
    unit, rng = ties.units(free), np.random.default_rng(seed)
    part = np.full(len(made), TRAIN, dtype=object)
    part[tested] = TEST
    held, how = _hold_out(made, unit, ties.knot, free, seen, test, rng, mates)
    part[held == 1], part[held == 2] = TEST, LEFT_OUT
    rest, _ = _hold_out(made, unit, ties.knot, free & (held == 0), seen, (validation, validation), rng)
    part[rest == 1], part[rest == 2] = VALIDATION, LEFT_OUT
    part[mates] = TEST
    by_source = np.array([how.get(str(name)) == _OTHER_SOURCES for name in made])
    part[mates & by_source & ties.of_one_source(np.isin(part, [TRAIN, VALIDATION]))] = LEFT_OUT
    return part, how


def _made(data: Data, part: Strings, seen: tuple[str, ...], how: Mapping[str, str]) -> Split:
    """The split of these parts.

    Raises:
        DataError: a part without a class, or a generator without training images.
    """
    _require_both_classes(data, part)
    training = set(data.column("generator")[data.fake & (part == TRAIN)])
    if lacking := [g for g in seen if g not in training]:
        raise DataError(f"no image of {', '.join(lacking)} is left to train on; name others, or mend its files")
    digest = data_digest((data.keys[i], data.samples[i].label) for i in np.flatnonzero(part == TRAIN))
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
            if not name or name not in known:
                raise registry.unknown(f"{what} of fakes in these data", name, {k for k in known if k})
    if not families and not generators:
        there, named = sorted({f for f in family if f}), sorted({g for g in generator if g})
        hints = [f"--train-family {f}" for f in there[:1]] or [f"--train-generator {g}" for g in named[:1]]
        raise DataError(
            f"which generators train? Name them, such as {hints[0] if hints else 'those of a column generator'}; "
            f"families here: {', '.join(there) or 'none'}"
        )
    chosen = np.isin(family, list(families))
    if nameless := int((chosen & (generator == "")).sum()):
        raise DataError(
            f"{counted(nameless, 'fake')} of {', '.join(sorted(set(family[chosen & (generator == '')])))} without a "
            "generator cannot be told from those that are tested. State it (column generator), or take them out "
            "of the data"
        )
    return tuple(sorted({*generator[chosen], *generators}))


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
    rng: np.random.Generator, mates: Flags | None = None,
) -> tuple[NDArray[np.intp], dict[str, str]]:  # fmt: skip
    """Take about a share of each training generator and of the reals away; of each one image at least stays.

    Args:
        made: `(N,)` generators.
        unit: `(N,)` numbers of units.
        knot: `(N,)` numbers of knots.
        free: `(N,)` which are dealt.
        seen: generators that train.
        shares: of each of these and of the reals.
        rng: of the deal.
        mates: `(N,)` which are not dealt but will be held out as well where knots are.

    Returns:
        `(N,)` 1 where held out, 2 where an image may neither train nor be held out: its source trains, its group is
        held out; and how the images of each were held out.
    """
    held, lone, how = np.zeros(len(made), bool), np.zeros(len(made), bool), {}
    beside = np.zeros(len(made), bool) if mates is None else mates
    for name, share in [*((g, shares[0]) for g in seen), (REAL, shares[1])]:
        own = free & (made == name)
        for number in _units(made, unit, free & ~held, name, own, share, seen, rng, held, lone):
            held |= free & (unit == number)
        if (held & own).any():
            how[name] = _OTHER_SOURCES
            continue
        how[name] = _OTHER_IMAGES
        besides = int((beside & (made == name)).sum())
        wanted = share * (int(own.sum()) + besides) - besides - int((own & lone).sum())
        lone |= free & np.isin(knot, _knots(made, knot, free & ~held & ~lone, name, own, wanted, seen, rng))
    found = np.zeros(len(made), np.intp)
    found[held | lone] = 1
    by_source = np.array([how.get(str(name)) == _OTHER_SOURCES for name in made])
    found[lone & ~held & by_source] = 2
    return found, how


def _units(
    made: Strings, unit: Rows, left: Flags, name: str, own: Flags, share: float, seen: Sequence[str],
    rng: np.random.Generator, held: Flags, lone: Flags,
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
            (after & ~lone & (made == g)).any() for g in (REAL, *seen) if (inside & ~lone & (made == g)).any()
        ):
            remaining, done = after, done + size
            yield int(number)


def _knots(
    made: Strings, knot: Rows, left: Flags, name: str, own: Flags, wanted: float, seen: Sequence[str],
    rng: np.random.Generator,
) -> list[int]:  # fmt: skip
    """Knots to hold out until so many more of a generator's images are held out; each keeps one at least."""
    names = [REAL, *seen]
    sizes = np.stack([np.bincount(knot[left & (made == g)], minlength=knot.max() + 1) for g in names], axis=1)
    mine, remaining, done = names.index(name), sizes.sum(axis=0), 0
    found: list[int] = []
    for number in rng.permutation(np.unique(knot[own])):
        if done >= wanted:
            break
        size = sizes[number]
        if size[mine] and (remaining - size)[size > 0].all():
            remaining, done = remaining - size, done + int(size[mine])
            found.append(int(number))
    return found


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
            if label == "real" or name in seen:
                tested = _with_sources(tested, source[own & (part == TEST)])
            kind = str(family[own][0]) if label == "fake" else ""
            yield Member(label, name, kind, counts, tested if counts[TEST] else "")


def _with_sources(tested: str, sources: Strings) -> str:
    """How images are held out, where it goes by their sources: of those that name none it cannot be known."""
    named = sources != ""
    if tested == _OTHER_IMAGES or named.all():
        return tested
    return _SOME_NAMED if named.any() else _NOT_NAMED
