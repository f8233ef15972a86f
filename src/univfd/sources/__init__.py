"""What the user points at -> a stream of `ImageRef`, one per image, in a stable order.

Takes paths, folders (recursive), globs, tar files (WebDataset style), Parquet files of images, bytes, file objects,
Pillow images, pixel arrays, and columns of these (pandas, polars, Arrow). What cannot be reached (no permission, a link
loop) comes out as a `Failure` in its place: nothing is dropped in silence. Files of a walked folder that are neither
named nor shaped like an image are passed over and logged.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import FileAccessError, InputError, TruncatedImageError, UsageError
from ..types import DatasetRow, Failure, ImageRef, ParquetCell, Sample, TarSpan
from ._columns import in_column, parquet_files
from ._datasets import (
    dataset_refs,
    from_pillow,
    is_dataset,
    place_of,
    random_access,
    refuse_splits,
    row_ref,
    stored_ref,
    undecoded,
)
from ._formats import HEAD, IMAGE_SUFFIXES, sniff
from ._glob import matches
from ._names import NOT_REGULAR, display_name, error_of, explain_os_error, failed, unreachable, unreachable_ref
from ._parquet import NO_IMAGES, cell_refs, image_column, image_column_of, is_parquet, read_cell
from ._parts import part_of
from ._tar import PACKED_TAR, TarEntry, TarMember, is_packed_tar, is_tar, tar_entries, tar_members, tar_ref
from ._walk import file_refs, files_below, image_files, walk

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "HEAD",
    "IMAGE_SUFFIXES",
    "NOT_REGULAR",
    "NO_IMAGES",
    "PACKED_TAR",
    "Source",
    "TarEntry",
    "TarMember",
    "cell_refs",
    "dataset_refs",
    "display_name",
    "error_of",
    "expand",
    "explain_os_error",
    "failed",
    "file_of",
    "files_below",
    "image_column",
    "image_column_of",
    "image_files",
    "in_column",
    "is_dataset",
    "is_packed_tar",
    "is_parquet",
    "is_single",
    "is_tar",
    "one_each",
    "parquet_files",
    "place_of",
    "random_access",
    "read_bytes",
    "refuse_tables",
    "sniff",
    "stored_ref",
    "tar_entries",
    "tar_members",
    "tar_ref",
    "undecoded",
    "unreachable_ref",
]

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | ImageRef | Sample | Any
"""One input: see `expand`. Pillow images and `(H, W, 3)` uint8 arrays are accepted too."""


_ADDRESS = re.compile(r"(?:([a-z][a-z0-9+.-]+)://|(data):)", re.IGNORECASE)
_WEB = {"http", "https", "ftp", "data"}
_FETCH = "an address: nothing is fetched from the web. Save the picture as a file first, and give that"
_STORE = "an address, not a path; addresses of stores (s3://, gs://, file://) are read with --ray"


def expand(inputs: Source | Iterable[Source]) -> Iterator[ImageRef | Failure]:
    """Turn inputs into image references, lazily.

    Args:
        inputs: one input or an iterable of them. A string or path is a file, a folder (walked recursively, names
            sorted), a tar file, a member of one or a row of a Parquet file by the name that it has in results
            (`shard.tar/member`, `shard.parquet/row`), or, where no such file exists and it has `*?[`, a glob. Bytes
            and file objects are encoded images; so is a mapping with `bytes` or `path`, as the `datasets` library
            stores an image. A `Sample` stands for its image. A column of a data frame or of an Arrow table is an
            iterable like any other, and so is a `datasets.Dataset` with one column of images.

    Yields:
        One `ImageRef` per image; a `Failure` in the place of what cannot be reached.

    Raises:
        UsageError: a single input of a type that is not listed above (among several it is a `Failure`), or a table of
            several columns.
    """
    if is_dataset(inputs):
        yield from dataset_refs(inputs)
        return
    refuse_tables(inputs)
    if not is_single(inputs):
        for each in cast("Iterable[Source]", inputs):
            try:
                yield from _expand_one(each)
            except UsageError as error:  # one input among many: a row of its own
                yield Failure(f"<{type(each).__name__}>", error.code, str(error))
    else:
        yield from _expand_one(inputs)


def refuse_tables(value: Any) -> None:
    """That it is no table of several columns: going through one gives names, not images.

    Raises:
        UsageError: it is one, or a dictionary of splits.
    """
    refuse_splits(value)
    if hasattr(value, "columns") or hasattr(value, "column_names"):
        raise UsageError(
            f"cannot read images from {type(value).__name__}, a table; give one column of it (table['path'])"
        )


def one_each(inputs: Iterable[Source]) -> Iterator[ImageRef | Failure]:
    """As `expand`, of inputs that are one image each: the n-th that comes out is of the n-th that went in.

    Raises:
        UsageError: an input that holds no image or several (a folder, a tar), or is of no type that can be read.
    """
    for number, each in enumerate(inputs):
        try:
            found = list(islice(_expand_one(each), 2))
        except UsageError as error:
            raise UsageError(f"input {number}: {error}") from None
        if len(found) != 1:
            raise UsageError(
                f"input {number} ({each!r:.80}) holds {'several images' if found else 'no image'}; expected exactly "
                "one image each. List what is in it first: univfd.sources.expand"
            )
        yield found[0]


def is_single(value: object) -> bool:
    """Whether it is one input, not several."""
    if isinstance(value, np.ndarray):
        return value.ndim != 1 or value.dtype.kind not in "OUT"  # NumPy's own bytes (S) lose zeros at their end
    several = isinstance(value, Iterable) and not hasattr(value, "read")
    return not several or isinstance(value, str | bytes | bytearray | memoryview | os.PathLike | Mapping)


def _expand_one(item: Source) -> Iterator[ImageRef | Failure]:
    if isinstance(item, ImageRef | Failure):
        yield item
    elif isinstance(item, Sample):
        yield item.ref
    elif isinstance(item, str | os.PathLike):
        yield from _expand_path(os.fspath(item))
    elif isinstance(item, bytes | bytearray | memoryview):
        yield ImageRef("<bytes>", bytes(item))
    elif hasattr(item, "as_py"):  # a value of Arrow's; a struct of these is a mapping too
        yield from _expand_one(item.as_py())
    elif isinstance(item, Mapping) and ("bytes" in item or "path" in item):
        path = item.get("path")
        yield stored_ref(item, display_name(path) if path and isinstance(path, str | os.PathLike) else "<bytes>")
    elif isinstance(item, np.ndarray):
        yield ImageRef("<pixels>", _checked_pixels(item))
    elif hasattr(item, "read"):
        yield _of_stream(cast("IO[bytes]", item))
    elif hasattr(item, "convert") and hasattr(item, "size"):
        yield from_pillow(cast("Image", item), display_name(getattr(item, "filename", "") or "<image>"))
    else:
        raise UsageError(
            f"cannot read an image from {type(item).__name__}; give a path, folder, glob, bytes, file object, "
            "Pillow image or (H, W, 3) uint8 array"
        )


def _of_stream(stream: IO[bytes]) -> ImageRef | Failure:
    name = display_name(str(getattr(stream, "name", "<stream>")))
    try:
        data = stream.read()
    except (OSError, ValueError) as error:  # closed, or a text file whose bytes are no text
        return failed(name, FileAccessError(f"the file object cannot be read: {error}"))
    if not isinstance(data, bytes | bytearray | memoryview):
        return failed(
            name, FileAccessError(f"the file object gives {type(data).__name__}; open it in binary mode ('rb')")
        )
    return ImageRef(name, bytes(data))


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
        if isinstance(error, FileNotFoundError) and (address := _ADDRESS.match(text)):
            yield failed(
                display_name(text),
                FileAccessError(_FETCH if address[address.lastindex or 1].lower() in _WEB else _STORE),
            )
        elif (inside := part_of(path)) is not None:
            yield inside
        elif isinstance(error, FileNotFoundError) and glob.has_magic(text):
            yield from _expand_glob(text)
        else:
            yield unreachable(path, error)  # named as the images below it are
    except ValueError as error:  # an embedded NUL
        yield failed(display_name(text), FileAccessError(f"no usable path: {error}"))
    else:
        yield from walk(path) if stat.S_ISDIR(mode) else file_refs(path, mode)


def _expand_glob(pattern: str) -> Iterator[ImageRef | Failure]:
    found, failures = matches(pattern)
    yield from failures
    if not found and not failures:
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
        EmptyFileError: a row of a Parquet file or of a data set without an image.
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
        if isinstance(source, DatasetRow):
            return read_bytes(row_ref(source))
    except OSError as error:
        raise FileAccessError(explain_os_error(error)) from error
    except ValueError as error:  # a NUL in a name
        raise FileAccessError(f"no usable path: {error}") from error
    if not isinstance(source, bytes):
        raise UsageError(f"{ref.name} holds pixels, not encoded bytes")
    return source
