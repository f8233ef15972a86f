"""What the user points at -> a stream of `ImageRef`, one per image, in a stable order.

Takes paths, folders (recursive), globs, tar files (WebDataset style), Parquet files of images, bytes, file objects,
Pillow images and pixel arrays. What cannot be reached (no permission, a link loop) comes out as a `Failure` in its
place: nothing is dropped in silence. Files of a walked folder that are neither named nor shaped like an image are
passed over and logged.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import FileAccessError, InputError, TruncatedImageError, UsageError
from ..types import Failure, ImageRef, ParquetCell, Sample, TarSpan
from ._formats import HEAD, IMAGE_SUFFIXES, sniff
from ._names import display_name, explain_os_error, failed, unreachable, unreachable_ref
from ._parquet import cell_refs, image_column, is_parquet, read_cell
from ._tar import TarEntry, TarMember, is_tar, tar_entries, tar_members, tar_ref
from ._walk import file_refs, image_files, walk

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "HEAD",
    "IMAGE_SUFFIXES",
    "Source",
    "TarEntry",
    "TarMember",
    "cell_refs",
    "display_name",
    "expand",
    "explain_os_error",
    "failed",
    "file_of",
    "image_column",
    "image_files",
    "is_parquet",
    "is_tar",
    "read_bytes",
    "sniff",
    "tar_entries",
    "tar_members",
    "tar_ref",
    "unreachable_ref",
]

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | ImageRef | Sample | Any
"""One input: see `expand`. Pillow images and `(H, W, 3)` uint8 arrays are accepted too."""


def expand(inputs: Source | Iterable[Source]) -> Iterator[ImageRef | Failure]:
    """Turn inputs into image references, lazily.

    Args:
        inputs: one input or an iterable of them. A string or path is a file, a folder (walked recursively, names
            sorted), a tar file, or, where no such file exists and it has `*?[`, a glob. Bytes and file objects are
            encoded images. A `Sample` stands for its image.

    Yields:
        One `ImageRef` per image; a `Failure` in the place of what cannot be reached.

    Raises:
        UsageError: a single input of a type that is not listed above (among several it is a `Failure`).
    """
    if isinstance(inputs, Iterable) and not _is_single(inputs):
        for each in inputs:
            try:
                yield from _expand_one(each)
            except UsageError as error:  # one input among many: a row of its own
                yield Failure(f"<{type(each).__name__}>", error.code, str(error))
    else:
        yield from _expand_one(inputs)


def _is_single(value: object) -> bool:
    return isinstance(value, str | bytes | bytearray | memoryview | os.PathLike | np.ndarray) or hasattr(value, "read")


def _expand_one(item: Source) -> Iterator[ImageRef | Failure]:
    if isinstance(item, ImageRef | Failure):
        yield item
    elif isinstance(item, Sample):
        yield item.ref
    elif isinstance(item, str | os.PathLike):
        yield from _expand_path(os.fspath(item))
    elif isinstance(item, bytes | bytearray | memoryview):
        yield ImageRef("<bytes>", bytes(item))
    elif isinstance(item, np.ndarray):
        yield ImageRef("<pixels>", _checked_pixels(item))
    elif hasattr(item, "read"):
        yield ImageRef(str(getattr(item, "name", "<stream>")), item.read())
    elif hasattr(item, "convert") and hasattr(item, "size"):
        yield _from_pillow(cast("Image", item))
    else:
        raise UsageError(
            f"cannot read an image from {type(item).__name__}; give a path, folder, glob, bytes, file object, "
            "Pillow image or (H, W, 3) uint8 array"
        )


def _from_pillow(image: Image) -> ImageRef | Failure:
    name = display_name(getattr(image, "filename", "") or "<image>")
    try:
        return ImageRef(name, image.copy())  # the caller's object is neither moved nor shared with a thread
    except Exception as error:  # see images.open_image on what Pillow raises
        return failed(name, TruncatedImageError(f"the image data end early or are damaged: {error}"))


def _checked_pixels(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise UsageError(f"pixels of shape {array.shape} and type {array.dtype}; expected RGB (H, W, 3) uint8")
    return np.ascontiguousarray(array)


def _expand_path(text: str) -> Iterator[ImageRef | Failure]:
    if not text:
        yield failed("", FileAccessError("an empty path; name a file or folder"))
        return
    path = Path(text)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if isinstance(error, FileNotFoundError) and glob.has_magic(text):
            yield from _expand_glob(text)
        else:
            yield unreachable(text, error)
    except ValueError as error:  # an embedded NUL
        yield failed(display_name(text), FileAccessError(f"no usable path: {error}"))
    else:
        yield from walk(path) if stat.S_ISDIR(mode) else file_refs(path, mode)


def _expand_glob(pattern: str) -> Iterator[ImageRef | Failure]:
    found = sorted(glob.iglob(pattern, recursive=True))  # noqa: PTH207 -- absolute patterns too
    if not found:
        yield failed(
            display_name(pattern), FileAccessError("no file matches this pattern; check the path or quote the pattern")
        )
    folders: list[Path] = []  # what a matched folder holds comes with it, once
    for path in map(Path, found):
        if not any(folder in path.parents for folder in folders):
            yield from _expand_path(str(path))
            if path.is_dir():
                folders.append(path)


def file_of(ref: ImageRef) -> Path | None:
    """The file on disk that an image lies in, itself or as a part of it; None where there is none."""
    source = ref.source
    if isinstance(source, TarSpan):
        return source.tar
    if isinstance(source, ParquetCell):
        return source.file
    return source if isinstance(source, Path) else None


def read_bytes(ref: ImageRef) -> bytes:
    """The encoded bytes of a reference.

    Raises:
        FileAccessError: the file cannot be opened or read.
        EmptyFileError: a row of a Parquet file without bytes.
        TruncatedImageError: a tar that ends before its member does, or a damaged Parquet file.
        InputError: a place that could not be reached when its folder was walked.
        UsageError: the reference holds pixels, which have no encoded bytes.
    """
    source = ref.source
    if isinstance(source, InputError):
        raise source
    try:
        if isinstance(source, Path):
            if not stat.S_ISREG(source.stat().st_mode):  # a manifest may name a pipe or a device, which never end
                raise FileAccessError("not a regular file (a folder, pipe, socket or device); skipped")
            return source.read_bytes()
        if isinstance(source, TarSpan):
            with source.tar.open("rb") as file:
                lacking = source.offset + source.size - file.seek(0, os.SEEK_END)
                if lacking > 0:  # before room is made for what a header says
                    raise TruncatedImageError(f"the tar ends {lacking} bytes before the end of this member")
                file.seek(source.offset)
                return file.read(source.size)
        if isinstance(source, ParquetCell):
            return read_cell(source)
    except OSError as error:
        raise FileAccessError(explain_os_error(error)) from error
    except ValueError as error:  # a NUL in a name
        raise FileAccessError(f"no usable path: {error}") from error
    if not isinstance(source, bytes):
        raise UsageError(f"{ref.name} holds pixels, not encoded bytes")
    return source
