"""Which pictures train and which validate: by source or generator, never a group on both sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import registry
from ..datasets import SPLITS
from ..errors import DataError
from ..sources import file_of
from ..types import ImageRef, Label, ParquetCell, Sample, TarSpan
from ..wording import counted

BY = ("source", "generator", "image")
_ROOM = 1.5  # a class may have so many times the asked-for share in the validation part before a source is passed over


@dataclass(frozen=True)
class Split:
    """Two parts of a collection.

    Attributes:
        train: in the collection's order.
        validation: likewise.
        left_out: images that the collection's own split gives to neither part.
        how: in words, for the record.
    """

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    left_out: int
    how: str


def parted(
    samples: Sequence[Sample],
    validation: Sequence[Sample] | None = None,
    *,
    by: str = "source",
    share: float = 0.2,
    most: int | None = None,
    seed: int = 0,
) -> Split:
    """The two parts of a training.

    Args:
        samples: the collection; where it states a split, its `train` alone trains.
        validation: another one to validate on; None: part of the first.
        by: see `split`.
        share: likewise.
        most: train on so many at most, half of each class.
        seed: of the choice.

    Raises:
        DataError: a part would lack a class, or an image is in both collections: the same file, by whatever path, or
            the same name (copies are not looked for; `univfd scan` finds them).
    """
    if validation is None:
        made = split(samples, by=by, share=share, seed=seed)
    else:
        train, _, _ = _stated(samples)
        made = Split(tuple(train), tuple(validation), len(samples) - len(train), "another collection validates")
        _require_apart(made, {s.ref.name for s in made.train} & {s.ref.name for s in made.validation})
        _check_classes(made)
    if most is None:
        return made
    return Split(thin(made.train, most, seed), made.validation, made.left_out, made.how)


def split(samples: Sequence[Sample], *, by: str = "source", share: float = 0.2, seed: int = 0) -> Split:
    """Part a collection for training.

    Where the collection states a split itself (column `split`), its `train` and `val` are taken, and nothing else.
    Otherwise whole units are dealt: everything of one source (and of what shares a group with it) validates, or trains.
    A file that is listed several times is in one unit.

    Args:
        samples: the collection.
        by: `source`; `generator`: all images of a generator are one unit too, so that the validation is on generators
            that were not trained on; `image`: any image for itself, as the paper's network was validated. The last
            says nothing about other sources, only whether the network has learnt its own.
        share: of each class that validates, about.
        seed: of the deal.

    Raises:
        DataError: a part would lack a class, or the stated parts share a file; says what to do.
    """
    if by not in BY:
        raise registry.unknown("split", by, BY)
    pool, own, left_out = _stated(samples)
    if own:
        made = Split(tuple(pool), tuple(own), left_out, "the data's own split")
        _require_apart(made)
    else:
        chosen = _deal(pool, by, share, seed)
        train = tuple(s for s, out in zip(pool, chosen, strict=True) if not out)
        validation = tuple(s for s, out in zip(pool, chosen, strict=True) if out)
        made = Split(train, validation, left_out, f"by {by}, {share:g} of each class, seed {seed}")
    _check_classes(made)
    return made


def _stated(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample], int]:
    """By the collection's own split: what trains (all, where none is stated), what validates, how many do neither."""
    parts = [SPLITS.get(s.split.lower(), s.split) for s in samples]
    stated = any(parts)
    pool = [s for s, part in zip(samples, parts, strict=True) if not stated or part == "train"]
    own = [s for s, part in zip(samples, parts, strict=True) if part == "val"]
    return pool, own, len(samples) - len(pool) - len(own)


def part_of_file(ref: ImageRef) -> tuple[str, int] | None:
    """Which image of its file it is, where a file holds several."""
    if isinstance(ref.source, TarSpan):
        return "", ref.source.offset
    return (ref.source.column, ref.source.number) if isinstance(ref.source, ParquetCell) else None


def _place(ref: ImageRef) -> tuple[Any, ...] | None:
    """The same for the same image on disk, by whatever path; None where it lies in no file, or that is not there."""
    try:
        status = None if (file := file_of(ref)) is None else file.stat()
    except (OSError, ValueError):
        return None
    return status and (status.st_dev, status.st_ino, part_of_file(ref))


