"""Parquet, flat, zstd; needs the extra `parquet`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq

from . import Row, flat, unflat
from ._arrow import SCHEMA, table_of

_GROUP_ROWS = 10_000


class ParquetWriter:
    """See `univfd.writers.Writer`."""

    def __init__(self, stream: IO[bytes]) -> None:
        marked = SCHEMA.with_metadata({"univfd": "rows"})  # a walk takes no images out of it, though it has that column
        self._writer = pq.ParquetWriter(stream, marked, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def write(self, row: Row) -> None:
        """Keep the row; row groups are written as they fill."""
        self._rows.append(flat(row))
        if len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """The last row group and the footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(table_of(self._rows))
            self._rows = []

    @staticmethod
    def read(path: Path) -> Iterator[dict[str, Any]]:
        """All rows."""
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_GROUP_ROWS):
                for row in batch.to_pylist():
                    yield unflat(row)


PLUGIN = ParquetWriter
