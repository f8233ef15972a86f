"""Readers of labelled image collections: one file a layout. A reader is `(path) -> Iterator[Sample]`.

`open_dataset` picks the reader by what the path is, never by its name's substrings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from .. import registry
from ..errors import DataError
from ..types import Sample

Reader = Callable[[Path], Iterator[Sample]]


def open_dataset(path: str | Path) -> Iterator[Sample]:
    """Samples of a collection, in a stable order.

    Args:
        path: a folder with `manifest.jsonl`, a `.jsonl` or `.csv` manifest, or a folder of real and fake folders.

    Raises:
        DataError: none of these; says what was looked for.
    """
    place = Path(path)
    if place.is_dir():
        inner = place / "manifest.jsonl"
        name, place = ("manifest", inner) if inner.is_file() else ("folder", place)
    elif place.is_file() and place.suffix.lower() in {".jsonl", ".csv"}:
        name = "manifest"
    else:
        raise DataError(f"{path} is no data set: expected a folder, or a manifest that ends in .jsonl or .csv")
    reader: Reader = registry.load("datasets", name)
    return reader(place)
