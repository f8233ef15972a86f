"""One image of a listing, as a plain row that any node can follow to the bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError, UsageError
from ..types import Failure, ImageRef, ParquetCell, TarSpan

SCHEMA = pa.schema(
    [("name", pa.string()), ("kind", pa.string()), ("store", pa.string()), ("place", pa.binary()),
     ("offset", pa.int64()), ("size", pa.int64()), ("column", pa.string()), ("error", pa.string()),
     ("message", pa.string())],
    metadata={"univfd": "listing"},  # a run may lie below its inputs: `sources` takes no image out of such a file
)  # fmt: skip


class Entry(NamedTuple):
    """Where an image is.

    Attributes:
        name: what the user sees.
        kind: `file`, `span` (of a local tar), `object` (of a bucket, or a span of it), `row` (of a Parquet file),
            `bytes`, or `failure`.
        store: URL that opens the bucket, without a path in it; empty for what is on a file system.
        place: path (bytes, since file names need not be UTF-8), or the bytes themselves.
        offset: of a span; number of a row.
        size: of a span; -1: the whole object.
        column: of a `row`: the one with the images.
        error: code of a failure.
        message: of a failure.
    """

    name: str
    kind: str
    store: str = ""
    place: bytes = b""
    offset: int = 0
    size: int = -1
    column: str = ""
    error: str = ""
    message: str = ""


def entry_of(ref: ImageRef | Failure) -> Entry:
    """The entry of a reference.

    Raises:
        UsageError: pixels, which lie in the memory of this process alone.
    """
    if isinstance(ref, Failure):
        return Entry(ref.image, "failure", error=ref.error, message=ref.message)
    source = ref.source
    if isinstance(source, InputError):
        return Entry(ref.name, "failure", error=source.code, message=str(source))
    if isinstance(source, Path):
        return Entry(ref.name, "file", place=absolute(source))
    if isinstance(source, TarSpan):
        return Entry(ref.name, "span", place=absolute(source.tar), offset=source.offset, size=source.size)
    if isinstance(source, ParquetCell):
        return Entry(ref.name, "row", place=absolute(source.file), offset=source.number, column=source.column)
    if isinstance(source, bytes):
        return Entry(ref.name, "bytes", place=source)
    raise UsageError(f"{ref.name} is in the memory of this process; give files, tars, Parquet files or URLs")


def absolute(path: Path) -> bytes:
    """A path as it is in any working directory, as bytes."""
    return os.fsencode(Path.cwd() / path)


def table_of(part: Iterable[Entry]) -> pa.Table:
    """Entries as a table."""
    rows = list(part)
    columns = zip(*rows, strict=True) if rows else [[] for _ in SCHEMA]
    return pa.table([pa.array(list(c), f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def table_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()
