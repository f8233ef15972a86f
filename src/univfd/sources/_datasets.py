"""A `datasets.Dataset` or `IterableDataset` of images: its rows as they are stored, never decoded by that library.

So a damaged image is a row of its own and does not end the iteration, and there is one way to decode a file: ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EmptyFileError, FileAccessError, TruncatedImageError, UsageError
from ..types import DatasetRow, Failure, ImageRef
from ._names import failed

if TYPE_CHECKING:
    from PIL.Image import Image


def is_dataset(value: object) -> bool:
    """Whether it is a data set of the `datasets` library."""
    return all(hasattr(value, name) for name in ("features", "column_names", "cast_column"))


def refuse_splits(value: Any) -> None:
    """That it is no dictionary of splits.

    Raises:
        UsageError: it is one.
    """
    if isinstance(value, Mapping) and hasattr(value, "column_names"):
        raise UsageError(
            f"a data set of several splits ({', '.join(map(str, value))}); choose one, as in data['train']"
        )


def dataset_refs(dataset: Any, image: str | None = None, place: str = "") -> Iterator[ImageRef | Failure]:
    """One reference a row, in order, named `train/12` by place and number.

    Args:
        dataset: a `datasets.Dataset`, whose images are read when they are needed, or an `IterableDataset`.
        image: the column of images; default: the only one of type `Image`.
        place: default: the split, where the data set knows it, else `dataset`.

    Raises:
        UsageError: no such column, or it has to be named.
    """
    rows, column = undecoded(dataset, image)
    place = place or place_of(dataset)
    if random_access(rows):
        rows = rows.select_columns([column])
        yield from (ImageRef(f"{place}/{i}", DatasetRow(rows, column, i)) for i in range(len(rows)))
    else:
        yield from (stored_ref(row[column], f"{place}/{i}") for i, row in enumerate(rows))


def undecoded(dataset: Any, image: str | None = None) -> tuple[Any, str]:
    """The data set with images as they are stored and no format, and the name of their column.

    Raises:
        UsageError: no such column, or it has to be named; or several splits.
    """
    import datasets

    refuse_splits(dataset)
    features = dataset.features
    if image is None:
        found = [name for name, kind in (features or {}).items() if isinstance(kind, datasets.Image)]
        if len(found) != 1:
            said = ", ".join(found or dataset.column_names or ["columns that it does not name"])
            raise UsageError(f"the data set has {len(found)} columns of images among {said}; name the one to read")
        image = found[0]
    elif dataset.column_names is not None and image not in dataset.column_names:
        raise UsageError(f"the data set has no column {image!r}; it has: {', '.join(dataset.column_names)}")
    plain = dataset.with_format(None)
    stored = features is not None and isinstance(features[image], datasets.Image)
    return (plain.cast_column(image, datasets.Image(decode=False)) if stored else plain), image


def random_access(dataset: Any) -> bool:
    """Whether rows are read by number (`Dataset`), or only one after another (`IterableDataset`)."""
    return hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")


def place_of(dataset: Any) -> str:
    """What its rows are called by: the split."""
    return str(dataset.split or "dataset")


def stored_ref(value: Any, name: str) -> ImageRef | Failure:
    """The reference of a cell: bytes, a file's path, both in a mapping, or a Pillow image.

    Raises:
        UsageError: anything else.
    """
    if hasattr(value, "convert") and hasattr(value, "size"):
        return from_pillow(value, name)
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path")
    else:
        data, path = (None, value) if isinstance(value, str | os.PathLike) else (value, None)
    if not isinstance(data, bytes | bytearray | memoryview | None) or not isinstance(path, str | os.PathLike | None):
        kinds = ", ".join(type(v).__name__ for v in (data, path) if v is not None)
        raise UsageError(f"{name} holds {kinds}; expected bytes of an image, a path, or a Pillow image")
    if data is not None:
        return ImageRef(name, bytes(data))
    if path:  # one file, never a folder or a pattern: it may come from a stranger's data set
        return ImageRef(name, Path(path))
    return failed(name, EmptyFileError("the row holds no image"))


def from_pillow(image: Image, name: str) -> ImageRef | Failure:
    """The reference of a Pillow image."""
    try:
        return ImageRef(name, image.copy())  # the caller's object is neither moved nor shared with a thread
    except Exception as error:  # see images.open_image on what Pillow raises
        return failed(name, TruncatedImageError(f"the image data end early or are damaged: {error}"))


def row_ref(row: DatasetRow) -> ImageRef:
    """What a row holds: bytes, or the path of a file.

    Raises:
        EmptyFileError: the row holds none.
        FileAccessError: it is no image's bytes or path.
    """
    try:
        ref = stored_ref(row.rows[row.row][row.column], f"row {row.row}")
    except UsageError as error:
        raise FileAccessError(str(error)) from error
    if isinstance(ref, Failure):
        raise EmptyFileError(ref.message)
    if not isinstance(ref.source, bytes | Path):
        raise FileAccessError(f"row {row.row} holds pixels, not encoded bytes")
    return ref
