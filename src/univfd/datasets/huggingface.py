"""Data sets of the `datasets` library (extra `hf`): a folder that `save_to_disk` wrote, or one in memory.

One column of images, and the columns of a manifest: `label`, `generator` and so on. A number in `label` stands for the
class that the data set names; where it names none, 0 is real and 1 fake. Nothing is fetched from a hub.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import registry
from ..errors import DataError, UsageError
from ..sources import dataset_refs, place_of, random_access, stored_ref, undecoded, unreachable_ref
from ..types import Failure, ImageRef, Label, Sample
from ._rows import SPLITS, class_of, sample_of


def read_huggingface(path: Path) -> Iterator[Sample]:
    """Samples of a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.

    Raises:
        DataError: it cannot be read, has no column of images (or several), or a row has no label.
        MissingExtraError: the `datasets` library is not installed.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise registry.missing_extra("a data set of the datasets library", error) from error
    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no readable data set of the datasets library: {error}") from error
    try:
        yield from dataset_samples(found)
    except UsageError as error:
        raise DataError(f"{path}: {error}") from error


def dataset_samples(
    dataset: Any, *, image: str | None = None, label: str = "label", classes: Mapping[str, Label | str] | None = None
) -> Iterator[Sample]:
    """Samples of a data set in memory, in its order; images are read when they are needed.

    Args:
        dataset: a `Dataset` or `IterableDataset`, or a mapping of splits to them (a `DatasetDict`).
        image: the column of images; default: the only one of type `Image`.
        label: the column of labels.
        classes: real or fake, by the name of a class, where the data set's names are not these words.

    Raises:
        DataError: a row without a label, or of a class that is neither real nor fake.
        UsageError: no such column, or it has to be named.
    """
    if isinstance(dataset, Mapping):
        for split, part in dataset.items():
            yield from _samples(part, str(split), image, label, classes)
    else:
        yield from _samples(dataset, place_of(dataset), image, label, classes)


def _samples(
    dataset: Any, place: str, image: str | None, label: str, classes: Mapping[str, Label | str] | None
) -> Iterator[Sample]:
    names = getattr((dataset.features or {}).get(label), "names", None) or ()
    split = SPLITS.get(place.lower(), "")
    for ref, values in _rows(dataset, image, place):
        if label not in values:
            raise DataError(f"{ref.name}: no {label!r}; the columns are: {', '.join(values) or 'none'}")
        row = {"split": split} | {name: value for name, value in values.items() if name != label}
        yield sample_of(row | {"label": _class_of(values[label], names, classes, ref.name)}, ref, ref.name)


def _class_of(value: Any, names: Any, classes: Mapping[str, Label | str] | None, where: str) -> Any:
    value = class_of(value, names, where)
    if classes is None:
        return value
    if value not in classes:
        raise DataError(f"{where}: class {value!r} is not among the given ones: {', '.join(map(str, classes))}")
    given = classes[value]
    return given.word if isinstance(given, Label) else given


def _rows(dataset: Any, image: str | None, place: str) -> Iterator[tuple[ImageRef, dict[str, Any]]]:
    """References and the plain values of the other columns; other images, sounds and the like are passed over."""
    rows, column = undecoded(dataset, image)
    kinds = rows.features
    plain = None if kinds is None else [n for n, kind in kinds.items() if n != column and _is_plain(kind)]
    if random_access(rows):
        values = rows.select_columns(plain) if plain else ({} for _ in range(len(rows)))
        for ref, others in zip(dataset_refs(dataset, column, place), values, strict=True):
            yield _ref(ref), dict(others)
        return
    for number, row in enumerate(rows):
        others = {n: row[n] for n in (_plain_names(row, column) if plain is None else plain)}
        yield _ref(stored_ref(row[column], f"{place}/{number}")), others


def _is_plain(kind: Any) -> bool:
    return type(kind).__name__ == "ClassLabel" or (type(kind).__name__ == "Value" and "binary" not in kind.dtype)


def _plain_names(row: Mapping[str, Any], column: str) -> list[str]:
    """Of a data set that does not know its columns' types."""
    return [name for name, value in row.items() if name != column and not isinstance(value, bytes | Mapping)]


def _ref(found: ImageRef | Failure) -> ImageRef:
    return unreachable_ref(found) if isinstance(found, Failure) else found


PLUGIN = read_huggingface
