"""Parquet files with images in a column that the caller names; without one see `_parquet.image_column`."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import FileAccessError, InputError, UsageError
from ..types import Failure, ImageRef
from ._names import NOT_REGULAR, display_name, explain_os_error, failed, unreachable
from ._parquet import cell_refs, columns_of, is_parquet
from ._parts import absent, row_number
from ._walk import files_below


def in_column(inputs: Iterable[str], column: str) -> Iterator[ImageRef | Failure]:
    """One reference to each row's image, named `shard.parquet/row`; no image is read.

    Args:
        inputs: Parquet files, folders of them, and rows by the names that they have in results.
        column: of bytes, or of structs with a field `bytes`; one of a struct's own fields cannot be named.

    Raises:
        UsageError: a file without the column.
        MissingExtraError: pyarrow is not installed.
    """
    for text in inputs:
        path = Path(text)
        if (row := row_number(path)) is not None:
            yield next(_images(path.parent, column, row), None) or absent(path.parent, path)
            continue
        for file in parquet_files(text):
            if isinstance(file, Failure):
                yield file
            else:
                yield from _images(file, column, walked=file != path)


def parquet_files(text: str) -> Iterator[Path | Failure]:
    """A file, whatever its name, or the Parquet files below a folder; a `Failure` for what cannot be one."""
    top = Path(text)
    try:
        folder = stat.S_ISDIR(top.stat().st_mode)
    except (OSError, ValueError) as error:  # ValueError: a NUL in it
        why = explain_os_error(error) if isinstance(error, OSError) else f"no usable path: {error}"
        yield failed(display_name(top), FileAccessError(why))
        return
    for file in files_below(top) if folder else [top]:
        if isinstance(file, Failure):
            yield file
        elif file.exists() and not file.is_file():  # a pipe would be waited for
            if file == top or is_parquet(file):
                yield failed(display_name(file), FileAccessError(NOT_REGULAR))
        elif file == top or is_parquet(file):
            yield file


def _images(file: Path, column: str, first: int = 0, *, walked: bool = False) -> Iterator[ImageRef | Failure]:
    """The images of a file from a row on; none of what this package wrote, where it was not named itself."""
    try:
        columns, own = columns_of(file)
        if own and walked:
            return
        if column not in columns:
            raise UsageError(f"{display_name(file)} has no column {column!r}; it has {', '.join(columns)}")
        yield from cell_refs(file, column, first)
    except InputError as error:
        yield failed(display_name(file), error)
    except OSError as error:
        yield unreachable(file, error)
