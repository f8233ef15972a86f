"""Parquet files with a column of encoded images: rows are found by the footer alone, and read a few at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ..errors import EmptyFileError, FileAccessError, TruncatedImageError, UsageError
from ..sources import NOT_REGULAR, display_name, explain_os_error, failed, files_below, is_parquet
from ..types import Failure, ImageRef
from .entry import Entry, absolute, entry_of
from .stores import open_store

_ROWS = 16


def shards_of_path(path: str, image_column: str) -> Iterator[Entry]:
    """Parquet files of a local path."""
    system = pafs.LocalFileSystem()
    top = Path(path)
    for file in files_below(top) if top.is_dir() else [top]:
        if isinstance(file, Failure):
            yield entry_of(file)
        elif file.exists() and not file.is_file():  # a pipe would be waited for
            if is_parquet(file):
                yield entry_of(failed(display_name(file), FileAccessError(NOT_REGULAR)))
        elif file == top or is_parquet(file):
            yield from shard_entries(system, "", str(file), display_name(file), image_column)


def shard_entries(system: Any, store: str, path: str, name: str, column: str) -> Iterator[Entry]:
    """The images of a Parquet file; only its footer is read."""
    try:
        with pq.ParquetFile(path, filesystem=system) as file:
            if column not in file.schema_arrow.names:
                raise UsageError(f"{name} has no column {column!r}; it has {', '.join(file.schema_arrow.names)}")
            n = file.metadata.num_rows
    except (OSError, pa.ArrowInvalid, UnicodeError) as error:
        why = explain_os_error(error) if isinstance(error, OSError) else f"no readable Parquet file: {error}"
        yield entry_of(failed(name, FileAccessError(why)))
        return
    place = path.encode() if store else absolute(Path(path))
    for i in range(n):
        yield Entry(f"{name}/{i}", "row", store, place, i, column=column)


def shard_images(run: list[Entry]) -> Iterator[ImageRef | Failure]:
    """Images of one Parquet file, of consecutive rows; no more than a few are in memory.

    What a damaged row group holds are failures, and so are rows that the file had when it was listed and has no more.
    """
    first = run[0]
    system, path = (
        (open_store(first.store)[0], first.place.decode()) if first.store else (None, os.fsdecode(first.place))
    )
    done = 0
    try:
        with pq.ParquetFile(path, filesystem=system) as file:
            for group, low, high in _groups(file, first.offset, first.offset + len(run)):
                until = done + high - low
                try:
                    for value in _values(file, first.column, group, low, high):
                        yield _image_of(run[done].name, value)
                        done += 1
                except (OSError, UnicodeError, pa.ArrowException) as error:
                    if isinstance(error, OSError) and (error.errno is not None or first.store):
                        raise  # a disk or a network that fails says nothing of the file
                    for entry in run[done:until]:
                        yield failed(entry.name, TruncatedImageError(f"the row group is damaged: {error}"))
                    done = until
    except (OSError, UnicodeError, pa.ArrowException) as error:
        for entry in run[done:]:
            yield failed(entry.name, FileAccessError(f"the Parquet file cannot be read: {error}"))
        return
    for entry in run[done:]:
        yield failed(entry.name, TruncatedImageError("the Parquet file has fewer rows than when it was listed"))


def _groups(file: pq.ParquetFile, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The row groups that hold rows `start` to `end`: number, and the first and last one's end in the group."""
    row = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        low, high = max(start - row, 0), min(end - row, rows)
        if low < high:
            yield group, low, high
        row += rows


def _values(file: pq.ParquetFile, column: str, group: int, low: int, high: int) -> Iterator[Any]:
    """The values of a column from row `low` to `high` of a row group."""
    at = 0
    for batch in file.iter_batches(_ROWS, row_groups=[group], columns=[column]):
        first, last = max(low - at, 0), min(high - at, len(batch))
        if first < last:
            yield from batch.column(0).slice(first, last - first).to_pylist()
        at += len(batch)
        if at >= high:
            return


def _image_of(name: str, value: Any) -> ImageRef | Failure:
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, bytes):
        return ImageRef(name, data)
    if data is None:
        return failed(name, EmptyFileError("the row holds no bytes of an image"))
    return failed(name, FileAccessError(f"the row holds no bytes of an image but {type(data).__name__}"))
