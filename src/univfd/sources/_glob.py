"""Patterns -> paths. Below `**` folders are walked as a folder is that is named itself: links too, but in no circle."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Sequence
from pathlib import Path

from ..types import Failure
from ._walk import files_below

_ANY_DEPTH = "**"


def matches(pattern: str) -> tuple[list[str], list[Failure]]:
    """The files and folders that a pattern is for, sorted, and the folders that could not be looked into.

    Wildcards match no name that begins with a dot, as in a shell.
    """
    parts = Path(pattern).parts
    if _ANY_DEPTH not in parts:
        return sorted(glob.iglob(pattern)), []  # noqa: PTH207 -- absolute patterns too
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    top, wanted = Path(*parts[:fixed]), parts[fixed:]
    found: set[str] = set()
    failures: list[Failure] = []
    if not top.is_dir():
        return [], []
    for entry in files_below(top):
        path = Path(entry.image) if isinstance(entry, Failure) else entry
        names = path.relative_to(top).parts
        if isinstance(entry, Failure) and path.is_dir():
            failures.append(entry)
            continue
        fitting = [i for i in range(1, len(names) + 1) if _fits(names[:i], wanted)]
        found.update(str(top.joinpath(*names[:i])) for i in fitting)
    return sorted(found), failures


def _fits(names: Sequence[str], wanted: Sequence[str]) -> bool:
    if not wanted:
        return not names
    if wanted[0] == _ANY_DEPTH:
        deeper = bool(names) and not names[0].startswith(".") and _fits(names[1:], wanted)
        return deeper or _fits(names, wanted[1:])
    if not names or (names[0].startswith(".") and not wanted[0].startswith(".")):
        return False
    return fnmatch.fnmatchcase(names[0], wanted[0]) and _fits(names[1:], wanted[1:])
