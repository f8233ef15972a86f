"""Parquet files with a column of encoded images: rows are found by the footer alone, and read a few at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ..errors import EmptyFileError, FileAccessError, InputError, NotAnImageError, TruncatedImageError, UsageError
from ..sources import NO_IMAGES, display_name, explain_os_error, failed, image_column_of, parquet_files
from ..types import Failure, ImageRef
from .entry import Entry, absolute, entry_of
from .stores import Object, open_store

_ROWS = 16


class Shard(NamedTuple):
    """What the footer of a Parquet file says.

    Attributes:
        columns: all of them.
        images: the column that is taken for images where none is named; None: there is none.
        rows: number of them.
        own: whether this package wrote it: a listing, or rows.
    """

    columns: list[str]
    images: str | None
    rows: int
    own: bool


def shards_of_path(path: str, image_column: str) -> Iterator[Entry]:
    """Parquet files of a local path."""
    for file in parquet_files(path):
        if isinstance(file, Failure):
            yield entry_of(file)
        else:
            yield from shard_entries(None, "", str(file), display_name(file), image_column, walked=file != Path(path))


def look_into(system: Any, path: str) -> Shard:
    """Read the footer of a Parquet file.

    Args:
        system: of the store; None: a file of this machine.
        path: in it.

    Raises:
        FileAccessError: the file cannot be read.
        NotAnImageError: it is no Parquet file.
    """
    try:
        with _opened(system, path) as file:
            schema = file.schema_arrow
            own = b"univfd" in (schema.metadata or {})
            return Shard(schema.names, image_column_of(schema), file.metadata.num_rows, own)
    except OSError as error:
        raise FileAccessError(explain_os_error(error)) from error
    except (pa.ArrowInvalid, UnicodeError) as error:
        raise NotAnImageError(f"not a readable Parquet file: {error}") from error


def shard_entries(
    system: Any, store: str, path: str, name: str, column: str | None, *, walked: bool = False
) -> Iterator[Entry]:  # fmt: skip
    """The images of a Parquet file; only its footer is read.

    Args:
        system: of the store; None: a file of this machine.
        store: what opens it again.
        path: in it.
        name: what the user sees.
        column: with the images; None: see `Shard.images`.
        walked: it was not named itself, so a run's own files, which may lie below its inputs, are passed over.

    Raises:
        UsageError: there is no such column.
    """
    try:
        shard = look_into(system, path)
        if column is None and shard.images is None:
            raise NotAnImageError(NO_IMAGES)
    except InputError as error:
        yield entry_of(failed(name, error))
        return
    if walked and shard.own:
        return
    if column is not None and column not in shard.columns:
        raise UsageError(f"{name} has no column {column!r}; it has {', '.join(shard.columns)}")
    yield from rows_of(shard, store, path, name, column)


def rows_of(shard: Shard, store: str, path: str, name: str, column: str | None = None) -> Iterator[Entry]:
    """One entry a row of a Parquet file; see `shard_entries`."""
    place = path.encode() if store else absolute(Path(path))
    for i in range(shard.rows):
        yield Entry(f"{name}/{i}", "row", store, place, i, column=column or shard.images or "")


@contextmanager
def _opened(system: Any, path: str) -> Iterator[pq.ParquetFile]:
    if system is None:
        with pq.ParquetFile(path, filesystem=pafs.LocalFileSystem()) as file:
            yield file
    else:
        with Object(system, path) as raw, pq.ParquetFile(raw) as file:
            yield file


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
        with _opened(system, path) as file:
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
