"""Readers of labelled image collections: one file a layout. A reader is `(path) -> Iterator[Sample]`.

`open_dataset` picks the reader by what the path is, never by its name's substrings. A reader gives every image that is
there by name; whether it can be decoded shows later in the line, as a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from .. import registry
from ..errors import DataError
from ..sources import is_tar
from ..types import Sample
from ._rows import SPLITS

Reader = Callable[[Path], Iterator[Sample]]

TABLES = (".jsonl", ".csv", ".parquet")


def open_dataset(path: str | Path) -> Iterator[Sample]:
    """Samples of a collection, in a stable order.

    Args:
        path: a manifest (`.jsonl`, `.csv`, `.parquet`) or a folder with one called `manifest`; a `.tar` shard or a
            folder of them, directly or in folders of splits; or a folder of labelled folders.

    Raises:
        DataError: none of these; says what was looked for.
    """
    name, place = _reader(Path(path))
    reader: Reader = registry.load("datasets", name)
    return reader(place)


def _reader(place: Path) -> tuple[str, Path]:
    """Name of the reader, and what it is to read."""
    if place.is_file() and place.suffix.lower() in TABLES:
        return "manifest", place
    if place.is_file() and is_tar(place):
        return "webdataset", place
    if not place.is_dir():
        raise DataError(
            f"{place} is no data set: expected a folder, a manifest that ends in {', '.join(TABLES)}, or a .tar shard"
        )
    manifests = [file for ending in TABLES if (file := place / f"manifest{ending}").is_file()]
    if len(manifests) > 1:
        raise DataError(f"{place} has {len(manifests)} manifests ({', '.join(m.name for m in manifests)}); name one")
    if manifests:
        return "manifest", manifests[0]
    return ("webdataset" if _holds_shards(place) else "folder"), place


def _holds_shards(folder: Path) -> bool:
    entries = list(folder.iterdir())
    return any(
        is_tar(e) or (e.name.lower() in SPLITS and e.is_dir() and any(map(is_tar, e.iterdir()))) for e in entries
    )
