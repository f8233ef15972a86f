"""Patterns -> paths. Below `**` folders are walked as a folder is that is named itself: links too, but in no circle."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..types import Failure
from ._walk import is_folder, paths_below

_ANY_DEPTH = "**"


def matches(pattern: str) -> tuple[list[str], list[Failure]]:
    """The files and folders that a pattern is for, sorted, and the folders that could not be looked into.

    Wildcards match no name that begins with a dot, as in a shell.
    """
    parts = Path(pattern).parts
    if _ANY_DEPTH not in parts or ".." in parts[(first := parts.index(_ANY_DEPTH)) :]:
        return sorted(glob.iglob(pattern, recursive=True)), []  # noqa: PTH207 -- absolute patterns too
    found: set[str] = set()
    failures: list[Failure] = []
    tops = glob.iglob(str(Path(*parts[:first]))) if first else ["."]  # noqa: PTH207
    for top in filter(is_folder, map(Path, sorted(tops))):
        for each in _below(top, parts[first:]):
            if isinstance(each, Failure):
                failures.append(each)
            elif not pattern.endswith("/") or each.is_dir():
                found.add(str(each))
    return sorted(found), failures


def _below(top: Path, wanted: Sequence[str]) -> Iterator[Path | Failure]:
    """What fits below a folder. Of a folder that fits all is taken, so nothing in it is looked for."""

    def names(path: Path) -> tuple[str, ...]:
        return path.relative_to(top).parts

    def enter(path: Path) -> bool:
        return not _fits(names(path), wanted) and _leads(names(path), wanted) and is_folder(path)

    return (p for p in paths_below(top, enter) if isinstance(p, Failure) or _fits(names(p), wanted))


def _fits(names: Sequence[str], wanted: Sequence[str]) -> bool:
    if not wanted:
        return not names
    if wanted[0] == _ANY_DEPTH:
        return (bool(names) and not names[0].startswith(".") and _fits(names[1:], wanted)) or _fits(names, wanted[1:])
    return bool(names) and _is(names[0], wanted[0]) and _fits(names[1:], wanted[1:])


def _leads(names: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether something below the folder may fit."""
    if not names or not wanted:
        return bool(wanted)
    if wanted[0] == _ANY_DEPTH:
        return (not names[0].startswith(".") and _leads(names[1:], wanted)) or _leads(names, wanted[1:])
    return _is(names[0], wanted[0]) and _leads(names[1:], wanted[1:])


def _is(name: str, wanted: str) -> bool:
    return (not name.startswith(".") or wanted.startswith(".")) and fnmatch.fnmatchcase(name, wanted)
