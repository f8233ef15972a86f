"""Folders -> files, in a stable order."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import FileAccessError, InputError, MissingExtraError, UnsupportedImageError
from ..types import Failure, ImageRef
from ..wording import counted
from ._formats import HEAD, IMAGE_SUFFIXES, sniff
from ._names import NOT_REGULAR, display_name, failed, unreachable
from ._parquet import image_column, is_parquet, parquet_images
from ._tar import PACKED_TAR, is_packed_tar, is_tar, tar_images

log = logging.getLogger("univfd.sources")

_OWN = frozenset(["dataset.toml"])  # what a data set says of itself: no image, and nothing to remark upon


def walk(top: Path) -> Iterator[ImageRef | Failure]:
    """The images below a folder, those inside tars and Parquet files too; what is passed over is logged."""
    passed_over = 0
    for found in _entries(top):
        if isinstance(found, Failure):
            yield found
        elif found.image or _holds_images(found.path):
            yield from file_refs(found.path, found.mode)
        elif is_packed_tar(found.path.name):
            log.warning("%s was passed over: %s", display_name(found.path), PACKED_TAR)
        elif found.path.name not in _OWN and not _of_a_run(found.path):
            passed_over += 1
            log.info("passed over %s: not an image by name or content", display_name(found.path))
    if passed_over:
        log.warning("passed over %s in %s: no images, by name and content", counted(passed_over, "file"), top)


def _of_a_run(path: Path) -> bool:
    """Whether it is the journal of a run that is under way (this one's, often), or its lock; see `univfd.storage`."""
    try:
        begun = path.name.endswith(".partial") and path.with_name(f".{path.name}.lock").exists()
    except OSError:  # a name that is too long with the ending
        begun = False
    return begun or path.name.endswith(".partial.lock")


def image_files(top: Path) -> Iterator[Path | Failure]:
    """The files that a walk of `top` takes as images or as shards of images, in its order; nothing is logged."""
    for found in _entries(top):
        if isinstance(found, Failure):
            yield found
        elif found.image or _holds_images(found.path):
            yield found.path


def files_below(top: Path) -> Iterator[Path | Failure]:
    """Every file below a folder, whatever it holds, in the order of a walk."""
    return (found if isinstance(found, Failure) else found.path for found in _entries(top, looking=False))


class _Entry(NamedTuple):
    """A file of a walk, and whether it is taken for what its name or content says: an image, or a tar."""

    path: Path
    mode: int
    image: bool


def _entries(top: Path, *, looking: bool = True) -> Iterator[_Entry | Failure]:
    """The files below a folder, see `paths_below`.

    Args:
        top: the folder.
        looking: tell images by their content too; else by name alone.
    """
    for path in paths_below(top, is_folder):
        if isinstance(path, Failure):
            yield path
            continue
        try:
            mode = path.stat().st_mode
        except OSError as error:
            yield unreachable(path, error)
            continue
        named = is_tar(path) or path.suffix.lower() in IMAGE_SUFFIXES
        never_ends = is_parquet(path) and not stat.S_ISREG(mode)  # never looked into: a row that says so
        yield _Entry(path, mode, named or never_ends or (looking and _looks_like_image(path, mode)))


def paths_below(top: Path, enter: Callable[[Path], bool]) -> Iterator[Path | Failure]:
    """What lies below a folder, and is not entered itself; a `Failure` for a folder that cannot be, or contains itself.

    Depth first, names sorted, on a stack of its own: a tree may be deeper than Python's.

    Args:
        top: the folder.
        enter: whether to look into a path that was found, in its place.
    """
    stack: list[tuple[Iterator[Path], tuple[int, int]]] = []
    below: Path | None = top
    while below is not None or stack:
        if below is not None:
            opened = _open_folder(below, [identity for _, identity in stack])
            if isinstance(opened, Failure):
                yield opened
            else:
                stack.append(opened)
            below = None
            continue
        path = next(stack[-1][0], None)
        if path is None:
            stack.pop()
        elif enter(path):
            below = path
        else:
            yield path


def is_folder(path: Path) -> bool:
    """Whether it is one, or a link to one; False where that cannot be told."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False


def _open_folder(folder: Path, above: list[tuple[int, int]]) -> tuple[Iterator[Path], tuple[int, int]] | Failure:
    """A folder's entries and its identity, or why it cannot be walked."""
    try:
        here = folder.stat()
        identity = (here.st_dev, here.st_ino)
        if identity in above:
            problem = FileAccessError("a link loop: this folder contains itself; skipped")
            return failed(display_name(folder), problem)
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        return unreachable(folder, error)
    return (folder / name for name in names), identity


def file_refs(path: Path, mode: int) -> Iterator[ImageRef | Failure]:
    """The image that a file is, or those that a tar or a Parquet file holds."""
    name = display_name(path)
    if not stat.S_ISREG(mode):
        yield failed(name, FileAccessError(NOT_REGULAR))
    elif is_tar(path):
        yield from tar_images(path)
    elif is_parquet(path):
        yield from parquet_images(path)
    elif is_packed_tar(path.name) and not _looks_like_image(path, mode):
        yield failed(name, UnsupportedImageError(PACKED_TAR))
    else:
        yield ImageRef(name, path)


def _holds_images(path: Path) -> bool:
    """Whether it is a Parquet file with images: in a folder, results and manifests are Parquet files too."""
    if not is_parquet(path):
        return False
    try:
        return image_column(path) is not None
    except MissingExtraError as error:
        log.warning("%s was not looked into: %s", display_name(path), error)
    except (InputError, OSError) as error:
        log.warning("%s was passed over: %s", display_name(path), error)
    return False


def _looks_like_image(path: Path, mode: int) -> bool:
    """Whether the first bytes are those of an image."""
    if not stat.S_ISREG(mode):
        return False
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return True  # it cannot be told; reading it will say why
    return sniff(head) != ""
