"""A folder of images of one class, whose subfolders are groups; each distinct file counts once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError, UsageError
from .sources import display_name, expand, file_of, read_bytes
from .types import Failure, ImageRef

LOOSE = "images"


@dataclass(frozen=True, slots=True)
class Member:
    """An image of a collection.

    Attributes:
        ref: the image.
        group: the immediate subfolder that it lies under; `images` where it lies in none.
        sha256: of its bytes; empty where they cannot be read.
    """

    ref: ImageRef
    group: str
    sha256: str


@dataclass(frozen=True)
class Collection:
    """Images of one class, each file once.

    Attributes:
        folder: where they are.
        members: one a distinct file.
        duplicates: names of files with the same bytes as an earlier one.
        failures: what could not be reached or judged.
        more: further folders.
    """

    folder: Path
    members: tuple[Member, ...]
    duplicates: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    more: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """Names of the folders, for people."""
        return ", ".join(display_name(folder.name) for folder in (self.folder, *self.more))


def gather(folder: Path, *more: Path) -> Collection:
    """The images under folders, each distinct file once; nothing is decoded yet.

    Args:
        folder: its immediate subfolders are the groups; what lies in it directly is the group `images`.
        more: further folders, whose groups of the same name are the same groups.

    Raises:
        UsageError: not a folder.
    """
    for each in (folder, *more):
        if not each.is_dir():
            raise UsageError(
                f"{display_name(each)} is not a folder; give one with images, and a subfolder for each group"
            )
    seen: set[str] = set()
    members, duplicates, failures = [], [], []
    for place, ref in ((each, ref) for each in (folder, *more) for ref in expand(each)):
        if isinstance(ref, Failure):
            failures.append(ref)
            continue
        try:
            digest = hashlib.sha256(read_bytes(ref)).hexdigest()
        except InputError as error:
            failures.append(Failure(ref.name, error.code, str(error)))
            continue
        if digest in seen:
            duplicates.append(ref.name)
            continue
        seen.add(digest)
        members.append(Member(ref, _group_of(ref, place), digest))
    return Collection(folder, tuple(members), tuple(duplicates), tuple(failures), more)


def _group_of(ref: ImageRef, folder: Path) -> str:
    path = file_of(ref)
    assert path is not None  # `expand` of a folder gives nothing else
    parts = path.relative_to(folder).parts
    return display_name(parts[0]) if len(parts) > 1 else LOOSE
