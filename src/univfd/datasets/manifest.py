"""A table of images: JSON Lines, CSV, or Parquet (extra `parquet`).

Columns: `file` (relative to the table's folder) and `label` (`real`/`fake`) are needed; `generator`, `source`,
`group`, `license` or `licence`, `family`, `split` and `subset` are used where present; the others are kept in
`Sample.extra`, but those of a Parquet file that hold bytes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import registry
from ..errors import DataError
from ..sources import display_name
from ..storage import parsed
from ..types import ImageRef, Sample
from ._rows import class_names, class_of, plain_columns, sample_of


def read_manifest(path: Path) -> Iterator[Sample]:
    """Samples in the table's order.

    Raises:
        DataError: a row without file or label, an unknown label, or a table that cannot be parsed.
        MissingExtraError: Parquet without the extra.
    """
    for number, row in enumerate(_rows(path), start=1):
        where = f"{path}, row {number}"
        if not isinstance(row, dict) or not isinstance(row.get("file", ""), str):
            raise DataError(f"{where} is {row!r}; expected named columns with a path in 'file'")
        if None in row:
            raise DataError(f"{where} has more fields than the table has columns; quote fields that hold a comma")
        if missing := [name for name in ("file", "label") if name not in row]:
            raise DataError(f"{where}: no column {missing[0]!r}; expected 'file' and 'label'")
        place = path.parent / row.pop("file")
        yield sample_of(row, ImageRef(display_name(place), place), where)


def _rows(path: Path) -> Iterator[Any]:
    if path.suffix.lower() == ".parquet":
        yield from _parquet(path)
        return
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _csv_rows(path, file) if path.suffix.lower() == ".csv" else _json_lines(path, file)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from error
    except csv.Error as error:
        raise DataError(f"{path} is no CSV: {error}") from error


def _csv_rows(path: Path, lines: Iterator[str]) -> Iterator[Any]:
    rows = csv.DictReader(lines)
    names = rows.fieldnames or []
    if doubled := sorted({name for name in names if name and names.count(name) > 1}):
        raise DataError(
            f"{path} has several columns {', '.join(map(repr, doubled))}; which one is meant cannot be told"
        )
    yield from rows


def _json_lines(path: Path, lines: Iterator[str]) -> Iterator[Any]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield parsed(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number} is no JSON: {error}") from error


def _parquet(path: Path) -> Iterator[Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise registry.missing_extra("a Parquet manifest", error) from error
    try:
        with pq.ParquetFile(path) as file:
            names = class_names(file.schema_arrow)
            batches = file.iter_batches(columns=plain_columns(file.schema_arrow))
            for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), start=1):
                if "label" in row:
                    row["label"] = class_of(row["label"], names, f"{path}, row {number}")
                yield row
    except (pa.ArrowException, UnicodeError, OSError) as error:
        raise DataError(f"{path} is no readable Parquet file: {error}") from error


PLUGIN = read_manifest
