"""Folders of real and fake images: `0_real/1_fake` (ForenSynths, UniversalFakeDetect), `real/fake`, GenImage's
`nature/ai`, with or without folders of splits and of picture classes; or a folder a class, with `dataset.toml`.

The rule, on the folders between the data set's root and an image, each by its whole name:

- *label*: the deepest folder called `0_real`, `real`, `nature`, `1_fake`, `fake` or `ai`;
- *split*: the first folder called `train`, `val`, `test` (or `training`, `valid`, `validation`, `testing`) where all
  folders beside it that hold images are called so too; ForenSynths has pictures of trains;
- *generator* of a fake, *source* of a real: the first folder that is neither; where there is none, the root;
- what is left is kept as `Sample.extra["class"]`.

A file `dataset.toml` in the root may say more::

    real = ["coco", "imagenet"]     # a folder a class: these first folders hold reals, the others fakes
    generator = "progan"            # of every fake, where the folders do not tell it
    source = "lsun"                 # of every real
    [family]                        # kind of each generator
    progan = "gan"
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError
from ..sources import display_name, expand, file_of, image_files, unreachable_ref
from ..storage import parsed_toml
from ..types import Failure, ImageRef, Label, Sample
from ._rows import SPLITS

LABELS = {"0_real": Label.REAL, "real": Label.REAL, "nature": Label.REAL,
          "1_fake": Label.FAKE, "fake": Label.FAKE, "ai": Label.FAKE}  # fmt: skip
STATED = "dataset.toml"
_SHOWN = 5

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stated:
    """What `dataset.toml` says; see the module."""

    real: frozenset[str] | None = None
    generator: str = ""
    source: str = ""
    family: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """What the folders on the way to an image say of it."""

    label: Label
    name: str
    split: str
    rest: Parts


def read_folder(path: Path) -> Iterator[Sample]:
    """Samples of a tree, sorted by path. What cannot be reached is a sample too, as long as its folders tell its label.

    Raises:
        DataError: nothing at all, images whose label the folders do not tell (before the first sample is given), or a
            `dataset.toml` that cannot be read or does not fit the folders.
    """
    stated = _stated(path / STATED)
    folders = {_folders(path, found) for found in image_files(path) if isinstance(found, Path)}
    splits = _splits(folders)
    known = {parts: _place(parts, splits, stated, display_name(path.resolve().name)) for parts in folders}
    if lost := ["/".join(parts) or "." for parts, place in sorted(known.items()) if place is None]:
        raise DataError(_lost(path, lost, stated))
    _check(path / STATED, stated, [place for place in known.values() if place])
    found_any = False
    for item in expand(path):
        found_any = True
        if isinstance(item, Failure):
            yield _sample(unreachable_ref(item), _place_of(item, path, splits, stated), stated)
        else:
            place = known.get(_folders(path, file_of(item)))
            if place is None:  # made since the walk above
                raise DataError(f"{path} changed while it was read; try again")
            yield _sample(item, place, stated)
    if not found_any:
        raise DataError(f"{path} holds no images")


def _place_of(failure: Failure, root: Path, splits: frozenset[Parts], stated: Stated) -> Place:
    """The place of what could not be reached: a file, or a whole folder."""
    parts = Path(failure.image).relative_to(display_name(root)).parts
    for way in (parts[:-1], parts if Path(failure.image).is_dir() else ()):
        if place := _place(way, splits, stated, ""):
            return place
    raise DataError(f"{failure.image}: {failure.message}. Its folders do not tell whether it is real or fake")


def _folders(root: Path, file: object) -> Parts:
    assert isinstance(file, Path)  # the walk of a folder gives nothing else
    return tuple(display_name(part) for part in file.relative_to(root).parts[:-1])


def _splits(folders: Iterable[Parts]) -> frozenset[Parts]:
    """The folders that are splits."""
    children: dict[Parts, set[str]] = defaultdict(set)
    for parts in folders:
        for i in range(len(parts)):
            children[parts[:i]].add(parts[i])
    return frozenset(
        (*above, name)
        for above, names in children.items()
        if all(name.lower() in SPLITS for name in names)
        for name in names
    )


def _place(parts: Parts, splits: frozenset[Parts], stated: Stated, root: str) -> Place | None:
    """What these folders say; None where they tell no label."""
    labels = [] if stated.real is not None else [LABELS[p.lower()] for p in parts if p.lower() in LABELS]
    split, others = "", []
    for i, part in enumerate(parts):
        if not split and parts[: i + 1] in splits:
            split = SPLITS[part.lower()]
        elif stated.real is not None or part.lower() not in LABELS:
            others.append(part)
    if stated.real is not None and others:
        labels = [Label.REAL if others[0] in stated.real else Label.FAKE]
    if not labels:
        return None
    label = labels[-1]
    if given := stated.generator if label is Label.FAKE else stated.source:
        return Place(label, given, split, tuple(others))
    return Place(label, others[0] if others else root, split, tuple(others[1:]))


def _sample(ref: ImageRef, place: Place, stated: Stated) -> Sample:
    fake = place.label is Label.FAKE
    return Sample(
        ref,
        place.label,
        generator=place.name if fake else "",
        source=place.name,
        family=stated.family.get(place.name, "") if fake else "",
        split=place.split,
        extra={"class": "/".join(place.rest)} if place.rest else {},
    )


def _lost(root: Path, lost: list[str], stated: Stated) -> str:
    which = ", ".join(lost[:_SHOWN]) + (f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else "")
    if stated.real is not None:
        return f"{root}: images in {which} lie in no class folder; with 'real' in {STATED} every image must lie in one"
    return (
        f"{root}: images in {which} lie in no label folder. Put them below one called {', '.join(LABELS)}; or, where "
        f'each folder is a class, name those of the real images in {root / STATED}: real = ["..."]'
    )


def _stated(path: Path) -> Stated:
    if not path.is_file():
        return Stated()
    try:
        data = parsed_toml(path.read_text("utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is no TOML: {error}") from error
    real, family = data.pop("real", None), data.pop("family", {})
    names = {key: data.pop(key, "") for key in ("generator", "source")}
    if data:
        raise DataError(f"{path}: {', '.join(sorted(data))} is not known; expected real, generator, source, [family]")
    texts = [*names.values(), *(real if isinstance(real, list) else [])]
    texts += family.values() if isinstance(family, dict) else [None]
    if not isinstance(real, list | None) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{path}: expected real = [names], generator and source = name, [family] name = kind")
    if real is not None and any(names.values()):
        raise DataError(f"{path}: with 'real' the folders name generators and sources; leave out generator and source")
    return Stated(None if real is None else frozenset(real), family=family, **names)


def _check(path: Path, stated: Stated, places: list[Place]) -> None:
    """Refuse names in `dataset.toml` that no folder has: a slip there would turn a class over."""
    reals = {p.name for p in places if p.label is Label.REAL}
    fakes = {p.name for p in places if p.label is Label.FAKE}
    for wrong, what, known in (
        ((stated.real or frozenset()) - reals, "first folder", reals | fakes),
        (stated.family.keys() - fakes, "generator", fakes),
    ):
        if wrong:
            name = min(wrong)
            near = difflib.get_close_matches(name, known, n=1) or sorted(known)[:_SHOWN]
            raise DataError(f"{path} names {name!r}, but there is no {what} of that name; there is {', '.join(near)}")


PLUGIN = read_folder
