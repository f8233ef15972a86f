"""What the inputs are, image by image, as plain rows that any node can follow to the bytes.

The walk, its order and what counts as an image are those of `univfd.sources`; buckets are walked alike. A listing is
cut by ordinal into partitions of a fixed size, so which image is in which does not depend on the cluster.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from ..errors import FileAccessError, UsageError
from ..pipeline import batched, ordered_map
from ..sources import Source, display_name, expand, explain_os_error, failed, is_single
from ..types import Failure, ImageRef, TarSpan
from .buckets import Bucket, bucket_entries
from .entry import SCHEMA, Entry, entry_of, table_bytes, table_of
from .shards import shard_images, shards_of_path
from .stores import Folder, open_store, read_object
from .urls import is_url, local_path, refuse_keys, shown

_READERS = 16


def entries(inputs: Source | Iterable[Source], *, image_column: str | None = None) -> Iterator[Entry]:
    """One entry per image, in order.

    Args:
        inputs: what `univfd.sources.expand` takes, and URLs of objects, tars, Parquet files and prefixes.
        image_column: the inputs are Parquet files, or folders and prefixes of such, with encoded images in this
            column (binary, or a struct with `bytes`).

    Raises:
        UsageError: a URL with keys in it, or a Parquet file without the column.
    """
    for item in cast("Iterable[Source]", [inputs] if is_single(inputs) else inputs):
        text = os.fspath(item) if isinstance(item, str | os.PathLike) else ""
        if isinstance(text, str) and is_url(text):
            refuse_keys(text)
            yield from _of_url(text, image_column)
        elif image_column is not None:
            if not isinstance(text, str) or not text:
                raise UsageError(f"{type(item).__name__}: with a column of images, inputs are Parquet files or folders")
            yield from shards_of_path(text, image_column)
        else:
            yield from map(entry_of, expand([item]))


def _of_url(url: str, image_column: str | None) -> Iterator[Entry]:
    try:
        path = local_path(url)
        bucket = Bucket(url, *open_store(url)) if path is None else None
    except UsageError as error:  # one input among many: a row of its own
        yield entry_of(failed(display_name(shown(url)), FileAccessError(str(error))))
        return
    if bucket is not None:
        yield from bucket_entries(bucket, image_column)
    elif image_column is not None:  # walked as a path is, with what odd names and links need
        yield from shards_of_path(str(path), image_column)
    else:
        yield from map(entry_of, expand([Path(str(path))]))


def partition_name(number: int) -> str:
    """File name of a partition, in `listing` and `rows`."""
    return f"part-{number:07}.parquet"


def write_listing(
    folder: Folder, found: Iterable[Entry], size: int, on_done: Callable[[int], None] = lambda _: None
) -> tuple[int, str]:
    """Write a listing partition by partition, in memory that does not grow.

    Returns:
        Number of images, and the digest of all entries.
    """
    digest, total = hashlib.sha256(), 0
    for number, part in enumerate(batched(_digesting(found, digest), size)):
        folder.put(f"listing/{partition_name(number)}", table_bytes(table_of(part)))
        total += len(part)
        on_done(len(part))
    return total, digest.hexdigest()


def digest_of_listing(found: Iterable[Entry]) -> tuple[int, str]:
    """What `write_listing` returns, without writing."""
    digest = hashlib.sha256()
    return sum(1 for _ in _digesting(found, digest)), digest.hexdigest()


def _digesting(found: Iterable[Entry], digest: Any) -> Iterator[Entry]:
    for entry in found:
        record = [*entry[:3], hashlib.sha256(entry.place).hexdigest(), *entry[4:]]
        digest.update(json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        yield entry


def references(table: pa.Table) -> Iterator[ImageRef | Failure]:
    """The images of a partition, in order. Objects of a bucket are fetched ahead by threads, a few at a time."""
    for run in _runs(Entry(**row) for row in table.select(SCHEMA.names).to_pylist()):
        if run[0].kind == "row":
            yield from shard_images(run)
        elif run[0].kind == "object":
            yield from ordered_map(_reference, run, workers=_READERS, ahead=2 * _READERS)
        else:
            yield from map(_reference, run)


def _runs(found: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries that can be read together: of rows of a Parquet file, those that follow each other in it."""
    run: list[Entry] = []
    for entry in found:
        if run and not _follows(run[-1], entry):
            yield run
            run = []
        run.append(entry)
    if run:
        yield run


def _follows(last: Entry, entry: Entry) -> bool:
    if "row" not in {last.kind, entry.kind}:
        return last.kind == entry.kind
    return (*last[1:4], last.column, last.offset + 1) == (*entry[1:4], entry.column, entry.offset)


def _reference(entry: Entry) -> ImageRef | Failure:
    if entry.kind == "failure":
        return Failure(entry.name, entry.error, entry.message)
    if entry.kind == "bytes":
        return ImageRef(entry.name, entry.place)
    if entry.kind == "object":
        try:
            data = read_object(entry.store, entry.place.decode(), entry.offset, entry.size)
        except OSError as error:
            return failed(entry.name, FileAccessError(explain_os_error(error)))
        return ImageRef(entry.name, data)
    path = Path(os.fsdecode(entry.place))
    return ImageRef(entry.name, path if entry.kind == "file" else TarSpan(path, entry.offset, entry.size))
