"""A table of images, JSON Lines or CSV.

Columns: `file` (relative to the table's folder) and `label` (`real`/`fake`) are needed; `generator`, `source`,
`group` and `license` or `licence` are used where present; the others are kept in `Sample.extra`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError, FormatError
from ..sources import display_name
from ..types import ImageRef, Label, Sample

_USED = ("file", "label", "generator", "source", "group", "license", "licence")


def read_manifest(path: Path) -> Iterator[Sample]:
    """Samples in the table's order.

    Raises:
        DataError: a row without file or label, an unknown label, or a line that is no JSON.
    """
    for number, row in enumerate(_rows(path), start=1):
        if not isinstance(row, dict) or not isinstance(row.get("file", ""), str):
            raise DataError(f"{path}, row {number} is {row!r}; expected named columns with a path in 'file'")
        try:
            file, label = row["file"], Label.parse(row["label"])
        except KeyError as error:
            raise DataError(f"{path}, row {number}: no column {error}; expected 'file' and 'label'") from None
        except FormatError as error:
            raise DataError(f"{path}, row {number}: {error}") from error
        place = path.parent / file
        yield Sample(
            ImageRef(display_name(place), place),
            label,
            generator=row.get("generator") or "",
            source=row.get("source") or "",
            group=row.get("group") or "",
            licence=row.get("licence") or row.get("license") or "",
            extra={k: v for k, v in row.items() if k not in _USED},
        )


def _rows(path: Path) -> Iterator[Any]:
    try:
        yield from _parsed(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from error


def _parsed(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() == ".csv":
            yield from csv.DictReader(file)
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}, line {number} is no JSON: {error}") from error


PLUGIN = read_manifest