def _require_apart(made: Split, both: Set[str] = frozenset()) -> None:
    """Refuse parts that share images.

    Args:
        made: the parts.
        both: names that both have.

    Raises:
        DataError: names one, and says how many there are.
    """
    train = {_place(s.ref) for s in made.train} - {None}
    both = both | {s.ref.name for s in made.validation if _place(s.ref) in train}
    if both:
        raise DataError(
            f"{min(both)} would train and validate; {counted(len(both), 'image is', 'images are')} in both parts"
        )


def _check_classes(made: Split) -> None:
    """Refuse a part without one of the classes.

    Raises:
        DataError: says what there is, and what to do.
    """
    parts = {
        part: np.bincount([int(s.label) for s in samples], minlength=2)
        for part, samples in (("training", made.train), ("validation", made.validation))
    }
    whole = np.sum(list(parts.values()), axis=0)
    for part, counts in parts.items():
        if not made.left_out and not whole.all():
            raise DataError(f"the data hold {whole[0]} real and {whole[1]} fake images; training needs both")
        if not counts.all():
            raise DataError(
                f"the {part} part has {counts[0]} real and {counts[1]} fake images; it needs both. Name sources and "
                "generators (a folder each, or columns of a manifest), state a column 'split' (train, val), give "
                "--validation DATA, or part by single images: --validate-by image"
            )


def thin(samples: Sequence[Sample], most: int, seed: int = 0) -> tuple[Sample, ...]:
    """At most `most` of the samples, drawn at random, half of them of each class where there are enough.

    Raises:
        DataError: fewer than one of each class would be left.
    """
    if most < 2:
        raise DataError(f"at most {most} images leave no two classes; expected 2 or more")
    labels = np.array([s.label for s in samples])
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(labels == label)) for label in Label]
    few = int(np.argmin([len(r) for r in rows]))
    kept = min(len(rows[few]), most // 2)
    taken = [rows[few][:kept], rows[1 - few][: most - kept]]
    return tuple(samples[i] for i in np.sort(np.concatenate(taken)))


def _deal(samples: Sequence[Sample], by: str, share: float, seed: int) -> NDArray[np.bool_]:
    """Which samples validate."""
    unit = np.array(list(_units(samples, by)), dtype=int)
    labels = np.array([int(s.label) for s in samples], dtype=int)
    sizes = np.zeros((unit.max(initial=-1) + 1, 2))
    np.add.at(sizes, (unit, labels), 1)
    wanted = share * sizes.sum(axis=0)
    chosen = np.zeros(len(sizes), bool)
    for i in np.random.default_rng(seed).permutation(len(sizes)):
        has, taken = sizes[i] > 0, sizes[chosen].sum(axis=0)
        fits = (taken + sizes[i] <= _ROOM * wanted)[has].all()
        chosen[i] = fits and (taken < wanted)[has].any()
    if not (sizes[chosen].sum(axis=0).all() and sizes[~chosen].sum(axis=0).all()):
        chosen = _least(sizes)
    return np.asarray(chosen[unit], bool)


def _least(sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The smallest units that hold both classes: where units are few and large, and no deal keeps the share.

    They leave both classes to train on wherever that can be done at all.
    """
    chosen = np.zeros(len(sizes), bool)
    mixed = (sizes > 0).all(axis=1)
    kinds = [mixed] if mixed.sum() > 1 else [(sizes[:, label] > 0) & ~mixed for label in Label]
    for kind in kinds:
        found = np.flatnonzero(kind)
        if len(found):
            chosen[found[sizes[found].sum(axis=1).argmin()]] = True
    return chosen


def _units(samples: Sequence[Sample], by: str) -> Iterator[int]:
    """The unit of each sample: samples that share any key, directly or through others, are in one."""
    parent: dict[Any, Any] = {}

    def root(key: Any) -> Any:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    keys = [list(_keys(i, s, by)) for i, s in enumerate(samples)]
    for first, *others in keys:
        for other in others:
            parent[root(other)] = root(first)
    numbers: dict[Any, int] = {}
    for first, *_ in keys:
        yield numbers.setdefault(root(first), len(numbers))


def _keys(i: int, sample: Sample, by: str) -> Iterator[tuple[str, Any]]:
    if by == "image":
        yield ("image", i)
    else:
        yield ("source", sample.source)
    if by == "generator" and sample.generator:
        yield ("generator", sample.generator)
    if sample.group:
        yield ("group", sample.group)
    if place := _place(sample.ref):
        yield ("file", place)
