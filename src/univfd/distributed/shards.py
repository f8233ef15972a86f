"""Parquet files with a column of encoded images: rows are found by the footer alone, and read a few at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ..errors import EmptyFileError, FileAccessError, UsageError
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
    """Images of one Parquet file, of consecutive rows; no more than a few are in memory."""
    first = run[0]
    system, path = (
        (open_store(first.store)[0], first.place.decode()) if first.store else (None, os.fsdecode(first.place))
    )
    done = 0
    try:
        with pq.ParquetFile(path, filesystem=system) as file:
            for value in _values(file, first.column, first.offset, len(run)):
                yield _image_of(run[done].name, value)
                done += 1
    except (OSError, pa.ArrowException) as error:
        for entry in run[done:]:
            yield failed(entry.name, FileAccessError(f"the Parquet file cannot be read: {error}"))


def _values(file: pq.ParquetFile, column: str, start: int, count: int) -> Iterator[Any]:
    """`count` values of a column from row `start`, through the row groups that hold them."""
    end, row = start + count, 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row + rows > start and row < end:
            at = row
            for batch in file.iter_batches(_ROWS, row_groups=[group], columns=[column]):
                low, high = max(start - at, 0), min(end - at, len(batch))
                if low < high:
                    yield from batch.column(0).slice(low, high - low).to_pylist()
                at += len(batch)
                if at >= end:
                    return
        row += rows


def _image_of(name: str, value: Any) -> ImageRef | Failure:
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, bytes):
        return ImageRef(name, data)
    if data is None:
        return failed(name, EmptyFileError("the row holds no bytes of an image"))
    return failed(name, FileAccessError(f"the row holds no bytes of an image but {type(data).__name__}"))
