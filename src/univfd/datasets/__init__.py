"""Readers of labelled image collections: one file a layout. A reader is `(path) -> Iterator[Sample]`.

`open_dataset` picks the reader by what the path is, never by its name's substrings. A reader gives every image that is
there by name; whether it can be decoded shows later in the line, as a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from .. import registry
from ..errors import DataError, InputError
from ..sources import image_column, is_parquet, is_tar
from ..types import Sample
from ._rows import SPLITS
from .huggingface import dataset_samples

__all__ = ["SPLITS", "Reader", "dataset_samples", "of_splits", "open_dataset"]

Reader = Callable[[Path], Iterator[Sample]]

TABLES = (".jsonl", ".csv", ".parquet")
_SAVED_TO_DISK = (("dataset_dict.json",), ("dataset_info.json", "state.json"))  # what the `datasets` library writes


def open_dataset(path: str | Path, *, splits: Collection[str] = ()) -> Iterator[Sample]:
    """Samples of a collection, in a stable order.

    Args:
        path: a manifest (`.jsonl`, `.csv`, `.parquet`) or a folder with one called `manifest`; a `.tar` shard, a
            `.parquet` with image bytes, or a folder of them, directly or in folders of splits; a folder written by
            `save_to_disk` of the `datasets` library; or a folder of labelled folders.
        splits: only samples of these splits, by name; none: all.

    Raises:
        DataError: none of these; says what was looked for. Or, while reading, no image of one of the splits.
    """
    name, place = _reader(Path(path))
    reader: Reader = registry.load("datasets", name)
    return of_splits(reader(place), splits) if splits else reader(place)


def of_splits(samples: Iterable[Sample], splits: Collection[str]) -> Iterator[Sample]:
    """The samples of some splits.

    Raises:
        DataError: at the end, where one of the splits has no image.
    """
    found: set[str] = set()
    for sample in samples:
        found.add(sample.split)
        if sample.split in splits:
            yield sample
    if lacking := sorted(set(splits) - found):
        there = ", ".join(sorted(found - {""})) or "none is named"
        raise DataError(f"no image is of the split {', '.join(map(repr, lacking))}; splits of these data: {there}")


def _reader(place: Path) -> tuple[str, Path]:
    """Name of the reader, and what it is to read."""
    if place.is_file() and place.suffix.lower() in TABLES:
        return _table(place), place
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
        return _table(manifests[0]), manifests[0]
    if any(all((place / name).is_file() for name in marks) for marks in _SAVED_TO_DISK):
        return "huggingface", place
    if _holds(place, is_tar):
        return "webdataset", place
    return ("parquet" if _holds(place, lambda p: is_parquet(p) and _table(p) == "parquet") else "folder"), place


def _table(file: Path) -> str:
    """Name of the reader of a table: a Parquet file may hold the images themselves."""
    if not is_parquet(file):
        return "manifest"
    try:
        return "parquet" if image_column(file) else "manifest"
    except (InputError, OSError):
        return "manifest"  # which says what is wrong with it


def _holds(folder: Path, is_shard: Callable[[Path], bool]) -> bool:
    """Whether there are shards in the folder, or in folders of splits in it."""
    entries = list(folder.iterdir())
    return any(
        is_shard(e) or (e.name.lower() in SPLITS and e.is_dir() and any(map(is_shard, e.iterdir()))) for e in entries
    )
