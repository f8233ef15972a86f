"""Where the folders of a subset lie below a root."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..sources import expand, image_files, is_parquet, is_tar

Place = tuple[Path, tuple[str, ...]]
"""A folder (or a tar), and the names that the `*` of its pattern stood for."""


@dataclass(frozen=True, slots=True)
class Found:
    """The folders of a subset, or why there are none."""

    real: tuple[Place, ...] = ()
    fake: tuple[Place, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def by_class(self) -> dict[str, tuple[Place, ...]]:
        """The classes that have folders."""
        return {word: places for word, places in (("real", self.real), ("fake", self.fake)) if places}


def find(root: Path, folders: Sequence[str], real: Sequence[str], fake: Sequence[str]) -> Found:
    """Look for patterns in each place where a subset may lie; they must all be in exactly one of them."""
    tried = [(folder, _match(root / folder, real), _match(root / folder, fake)) for folder in folders]
    missing = {folder: reals[1] + fakes[1] for folder, reals, fakes in tried}
    whole = {_identity(root / folder): (folder, reals[0], fakes[0])
             for folder, reals, fakes in tried if not missing[folder]}  # fmt: skip
    if len(whole) == 1:
        _, reals, fakes = next(iter(whole.values()))
        return Found(tuple(reals), tuple(fakes))
    if whole:
        twice = " and in ".join(folder for folder, *_ in whole.values())
        return Found(problems=(f"lies twice, in {twice}; which one is meant cannot be told",))
    if len(folders) == 1:
        return Found(problems=tuple(f"no folder {_joined(folders[0], p)}" for p in missing[folders[0]]))
    where = ", ".join(folders)
    return Found(problems=(f"no folders {' and '.join([*real, *fake])} in any of {where}",))


def count(places: Sequence[Place]) -> int:
    """Images in these places by name; those inside tars and Parquet files too."""
    return sum(_count(place) for place, _ in places)


def _count(place: Path) -> int:
    files = image_files(place) if place.is_dir() else [place]
    return sum(sum(1 for _ in expand(f)) if isinstance(f, Path) and (is_tar(f) or is_parquet(f)) else 1 for f in files)


def _match(folder: Path, patterns: Sequence[str]) -> tuple[list[Place], list[str]]:
    """What the patterns match, and those that match nothing."""
    places: list[Place] = []
    missing = []
    for pattern in patterns:
        matched = [folder / pattern] if not glob.has_magic(pattern) else sorted(folder.glob(pattern))
        matched = [path for path in matched if path.is_dir() or is_tar(path)]
        parts = PurePosixPath(pattern).parts
        starred = [i - len(parts) for i, part in enumerate(parts) if glob.has_magic(part)]
        places += [(path, tuple(path.parts[i] for i in starred)) for path in matched if path.exists()]
        if not matched:
            missing.append(pattern)
    return _outermost(places), missing


def _outermost(places: Sequence[Place]) -> list[Place]:
    """Each place once, and none that lies in another: a place is walked with all that is below it."""
    there = {path for path, _ in places}
    kept = {path: stars for path, stars in reversed(places) if there.isdisjoint(path.parents)}
    return [(path, stars) for path, stars in places if kept.pop(path, None) is not None]


def _joined(folder: str, pattern: str) -> str:
    return str(PurePosixPath(folder) / pattern)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()  # the same folder by two names, on a file system that takes upper for lower case
    return status.st_dev, status.st_ino
