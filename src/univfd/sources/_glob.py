"""Patterns -> paths. Below `**` folders are walked as a folder is that is named itself: links too, but in no circle."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..types import Failure
from ._walk import open_folder

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
    for top in sorted(t for t in tops if os.path.isdir(t)):  # noqa: PTH112 -- False where it cannot be told
        for each in _below(Path(top), parts[first:]):
            if isinstance(each, Failure):
                failures.append(each)
            elif not pattern.endswith("/") or each.is_dir():
                found.add(str(each))
    return sorted(found), failures


def _below(top: Path, wanted: Sequence[str]) -> Iterator[Path | Failure]:
    """What fits below a folder. Of a folder that fits all is taken, so nothing in it is looked for."""
    stack: list[tuple[Iterator[Path], tuple[int, int]]] = []
    below: Path | None = top
    while below is not None or stack:
        if below is not None:
            opened = open_folder(below, [identity for _, identity in stack])
            if isinstance(opened, Failure):
                yield opened
            else:
                stack.append(opened)
            below = None
            continue
        path = next(stack[-1][0], None)
        if path is None:
            stack.pop()
            continue
        names = path.relative_to(top).parts
        if _fits(names, wanted):
            yield path
        elif _leads(names, wanted) and _is_folder(path):
            below = path


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False


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
