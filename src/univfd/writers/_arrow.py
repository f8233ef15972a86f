"""Rows as an Arrow table, with the columns of the flat formats; needs the extra `parquet`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from . import FLAT_COLUMNS, Row

_TYPES = {str: pa.string(), float: pa.float64(), int: pa.int64()}

SCHEMA = pa.schema([(name, _TYPES[kind]) for name, kind in FLAT_COLUMNS])


def table_of(rows: Iterable[Row]) -> Any:
    """Flat rows (see `flat`) as a `pyarrow.Table` of `SCHEMA`."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)
