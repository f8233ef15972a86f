"""What readers share: names of splits, and a row of named values -> `Sample`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DataError, FormatError
from ..storage import parsed
from ..types import ImageRef, Label, Sample

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
          "test": "test", "testing": "test"}  # fmt: skip
"""Folder names that name a split, and the split."""

TEXTS = ("generator", "source", "group", "licence", "family", "split", "subset")
"""Columns that are text and may be absent; `license` is read as `licence` too."""


_USED = frozenset(["file", "label", "license", *TEXTS])


def plain_columns(schema: Any) -> list[str]:
    """The columns of a Parquet file that a row is read with: without other images, masks and vectors as bytes.

    They would be held for every row of the collection, and nothing reads them.

    Args:
        schema: Arrow's.
    """
    return [field.name for field in schema if field.name in _USED or not _holds_bytes(field.type)]


def class_names(schema: Any) -> list[str]:
    """Names of the numbers in `label`, where a Parquet file says them.

    Args:
        schema: Arrow's.
    """
    stated = (schema.metadata or {}).get(b"huggingface")
    try:
        names = parsed(stated)["info"]["features"]["label"]["names"] if stated else []
    except (ValueError, KeyError, TypeError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def class_of(label: Any, names: Sequence[str], where: str) -> Any:
    """A label as it is, or for a number the name of its class, where the classes have names.

    Raises:
        DataError: a number that no class has.
    """
    if not names or not isinstance(label, int):
        return label
    if not 0 <= label < len(names):
        raise DataError(f"{where}: label {label}; the classes are {', '.join(names)}")
    return names[label]


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    kind = getattr(kind, "storage_type", kind)  # of an extension type
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return True
    return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))


def sample_of(row: Mapping[Any, Any], ref: ImageRef, where: str) -> Sample:
    """A sample from named values.

    Args:
        row: `label` is needed; `TEXTS` are used; whatever else there is goes to `Sample.extra`.
        ref: the image.
        where: which row this is, for messages.

    Raises:
        DataError: no label, or an unknown one.
    """
    if "label" not in row:
        raise DataError(
            f"{where}: no 'label'; expected one: real, fake, 0 or 1. This is for labelled collections; univfd detect "
            "judges pictures without labels"
        )
    try:
        label = Label.parse(row["label"])
    except FormatError as error:
        raise DataError(f"{where}: {error}") from error
    texts = {name: _text(row.get(name)) for name in TEXTS}
    texts["licence"] = texts["licence"] or _text(row.get("license"))
    extra = {k: v for k, v in row.items() if k not in {"label", "license", *TEXTS}}
    return Sample(ref, label, **texts, extra=extra)


def _text(value: Any) -> str:
    absent = value is None or value != value  # nan: an empty cell of a table
    return "" if absent else str(value)
